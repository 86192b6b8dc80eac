"""How does a test speak PostgreSQL's protocol byte by byte? A client that sends whatever it is told, and reads whole.

`client = await WireClient.connect(port, "row1")` has logged in; `WireClient(*await raw(port))` has said nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Final

from tenantproxy.raw.exchange import query, values_of
from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import HEADER, frame
from tenantproxy.wire.scram import MECHANISM, ClientExchange
from tests.support.waiting import until

PASSWORD: Final = "password-of-the-test-clients"
SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
ANSWER_SECONDS: Final = 30.0  # of a busy machine; what should come at once is expected within this
_RST: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Answer:
    """All up to a ReadyForQuery, or to the end of the connection (`status` is empty then)."""

    rows: list[list[str | None]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    status: str = ""

    @property
    def sqlstate(self) -> str | None:
        """Of the first error; None: there was none."""
        return self.errors[0]["C"] if self.errors else None

    @property
    def value(self) -> str | None:
        """The first column of the first row. AssertionError when there was an error instead."""
        assert not self.errors, self.errors
        return self.rows[0][0]


def startup(user: str, database: str, **parameters: str) -> bytes:
    """A startup packet of protocol 3.0."""
    said = {"user": user, "database": database, **parameters}
    payload = b"".join(f"{name}\0{value}\0".encode() for name, value in said.items()) + b"\0"
    return struct.pack("!II", len(payload) + 8, 196608) + payload


async def raw(port: int, *, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing was said; `receive_buffer`: bytes that its kernel takes while it does not read."""
    sock = socket.socket()
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=sock, limit=max(receive_buffer, 2**16))
    except BaseException:
        sock.close()
        raise


class WireClient:
    """One connection, as a client has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pid = 0
        self.secret = b""
        self.parameters: dict[str, str] = {}
        self.notices: list[dict[str, str]] = []

    @classmethod
    async def connect(
        cls, port: int, tenant: str, user: str = "all", *, receive_buffer: int = 0, **parameters: str
    ) -> WireClient:
        """Logged in. Raises Refused with what it was told."""
        client = cls(*await raw(port, receive_buffer=receive_buffer))
        try:
            client.send(startup(user, tenant, **parameters))
            await client.log_in()
        except BaseException:
            client.abort()
            raise
        return client

    async def secure(self, context: ssl.SSLContext, host: str = "localhost") -> None:
        """Ask for TLS, and begin it. Raises ssl.SSLError, OSError."""
        self.send(SSL_REQUEST)
        assert await self.reader.readexactly(1) == b"S", "the port has no TLS"
        await self.writer.start_tls(context, server_hostname=host)

    # --- speaking ----------------------------------------------------------------------------------------------------
    def send(self, data: bytes) -> None:
        """Any bytes."""
        self.writer.write(data)

    async def query(self, sql: str) -> Answer:
        """A simple query and its answer."""
        self.send(query(sql))
        return await self.answer()

    async def log_in(self, password: str = PASSWORD) -> Answer:
        """From the server's demand to the first ReadyForQuery. Raises Refused."""
        exchange = ClientExchange(password)
        answer = Answer()
        while not answer.status:
            kind, payload = await self.message()
            if kind == frames.AUTHENTICATION:
                proof = _proof(exchange, payload)
                if proof:
                    self.send(frame(frames.PASSWORD, proof))
            else:
                self._note(answer, kind, payload)
            if answer.errors:
                raise Refused(answer.errors[0])
        return answer

    # --- hearing -----------------------------------------------------------------------------------------------------
    async def message(self) -> tuple[int, bytes]:
        """The next one: its kind and payload. Raises IncompleteReadError at the end, OSError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await self.reader.readexactly(HEADER)
            return head[0], await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)

    async def answer(self) -> Answer:
        """Up to the next ReadyForQuery, or the end."""
        answer = Answer()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not answer.status:
                self._note(answer, *await self.message())
        return answer

    async def rest(self) -> Answer:
        """Up to the end of the connection."""
        answer = Answer()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self._note(answer, *await self.message())
        return answer

    def _note(self, answer: Answer, kind: int, payload: bytes) -> None:
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

    async def ended(self) -> bool:
        """Whether the server closes: what it said before is thrown away."""
        await self.rest()
        return self.reader.at_eof() or self.reader.exception() is not None


class Refused(Exception):
    """An error instead of a session."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields)
        self.fields = fields
        self.sqlstate = fields["C"]


def _proof(exchange: ClientExchange, payload: bytes) -> bytes:
    wanted, data = int.from_bytes(payload[:4], "big"), payload[4:]
    if wanted == 10:
        first = exchange.first()
        return MECHANISM + b"\0" + len(first).to_bytes(4, "big") + first
    if wanted == 11:
        return exchange.final(data)
    if wanted == 12:
        exchange.verify(data)
    else:
        assert wanted == 0, f"an authentication request {wanted}"
    return b""


async def cancel(port: int, pid: int, secret: bytes) -> None:
    """A request to cancel, as libpq sends it; returns when the server has closed."""
    reader, writer = await raw(port)
    try:
        writer.write(struct.pack("!III", 12 + len(secret), 80877102, pid) + secret)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b"", "a request to cancel is never answered"
    finally:
        writer.transport.abort()


async def gone(client: WireClient) -> None:
    """Wait until the server has closed."""
    await until(client.ended, "the server closes")
