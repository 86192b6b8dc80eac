"""What can the roles of tenants reach that is not their tenant's? Findings from the catalogue's answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tenantproxy.connect.reach import Reach, ReachedRelation, judged
from tenantproxy.isolation.policies import COMMANDS, TenantForm, open_commands
from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.model import quote_identifier

__all__ = ["GuardedTable", "Leak", "leaks", "of_rows", "of_schema", "told_name"]

_BESIDES_ROWS: Final = ("TRUNCATE", "REFERENCES", "TRIGGER")
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE"})
_KEEPERS: Final = frozenset({"context_key", "fenced_tenant", "fleet", "fleet_key", "fleet_server", "fleet_share"})
"""Our tables, at which installed.sql looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedTable:
    """A table with a column that names a tenant, from guarded.sql. `policies`: how many permissive ones it has."""

    oid: int
    schema: str
    name: str
    column: str
    enabled: bool
    forced: bool
    owner: str
    policies: int
    with_roles: tuple[str, ...]
    constant: str | None
    is_part: bool


class Leak(NamedTuple):
    """What one role reaches. `isolates`: it is closed by the policy of its table, which is still to be planned."""

    code: str
    relation: ReachedRelation
    why: str
    isolates: bool = False


def leaks(reach: Reach, *, form: TenantForm, guarded: Mapping[tuple[str, str], GuardedTable]) -> Iterator[Leak]:
    """Everything that the role of `reach` could use to get at rows of another tenant."""
    for relation in judged(reach, form).relations:
        if relation.schema == "tenantproxy" and relation.name in _KEEPERS:
            continue
        table = guarded.get((relation.schema, relation.name))
        commands = tuple(right for right in relation.rights if right in COMMANDS)
        if commands and not relation.invoker:
            if relation.secured:
                reasons = dict.fromkeys(open_commands(relation.policies, commands, form))
                if reasons:
                    yield Leak("TPD083", relation, "; ".join(reasons), table is not None)
            else:
                yield _unsecured(relation, table)
        extra = [right for right in relation.rights if right in _BESIDES_ROWS]
        if extra:
            yield Leak("TPD093", relation, ", ".join(extra))
        if relation.rules and set(relation.rights) & _WRITES:
            yield Leak(
                "TPD094", relation, f"the actions of its rule {relation.rules[0]!r} run with the rights of its owner"
            )


def _unsecured(relation: ReachedRelation, table: GuardedTable | None) -> Leak:
    if relation.schema == "tenantproxy":
        return Leak("TPD104", relation, "")
    if relation.extension is not None:
        return Leak("TPD092", relation, "")
    if relation.kind != "r" and relation.kind != "p":
        return Leak({"v": "TPD089", "m": "TPD090", "f": "TPD091"}[relation.kind], relation, "")
    if table is None:
        return Leak("TPD088", relation, "")
    return Leak("TPD082" if table.is_part else "TPD081", relation, "", True)


def of_rows(
    seen: Iterable[tuple[str, Leak]],
    sql_of: Callable[[ReachedRelation], tuple[str, ...]],
    *,
    server: str,
    database: str,
) -> Iterator[DoctorFinding]:
    """One finding for each relation and rule, for all roles together. `sql_of`: what isolates a table."""
    merged: dict[tuple[str, str, str], list[tuple[str, Leak]]] = {}
    for role, leak in seen:
        merged.setdefault((leak.code, leak.relation.schema, leak.relation.name), []).append((role, leak))
    for (code, schema, _), each in merged.items():
        roles, leak = [role for role, _ in each], each[0][1]
        relation, who = leak.relation, " and ".join(roles)
        detail = {"TPD083": leak.why, "TPD093": f"{who} may {leak.why}", "TPD094": leak.why}.get(
            code, f"the role {who}"
        )
        sql = sql_of(relation) if leak.isolates else _written(leak, roles)
        yield found(
            code,
            server=server,
            database=database,
            schema=schema,
            object=told_name(relation.schema, relation.name),
            detail=detail,
            sql=sql,
        )


def of_schema(role: str, leak: Leak, *, server: str, database: str) -> DoctorFinding:
    """What a schema tenant's role reaches outside of its schemas; it is closed by taking its rights away."""
    relation = leak.relation
    return found(
        "TPD066",
        server=server,
        database=database,
        schema=relation.schema,
        object=told_name(schema=relation.schema, name=relation.name),
        detail=role,
        sql=_written(Leak("TPD066", relation, ""), [role]),
    )


def told_name(schema: str, name: str) -> str:
    """A relation's name for people: what cannot be printed in it is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in f"{schema}.{name}")


def _written(leak: Leak, roles: list[str]) -> tuple[str, ...]:
    """The statements that close it; none for a name that cannot be printed, which a person has to look at."""
    try:
        return _closing(leak, roles)
    except ValueError:
        return ()


def _closing(leak: Leak, roles: list[str]) -> tuple[str, ...]:
    relation, name = leak.relation, _name(leak.relation)
    match leak.code:
        case "TPD089":
            return (f"ALTER VIEW {name} SET (security_invoker = true)",)
        case "TPD093":
            return (_revoke(relation, leak.why.split(", "), roles),)
        case "TPD094":
            return tuple(f"DROP RULE {quote_identifier(rule)} ON {name}" for rule in relation.rules)
        case "TPD083" | "TPD104":
            return ()  # its policies are the operator's, and it has no column to compare; the router needs it
        case _:
            return (_revoke(relation, relation.rights, roles),)


def _revoke(relation: ReachedRelation, rights: Iterable[str], roles: Iterable[str]) -> str:
    grantees = ", ".join(["PUBLIC", *map(quote_identifier, roles)])
    return f"REVOKE {', '.join(rights)} ON {_name(relation)} FROM {grantees}"


def _name(relation: ReachedRelation) -> str:
    return f"{quote_identifier(relation.schema)}.{quote_identifier(relation.name)}"
