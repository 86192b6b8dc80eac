"""What do clients of a running sidecar see while it changes? Port clients and HTTP clients that never stop asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psycopg


@dataclass(slots=True)
class Seen:
    """What all clients saw. `ended`: clean ends (57P01) by port client; `failed`: everything that must not happen."""

    transactions: int = 0
    requests: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


@asynccontextmanager
async def traffic(
    dsn: str, http: str, *, port_clients: int, http_clients: int, path: str = "/auth/check"
) -> AsyncIterator[Seen]:
    """Clients at work for the block. `dsn`: where the port clients log in; `http`: host:port of the public listener."""
    seen, stop = Seen(), asyncio.Event()
    host, _, port = http.removeprefix("http://").rpartition(":")
    work = [_transactions(number, dsn, seen, stop) for number in range(port_clients)]
    work += [_requests(host, int(port), path, seen, stop) for _ in range(http_clients)]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _transactions(number: int, dsn: str, seen: Seen, stop: asyncio.Event) -> None:
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
        except psycopg.errors.AdminShutdown as exc:
            seen.ended[number] = seen.ended.get(number, 0) + 1
            if begun:
                seen.failed.append(f"port client {number}: in a transaction: {exc}")
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what is looked for
            seen.failed.append(f"port client {number}: {type(exc).__name__}: {exc}")
        finally:
            if conn is not None:
                with suppress(Exception):
                    await conn.close()


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
