"""What might `tenantproxy init` find? Values for the tests of what it decides; no server has them."""

from __future__ import annotations

from typing import Any

from tenantproxy.lifecycle.column_type import ColumnType
from tenantproxy.lifecycle.init.dsn import GivenServer, parse_dsn
from tenantproxy.lifecycle.init.found import (
    ColumnFound,
    DatabaseFound,
    InitFound,
    RelationFound,
    RoleFound,
    RowTable,
    SchemaFound,
    ServerFound,
)
from tenantproxy.lifecycle.init.plan import InitPlan, InitRequest, plan_of
from tenantproxy.lifecycle.init.recognise import recognise
from tenantproxy.lifecycle.init.registry import queries
from tenantproxy.lifecycle.init.role_files import InitSecrets
from tenantproxy.lifecycle.init.shape import Names, shape_of
from tenantproxy.lifecycle.table_facts import Access, ExistingPolicy, Relation, TableFacts

__all__ = ["GIVEN", "SECRETS", "a_found", "a_plan", "a_policy", "a_role", "a_row_table", "a_table", "text_of"]

GIVEN: GivenServer = parse_dsn("postgresql://root:pw@db:5433/app", {})
SECRETS = InitSecrets(router_password="r" * 64, tenants_password="t" * 64, admin_password="pw")
_INTEGER = ColumnType(name="bigint", base="bigint")


def a_table(name: str, *columns: str, schema: str = "public", kind: str = "r", **more: Any) -> RelationFound:
    """A relation; columns as `name` (bigint) or `name:type`."""
    parts = [column.partition(":") for column in columns]
    made = tuple(ColumnFound(name=part[0], type=part[2] or "bigint", label=part[0]) for part in parts)
    return RelationFound(
        **{"schema": schema, "name": name, "label": f"{schema}.{name}", "kind": kind, "owner": "app", "columns": made}
        | more
    )


def a_role(name: str, **more: Any) -> RoleFound:
    """A role that logs in."""
    usual = {"logs_in": True, "is_super": False, "bypasses": False, "inherits": True, "is_mine": True, "may_join": True}
    return RoleFound(**{"name": name} | usual | more)


def a_found(*relations: RelationFound, server: dict[str, Any] | None = None, **more: Any) -> InitFound:
    """A server whose superuser `root` looks; `app` owns the database, and is the one other login."""
    usual: dict[str, Any] = {
        "version": 180_001, "user": "root", "database": "app", "is_super": True, "creates_roles": True,
        "creates_databases": True, "owns_database": True, "max_connections": 100, "reserved": 3, "is_pooled": False,
        "is_installed": False, "provider": "", "extensions": (),
    }  # fmt: skip
    given: dict[str, Any] = {
        "databases": (DatabaseFound(name="app", owner="app", public_rights=("CONNECT", "TEMPORARY"), is_mine=True),),
        "roles": (a_role("app"), a_role("root", is_super=True)),
        "schemas": (SchemaFound(name="public", owner="pg_database_owner", public_creates=False),),
        "relations": relations,
    }
    return InitFound(server=ServerFound(**usual | (server or {})), **given | more)


def a_policy(name: str = "own", *, applies: bool = True, reads: str = "true") -> ExistingPolicy:
    """A permissive policy of the application's."""
    return ExistingPolicy(
        name=name, permissive=True, command="*", for_all_roles=applies, applies=applies, reads=reads, writes=None
    )


def a_row_table(
    table: RelationFound,
    column: str = "company_id",
    *,
    kind: ColumnType = _INTEGER,
    unusable: tuple[str, ...] = (),
    **more: Any,
) -> RowTable:
    """What the installer reads of a table with the tenant's column; `more` are fields of the relation."""
    usual: dict[str, Any] = {
        "name": table.label, "kind": table.kind, "owner": table.owner, "is_mine": True, "enabled": False,
        "forced": False, "default": None, "settable": True, "nullable": False, "identity": False,
        "has_index": True, "broken": (), "policies": (),
    }  # fmt: skip
    access = Access(
        role="tenantproxy_tenants", exists=False, mighty=False, owns=(),
        lacks=("SELECT", "INSERT", "UPDATE", "DELETE"), excess=(), excess_of_public=(), sees_schema=False, sequences=(),
    )  # fmt: skip
    facts = TableFacts(
        schema=table.schema, column=column, kind=kind, user="root", may_index=True, may_open_schema=True,
        relations=(Relation(**usual | more),), access=(access,), others=(), parent=None,
    )  # fmt: skip
    return RowTable(facts=facts, unusable=unusable)


def a_plan(
    found: InitFound, rows: tuple[RowTable, ...] = (), request: InitRequest | None = None, **more: Any
) -> InitPlan:
    """Everything that is decided, from what was found."""
    asked = request or InitRequest()
    layout = recognise(found, wanted=asked.isolation, column=asked.column)
    names = Names.of(asked.prefix, found)
    registry = queries(layout, database="app", role=names.tenants)
    shape = shape_of(found, layout, names, rows=rows, shared=asked.shared)
    return plan_of(shape, GIVEN, registry, SECRETS, **more)


def text_of(plan: InitPlan, number: int) -> str:
    """One file of a plan; '' where it is not written."""
    return next((file.text() for file in plan.files if file.number == number), "")
