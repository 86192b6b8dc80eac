"""A console to look at: a view of made-up clients and pools, and a port that admits every client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound, TenantProxyError
from tenantproxy.events import Histogram
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import Isolation, PoolKey, TenantId
from tenantproxy.pools.base import PoolStats, ServerStats, Stats, TenantPoolStats
from tenantproxy.pools.snapshot import snapshot
from tenantproxy.sidecar.acted_on import client_thing
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.sidecar.pg.console.tables import Averages
from tenantproxy.sidecar.pg.console.view import ClientRow, Counts, ServerRow, WorkerRow
from tenantproxy.wire import answers, frames
from tenantproxy.wire.startup import REFUSED, REQUEST_SIZE, Startup, read_first

SETTINGS: Final = Settings.from_mapping(
    {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"user": "app", "password": "sesame-open", "host": "db.example.com", "port": 5433}},
        "pg": {
            "users": {
                "billing": {"password": "sesame-open", "tenants": "*"},
                "ops": {"password": "sesame-open", "console": True},
            }
        },
    }
)


def pool(label: str, *tenants: TenantPoolStats, shared: bool = False, **numbers: int) -> PoolStats:
    counts = {"limit": 10, "idle": 0, "used": 0, "opening": 0, "resetting": 0, "retiring": 0, "waiting": 0, **numbers}
    key = PoolKey(server="primary", database=label.rpartition("/")[2], shared=shared)
    return PoolStats(key=key, label=label, tenants=tenants, **counts)


def tenant(name: str, *, leased: int = 0, waiting: int = 0, wait: float = 0.0) -> TenantPoolStats:
    return TenantPoolStats(tenant=name, leased=leased, waiting=waiting, oldest_wait_seconds=wait, max_size=5)


def client(id: int, tenant: str | None = "acme", **changes: object) -> ClientRow:  # noqa: A002
    values: dict[str, object] = {
        "id": id, "user": "billing", "tenant": tenant, "state": "idle", "address": "127.0.0.1", "port": 40000 + id,
        "local_address": "127.0.0.1", "local_port": 6432, "connected_at": 1_700_000_000.0, **changes,
    }  # fmt: skip
    return ClientRow(**values)  # type: ignore[arg-type]


class View:
    """What a test puts in, and what was done to it. A tenant called `missing` does not exist."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        self.version = "1.2.3"
        self.data_path = "compiled"
        self.pools: list[PoolStats] = []
        self.shown_clients: list[ClientRow] = []
        self.shown_servers: list[ServerRow] = []
        self.counted: Mapping[str, Counts] = {}
        self.limited: list[LimitUsage] = []
        self.unauthenticated = 0
        self.stopped: set[str] = set()
        self.done: list[str] = []
        self.failure: TenantProxyError | None = None
        self.may_pause = asyncio.Event()
        self.may_pause.set()

    def stats(self) -> Stats:
        empty = snapshot(Histogram())
        server = ServerStats(
            server="primary", connections=0, limit=200, waiting_pools=0, up=True, max_connections=None,
            open_seconds=empty,
        )  # fmt: skip
        return Stats(
            pools=tuple(self.pools), servers=(server,), pools_limit=100,
            acquires={"acme": {"ok": 7, "timeout": 2, "rejected": 1, "cancelled": 0, "error": 0}}, exhaustions={},
            acquire_wait=dict.fromkeys(Isolation, empty), hold={}, closed={}, opened={}, evicted={},
            resets={}, violations={}, lookups={}, lookup_seconds={}, registry_last_success=None,
        )  # fmt: skip

    def clients(self) -> list[ClientRow]:
        return self.shown_clients

    def servers(self) -> list[ServerRow]:
        return self.shown_servers

    def counts(self) -> Mapping[str, Counts]:
        return self.counted

    def limits(self) -> list[LimitUsage]:
        return self.limited

    def paused(self) -> set[str]:
        return self.stopped

    async def things(self, tenant: TenantId) -> list[dict[str, Any]]:
        return [client_thing(row) for row in self.shown_clients if row.tenant == tenant]

    async def pause(self, tenant: TenantId) -> None:
        self._did("pause", tenant)
        self.stopped.add(tenant)
        await self.may_pause.wait()

    async def resume(self, tenant: TenantId) -> None:
        self._did("resume", tenant)
        self.stopped.discard(tenant)

    async def kill(self, tenant: TenantId) -> list[dict[str, Any]]:
        self._did("kill", tenant)
        self.stopped.add(tenant)
        return await self.things(tenant)

    async def reload(self) -> list[str]:
        self._did("reload", "")
        return ["pg.max_clients"]

    def workers(self) -> list[WorkerRow]:
        return []

    async def gathered(self) -> View:
        return self

    def _did(self, verb: str, tenant: str) -> None:
        if self.failure is not None:
            raise self.failure
        if tenant == "missing":
            raise TenantNotFound("there is no such tenant")
        self.done.append(f"{verb} {tenant}".strip())


@asynccontextmanager
async def open_door(view: View, *, may_change: bool = True) -> AsyncIterator[int]:
    """A port of 127.0.0.1 where every client gets a console without a password."""
    averages = Averages()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            console = Console(view, user="ops", may_change=may_change, averages=averages)
            await _greet(reader, writer, console)
            while True:
                kind, length = await reader.readexactly(1), int.from_bytes(await reader.readexactly(4), "big")
                payload = await reader.readexactly(length - 4)
                if kind[0] == frames.TERMINATE:
                    return
                writer.write(await console.receive(kind[0], payload))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, console: Console) -> None:
    buffer = bytearray()
    while True:
        first = read_first(buffer)
        if isinstance(first, Startup):
            break
        if first is not None:
            del buffer[:REQUEST_SIZE]
            writer.write(REFUSED)
        chunk = await reader.read(1)  # byte by byte: what comes behind the packet is the next message
        if not chunk:
            raise ConnectionResetError
        buffer += chunk
    key = answers.backend_key_data(1, b"\0\0\0\1")
    writer.write(answers.AUTHENTICATION_OK + console.welcome + key + answers.ready_for_query())
