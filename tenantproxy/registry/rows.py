"""Which tenant does a row of the registry describe? Anything that cannot be understood names its column and the fix."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import NOTHING, Isolation, Limits, Placement, Tenant, TenantStatus, check_schema, tenant_id
from tenantproxy.registry.base import TenantMisconfigured

__all__ = ["Row", "RowReader"]

_DEFAULT_LIMITS = Limits()  # shared by all tenants without limits of their own
_E = TypeVar("_E", bound=StrEnum)


class Row(Protocol):
    """What is asked of a row; `asyncpg.Record` and a dict are ones."""

    def get(self, key: str, /) -> Any:
        """The value of a column; None when there is no such column."""
        ...

    def keys(self) -> Any:
        """The names of the columns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Turns rows into tenants. `servers`: those a row may name (None: any); `rows`: is row isolation set up?"""

    default_server: str
    servers: Collection[str] | None = None
    rows: bool = True

    def read(self, row: Row) -> Tenant:
        """The tenant in `row`. Raises TenantMisconfigured."""
        try:
            name = tenant_id(_id(row))
        except TenantNotFound as exc:
            raise _bad("id", exc.detail or exc.message, "rename the tenant, or leave it out in the query") from None
        isolation = _member(row, "isolation", Isolation)
        if isolation is Isolation.ROW and not self.rows:
            raise _bad("isolation", "is 'row', and there is no key to sign with", "configure [row] key_file")
        return Tenant(
            id=name,
            placement=self._placement(row, isolation),
            # A missing column is a table that knows no status; a NULL in one is a tenant whose status was never set.
            status=_member(row, "status", TenantStatus) if "status" in row.keys() else TenantStatus.ACTIVE,  # noqa: SIM118
            tier=sys.intern(_text(row, "tier") or "standard"),
            region=_text(row, "region"),
            limits=_limits(row),
            epoch=_number(row, "epoch", int, 0) or 0,
            settings=_mapping(row, "settings"),
            systems=_systems(row),
        )

    def _placement(self, row: Row, isolation: Isolation) -> Placement:
        server = _text(row, "server") or self.default_server
        if self.servers is not None and server not in self.servers:
            raise _bad(
                "server", f"names {server!r}, which is not configured", f"add [servers.{server}] or correct the row"
            )
        database = _text(row, "database")
        if not database:
            raise _bad("database", "is missing", "name the tenant's database")
        schema = _text(row, "schema")
        try:
            return Placement(
                isolation=isolation,
                server=sys.intern(server),
                database=sys.intern(database),
                # A table for all kinds has the column for every tenant; what it holds for this kind means nothing.
                schema=schema if isolation is Isolation.SCHEMA else None,
                role=_text(row, "role"),
            )
        except ValueError as exc:
            column = next((name for name in ("schema", "role") if name in str(exc)), "database")
            raise _bad(column, str(exc), "correct the row") from None


def _bad(column: str, problem: str, fix: str) -> TenantMisconfigured:
    return TenantMisconfigured(
        "the tenant's entry in the registry cannot be used", detail=f"column {column}: {problem}", hint=fix
    )


def _id(row: Row) -> str | None:
    value = row.get("id")
    if value is None:
        raise _bad("id", "is missing", "select the tenant's identifier as id")
    return str(value)  # a uuid column is fine: the caller compares it with what was asked


def _text(row: Row, column: str) -> str | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _bad(column, f"is a {type(value).__name__}, not text", f"select {column}::text")
    return value


def _member(row: Row, column: str, kind: type[_E]) -> _E:
    value = _text(row, column)
    try:
        return kind(value or "")
    except ValueError:
        shown = "is missing" if value is None else f"is {value[:40]!a}"
        choices = ", ".join(member.value for member in kind)
        raise _bad(column, f"{shown}, not one of {choices}", f"map it in the query: case {column} when ...") from None


def _number(row: Row, column: str, kind: type[int] | type[float], least: float) -> Any:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise _bad(column, f"is a {type(value).__name__}, not a number", "correct the row")
    number = kind(value)
    if number != value or not least <= number < float("inf"):
        raise _bad(column, f"is {value}, which is out of range", f"write a number from {least:g}")
    return number


def _limits(row: Row) -> Limits:
    limits = Limits(
        max_size=_number(row, "max_size", int, 1),
        max_waiting=_number(row, "max_waiting", int, 0),
        acquire_timeout=_number(row, "acquire_timeout", float, 0.001),
    )
    return _DEFAULT_LIMITS if limits == _DEFAULT_LIMITS else limits


def _systems(row: Row) -> Mapping[str, str]:
    systems = _mapping(row, "systems")
    for schema in systems.values():
        try:
            check_schema(schema)
        except ValueError as exc:
            raise _bad("systems", str(exc), "correct the row") from None
    return systems


def _mapping(row: Row, column: str) -> Mapping[str, str]:
    value = row.get(column)
    if value is None or value == "{}":
        return NOTHING
    if isinstance(value, str):  # json and jsonb arrive as text where no codec is set
        try:
            value = json.loads(value)
        except ValueError:
            raise _bad(column, "is not JSON", "correct the row") from None
    if value is None or value == {}:
        return NOTHING
    text: Callable[[object], str] = lambda one: one if isinstance(one, str) else json.dumps(one)  # noqa: E731
    if not isinstance(value, Mapping):
        raise _bad(column, f"is a JSON {type(value).__name__}, not an object", "correct the row")
    return {str(key): text(item) for key, item in value.items() if item is not None}
