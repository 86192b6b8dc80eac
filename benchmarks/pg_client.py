"""How are thousands of clients held, or a hundred timed, at little cost? Simple queries on bare connections."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from benchmarks.pg_targets import Target
from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.server_auth import BackendLogin

__all__ = ["Client", "connect"]

_LOGIN_SECONDS: Final = 60.0
_QUIET: Final = frames.frame(frames.READY, b"I")


class Client(asyncio.Protocol):
    """One connection, one query at a time."""

    def __init__(self, login: BackendLogin) -> None:
        self._login: BackendLogin | None = login  # until it is over
        self._buffer = b""
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert self._login is not None
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._transport.write(self._login.begin)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._answer.done():
            return
        try:
            if self._login is not None:
                self._log_in(self._login, data)
            else:
                self._buffer += data
                if self._buffer.endswith(_QUIET):
                    self._answered()
        except Exception as exc:  # noqa: BLE001  # the waiter must be told, whatever it is
            self._answer.set_exception(exc)

    def _log_in(self, login: BackendLogin, data: bytes) -> None:
        self._transport.write(login.receive(data))
        if login.refusal is not None:
            raise ConnectionError(f"{login.refusal.sqlstate}: {login.refusal.message}")
        if login.is_done:
            self._login = None
            self._answer.set_result(None)

    def _answered(self) -> None:
        answer, self._buffer = self._buffer, b""
        at = 0
        while at < len(answer):
            end = at + frames.length_of(answer, at)
            if answer[at] == frames.ERROR:
                raise RuntimeError(read_error(answer[at + frames.HEADER : end])["M"])
            at = end
        self._answer.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionError(f"the connection ended: {self._buffer[:300]!r}"))

    async def ready(self) -> None:
        """Wait until the login is over. Raises what it ended with."""
        await self._answer

    async def run(self, sql: str) -> None:
        """Run one statement and wait for all of its answer."""
        await self.send(frames.frame(frames.QUERY, sql.encode() + b"\0"))

    async def send(self, messages: bytes) -> None:
        """Send any bytes and wait until an answer ends with ReadyForQuery."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(messages)
        await self._answer

    def close(self) -> None:
        """End the connection."""
        self._transport.abort()


async def connect(target: Target, database: str) -> Client:
    """A client that is logged in."""
    login = BackendLogin({"user": target.user, "database": database}, lambda: target.password)
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(login), target.host, target.port)
    try:
        async with asyncio.timeout(_LOGIN_SECONDS):
            await client.ready()
    except BaseException:
        client.close()
        raise
    return client
