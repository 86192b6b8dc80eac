"""How does a tenant's SQL come in by `POST /sql`? Each statement, or batch, is a request and a session by itself."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from tenantproxy.config import Pg
from tenantproxy.errors import IsolationError
from tenantproxy.lifecycle.prove.base import DoorClosed, Rows, SqlRefused, WallOpen
from tenantproxy.lifecycle.prove.port_checks import usable_users
from tenantproxy.model import Tenant

__all__ = ["RequestDoor", "RequestTalk", "request_user"]

Headers = Sequence[tuple[str, str]]

_TIMEOUT: Final = 15.0  # seconds; of what should be answered at once
_MOST: Final = 64 * 1024 * 1024  # bytes of an answer
_MODES: Final = ("Neon-Raw-Text-Output: true", "Neon-Array-Mode: true")
_AUTH: Final = ("28P01", "28000", "3D000", "53400")


class _Link:
    """A connection that is kept open, opened when it is first used."""

    def __init__(self, door: RequestDoor) -> None:
        self._door = door
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Take it away, with what is under way."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def post(self, asked: object, headers: Headers) -> dict[str, Any]:
        """See `RequestDoor.post`."""
        door, body = self._door, json.dumps(asked).encode()
        lines = ["POST /sql HTTP/1.1", f"Host: {door.host}", f"Content-Length: {len(body)}", *_MODES]
        lines += [f"{name}: {value}" for name, value in headers]
        try:
            async with asyncio.timeout(_TIMEOUT):
                if self._streams is None:
                    name = door.host if door.context is not None else None
                    self._streams = await asyncio.open_connection(
                        door.host, door.port, ssl=door.context, server_hostname=name, limit=_MOST
                    )
                reader, writer = self._streams
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                return await _answer(reader)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            self.close()
            why = str(exc) or type(exc).__name__
            raise DoorClosed(f"no SQL over HTTP is answered at {door.host}:{door.port} ({why})") from None
        except BaseException:
            self.close()
            raise


class RequestTalk:
    """A caller who may reach `tenant`, on one connection."""

    def __init__(self, door: RequestDoor, tenant: str) -> None:
        self._user = door.user
        self._headers = [("Neon-Connection-String", door.connection_string(tenant))]
        self._link = _Link(door)

    def close(self) -> None:
        """End it."""
        self._link.close()

    async def ask(self, sql: str) -> Rows:
        """See `base.Talk`."""
        rows: Rows = (await self._post({"query": sql}))["rows"]
        return rows

    async def batch(self, statements: Sequence[str]) -> list[Rows]:
        """The rows of each, in one transaction. Raises SqlRefused where it was rolled back, DoorClosed."""
        answer = await self._post({"queries": [{"query": sql} for sql in statements]})
        return [each["rows"] for each in answer["results"]]

    async def _post(self, asked: object) -> dict[str, Any]:
        said = await self._link.post(asked, self._headers)
        if "code" not in said:
            return said
        code, text = str(said["code"]), " ".join(str(said.get(name) or "") for name in ("message", "detail", "hint"))
        if code == IsolationError.sqlstate:
            raise WallOpen(text)
        if code in _AUTH:
            raise DoorClosed(f"the user {self._user} is refused with {code}: {text}")
        raise SqlRefused(code, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDoor:
    """`/sql` at `host`:`port`, as one of the users of the port."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)
    name: str = "SQL over HTTP"
    turns_each_time: bool = True

    def connection_string(self, tenant: str) -> str:
        """As a caller sends it."""
        user, password, database = (quote(text, safe="") for text in (self.user, self.password, tenant))
        return f"postgresql://{user}:{password}@prove.invalid/{database}"

    @asynccontextmanager
    async def session(self, tenant: Tenant) -> AsyncIterator[RequestTalk]:
        """See `base.Door`."""
        talk = RequestTalk(self, tenant.id)
        try:
            yield talk
        finally:
            talk.close()

    async def post(self, asked: object, headers: Headers) -> dict[str, Any]:
        """What one request is answered, in JSON. Raises DoorClosed. Cancellation takes the connection away."""
        link = _Link(self)
        try:
            return await link.post(asked, headers)
        finally:
            link.close()


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, size = head.split(" ", 2)[1], head.partition("\r\ncontent-length:")[2].partition("\r\n")[0]
    body = await reader.readexactly(min(int(size), _MOST))
    if status not in ("200", "400"):
        raise ValueError(f"it says {status}")
    said = json.loads(body)
    if not isinstance(said, dict):
        raise ValueError("it is no answer of SQL over HTTP")
    return said


def request_user(pg: Pg, pair: tuple[Tenant, Tenant]) -> tuple[str, str]:
    """A user of the port, and its password, that reach both of `pair`. Raises DoorClosed where none is known."""
    users, without = usable_users(pg, pair)
    if not users:
        raise DoorClosed("; ".join(without) or "no user of [pg.users] may reach both tenants")
    return next(iter(users.values()))
