"""What do clients of a running sidecar see while it changes? Clients of the port, by TCP and by WebSocket, and of HTTP.

None of them ever stops asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import psycopg
from psycopg.conninfo import conninfo_to_dict

from tenantproxy.lifecycle.prove.port_client import startup
from tenantproxy.wire.frames import ERROR, HEADER, READY, frame, length_of
from tests.support.model_server import query
from tests.support.waiting import PATIENCE

__all__ = ["Seen", "traffic"]


@dataclass(slots=True)
class Seen:
    """What all clients saw. `ended`: clean ends (57P01) by client of the port; `failed`: all that must not happen."""

    transactions: int = 0
    requests: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def end(self, client: str, *, is_begun: bool) -> None:
        """It was told 57P01; `is_begun`: in a transaction."""
        self.ended[client] = self.ended.get(client, 0) + 1
        if is_begun:
            self.failed.append(f"{client}: 57P01 in a transaction")


@asynccontextmanager
async def traffic(
    dsn: str,
    http: str,
    *,
    port_clients: int,
    http_clients: int,
    websockets: int = 0,
    path: str = "/auth/check",
    pause: float = 0.0,
) -> AsyncIterator[Seen]:
    """Clients at work for the block. `dsn`: where clients of the port log in; `http`: host:port of the public listener.

    `websockets`: clients of the port that come to `/v2` there. `pause`: seconds that a client of the port waits after
    each transaction.
    """
    seen, stop = Seen(), asyncio.Event()
    host, _, port = http.removeprefix("http://").rpartition(":")
    work = [_transactions(f"port client {number}", dsn, seen, stop, pause) for number in range(port_clients)]
    work += [
        _tunnelled(f"WebSocket {number}", dsn, f"ws://{host}:{port}/v2", seen, stop, pause)
        for number in range(websockets)
    ]
    work += [_requests(host, int(port), path, seen, stop) for _ in range(http_clients)]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _transactions(name: str, dsn: str, seen: Seen, stop: asyncio.Event, pause: float) -> None:
    while not stop.is_set():
        conn, begun = None, False
        try:
            conn = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
            while not stop.is_set():
                await conn.execute("BEGIN")
                begun = True
                await conn.execute("SELECT 1")
                await conn.execute("COMMIT")
                begun = False
                seen.transactions += 1
                if pause:
                    await asyncio.sleep(pause)
        except psycopg.errors.AdminShutdown:
            seen.end(name, is_begun=begun)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what is looked for
            seen.failed.append(f"{name}: {type(exc).__name__}: {exc}")
        finally:
            if conn is not None:
                with suppress(Exception):
                    await conn.close()


async def _tunnelled(name: str, dsn: str, url: str, seen: Seen, stop: asyncio.Event, pause: float) -> None:
    where = conninfo_to_dict(dsn)
    password = frame(ord("p"), str(where["password"]).encode() + b"\0")
    hello = startup(user=str(where["user"]), database=str(where["dbname"])) + password
    async with aiohttp.ClientSession() as http:
        while not stop.is_set():
            begun = False
            try:
                async with http.ws_connect(url) as socket:
                    await _said(socket, hello)
                    while not stop.is_set():
                        for statement in (b"BEGIN", b"SELECT 1", b"COMMIT"):
                            await _said(socket, query(statement))
                            begun = statement != b"COMMIT"
                        seen.transactions += 1
                        if pause:
                            await asyncio.sleep(pause)
            except _Leaves:
                seen.end(name, is_begun=begun)
            except Exception as exc:  # noqa: BLE001 - likewise
                seen.failed.append(f"{name}: {type(exc).__name__}: {exc}")


class _Leaves(Exception):
    """The port has said 57P01, and closed the WebSocket in order."""


async def _said(socket: aiohttp.ClientWebSocketResponse, message: bytes) -> None:
    """Say it, and hear all of the answer. Raises _Leaves, ConnectionError for any other error or end."""
    await socket.send_bytes(message)
    left, error = b"", b""
    while True:
        heard = await socket.receive(timeout=PATIENCE)
        if heard.type is aiohttp.WSMsgType.CLOSE and heard.data == aiohttp.WSCloseCode.OK and b"\0C57P01\0" in error:
            raise _Leaves
        if heard.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionError(f"{heard.type.name} {heard.data!r} behind {error!r}")
        left += heard.data
        while len(left) >= HEADER and len(left) >= (size := length_of(left, 0)):
            kind, answer, left = left[0], left[:size], left[size:]
            if kind == ERROR:
                error = answer
            elif kind == READY and error:
                raise ConnectionError(repr(error))
            elif kind == READY:
                return


async def _requests(host: str, port: int, path: str, seen: Seen, stop: asyncio.Event) -> None:
    """Keeps its connection, as HTTP/1.1 says; a request that is not answered has failed, and is not tried again."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    while not stop.is_set():
        writer = None
        try:
            reader, writer = await asyncio.open_connection(host, port)
            is_last = False
            while not (is_last or stop.is_set()):
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
                if " 5" in head.partition("\r\n")[0]:
                    raise ConnectionError(head.partition("\r\n")[0])
                seen.requests += 1
                is_last = "connection: close" in head
        except Exception as exc:  # noqa: BLE001 - likewise
            seen.failed.append(f"HTTP: {type(exc).__name__}: {exc}")
        finally:
            if writer is not None:
                writer.close()
