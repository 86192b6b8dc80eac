"""How is one file applied to one place exactly once? Its line of the journal is written in the file's transaction.

The line comes first: a second process, one that was taken for dead, waits for it and then has nothing to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.migrate.files import Migration
from tenantproxy.lifecycle.migrate.plan import Applied
from tenantproxy.lifecycle.turn_lock import take_turn
from tenantproxy.model import quote_identifier

__all__ = ["Behind", "apply_one", "ensure_journal", "read_journal", "undo_one", "write_journal"]

Behind = Callable[[asyncpg.Connection], Awaitable[None]]
"""What is looked at, or done, behind a file in its transaction."""

_PATIENCE: Final = 30.0  # seconds for another process to make it
_JOURNAL: Final = """
CREATE SCHEMA IF NOT EXISTS tenantproxy_migrations;
CREATE TABLE IF NOT EXISTS tenantproxy_migrations.applied (
  place      text NOT NULL,
  version    int NOT NULL,
  name       text NOT NULL,
  checksum   text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (place, version));
REVOKE ALL ON SCHEMA tenantproxy_migrations FROM PUBLIC;
REVOKE ALL ON tenantproxy_migrations.applied FROM PUBLIC;
"""
_OPEN: Final = """
GRANT USAGE ON SCHEMA tenantproxy_migrations TO PUBLIC;
GRANT SELECT ON tenantproxy_migrations.applied TO PUBLIC;
"""
_BROKEN: Final = (
    "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE c.relnamespace = $1::text::regnamespace AND NOT i.indisvalid LIMIT 1"
)
_READ: Final = "SELECT version, name, checksum FROM tenantproxy_migrations.applied WHERE place = $1 ORDER BY version"
_LINE: Final = "INSERT INTO tenantproxy_migrations.applied (place, version, name, checksum) VALUES ($1, $2, $3, $4)"
_STRIKE: Final = "DELETE FROM tenantproxy_migrations.applied WHERE place = $1 AND version = $2"


async def ensure_journal(conn: asyncpg.Connection, *, is_own: bool) -> None:
    """The journal of the database of `conn`. `is_own`: all in it is one tenant's, which may read it, for pg_dump."""
    if await conn.fetchval("SELECT to_regclass('tenantproxy_migrations.applied') IS NULL"):
        async with conn.transaction():
            await take_turn(conn, "tenantproxy migrations", patience=_PATIENCE)
            await conn.execute(_JOURNAL)
            if is_own:
                await conn.execute(_OPEN)


async def read_journal(conn: asyncpg.Connection, place: str) -> list[Applied]:
    """What was applied to `place`, a schema, by version; nothing where there is no journal."""
    if await conn.fetchval("SELECT to_regclass('tenantproxy_migrations.applied') IS NULL"):
        return []
    rows = await conn.fetch(_READ, place)
    return [Applied(version=row["version"], name=row["name"], checksum=row["checksum"]) for row in rows]


async def write_journal(conn: asyncpg.Connection, place: str, applied: Sequence[Applied]) -> None:
    """What was applied to `place` before it was here: it came from elsewhere, whole. Lines that are there stay."""
    lines = [(place, each.version, each.name, each.checksum) for each in applied]
    await conn.executemany(f"{_LINE} ON CONFLICT DO NOTHING", lines)


async def apply_one(
    conn: asyncpg.Connection, place: str, migration: Migration, *, lock_timeout: float, statement_timeout: float,
    behind: Behind | None = None,
) -> bool:  # fmt: skip
    """Apply a file to `place`; False: another process has. All or nothing, but for a file that `is_alone`.

    Raises what PostgreSQL says, asyncpg.LockNotAvailableError behind `lock_timeout` seconds for any one lock, and
    TenantProxyError where the file ends the transaction. Cancellation leaves it undone.
    """
    line = (place, migration.version, migration.name, migration.checksum)
    if migration.is_alone:
        await _set(conn, place, lock_timeout, statement_timeout, is_local=False)
        await conn.execute(migration.sql)
        if (broken := await conn.fetchval(_BROKEN, quote_identifier(place))) is not None:
            message = f"the index {broken} is not valid: what built it was interrupted"
            raise TenantProxyError(message, hint=f"DROP INDEX {broken}, and again")
        await conn.execute(f"{_LINE} ON CONFLICT DO NOTHING", *line)
        return True
    async with conn.transaction():
        await _set(conn, place, lock_timeout, statement_timeout, is_local=True)
        if await conn.execute(f"{_LINE} ON CONFLICT DO NOTHING", *line) == "INSERT 0 0":
            return False
        await _run(conn, migration.sql, f"{migration.version}_{migration.name}")
        if behind is not None:
            await behind(conn)
    return True


async def undo_one(
    conn: asyncpg.Connection, place: str, migration: Migration, *, lock_timeout: float, statement_timeout: float
) -> bool:
    """Take a file back from `place`; False: another process has. Raises as `apply_one`."""
    assert migration.undo is not None
    async with conn.transaction():
        await _set(conn, place, lock_timeout, statement_timeout, is_local=True)
        if await conn.execute(_STRIKE, place, migration.version) == "DELETE 0":
            return False
        await _run(conn, migration.undo, f"{migration.version}_{migration.name}.down")
    return True


async def _run(conn: asyncpg.Connection, sql: str, name: str) -> None:
    ours = await conn.fetchval("SELECT pg_current_xact_id()")
    await conn.execute(sql)
    if not conn.is_in_transaction() or await conn.fetchval("SELECT pg_current_xact_id()") != ours:
        raise TenantProxyError(
            f"the file {name} ends the transaction that it runs in",
            hint="leave BEGIN and COMMIT out; what needs no transaction is a file of its own, with the first line "
            "-- tenantproxy: no transaction",
        )


async def _set(
    conn: asyncpg.Connection, place: str, lock_timeout: float, statement_timeout: float, *, is_local: bool
) -> None:
    settings = {
        "search_path": quote_identifier(place),
        "lock_timeout": f"{round(lock_timeout * 1000)}ms",
        "statement_timeout": f"{round(statement_timeout * 1000)}ms",
    }
    for name, value in settings.items():
        await conn.execute("SELECT pg_catalog.set_config($1, $2, $3)", name, value, is_local)
