"""Which transactions do not see a row tenant's fence yet? Those that began before it, and may write to their end.

Whose they are cannot be seen in a database that tenants share: all of its user's are waited for, and none is ended.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.acting import act_for
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Isolation

__all__ = ["is_older_left", "moment_of", "until_none_is_older"]

_MAINTENANCE: Final = "postgres"
_PAUSE: Final = 0.05
_TOLD: Final = 5
_HOLDING: Final = """
SELECT coalesce(gid, 'pid ' || pid) AS who, gid IS NOT NULL AS is_prepared, is_hidden,
  extract(epoch FROM clock_timestamp() - since)::float8 AS age
FROM (
  SELECT pid, NULL AS gid, xact_start AS since, state IS NULL OR state = 'disabled' AS is_hidden FROM pg_stat_activity
  WHERE coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()
    AND usename = $1 AND datname = current_database()
  UNION ALL SELECT NULL, gid, prepared, false FROM pg_prepared_xacts
  WHERE owner = $1 AND database = current_database()
) AS each WHERE since < $2 OR is_hidden ORDER BY since
"""


async def moment_of(connect: ConnectTo, place: Wanted) -> str:
    """Now, by the clock by which the snapshots of its backups are dated: its server's. In ISO 8601."""
    async with opened(connect, place.server, _MAINTENANCE) as conn:
        moment: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return moment.isoformat()


async def is_older_left(settings: Settings, connect: ConnectTo, place: Wanted) -> bool:
    """Whether one is there at this moment that may have begun before the fence of `place`, a row tenant's."""
    if place.isolation is not Isolation.ROW:
        return False
    async with opened(connect, place.server, place.database) as conn:
        return bool(await conn.fetch(_HOLDING, *await _asked(conn, settings, place)))


async def until_none_is_older(settings: Settings, connect: ConnectTo, place: Wanted, *, patience: float) -> None:
    """Wait for all that began before now, with the fence of `place` in force.

    Raises TenantProxyError behind `patience` seconds, which names each that is left.
    """
    if place.isolation is not Isolation.ROW:
        return
    async with opened(connect, place.server, place.database) as conn:
        asked = await _asked(conn, settings, place)
        until = asyncio.get_running_loop().time() + patience
        while left := await conn.fetch(_HOLDING, *asked):
            if asyncio.get_running_loop().time() >= until:
                more = f", and {len(left) - _TOLD} more" if len(left) > _TOLD else ""
                raise TenantProxyError(
                    "transactions that began before the tenant was closed may still write its rows: "
                    f"{', '.join(map(_written, left[:_TOLD]))}{more}",
                    hint="wait for them, or end them (pg_terminate_backend, ROLLBACK PREPARED), and call it again",
                )
            await asyncio.sleep(_PAUSE)


async def _asked(conn: asyncpg.Connection, settings: Settings, place: Wanted) -> tuple[object, ...]:
    user = place.role or settings.servers[place.server].user
    await act_for(conn, [user])  # else how long they run is hidden
    return user, await conn.fetchval("SELECT clock_timestamp()")


def _written(row: asyncpg.Record) -> str:
    if row["is_hidden"]:
        return f"{row['who']} (for how long is hidden: GRANT pg_read_all_stats to the admin user)"
    who = f"the prepared transaction {row['who']!r}" if row["is_prepared"] else row["who"]
    return f"{who} (for {row['age']:.0f} s)"
