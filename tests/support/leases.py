"""What does a session look like to the next lease? One connection per pool, all its state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from tenantproxy import Router, TenantScope
from tenantproxy.driver.guard import Guard
from tenantproxy.events import Observer, ignore
from tests.support.world import World

ResetMode = Literal["always", "on_tenant_change"]

OWN_ROWS: Final = "SELECT name FROM projects ORDER BY name"

_STATE: Final = """
SELECT pg_catalog.jsonb_build_object(
  'user', current_user, 'session_user', session_user,
  'tenant', nullif(pg_catalog.current_setting('app.current_tenant_id', true), ''),
  'evil', nullif(pg_catalog.current_setting('app.evil', true), ''),
  'temp', (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()),
  'locks', (SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),
  'channels', (SELECT count(*) FROM pg_catalog.pg_listening_channels()),
  'cursors', (SELECT count(*) FROM pg_catalog.pg_cursors WHERE name <> ''),
  'prepared', public.prepared_by_users(),
  'settings', (SELECT pg_catalog.jsonb_object_agg(name, pg_catalog.regexp_replace(setting, '^[0-9]{10}', 'until '))
    FROM pg_catalog.pg_settings)
)::text"""

SHOW_PREPARED: Final = """
CREATE FUNCTION public.prepared_by_users() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (SELECT count(*) FROM pg_prepared_statement() WHERE from_sql OR name !~ '^__asyncpg_')"""
"""What `state_of` needs in each database, as a superuser: no other user may look at what is prepared."""


@asynccontextmanager
async def one_connection(
    world: World, *, reset: ResetMode = "always", observer: Observer = ignore, **changes: Any
) -> AsyncIterator[Router]:
    """An open router whose every pool holds one connection, so that the next lease gets the same one."""
    pools = {"max_size": 1, "shared_size": 1, "reset": reset} | dict(changes.pop("pools", {}))
    async with Router(world.settings(pools=pools, **changes), observer=observer) as router:
        yield router


async def state_of(conn: Guard) -> str:
    """Everything that a session can be told apart by, as JSON; it does not say which backend it is.

    Its database has `SHOW_PREPARED`.
    """
    assert not conn.is_in_transaction()
    state: str = await conn.fetchval(_STATE)
    return state


def driver_statements(conn: Guard) -> dict[str, str]:
    """What the driver has prepared on this connection, what the lender runs too: texts by name.

    No tenant can ask for these names or guess them; an attack that has them is the worst of its kind.
    """
    inner: Any = conn._con
    return {state.name: state.query for state in (*inner._own, *inner._stmt_cache.iter_statements())}


async def pid_of(scope: TenantScope) -> int:
    """The backend that serves `scope` now."""
    pid: int = await scope.fetchval("SELECT pg_catalog.pg_backend_pid()")
    return pid


async def own_rows(conn: Guard | TenantScope) -> list[str]:
    """The names of the projects that can be read here."""
    return [row["name"] for row in await conn.fetch(OWN_ROWS)]


def rows_of(tenant: str) -> list[str]:
    """What `own_rows` must answer for `tenant` in a world of the tests."""
    return [f"{tenant} {n}" for n in (1, 2, 3)]
