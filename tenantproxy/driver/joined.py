"""How do our messages go out in one write with the driver's? By a transport of the driver that puts them around.

Two writes are two packets, and the server may be woken, or may wait, in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from tenantproxy.wire.frames import BIND, QUERY, SYNC, frame

__all__ = ["JoiningLoop", "JoiningTransport", "Pursuit"]

_SYNC: Final = frame(SYNC)


class Pursuit(Protocol):
    """What goes out right behind a message of the driver."""

    message: bytes

    def begin(self) -> None:
        """It is written; its answer comes behind that of the driver."""
        ...


class JoiningTransport:
    """A transport, for the driver alone. What is put `ahead` or `behind` goes out with its next write, and only then.

    Whatever the driver writes then must be all of a request: one simple query, or a Bind up to its Sync. Else nothing
    is written and RuntimeError raised, upon which the driver ends the connection.
    """

    __slots__ = ("_write", "ahead", "behind", "real")

    def __init__(self, real: asyncio.Transport) -> None:
        self.real = real
        self.ahead = b""
        self.behind: Pursuit | None = None
        self._write = real.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, data: bytes | memoryview) -> None:
        """See asyncio."""
        if self.behind is None and not self.ahead:
            self._write(data)
        else:
            self._write_joined(data)

    def _write_joined(self, data: bytes | memoryview) -> None:
        (ahead, self.ahead), (behind, self.behind) = (self.ahead, b""), (self.behind, None)
        is_extended = data[0] == BIND and data[-len(_SYNC) :] == _SYNC
        if not is_extended and (ahead or data[0] != QUERY):
            raise RuntimeError("the driver writes something else than was foreseen")
        if behind is None:
            self._write(b"".join((ahead, data)))
        else:
            self._write(b"".join((ahead, data, behind.message)))
            behind.begin()


class JoiningLoop:
    """An event loop, for asyncpg's connect: each connection that it opens has a JoiningTransport."""

    __slots__ = ("real",)

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def create_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """See asyncio."""
        _, made = await self.real.create_connection(lambda: _Opened(factory()), *args, **options)
        return made.transport, made.driver

    async def create_unix_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """See asyncio."""
        _, made = await self.real.create_unix_connection(lambda: _Opened(factory()), *args, **options)
        return made.transport, made.driver

    async def start_tls(self, transport: JoiningTransport, *args: Any, **options: Any) -> JoiningTransport | None:
        """See asyncio."""
        secure = await self.real.start_tls(transport.real, *args, **options)
        return None if secure is None else JoiningTransport(secure)


class _Opened(asyncio.Protocol):
    """Stands in for a protocol until its connection is made, to give it another transport."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def connection_made(self, transport: Any) -> None:
        transport.set_protocol(self.driver)
        self.transport = JoiningTransport(transport)
        self.driver.connection_made(self.transport)
