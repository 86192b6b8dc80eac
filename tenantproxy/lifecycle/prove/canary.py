"""Where do rows that only one tenant may see come from? A table of tenantproxy's in the tenants' own places.

Made with the server's admin credentials, dropped at the end of the block, whatever ends it. Its comment says which
session made it: what a run left that was killed is found by the next one, for its session is gone, and dropped then.
Nothing that does not bear both, the name and the comment, is ever touched.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from tenantproxy.driver.guard import Guard
from tenantproxy.errors import BudgetExhausted, PoolFull, PoolTimeout, TenantProxyError
from tenantproxy.lifecycle.install import alone, isolate_table
from tenantproxy.lifecycle.prove.base import Pair
from tenantproxy.model import Isolation, Tenant, quote_identifier
from tenantproxy.router import Router

__all__ = ["PREFIX", "Canary", "canary", "drop_leftovers"]

PREFIX: Final = "tenantproxy_canary_"
_MARK: Final = "tenantproxy prove "
_REASON: Final = "isolation proof"
_CLEANING: Final = 20.0  # seconds for it
_TRIES: Final = 8
_PAUSE: Final = 0.1  # seconds between two of them
_LONGEST: Final = 600.0  # seconds that any run may take

_FOUND: Final = r"""
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, pg_catalog.obj_description(c.oid, 'pg_class') AS mark
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relname LIKE 'tenantproxy\_canary\_%'
  AND pg_catalog.obj_description(c.oid, 'pg_class') LIKE 'tenantproxy prove %'
"""
_SESSION: Final = (
    "SELECT pid, pg_catalog.date_part('epoch', backend_start)::text AS started FROM pg_catalog.pg_stat_activity"
    " WHERE pid = $1"
)


class Canary:
    """The table of one pair, and an admin connection to each place for as long as it lives."""

    def __init__(self, pair: Pair, name: str, schemas: dict[str, str], guards: dict[str, Guard]) -> None:
        self._pair = pair
        self._name = name
        self._schemas = schemas  # by tenant
        self._guards = guards  # by tenant; the same one where they share a place
        self._secrets = {tenant.id: f"canary-{secrets.token_hex(12)}" for tenant in (pair.first, pair.second)}

    @property
    def table(self) -> str:
        """See `base.CanaryRows`."""
        return quote_identifier(self._name)

    def place(self, tenant: Tenant) -> str:
        """See `base.CanaryRows`."""
        return f"{quote_identifier(self._schemas[tenant.id])}.{self.table}"

    def secret(self, tenant: Tenant) -> str:
        """See `base.CanaryRows`."""
        return self._secrets[tenant.id]

    async def fill(self) -> None:
        """One row of each tenant, and nothing else."""
        for place, guard, tenants in self._places():
            await guard.execute(f"DELETE FROM {place}")
            await guard.executemany(
                f"INSERT INTO {place} (tenant_id, secret) VALUES ($1, $2)",
                [(tenant.id, self._secrets[tenant.id]) for tenant in tenants],
            )

    async def damage(self) -> str | None:
        """See `base.CanaryRows`."""
        changed = []
        for place, guard, tenants in self._places():
            rows = await guard.fetch(f"SELECT tenant_id, secret FROM {place}")
            if sorted(map(tuple, rows)) != sorted((tenant.id, self._secrets[tenant.id]) for tenant in tenants):
                changed.append(place)
        if not changed:
            return None
        await self.fill()
        return f"rows of {' and '.join(changed)} were written across tenants"

    def _places(self) -> list[tuple[str, Guard, list[Tenant]]]:
        first, second = self._pair.first, self._pair.second
        if self.place(first) == self.place(second) and self._guards[first.id] is self._guards[second.id]:
            return [(self.place(first), self._guards[first.id], [first, second])]
        return [(self.place(each), self._guards[each.id], [each]) for each in (first, second)]


@asynccontextmanager
async def canary(router: Router, pair: Pair) -> AsyncIterator[Canary]:
    """Its table for the block, one row of each tenant in it.

    Raises AccessDenied without admin credentials, PostgreSQL's errors where they do not suffice, PoolError.
    Cancellation, at any moment, drops what was made before it goes on.
    """
    name = PREFIX + secrets.token_hex(8)
    settings = router.settings
    first_schema = settings.servers[pair.first.placement.server].search_path[0]
    schemas: dict[str, str] = {each.id: each.placement.schema or first_schema for each in (pair.first, pair.second)}
    try:
        async with AsyncExitStack() as held:
            guards = await _admins(router, pair, held)
            made = Canary(pair, name, schemas, guards)
            for place, guard, tenants in made._places():
                await drop_leftovers(guard)
                await _create(router, guard, place, pair, tenants)
            await made.fill()
            yield made
    finally:
        await _finished(_drop(router, pair, name, schemas))


async def _admins(router: Router, pair: Pair, held: AsyncExitStack) -> dict[str, Guard]:
    first = await held.enter_async_context(router.admin(pair.first.id, reason=_REASON))
    if pair.isolation is not Isolation.DATABASE:
        return {pair.first.id: first, pair.second.id: first}
    second = await held.enter_async_context(router.admin(pair.second.id, reason=_REASON))
    return {pair.first.id: first, pair.second.id: second}


async def _create(router: Router, guard: Guard, place: str, pair: Pair, tenants: list[Tenant]) -> None:
    conn: Any = guard  # has all that the installer calls
    schema, _, table = place.partition(".")
    row = await guard.fetchrow(_SESSION, await guard.fetchval("SELECT pg_catalog.pg_backend_pid()"))
    mark = {"pid": row["pid"], "started": row["started"]} if row is not None else {}
    comment = _MARK + json.dumps(mark | {"until": int(time.time() + _LONGEST)})
    async with alone(conn, 5.0):
        await guard.execute(f"CREATE TABLE {place} (tenant_id text NOT NULL, secret text NOT NULL)")
        await guard.execute(f"COMMENT ON TABLE {place} IS '{comment}'")
        if pair.isolation is Isolation.ROW:
            if router.settings.row.signed:
                await isolate_table(conn, _bare(table), schema=_bare(schema))
            else:
                await _isolate_plainly(guard, place, pair.setting)
        user = router.settings.servers[tenants[0].placement.server].user
        for role in {quote_identifier(tenant.placement.role or user) for tenant in tenants}:
            await guard.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {place} TO {role}")


async def _isolate_plainly(guard: Guard, place: str, setting: str) -> None:
    await guard.execute(f"ALTER TABLE {place} ENABLE ROW LEVEL SECURITY")
    await guard.execute(f"ALTER TABLE {place} FORCE ROW LEVEL SECURITY")
    await guard.execute(
        f"CREATE POLICY tenantproxy ON {place} USING (tenant_id = pg_catalog.current_setting('{setting}', true))"
    )


def _bare(quoted: str) -> str:
    return quoted[1:-1].replace('""', '"') if quoted.startswith('"') else quoted


# --- away with it ----------------------------------------------------------------------------------------------------
async def _finished(cleaning: Any) -> None:
    """Run it to its end: cancelled meanwhile, its caller waits all the same, and is cancelled then."""
    task = asyncio.ensure_future(cleaning)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    task.result()
    if cancelled is not None:
        raise cancelled


async def _drop(router: Router, pair: Pair, name: str, schemas: dict[str, str]) -> None:
    """What cannot be dropped in time bears its mark: the next run drops it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLEANING):
            for tenant in (pair.first, pair.second):
                place = f"{quote_identifier(schemas[tenant.id])}.{quote_identifier(name)}"
                for _ in range(_TRIES):
                    if await _is_dropped(router, tenant, place):
                        break
                    await asyncio.sleep(_PAUSE)


