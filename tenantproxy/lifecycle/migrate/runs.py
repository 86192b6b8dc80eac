"""Who migrates? One process at a time, by a row of the main database that it renews."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError

__all__ = ["MigrationRun", "MigrationsRunning", "being_moved", "is_migrating", "last_run", "running"]

_SILENT: Final = 30.0  # seconds after which a process that migrates is thought to be gone
_LOST: Final = """
UPDATE tenantproxy.migration_runs SET state = 'lost', ended_at = now()
WHERE state = 'running' AND seen_at < now() - make_interval(secs => $1)
"""
_BEGIN: Final = "INSERT INTO tenantproxy.migration_runs (state, holder, total) VALUES ('running', $1, $2) RETURNING id"
_TELL: Final = """
UPDATE tenantproxy.migration_runs SET seen_at = now(), done = $3, failed = $4
WHERE id = $1 AND holder = $2 AND state = 'running' RETURNING true
"""
_END: Final = """
UPDATE tenantproxy.migration_runs SET state = $3, ended_at = now(), done = $4, failed = $5
WHERE id = $1 AND holder = $2 AND state = 'running'
"""
_MIGRATING: Final = """
SELECT EXISTS (SELECT FROM tenantproxy.migration_runs WHERE state = 'running'
               AND seen_at > now() - make_interval(secs => $1))
"""
_MOVED: Final = "SELECT tenant FROM tenantproxy.sagas WHERE kind = 'move' AND state NOT IN ('active', 'cleaned')"
_LAST: Final = """
SELECT id, CASE WHEN state = 'running' AND seen_at < now() - make_interval(secs => $1)
  THEN 'lost' ELSE state END AS state, started_at, ended_at, total, done, failed
FROM tenantproxy.migration_runs ORDER BY id DESC LIMIT 1
"""


class MigrationsRunning(TenantProxyError):
    """Another process migrates at this moment, or this one was taken for dead and is to stop."""

    code = "migrations_running"
    retryable = True


@dataclass(slots=True)
class MigrationRun:
    """What this process does. `is_lost`: another one has taken over, so that no further place may be begun."""

    total: int
    done: int = 0
    failed: int = 0
    is_lost: bool = False


@asynccontextmanager
async def running(conn: asyncpg.Connection, total: int) -> AsyncIterator[MigrationRun]:
    """The one process that migrates, for the block. `conn`: the main database's, as the admin user, used by this alone.

    Raises MigrationsRunning while another one is, ConfigurationError where our tables are missing.
    """
    holder, run = uuid.uuid4(), MigrationRun(total=total)
    number = await _begin(conn, holder, total)
    beat = asyncio.ensure_future(_beat(conn, number, holder, run))
    try:
        yield run
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await beat
        state = "stopped" if run.failed or run.done < run.total else "done"
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it is taken for lost then
            await conn.execute(_END, number, holder, state, run.done, run.failed)


async def _begin(conn: asyncpg.Connection, holder: uuid.UUID, total: int) -> int:
    if await conn.fetchval("SELECT to_regclass('tenantproxy.migration_runs') IS NULL"):
        problem, fix = "the main database has no table for migrations", "run: tenantproxy install"
        raise ConfigurationError([Problem(key="migrations", problem=problem, fix=fix)])
    await conn.execute(_LOST, _SILENT)
    try:
        number: int = await conn.fetchval(_BEGIN, holder, total)
    except asyncpg.UniqueViolationError:
        raise MigrationsRunning(
            "another process migrates at this moment",
            hint=f"tenantproxy migrate status shows how far it is; one that is gone is noticed after {_SILENT:.0f} s",
            retry_after=_SILENT,
        ) from None
    return number


async def _beat(conn: asyncpg.Connection, number: int, holder: uuid.UUID, run: MigrationRun) -> None:
    last = asyncio.get_running_loop().time()
    while not run.is_lost:
        await asyncio.sleep(_SILENT / 6)
        try:
            run.is_lost = not await conn.fetchval(_TELL, number, holder, run.done, run.failed, timeout=_SILENT / 6)
            last = asyncio.get_running_loop().time()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            run.is_lost = conn.is_closed() or asyncio.get_running_loop().time() - last > _SILENT / 2


async def is_migrating(conn: asyncpg.Connection) -> bool:
    """Whether a process migrates tenants. Asked by one that moves, when its saga is there: `being_moved` sees that."""
    if await conn.fetchval("SELECT to_regclass('tenantproxy.migration_runs') IS NULL"):
        return False
    return bool(await conn.fetchval(_MIGRATING, _SILENT))


async def being_moved(conn: asyncpg.Connection) -> frozenset[str]:
    """The tenants that are being moved. Asked by one that migrates, when its run is there: `is_migrating` sees that."""
    return frozenset(row[0] for row in await conn.fetch(_MOVED))


async def last_run(conn: asyncpg.Connection) -> dict[str, Any] | None:
    """The newest run; None: there was none."""
    if await conn.fetchval("SELECT to_regclass('tenantproxy.migration_runs') IS NULL"):
        return None
    row = await conn.fetchrow(_LAST, _SILENT)
    return None if row is None else dict(row)
