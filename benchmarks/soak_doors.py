"""By which doors do the soak's tenants come? The port, `/sql`, the WebSocket, the library behind a token, a login.

Each call of a door is one use by one tenant: it notes what it was answered, and every error by its SQLSTATE or status.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiohttp

from benchmarks.soak_world import OPS, ROWS, Resident, SoakWorld
from tenantproxy.demo.routes import PROJECTS
from tenantproxy.demo.world import PG_USER
from tenantproxy.lifecycle.prove.port_client import PortClient, PortRefused, cancel_request, startup
from tenantproxy.raw.exchange import query, values_of
from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import frame

__all__ = ["DOORS", "Session", "console", "remembered", "stranger"]

_SQL: Final = "SELECT name FROM projects ORDER BY name"
_ANSWER_SECONDS: Final = 30.0
_REMEMBERED: Final = 10_500  # callers of each kind; the limits are 10,000
_AT_ONCE: Final = 8


class Session:
    """A client of the port that a tenant keeps from one use to the next, until it leaves, politely or not."""

    def __init__(self, world: SoakWorld, resident: Resident, rng: random.Random) -> None:
        self._world, self._resident, self._rng = world, resident, rng
        self._client: PortClient | None = None

    async def fill(self) -> None:
        """The tenant enters its own rows: it is there with them when this returns."""
        values = ", ".join(f"('{self._resident.id} {number}')" for number in range(ROWS))
        for _ in range(50):
            try:
                client = await self._entered()
                answer = await client.query(f"INSERT INTO projects (name) VALUES {values}")
                if answer.tags == [f"INSERT 0 {ROWS}"]:
                    return
                self._note(answer.sqlstate)
            except (PortRefused, OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
                self._note(exc.sqlstate if isinstance(exc, PortRefused) else None)
            await self.leave(abruptly=True)
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{self._resident.id} could not enter its rows")

    async def use(self) -> None:
        """One request: a statement, a transaction, one that is cancelled, or one that is left in the middle."""
        try:
            client = await self._entered()
            kind = self._rng.random()
            if kind < 0.06:
                client.send(query("SELECT name, pg_sleep(0.02) FROM projects"))
                await self.leave(abruptly=True)
                return
            if kind < 0.12:
                await self._cancelled(client)
            elif kind < 0.3:
                await client.query("BEGIN")
                await self._asked(client)
                await client.query("COMMIT")
            elif kind < 0.36:
                await client.query("CREATE TEMPORARY TABLE mine (n int); SET work_mem = '1MB'")
                await self._asked(client)
            else:
                await self._asked(client)
        except (PortRefused, OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
            self._note(exc.sqlstate if isinstance(exc, PortRefused) else None)
            await self.leave(abruptly=True)
            return
        if self._rng.random() < 0.4:
            await self.leave(abruptly=self._rng.random() < 0.3)

    async def leave(self, *, abruptly: bool = False) -> None:
        """Without a client now."""
        client, self._client = self._client, None
        if client is not None and abruptly:
            client.abort()
        elif client is not None:
            await client.close()

    async def _entered(self) -> PortClient:
        if self._client is None:
            sidecar, world = self._world.sidecar, self._world.world
            self._client = await PortClient.enter(
                "127.0.0.1", sidecar.pg_port, user=PG_USER, password=world.pg_password, database=self._resident.id,
                answer_timeout=_ANSWER_SECONDS, parameters={"application_name": f"soak {self._resident.id}"},
            )  # fmt: skip
        return self._client

    async def _asked(self, client: PortClient) -> None:
        answer = await client.query(_SQL)
        if answer.errors or not answer.status:
            self._note(answer.sqlstate)
            await self.leave(abruptly=True)
        else:
            self._world.check("port", self._resident.id, [row[0] for row in answer.rows])

    async def _cancelled(self, client: PortClient) -> None:
        client.send(query("SELECT pg_sleep(0.2)"))
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._world.sidecar.pg_port)
            writer.write(cancel_request(client.pid, client.secret))
            writer.close()
        answer = await client.answer()
        if not answer.status:
            await self.leave(abruptly=True)
        if answer.errors or not answer.status:  # else the request to cancel came too early, or too late
            self._note(answer.sqlstate)

    def _note(self, state: str | None) -> None:
        self._world.errors[state or "port closed"] += 1


# --- /sql and the WebSocket ------------------------------------------------------------------------------------------
def _connection_string(world: SoakWorld, tenant: str) -> str:
    return f"postgresql://{PG_USER}:{world.world.pg_password}@any.host/{tenant}"


async def _sql(world: SoakWorld, resident: Resident, rng: random.Random) -> None:
    one = {"query": f"{_SQL} -- $1" if rng.random() < 0.2 else _SQL, "params": []}
    body = {"queries": [one, one]} if rng.random() < 0.2 else one
    headers = {"Neon-Connection-String": _connection_string(world, resident.id), "Neon-Array-Mode": "true"}
    async with world.http.post(f"{world.sidecar.public}/sql", data=json.dumps(body), headers=headers) as response:
        said = await response.json(content_type=None)
        if response.status != 200:
            world.errors[str(said.get("code") or response.status)] += 1
            return
    for each in said.get("results", [said]):
        world.check("/sql", resident.id, [row[0] for row in each["rows"]])


async def _websocket(world: SoakWorld, resident: Resident, rng: random.Random) -> None:
    url = f"{world.sidecar.public.replace('http', 'ws', 1)}/v2"
    password = frame(frames.PASSWORD, world.world.pg_password.encode() + b"\0")
    async with world.http.ws_connect(url) as socket:
        if not await _told(world, socket, startup(PG_USER, resident.id) + password, None):
            return
        for _ in range(rng.randint(1, 3)):
            if not await _told(world, socket, query(_SQL), resident.id):
                return


async def _told(world: SoakWorld, socket: aiohttp.ClientWebSocketResponse, message: bytes, tenant: str | None) -> bool:
    """Say it, and hear all of the answer, whose rows are of `tenant`; False: it was an error, or the end."""
    await socket.send_bytes(message)
    left, names = b"", []
    while True:
        heard = await socket.receive(timeout=_ANSWER_SECONDS)
        if heard.type is not aiohttp.WSMsgType.BINARY:
            world.errors["/v2 closed"] += 1
            return False
        left += heard.data
        while len(left) >= frames.HEADER and len(left) >= (size := frames.length_of(left, 0)):
            kind, payload, left = left[0], left[frames.HEADER : size], left[size:]
            if kind == frames.ERROR:
                world.errors[read_error(payload)["C"]] += 1
                return False
            if kind == frames.DATA_ROW:
                names += [None if value is None else value.decode() for value in values_of(payload)][:1]
            elif kind == frames.READY:
                if tenant is not None:
                    world.check("/v2", tenant, names)
                return True


# --- the library, logins ---------------------------------------------------------------------------------------------
async def _library(world: SoakWorld, resident: Resident, rng: random.Random) -> None:
    headers = {"Authorization": f"Bearer {world.token(resident)}"}
    async with world.http.get(f"{world.sidecar.public}{PROJECTS}", headers=headers) as response:
        said = await response.json(content_type=None)
        if response.status != 200:
            world.errors[str(said.get("code") or response.status)] += 1
            return
    world.check("library", resident.id, [each["name"] for each in said["projects"]])


async def stranger(world: SoakWorld, number: int) -> None:
    """Who is in no tenant logs in, and asks for a tenant that there is not: both are refused, and must be forgotten."""
    body = {"email": f"none{number}@example.com", "password": "a wrong password"}
    async with world.http.post(f"{world.sidecar.public}/auth/login", json=body) as response:
        await response.read()
        world.errors[f"login {response.status}"] += 1
    try:
        client = await PortClient.enter(
            "127.0.0.1", world.sidecar.pg_port, user=PG_USER, password=world.world.pg_password,
            database=f"no_tenant_{number}", answer_timeout=_ANSWER_SECONDS,
        )  # fmt: skip
        client.abort()
        world.failed.append(f"no_tenant_{number} was served")
    except PortRefused as exc:
        world.errors[exc.sqlstate] += 1
    except (OSError, asyncio.IncompleteReadError):
        world.errors["port closed"] += 1


async def remembered(world: SoakWorld, resident: Resident) -> None:
    """Fill what is remembered of callers, up to its limits: tokens that were verified, heads of requests for SQL.

    That takes a day as well, and would look like a leak while it lasts.
    """
    numbers = iter(range(_REMEMBERED))

    async def ask() -> None:
        for number in numbers:
            headers = {"Authorization": f"Bearer {world.new_token(resident)}"}
            async with world.http.get(f"{world.sidecar.public}/auth/check", headers=headers) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"/auth/check: {response.status}")
            place = f"{PG_USER}:{world.world.pg_password}@{number}.host/{resident.id}"
            headers = {"Neon-Connection-String": f"postgresql://{place}"}
            async with world.http.post(
                f"{world.sidecar.public}/sql", data=b'{"query": "SELECT 1", "params": []}', headers=headers
            ) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"/sql: {response.status}")

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(ask())


async def console(world: SoakWorld, *commands: str) -> None:
    """An operator at the console of the port."""
    client = await PortClient.enter(
        "127.0.0.1", world.sidecar.pg_port, user=OPS, password=world.ops_password, database="tenantproxy",
        answer_timeout=_ANSWER_SECONDS,
    )  # fmt: skip
    for command in commands:
        answer = await client.query(command)
        if answer.errors and answer.sqlstate not in ("3D000", "08P01"):
            world.failed.append(f"{command.split()[0]}: {answer.errors[0]}")
    await client.close()


Door = Callable[[SoakWorld, Resident, random.Random], Awaitable[None]]
DOORS: Final[tuple[Door, ...]] = (_sql, _websocket, _library)