async def _is_dropped(router: Router, tenant: Tenant, place: str) -> bool:
    """Whether no more can be done; a session that was cut off may hold it for a moment, or all connections be lent."""
    try:
        async with router.admin(tenant.id, reason=_REASON) as guard:
            await guard.execute("SET lock_timeout = '2s'")
            await guard.execute(f"DROP TABLE IF EXISTS {place}")
    except (asyncpg.LockNotAvailableError, PoolTimeout, PoolFull, BudgetExhausted):
        return False
    except (TenantProxyError, asyncpg.PostgresError, OSError):
        pass  # another try would end as this one
    return True


async def drop_leftovers(guard: Guard) -> list[str]:
    """Drop, in this database, what runs left whose session has ended; their names."""
    dropped = []
    for row in await guard.fetch(_FOUND):
        if not await _is_over(guard, row["mark"]):
            continue
        name = f"{quote_identifier(row['schema'])}.{quote_identifier(row['name'])}"
        await guard.execute(f"DROP TABLE IF EXISTS {name}")
        dropped.append(name)
    return dropped


async def _is_over(guard: Guard, comment: str) -> bool:
    try:
        mark = json.loads(comment.removeprefix(_MARK))
        until, pid, started = float(mark["until"]), mark.get("pid"), mark.get("started")
    except (ValueError, TypeError, KeyError):
        return False  # it is not by this program
    if time.time() > until:
        return True
    if not isinstance(pid, int):
        return False
    try:
        row = await guard.fetchrow(_SESSION, pid)
    except asyncpg.InsufficientPrivilegeError:
        return False
    return row is None or row["started"] not in (started, None)
