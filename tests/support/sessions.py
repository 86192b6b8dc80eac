"""How does a test make a plain connection a row tenant's, as the router would, or as an attacker would like to?"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.row import BIND

CARRY: Final = (
    "SELECT pg_catalog.set_config('app.current_tenant_id', $1, false),"
    " pg_catalog.set_config('app.tenant_proof', $2, false)"
)
READ: Final = "SELECT name FROM public.projects ORDER BY id"


async def now_us(conn: asyncpg.Connection) -> int:
    """The server's clock, in microseconds."""
    now: int = await conn.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return now


async def prove(conn: asyncpg.Connection, signer: Signer, tenant: str, *, seconds: float = 60.0) -> str:
    """A proof for this very backend, good for `seconds` from now."""
    now = await now_us(conn)
    return signer.sign(tenant, pid=conn.get_server_pid(), from_us=now - 2_000_000, to_us=now + int(seconds * 1e6))


async def bind(conn: asyncpg.Connection, signer: Signer, tenant: str, *, seconds: float = 60.0) -> None:
    """Make the session the tenant's: verified once, kept in the backend's memory."""
    assert await conn.fetchval(BIND, tenant, await prove(conn, signer, tenant, seconds=seconds)) == tenant


async def carry(conn: asyncpg.Connection, signer: Signer, tenant: str, *, seconds: float = 60.0) -> None:
    """Make the session the tenant's: the proof is verified in each statement."""
    await conn.execute(CARRY, tenant, await prove(conn, signer, tenant, seconds=seconds))


async def names(conn: asyncpg.Connection) -> list[str]:
    """The projects that this session sees."""
    return [row["name"] for row in await conn.fetch(READ)]
