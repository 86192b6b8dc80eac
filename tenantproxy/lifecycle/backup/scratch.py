"""Where is a backup tried, and a schema renamed? In a database of its own, which is dropped behind that."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.backup.loading import discard
from tenantproxy.lifecycle.provisioner import ConnectTo, create_closed
from tenantproxy.model import quote_identifier

__all__ = ["drop_made", "scratch_database", "scratch_mark"]

_SCRATCH: Final = "tenantproxy_scratch_"
_STALE: Final = 24 * 3600  # seconds after which a scratch database is left over from a process that died
_MAINTENANCE: Final = "postgres"


@asynccontextmanager
async def scratch_database(connect: ConnectTo, server: str) -> AsyncIterator[str]:
    """An empty database that no tenant can connect to, dropped behind the block, whatever happens in it.

    Those that a process left that died are dropped a day later by the next one.
    """
    name = f"{_SCRATCH}{int(time.time())}_{secrets.token_hex(8)}"
    async with opened(connect, server, _MAINTENANCE) as conn:
        await _drop_stale(conn)
        try:
            await create_closed(conn, name, template="template0")
            yield name
        finally:
            await asyncio.shield(drop_made(connect, conn, server, name))


def scratch_mark(name: str) -> str:
    """By which the role is found again that reads a dump into a scratch database."""
    return name.removeprefix(_SCRATCH)


async def drop_made(connect: ConnectTo, conn: asyncpg.Connection, server: str, name: str) -> None:
    """Drop a database that we made, by `conn` or, where that is lost, by another one."""
    if not conn.is_closed():
        await conn.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")
        return
    async with opened(connect, server, _MAINTENANCE) as again:
        await again.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")


async def _drop_stale(conn: asyncpg.Connection) -> None:
    rows = await conn.fetch(
        "SELECT datname::text FROM pg_database WHERE datname ~ $1 AND pg_has_role(datdba, 'USAGE')"
        " AND split_part(datname, '_', 3)::bigint < $2",
        f"^{_SCRATCH}[0-9]{{10}}_[0-9a-f]{{16}}$", int(time.time()) - _STALE,
    )  # fmt: skip
    for row in rows:
        await conn.execute(f"DROP DATABASE IF EXISTS {quote_identifier(row['datname'])} WITH (FORCE)")
        await discard(conn, scratch_mark(row["datname"]))
