"""What is each table, view and role to be, once tenants are row tenants? Decided from what was found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.change import Change
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.init.found import InitFound, RelationFound, RowTable
from tenantproxy.lifecycle.init.recognise import Layout
from tenantproxy.lifecycle.table_facts import TableFacts
from tenantproxy.lifecycle.table_plan import POLICIES, plan_table

__all__ = ["Names", "PlannedTable", "Shape", "TableState", "shape_of"]

_LISTS: Final = "lists the tenants: the router reads it, tenants do not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The roles that are made: `router` reads the registry, `tenants` runs their SQL, `owner` owns, and logs in never.

    Raises ConfigurationError where one is there already, or would be longer than PostgreSQL keeps.
    """

    router: str
    tenants: str
    owner: str

    @classmethod
    def of(cls, prefix: str, found: InitFound) -> Names:
        """The three with this prefix, none of which exists."""
        made = cls(router=f"{prefix}_router", tenants=f"{prefix}_tenants", owner=f"{prefix}_owner")
        for name in (made.router, made.tenants, made.owner):
            if not prefix.isidentifier() or not prefix.isascii() or len(name) > 63 or prefix.startswith("pg_"):
                raise _prefix(f"makes {name!a}, which cannot be a role's name here", "use ASCII letters, digits and _")
            if found.role(name) is not None:
                raise _prefix(f"would make the role {name}, which exists", "choose another one: --prefix NAME")
        return made


def _prefix(problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key="--prefix", problem=problem, fix=fix)], source="init")


class TableState(StrEnum):
    """What becomes of a table. All but TENANTS and SHARED are closed to tenants."""

    TENANTS = "tenants"
    LATER = "later"  # has policies of the application's: ours would stop its role
    REFUSED = "refused"  # its column cannot name a tenant
    REGISTRY = "registry"
    SHARED = "shared"
    CHILD = "child"  # belongs to a tenant through another table
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """A table and what becomes of it; `why`: one sentence. `changes`: those of the installer, for TENANTS and LATER."""

    label: str
    state: TableState
    why: str
    facts: TableFacts | None = None
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All of it. `former`: who owned something; `others`: who else was granted a tenants' table, by table.

    `logins`: who may log in now, and is no superuser. `readable`: labels of views
    that tenants may read.
    """

    found: InitFound
    layout: Layout
    names: Names
    tables: tuple[PlannedTable, ...] = ()
    former: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    logins: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()

    def of(self, *states: TableState) -> list[PlannedTable]:
        """The tables in these states."""
        return [table for table in self.tables if table.state in states]

    @property
    def guarded(self) -> list[PlannedTable]:
        """The tables that get policies now: the tenants', and the one that lists them where it has their column."""
        return [table for table in self.of(TableState.TENANTS, TableState.REGISTRY) if table.facts is not None]


def shape_of(
    found: InitFound,
    layout: Layout,
    names: Names,
    *,
    rows: Iterable[RowTable] = (),
    shared: Iterable[str] = (),
    setting: str = "app.current_tenant_id",
) -> Shape:
    """Decide. `shared`: tables that all tenants may read, as the operator typed them."""
    comparison = Comparison(signed=True, setting=setting)
    planned = {table.label: table for row in rows for table in [_with_column(row, layout, names, comparison)]}
    wanted = {_typed(found, name).label for name in shared}
    if both := sorted(wanted & planned.keys()):
        problem = f"{both[0]} has the column {layout.column}: each tenant sees its own rows of it"
        raise ConfigurationError([Problem(key="--share", problem=problem, fix="leave it out")], source="init")
    tables = [planned.get(table.label) or _without(found, layout, table, planned, wanted) for table in found.tables]
    superusers = {role.name for role in found.roles if role.is_super}
    owners = {each.owner for each in found.things}
    former = tuple(sorted(owners - {names.owner, "pg_database_owner"}))
    logins = tuple(role.name for role in found.roles if role.logs_in and not role.is_super)
    others = {label: _others(found, table, {*former, *superusers}, logins) for label, table in planned.items()}
    return Shape(
        found=found,
        layout=layout,
        names=names,
        tables=tuple(tables),
        former=former,
        others=others,
        logins=logins,
        readable=_readable(found, tables),
    )


def _typed(found: InitFound, name: str) -> RelationFound:
    """The table that `--share` names: with its schema, or by its own name where that is clear."""
    fits = [table for table in found.tables if name in (table.label, f"{table.schema}.{table.name}", table.name)]
    if len(fits) == 1:
        return fits[0]
    problem = f"{name!a} is " + ("no table of this database" if not fits else "in several schemas")
    raise ConfigurationError([Problem(key="--share", problem=problem, fix="write SCHEMA.TABLE")], source="init")


