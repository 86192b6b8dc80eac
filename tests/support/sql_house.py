"""A port with SQL over HTTP in front of it, watched and audited as `port_house` does; and a client of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from tenantproxy import Router
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.sidecar.http import public_app
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.pg import PgPort
from tenantproxy.sidecar.sql.door import SQL, SqlDoor
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import PASSWORD
from tests.support.world import World

__all__ = ["SqlAnswer", "SqlClient", "SqlHouse", "a_sql_client", "a_sql_house", "connection_string"]

BOTH_MODES = {"Neon-Raw-Text-Output": "true", "Neon-Array-Mode": "true"}


def connection_string(tenant: str, user: str = "all", password: str = PASSWORD, host: str = "db.example.com") -> str:
    """As a client has it."""
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}/{quote(tenant, safe='')}"


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def code(self) -> str | None:
        """The SQLSTATE of an error."""
        return self.body.get("code") if self.status == 400 else None

    @property
    def rows(self) -> list[list[str | None]]:
        """Of one statement that went well."""
        assert self.status == 200, self.body
        rows: list[list[str | None]] = self.body["rows"]
        return rows

    @property
    def value(self) -> str | None:
        """The only one."""
        ((value,),) = self.rows
        return value


@dataclass
class SqlClient:
    """A client, and the listener that it asks."""

    listener: HttpListener
    door: SqlDoor
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """Of `/sql`."""
        return f"{self.listener.url}{SQL}"

    async def ask(self, query: str, params: Sequence[Any] = (), *, tenant: str = "row1", **options: Any) -> SqlAnswer:
        """One statement, answered as arrays of texts."""
        return await self.post({"query": query, "params": list(params)}, tenant=tenant, **options)

    async def batch(self, *queries: str | tuple[str, list[Any]], tenant: str = "row1", **options: Any) -> SqlAnswer:
        """Several, in one transaction."""
        pairs = [(each, []) if isinstance(each, str) else each for each in queries]
        body = {"queries": [{"query": query, "params": params} for query, params in pairs]}
        return await self.post(body, tenant=tenant, **options)

    async def post(
        self,
        body: object,
        *,
        tenant: str = "row1",
        user: str = "all",
        headers: Mapping[str, str | None] | None = None,
    ) -> SqlAnswer:
        """`body`, as JSON unless it is bytes. `headers`: more, or None for one that is left out."""
        sent: dict[str, str | None] = {**BOTH_MODES, "Neon-Connection-String": connection_string(tenant, user)}
        sent |= headers or {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        there = {name: value for name, value in sent.items() if value is not None}
        async with self.http.post(self.url, data=data, headers={"Content-Type": "text/plain", **there}) as response:
            text = await response.text()
            return SqlAnswer(response.status, dict(response.headers), json.loads(text) if text else None)


@dataclass
class SqlHouse(SqlClient):
    """The same, with the port behind it."""

    port: PortHouse


@asynccontextmanager
async def a_sql_client(port: PgPort, router: Router, *, drains: bool = True, **sql: object) -> AsyncIterator[SqlClient]:
    """SQL over HTTP on the backends of `port`, which is drained in the end. `sql`: other keys of its section."""
    requests = HttpRequests()
    settings = router.settings.model_copy(update={"sql": router.settings.sql.model_copy(update=sql)})
    door = SqlDoor(port, settings, router.observer, requests)
    http = HttpListener(
        public_app(requests, door.routes(), own_limits=(SQL,)),
        protocol="http",
        host="127.0.0.1",
        port=0,
        max_clients=500,
        drain_timeout=5.0,
        shortcut=door.straight,
    )
    await http.open()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            yield SqlClient(http, door, session)
    finally:
        await asyncio.gather(http.close(), *([port.drain()] if drains else []))
        await door.close()


@asynccontextmanager
async def a_sql_house(world: World, *, sql: Mapping[str, Any] | None = None, **changes: Any) -> AsyncIterator[SqlHouse]:
    """The tenants of `world` by SQL over HTTP on a free port. `sql`: keys of its section; `changes`: see `a_port`."""
    async with a_port(world, sql={"enabled": True, **(sql or {})}, **changes) as port:
        async with a_sql_client(port.port, port.router) as client:
            yield SqlHouse(client.listener, client.door, client.http, port)
