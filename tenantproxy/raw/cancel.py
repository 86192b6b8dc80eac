"""How is a server asked to cancel what runs on a raw backend? By a connection of its own, as libpq does."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, Protocol

from tenantproxy.config import Server
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.close import END_TIMEOUT, end_of
from tenantproxy.raw.dial import connect, ways

__all__ = ["Canceller", "request_cancel"]

_CANCEL_CODE: Final = 80877102


class Canceller(Protocol):
    """Who brings requests to cancel to servers."""

    def cancel(self, backend: RawBackend, done: Callable[[], None]) -> None:
        """Ask the server to cancel what runs on `backend`; `done` when it has done with the request."""
        ...


async def request_cancel(backend: RawBackend, server: Server) -> None:
    """Returns when the server has done with the request: it closes the connection then.

    Raises ConnectFailed, OSError, or TimeoutError: the request may arrive yet.
    """
    courier = RawBackend(backend.pool)
    async with asyncio.timeout(END_TIMEOUT):
        await connect(courier, server, next(ways(server)))
        try:
            gone = end_of(courier)
            if not courier.is_closed:
                courier.write(_request(backend))
                await gone
        finally:
            courier.transport.abort()


def _request(backend: RawBackend) -> bytes:
    return struct.pack("!III", 12 + len(backend.secret), _CANCEL_CODE, backend.pid) + backend.secret
