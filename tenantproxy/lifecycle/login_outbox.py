"""How does the login directory hear of users that applications write? By an outbox in each database, read and emptied.

A row says which address to look at again, not what became of it: the account is asked of the tenant when the row is
read. So a row that is read twice, or late, does no harm, and is deleted only when the directory agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.accounts import TenantAccounts
from tenantproxy.auth.directory import normalised
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.install import alone, sql_file
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Isolation, Tenant, quote_identifier
from tenantproxy.router import Router

__all__ = ["OutboxPlace", "Synced", "outbox_places", "sync_place", "waiting_in", "watch_place", "watch_sql"]

_FAILURES: Final = (TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_BATCH: Final = 500
# Of another one's table we would run the triggers.
_IS_OURS: Final = """
SELECT r.rolname = current_user OR r.rolsuper FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
WHERE c.oid = to_regclass('tenantproxy_login.changed')
"""
# One process at a time: what one has read of a tenant must not overwrite what another one has read later. Writers go
# on, and no tenant may lock it so.
_LOCK: Final = "LOCK TABLE tenantproxy_login.changed IN SHARE UPDATE EXCLUSIVE MODE"
_READ: Final = "SELECT id, place, tenant, email FROM tenantproxy_login.changed WHERE id > $1 ORDER BY id LIMIT $2"
_COUNT: Final = "SELECT count(*) FROM tenantproxy_login.changed"
_DONE: Final = "DELETE FROM tenantproxy_login.changed WHERE id = ANY ($1::bigint[])"
_OPEN: Final = """
GRANT USAGE ON SCHEMA tenantproxy_login TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA tenantproxy_login TO PUBLIC;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA tenantproxy_login TO PUBLIC;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxPlace:
    """A database with users tables. `homes`: by schema the tenants whose users are there; `shared`: row tenants."""

    server: str
    database: str
    homes: Mapping[str, Tenant]
    shared: Mapping[str, Tenant]
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What became of one database's outbox: rows that were taken out, and those that stay with the first reason.

    `left` None: it could not be asked.
    """

    place: OutboxPlace
    rows: int
    left: int | None
    error: str | None = None


def outbox_places(tenants: Sequence[Tenant]) -> list[OutboxPlace]:
    """The databases of `tenants`, each once."""
    found: dict[tuple[str, str], list[Tenant]] = {}
    for tenant in tenants:
        found.setdefault((tenant.placement.server, tenant.placement.database), []).append(tenant)
    return [
        OutboxPlace(
            server=server,
            database=database,
            homes={t.placement.schema or "public": t for t in here if t.placement.isolation is not Isolation.ROW},
            shared={t.id: t for t in here if t.placement.isolation is Isolation.ROW},
            is_own=all(t.placement.isolation is Isolation.DATABASE for t in here),
        )
        for (server, database), here in found.items()
    ]


def watch_sql(settings: Settings, place: OutboxPlace) -> str:
    """What puts the outbox and its triggers into a database, for one transaction. Raises ConfigurationError."""
    login = settings.login
    if not login.watch_table:
        fix = 'name your table of users: [login] watch_table = "users"'
        raise ConfigurationError([Problem(key="login.watch_table", problem="is missing", fix=fix)])
    columns = ", ".join(map(quote_identifier, login.watch_columns))
    shared = {"public": login.watch_tenant} if place.shared else {}
    lines = [sql_file("login_outbox.sql"), _OPEN if place.is_own else ""]
    for schema, tenant_column in {**dict.fromkeys(place.homes, ""), **shared}.items():
        table = f"{quote_identifier(schema)}.{quote_identifier(login.watch_table)}"
        given = (login.watch_columns[0], tenant_column)
        arguments = ", ".join("'" + each.replace("'", "''") + "'" for each in given)
        note = f"EXECUTE FUNCTION tenantproxy_login.note({arguments})"
        lines += [
            f"CREATE OR REPLACE TRIGGER tenantproxy_login_rows AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table}"
            f" FOR EACH ROW {note};\n",
            f"CREATE OR REPLACE TRIGGER tenantproxy_login_all AFTER TRUNCATE ON {table} FOR EACH STATEMENT {note};\n",
        ]
    return "".join(lines)


async def watch_place(settings: Settings, place: OutboxPlace, connect: ConnectTo, *, lock_timeout: float = 5.0) -> None:
    """Install or upgrade them in one database: all or nothing. Raises what PostgreSQL says, ConfigurationError."""
    sql = watch_sql(settings, place)
    conn = await connect(place.server, place.database)
    try:
        async with alone(conn, lock_timeout):
            await conn.execute(sql)
    finally:
        await conn.close()


async def sync_place(router: Router, place: OutboxPlace, connect: ConnectTo, *, lock_timeout: float = 5.0) -> Synced:
    """Empty the outbox of one database into the directory. What cannot be asked now stays there for the next time.

    One process at a time: another one waits `lock_timeout` seconds for its turn, then asyncpg.LockNotAvailableError.
    """
    async with opened(connect, place.server, place.database) as conn:
        await conn.execute(f"SET search_path = pg_catalog; SET lock_timeout = {round(lock_timeout * 1000)}")
        if (lacks := await _lacks(conn)) is not None:
            return Synced(place=place, rows=0, left=0, error=lacks)
        done, left, error, last = 0, 0, None, 0
        while True:
            async with conn.transaction():
                await conn.execute(_LOCK)
                if not (rows := await conn.fetch(_READ, last, _BATCH)):
                    return Synced(place=place, rows=done, left=left, error=error)
                last = rows[-1]["id"]
                kept, failed = await _look_at(router, place, rows)
                # With those of tenants that are gone: `reconcile` removes what they had.
                gone = [row["id"] for row in rows if row["id"] not in kept]
                await conn.execute(_DONE, gone)
            done, left, error = done + len(gone), left + len(kept), error or failed


async def waiting_in(place: OutboxPlace, connect: ConnectTo) -> Synced:
    """How many rows wait in the outbox of one database, as `left`. Changes nothing."""
    async with opened(connect, place.server, place.database) as conn:
        await conn.execute("SET search_path = pg_catalog")
        if (lacks := await _lacks(conn)) is not None:
            return Synced(place=place, rows=0, left=0, error=lacks)
        return Synced(place=place, rows=0, left=await conn.fetchval(_COUNT))


async def _lacks(conn: asyncpg.Connection) -> str | None:
    """Why the outbox there cannot be read."""
    is_ours = await conn.fetchval(_IS_OURS)
    if is_ours:
        return None
    return "has no outbox: tenantproxy login watch" if is_ours is None else "has an outbox of another role"


async def _look_at(router: Router, place: OutboxPlace, rows: Sequence[asyncpg.Record]) -> tuple[set[int], str | None]:
    """Make the directory agree with what `rows` are about; those that stay, and why the first of them does."""
    kept, error = set[int](), None
    for tenant, theirs in _by_tenant(place, rows):
        try:
            await _look(router, tenant, [row["email"] for row in theirs])
        except _FAILURES as exc:
            kept |= {row["id"] for row in theirs}
            error = error or said(exc)
    return kept, error


def _by_tenant(place: OutboxPlace, rows: Sequence[asyncpg.Record]) -> list[tuple[Tenant, list[asyncpg.Record]]]:
    found: dict[str, tuple[Tenant, list[asyncpg.Record]]] = {}
    for row in rows:
        for tenant in _whose(place, row):
            found.setdefault(tenant.id, (tenant, []))[1].append(row)
    return list(found.values())


def _whose(place: OutboxPlace, row: asyncpg.Record) -> Sequence[Tenant]:
    if (home := place.homes.get(row["place"])) is not None:
        return [home]
    if row["tenant"] is None:
        return list(place.shared.values())
    return [each for each in [place.shared.get(row["tenant"])] if each is not None]


async def _look(router: Router, tenant: Tenant, emails: Sequence[str | None]) -> None:
    """Make the directory agree with what the tenant says of these addresses now; None: with all that it has."""
    directory = router.logins.directory
    if None in emails:
        accounts = TenantAccounts(router.settings, source=router, tenants=router.registry)
        await directory.reconcile(tenant.id, accounts.pages(tenant.id))
        return
    query, scope = router.settings.login.account_query or "", router.tenant(tenant.id)
    for address in {normalised(email) for email in emails if email is not None} - {None}:
        assert address is not None
        rows = await scope.fetch(query, address)
        if rows:
            await directory.add(directory.key(address), tenant.id, str(rows[0]["user_id"]))
        else:
            await directory.remove(directory.key(address), tenant.id)