def _with_column(row: RowTable, layout: Layout, names: Names, comparison: Comparison) -> PlannedTable:
    facts = row.facts
    label = facts.relations[0].name
    plan = plan_table(facts, comparison, unusable=row.unusable, creating=(names.tenants,))
    if plan.problems:
        said = plan.problems[0]
        why = f"{facts.column} {said.problem}: closed to tenants ({said.fix})"
        return PlannedTable(label=label, state=TableState.REFUSED, why=why, facts=facts)
    notes = tuple(note for note in plan.notes if "also granted to" not in note and "may be NULL" not in note)
    if row.has_nulls:
        notes += (f"{label}: there are rows whose {facts.column} is NULL: no tenant sees them",)
    if layout.registry is not None and label == layout.registry.label:  # guarded all the same: a grant would open it
        return PlannedTable(
            label=label, state=TableState.REGISTRY, why=_LISTS, facts=facts, changes=plan.changes, notes=notes
        )
    if any(_is_theirs(policy.name) and policy.permissive and policy.applies
           for relation in facts.relations for policy in relation.policies):  # fmt: skip
        kept = ", ".join(policy.name for policy in facts.relations[0].policies)
        why = f"has policies of yours ({kept}), which are kept: tenants reach it when file 80 is run"
        return PlannedTable(
            label=label, state=TableState.LATER, why=why, facts=facts, changes=plan.changes, notes=notes
        )
    why = f"each tenant has the rows whose {facts.column} names it"
    return PlannedTable(label=label, state=TableState.TENANTS, why=why, facts=facts, changes=plan.changes, notes=notes)


def _is_theirs(policy: str) -> bool:
    return policy not in POLICIES


def _without(
    found: InitFound, layout: Layout, table: RelationFound, planned: Mapping[str, PlannedTable], shared: set[str]
) -> PlannedTable:
    """A table without the tenant's column."""
    if layout.registry is not None and table.label == layout.registry.label:
        return PlannedTable(label=table.label, state=TableState.REGISTRY, why=_LISTS)
    if table.label in shared:
        why = "named with --share: all tenants read it, and none writes it"
        return PlannedTable(label=table.label, state=TableState.SHARED, why=why)
    if layout.column is None:
        return PlannedTable(label=table.label, state=TableState.CLOSED, why="is not the tenants'")
    path = _path(found, table.label, planned)
    if path:
        why = f"has no {layout.column}, and belongs to a tenant through {path}: closed until it has the column"
        return PlannedTable(label=table.label, state=TableState.CHILD, why=why)
    why = f"has no {layout.column}: closed to tenants; if all of them may read it: --share {table.label}"
    return PlannedTable(label=table.label, state=TableState.CLOSED, why=why)


def _path(found: InitFound, label: str, planned: Mapping[str, PlannedTable]) -> str:
    """The foreign keys from a table to one that has the column, `a_id -> public.a`, or ''."""
    ways = {label: ""}
    queue = [label]
    while queue:
        at = queue.pop(0)
        for key in found.keys:
            if key.table != at or key.target in ways:
                continue
            step = f"{', '.join(key.columns)} -> {key.target}"
            ways[key.target] = f"{ways[at]}, {step}" if ways[at] else step
            if key.target in planned:
                return ways[key.target]
            queue.append(key.target)
    return ""


def _others(found: InitFound, table: PlannedTable, known: set[str], logins: Iterable[str]) -> tuple[str, ...]:
    """Who was granted something on a table or its parts, and neither owns anything nor is a superuser."""
    parts = [found.relation(relation.name) for relation in table.facts.relations] if table.facts else []
    who = {name for part in parts if part is not None for name in part.grantees}
    return tuple(sorted((who | {*logins} if "PUBLIC" in who else who) - known - {"PUBLIC"}))


def _readable(found: InitFound, tables: Iterable[PlannedTable]) -> tuple[str, ...]:
    """Views that are made of what tenants may read, and of nothing else."""
    open_to_tenants = {each.label for each in tables if each.state in (TableState.TENANTS, TableState.SHARED)}
    views = [each for each in found.relations if each.kind == "v"]
    while True:
        more = [each for each in views if each.label not in open_to_tenants and {*each.reads} <= open_to_tenants]
        if not more:
            return tuple(each.label for each in views if each.label in open_to_tenants and each.reads)
        open_to_tenants.update(each.label for each in more)
