"""What is wrong in one database? Schemas, functions and, where row tenants live, their tables and our installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import asyncpg

from tenantproxy.config import Settings, names
from tenantproxy.connect.reach import REACH, Reach, ReachedRelation, argument, parse
from tenantproxy.connect.reader import READER, reader_argument
from tenantproxy.connect.reader import exposures as could_write
from tenantproxy.isolation.policies import tenant_form
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.installed import look_at_installation
from tenantproxy.lifecycle.doctor.reached import GuardedTable, Leak, leaks, of_rows, of_schema, told_name
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.lifecycle.doctor.scope import AuditPlace
from tenantproxy.lifecycle.doctor.session import FAILURES, as_role, look, may_act, open_as, reading, rows, told
from tenantproxy.lifecycle.provisioner import functions_closing
from tenantproxy.lifecycle.readers import grants_of
from tenantproxy.lifecycle.table_facts import read_table
from tenantproxy.lifecycle.table_plan import isolation_changes
from tenantproxy.model import quote_identifier

__all__ = ["look_at_database"]

_COLUMN: Final = "tenant_id"  # where none of our policies says another one
_SHOWN: Final = 5


async def look_at_database(
    conn: asyncpg.Connection,
    settings: Settings,
    place: AuditPlace,
    *,
    healthy: frozenset[str],
    strangers: Sequence[str],
) -> list[DoctorFinding]:
    """Everything that can be seen on `conn`, which is in a read-only transaction with search_path = pg_catalog.

    `healthy`: roles that are held back by grants and policies; of the others it is known that they are not.
    `strangers`: roles of tenants elsewhere on this server. Raises FAILURES.
    """
    if not place.roles:
        return []  # the main database alone: its data are the router's
    given = place.argument(healthy=healthy, strangers=strangers)
    where = {"server": place.server, "database": place.database}
    findings = await look(conn, "schemas.sql", given, **where)
    findings += await look(conn, "routines.sql", given, **where)
    findings += await _open_functions(conn, place)
    closed = {finding.object for finding in findings if finding.code == "TPD062"}
    if place.row_roles:
        findings += await _row_tables(conn, settings, place, healthy, closed)
        findings += await look_at_installation(conn, settings, place, given)
    findings += await _readers(conn, settings, place, healthy)
    if place.homes and not settings.schema_.shared_role:
        findings += [each async for each in _homes(conn, settings, place, healthy, closed)]
    return findings


async def _open_functions(conn: asyncpg.Connection, place: AuditPlace) -> list[DoctorFinding]:
    statements = [each for each in await functions_closing(conn) if each.startswith("REVOKE")]
    if not statements:
        return []
    functions = statements[0].removeprefix("REVOKE EXECUTE ON FUNCTION ").removesuffix(" FROM PUBLIC").split("), ")
    shown = ", ".join(f"{each.rstrip(')')})" for each in functions[:_SHOWN])
    more = f" and {len(functions) - _SHOWN} more" if len(functions) > _SHOWN else ""
    return [
        found(
            "TPD064", server=place.server, database=place.database, object="functions", detail=shown + more,
            sql=tuple(statements),
        )
    ]  # fmt: skip


# --- row tenants -----------------------------------------------------------------------------------------------------
async def _row_tables(
    conn: asyncpg.Connection, settings: Settings, place: AuditPlace, healthy: frozenset[str], closed: set[str]
) -> list[DoctorFinding]:
    """`closed`: schemas of which it is told already that they are open."""
    columns = [row[0] for row in await rows(conn, "columns.sql")]
    given = place.argument(columns=list(dict.fromkeys([*columns, _COLUMN])), healthy=healthy)
    where = {"server": place.server, "database": place.database}
    findings = await look(conn, "tables.sql", given, **where)
    guarded = {
        (row["schema"], row["name"]): GuardedTable(**{**row, "with_roles": tuple(row["with_roles"])})
        for row in await rows(conn, "guarded.sql", given)
    }
    owned = {key for key, table in guarded.items() if table.owner in place.row_roles}
    form = tenant_form(None if settings.row.signed else settings.row.setting)
    path, common = settings.servers[place.server].search_path, names(settings.schema_.common)
    shared = argument(names(settings.row.unprotected), path=path, common=common)
    seen: list[tuple[str, Leak]] = []
    granted: set[tuple[str, str]] = set()
    for role in place.row_roles:
        if role in healthy:
            reach = await _reach(conn, settings, place, role, shared, findings)
            if reach is not None:
                granted |= {(relation.schema, relation.name) for relation in reach.relations}
                seen += [(role, leak) for leak in leaks(reach, form=form, guarded=guarded)]
    seen = [(role, leak) for role, leak in seen if (leak.relation.schema, leak.relation.name) not in owned
            and not (leak.relation.giver is not None and leak.relation.schema in closed)]  # fmt: skip
    isolating = {key: await _isolating(conn, settings, table, place.row_roles) for key, table in guarded.items()
                 if _needs_plan(key, table, seen)}  # fmt: skip

    def sql_of(relation: ReachedRelation) -> tuple[str, ...]:
        return isolating.get((relation.schema, relation.name), ())

    findings += of_rows(seen, sql_of, **where)
    for key, table in guarded.items():
        findings += _guards(table, isolating.get(key, ()), key in granted, place)
    return findings


def _needs_plan(key: tuple[str, str], table: GuardedTable, seen: Iterable[tuple[str, Leak]]) -> bool:
    leaking = any(leak.isolates and (leak.relation.schema, leak.relation.name) == key for _, leak in seen)
    return leaking or not table.enabled or not table.policies or table.constant is not None


async def _isolating(
    conn: asyncpg.Connection, settings: Settings, table: GuardedTable, roles: Sequence[str]
) -> tuple[str, ...]:
    """The statements that isolate one table, and that put a constant default of its column right."""
    facts = await read_table(conn, table.oid, table.column, roles)
    if facts.kind.cast is None:
        return ()  # no column of this type can name a tenant
    comparison = Comparison(signed=settings.row.signed, setting=settings.row.setting)
    column = quote_identifier(table.column)
    changes = [change.sql for change in isolation_changes(facts.relations[0], column, facts.kind.cast, comparison)]
    if table.constant is not None:
        default = comparison.default(facts.kind.cast)
        changes.append(f"ALTER TABLE ONLY {facts.relations[0].name} ALTER COLUMN {column} SET DEFAULT {default}")
    return tuple(changes)


def _guards(table: GuardedTable, sql: tuple[str, ...], is_granted: bool, place: AuditPlace) -> list[DoctorFinding]:
    """What the catalogue says of one table in addition. `is_granted`: a row tenants' role has rights on it."""
    name = _sql_name(table)
    where = {
        "server": place.server,
        "database": place.database,
        "schema": table.schema,
        "object": told_name(table.schema, table.name),
    }
    defaults = tuple(each for each in sql if " SET DEFAULT " in each)
    policies = tuple(each for each in sql if each not in defaults)
    findings = []
    if not table.enabled and not is_granted:
        findings.append(found("TPD087", **where, detail=table.column, sql=policies))
    if table.enabled and not table.policies and is_granted:
        findings.append(found("TPD086", **where, sql=policies))
    if table.enabled and not table.forced:
        forcing = () if name is None else (f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",)
        findings.append(found("TPD084", **where, sql=forcing))
    if table.with_roles:
        named = table.with_roles if name is not None else ()
        sql = tuple(f"ALTER POLICY {quote_identifier(policy)} ON {name} TO PUBLIC" for policy in named)
        findings.append(found("TPD085", **where, detail=", ".join(table.with_roles), sql=sql))
    if table.constant is not None:
        findings.append(found("TPD096", **where, detail=table.constant, sql=defaults))
    return findings


def _sql_name(table: GuardedTable) -> str | None:
    """None: it has a name that cannot be printed, which a person has to look at."""
    try:
        return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
    except ValueError:
        return None


# --- what a role reaches ---------------------------------------------------------------------------------------------
async def _homes(
    conn: asyncpg.Connection, settings: Settings, place: AuditPlace, healthy: frozenset[str], closed: set[str]
) -> AsyncIterator[DoctorFinding]:
    """What schema tenants reach outside of their schemas; not again what is in schemas that are known to be open."""
    users: dict[str, list[str]] = {}
    for home in place.homes:
        users.setdefault(home.role, []).append(home.tenant)
    where = {"server": place.server, "database": place.database}
    for role, tenants in users.items():
        if len(tenants) > 1:
            yield found("TPD067", **where, object=", ".join(tenants[:_SHOWN]), detail=role)
    unseen: list[DoctorFinding] = []
    for home in place.homes:
        if home.role not in healthy or len(users[home.role]) > 1:
            continue
        own = argument([*names(settings.schema_.common), *((schema, None) for schema in home.schemas)])
        reach = await _reach(conn, settings, place, home.role, own, unseen)
        for leak in leaks(reach, form=tenant_form(), guarded={}) if reach is not None else ():
            if leak.relation.schema not in closed:
                yield of_schema(home.role, leak, **where)
    for finding in dict.fromkeys(unseen):
        yield finding


async def _readers(
    conn: asyncpg.Connection, settings: Settings, place: AuditPlace, healthy: frozenset[str]
) -> list[DoctorFinding]:
    """What the roles that only read could write here, and what they do not read that they should."""
    roles, findings, unseen = settings.tenant_roles, list[DoctorFinding](), list[DoctorFinding]()
    where = {"server": place.server, "database": place.database}
    given = reader_argument(roles.reader_functions if roles is not None else ())
    for writer, reader in place.readers:
        if reader not in healthy:
            continue  # told of the role itself
        answer = await _asked_as(conn, settings, place, reader, (READER, given), unseen)
        for each in could_write(answer) if answer is not None else ():
            findings.append(found("TPD069", **where, object=each.what, detail=reader, sql=(each.fix,)))
        lacking = [change for change in await grants_of(conn, writer) if change.sql.startswith(("GRANT", "ALTER D"))]
        if lacking:
            sql = tuple(change.sql for change in lacking)
            findings.append(found("TPD070", **where, object=reader, detail=reader, sql=sql))
    return [*findings, *dict.fromkeys(unseen)]


async def _asked_as(
    conn: asyncpg.Connection,
    settings: Settings,
    place: AuditPlace,
    role: str,
    asked: tuple[str, str],
    unseen: list[DoctorFinding],
) -> str | None:
    """What is answered to `asked`, a statement and its parameter, as `role`; None where that is not possible."""
    if await may_act(conn, role):
        async with as_role(conn, role):
            return str(await conn.fetchval(*asked))
    try:
        async with open_as(settings, place.server, place.database, [role]) as own, reading(own):
            return str(await own.fetchval(*asked))
    except FAILURES as exc:
        detail = f"what the role {role} reaches, which the audit's user cannot act for ({told(exc)})"
        unseen.append(found("TPD003", server=place.server, database=place.database, detail=detail))
        return None


async def _reach(
    conn: asyncpg.Connection, settings: Settings, place: AuditPlace, role: str, given: str, unseen: list[DoctorFinding]
) -> Reach | None:
    """What `role` reaches, asked as that role; where that is not possible, None, and what is `unseen` is told."""
    answer = await _asked_as(conn, settings, place, role, (REACH, given), unseen)
    return None if answer is None else parse(answer)
