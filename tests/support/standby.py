"""A primary and its streaming standby, both real: to read from, to promote, to mistake for one another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.standby import EmbeddedStandby
from tests.support.database import Database
from tests.support.waiting import until
from tests.support.world import APP_PASSWORD, APP_ROLE, SERVER, World, a_world

REPLICA: Final = "replica"
"""The name under which `Replicated.servers` configures the standby."""


class Standby(EmbeddedStandby):
    """A copy of a running primary that follows it until it is promoted."""

    def __init__(self, primary: EmbeddedPostgres) -> None:
        super().__init__(primary)
        self._primary = primary

    async def catch_up(self) -> None:
        """Wait until it has replayed all that its primary has written so far."""
        async with Database(server=self._primary, name="postgres").connect() as admin:
            # A commit, so that also what was only inserted into the log is written: `position()` is behind that.
            await admin.execute("SELECT pg_logical_emit_message(true, 'catch up', '')")
            written = await admin.fetchval("SELECT pg_current_wal_lsn()::text")
        async with Database(server=self, name="postgres").connect() as admin:

            async def replayed() -> object:
                return await admin.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written)

            await until(replayed, "the standby has what its primary wrote", timeout=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """A world on a primary, and the standby that follows it."""

    world: World
    standby: Standby

    def servers(self, **primary: Any) -> dict[str, dict[str, Any]]:
        """For `World.settings(servers=...)`: the standby as the primary's replica; `primary`: more keys of that one."""
        return {SERVER: {"replicas": [REPLICA], **primary}, REPLICA: keys_of(self.standby)}

    def hosts(self, *more: str) -> dict[str, list[str]]:
        """`hosts` of a section of [servers]: `more`, then the standby, then the primary."""
        return {"hosts": [*more, address_of(self.standby), address_of(self.world.server)]}

    def mistaken(self) -> dict[str, dict[str, Any]]:
        """For `World.settings(servers=...)`: the primary's name leads to the standby."""
        return {SERVER: {"host": self.standby.host, "port": self.standby.port}}


def address_of(server: EmbeddedPostgres) -> str:
    """`host:port`."""
    return f"{server.host}:{server.port}"


def keys_of(server: EmbeddedPostgres) -> dict[str, Any]:
    """A section of [servers] for tenants' SQL on `server`."""
    return {"host": server.host, "port": server.port, "user": APP_ROLE, "password": APP_PASSWORD, "ssl": "disable"}


@asynccontextmanager
async def paused(standby: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """The standby replays nothing until it is told to: `SELECT pg_wal_replay_resume()`."""
    async with Database(server=standby, name="postgres").connect() as admin:
        await admin.execute("SELECT pg_wal_replay_pause()")
        await until(lambda: _is_paused(admin), "the standby has stopped to replay")
        try:
            yield admin
        finally:
            await admin.execute("SELECT pg_wal_replay_resume()")


async def _is_paused(admin: asyncpg.Connection) -> bool:
    return bool(await admin.fetchval("SELECT pg_get_wal_replay_pause_state()") == "paused")


@contextmanager
def a_standby(primary: EmbeddedPostgres) -> Iterator[Standby]:
    """A started standby of `primary`, gone afterwards."""
    with Standby(primary) as standby:
        yield standby


@asynccontextmanager
async def a_replicated_world(version: int | None = None, **shape: Any) -> AsyncIterator[Replicated]:
    """A primary of its own with `a_world(**shape)` on it, and a standby that has all of it."""
    primary = EmbeddedPostgres(version=version, durable=False)
    await asyncio.to_thread(primary.start)
    standby: Standby | None = None
    try:
        async with a_world(primary, **shape) as world:
            standby = Standby(primary)
            await asyncio.to_thread(standby.start)
            await standby.catch_up()
            yield Replicated(world=world, standby=standby)
    finally:
        if standby is not None:
            await asyncio.to_thread(standby.close)
        await asyncio.to_thread(primary.close)
