"""How is PostgreSQL's protocol spoken byte by byte? A client that sends what it is told, and reads whole answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from tenantproxy.raw.exchange import query, values_of
from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import HEADER, frame
from tenantproxy.wire.scram import MECHANISM, ClientExchange

__all__ = ["SSL_REQUEST", "PortAnswer", "PortClient", "PortRefused", "cancel_request", "startup"]

SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_RST: Final = struct.pack("ii", 1, 0)
_CLEARTEXT: Final = 3
_SASL: Final = (10, 11, 12)


@dataclass(slots=True)
class PortAnswer:
    """All up to a ReadyForQuery, or to the end of the connection (`status` is empty then)."""

    rows: list[list[str | None]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    status: str = ""

    @property
    def sqlstate(self) -> str | None:
        """Of the first error; None: it had none."""
        return self.errors[0]["C"] if self.errors else None

    @property
    def value(self) -> str | None:
        """The first column of the first row. Raises PortRefused when there was an error instead."""
        if self.errors:
            raise PortRefused(self.errors[0])
        return self.rows[0][0]


class PortRefused(Exception):
    """An error instead of a session."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields)
        self.fields = fields
        self.sqlstate = fields["C"]


def startup(user: str, database: str, **parameters: str) -> bytes:
    """A startup packet of protocol 3.0."""
    said = {"user": user, "database": database, **parameters}
    payload = b"".join(f"{name}\0{value}\0".encode() for name, value in said.items()) + b"\0"
    return struct.pack("!II", len(payload) + 8, 196608) + payload


def cancel_request(pid: int, secret: bytes) -> bytes:
    """What a client sends on a connection of its own, to cancel what the one with this key runs."""
    return struct.pack("!III", 12 + len(secret), 80877102, pid) + secret


class PortClient:
    """One connection, as a client has it. `answer_timeout`: seconds that each message may take to come."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer_timeout: float = 30.0
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.answer_timeout = answer_timeout
        self.pid = 0
        self.secret = b""
        self.parameters: dict[str, str] = {}
        self.notices: list[dict[str, str]] = []

    @classmethod
    async def enter(
        cls,
        host: str,
        port: int,
        *,
        user: str,
        password: str,
        database: str,
        answer_timeout: float,
        context: ssl.SSLContext | None = None,
        may_show: bool = False,
        parameters: Mapping[str, str] | None = None,
    ) -> Self:
        """Connected and logged in, encrypted with `context`. `may_show`: the password goes in clear text if asked for.

        Raises PortRefused with what it was told, OSError, TimeoutError, asyncio.IncompleteReadError.
        """
        async with asyncio.timeout(answer_timeout):
            client = cls(*await asyncio.open_connection(host, port), answer_timeout=answer_timeout)
        try:
            if context is not None:
                client.send(SSL_REQUEST)
                if await client.reader.readexactly(1) == b"S":
                    await client.writer.start_tls(context, server_hostname=host)
            client.send(startup(user, database, **(parameters or {})))
            await client.log_in(password, may_show=may_show)
        except BaseException:
            client.abort()
            raise
        return client

    # --- speaking ----------------------------------------------------------------------------------------------------
    def send(self, data: bytes) -> None:
        """Any bytes. Behind the end of the connection they go nowhere, which the next `message` tells."""
        if not self.writer.is_closing():  # uvloop raises RuntimeError then
            self.writer.write(data)

    async def query(self, sql: str) -> PortAnswer:
        """A simple query and its answer."""
        self.send(query(sql))
        return await self.answer()

    async def log_in(self, password: str, *, may_show: bool = False) -> PortAnswer:
        """From the server's demand to the first ReadyForQuery. Raises PortRefused."""
        proofs = ClientExchange(password)
        answer = PortAnswer()
        while not answer.status:
            kind, payload = await self.message()
            if kind == frames.AUTHENTICATION:
                proof = password.encode() + b"\0" if may_show and _asks_plainly(payload) else _proof(proofs, payload)
                if proof:
                    self.send(frame(frames.PASSWORD, proof))
            else:
                self.note(answer, kind, payload)
            if answer.errors:
                raise PortRefused(answer.errors[0])
        return answer

    # --- hearing -----------------------------------------------------------------------------------------------------
    async def message(self) -> tuple[int, bytes]:
        """The next one: its kind and payload. Raises IncompleteReadError at the end, OSError, TimeoutError."""
        async with asyncio.timeout(self.answer_timeout):
            head = await self.reader.readexactly(HEADER)
            return head[0], await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)

    async def answer(self) -> PortAnswer:
        """Up to the next ReadyForQuery, or the end."""
        answer = PortAnswer()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not answer.status:
                self.note(answer, *await self.message())
        return answer

    async def rest(self) -> PortAnswer:
        """Up to the end of the connection."""
        answer = PortAnswer()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.note(answer, *await self.message())
        return answer

    def note(self, answer: PortAnswer, kind: int, payload: bytes) -> None:
        """Take one message into `answer`, or into what the client knows of its session."""
        answer.kinds.append(kind)
        if kind == frames.DATA_ROW:
            answer.rows.append([None if value is None else value.decode() for value in values_of(payload)])
        elif kind == frames.COMMAND_COMPLETE:
            answer.tags.append(payload[:-1].decode())
        elif kind == frames.ERROR:
            answer.errors.append(read_error(payload))
        elif kind == frames.NOTICE:
            self.notices.append(read_error(payload))
        elif kind == frames.READY:
            answer.status = payload.decode()
        elif kind == frames.PARAMETER_STATUS:
            name, value, _ = payload.decode().split("\0")
            self.parameters[name] = value
        elif kind == frames.BACKEND_KEY_DATA:
            self.pid, self.secret = int.from_bytes(payload[:4], "big"), payload[4:]

    # --- ending ------------------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """As a client does that has done."""
        with contextlib.suppress(ConnectionError):
            self.send(frame(frames.TERMINATE))
            self.writer.close()
            await self.writer.wait_closed()

    def abort(self) -> None:
        """RST: as one whose process was killed with bytes unread."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.writer.transport.abort()


def _asks_plainly(payload: bytes) -> bool:
    return int.from_bytes(payload[:4], "big") == _CLEARTEXT


def _proof(exchange: ClientExchange, payload: bytes) -> bytes:
    wanted, data = int.from_bytes(payload[:4], "big"), payload[4:]
    first, following, final = _SASL
    if wanted == first:
        said = exchange.first()
        return MECHANISM + b"\0" + len(said).to_bytes(4, "big") + said
    if wanted == following:
        return exchange.final(data)
    if wanted == final:
        exchange.verify(data)
    elif wanted:
        raise PortRefused({"C": "08P01", "M": f"it asks for authentication {wanted}, which this client does not have"})
    return b""
