"""When has a server ended a connection that we closed? Waits on a copy of its socket, with no transport and no task.

A transport that is aborted gives its socket up, and with it the one sign that the backend is gone: the end of what it
sends. The copy keeps the connection there, tells the server that its client left, and hears that end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.pool import Pool

__all__ = ["EndWatches", "keep_socket", "may_live_on"]

C = TypeVar("C")

_CHUNK: Final = 262_144


def keep_socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    """A copy of the socket of `transport`, to be taken before it is aborted; None where it has none any more."""
    if transport.is_closing():
        return None  # uvloop's would still tell the number of its descriptor, which may be another's by now
    original = transport.get_extra_info("socket")
    if original is None or original.fileno() < 0:
        return None
    try:
        copy = socket.fromfd(original.fileno(), original.family, original.type)
    except OSError:  # no descriptor is left: then the server has to be asked
        return None
    copy.setblocking(False)
    return copy


def may_live_on(exc: Exception | None) -> bool:
    """Whether a backend may still run whose connection was lost by `exc` (None: the server closed it)."""
    return exc is not None and not isinstance(exc, ConnectionError)


class _EndWatch:
    """Reads and drops what a server still sends on `sock`, and calls `gone` when it has closed.

    Not when the network gave the connection up: then nothing is known. `close` ends it without a word; safe in any
    state.
    """

    __slots__ = ("_gone", "_loop", "_sock")

    def __init__(self, sock: socket.socket, gone: Callable[[], None]) -> None:
        self._sock = sock
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is closed already: reading says so
        self._loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            if self._sock.recv(_CHUNK):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.close()
            if not may_live_on(exc):
                self._gone()
            return
        self.close()
        self._gone()

    def drop(self) -> None:
        """Close the socket of a watch whose event loop has ended."""
        self._sock.close()

    def close(self) -> None:
        """Stop waiting."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


class EndWatches:
    """The watches of one connector: of closed connections whose backends may live on."""

    def __init__(self) -> None:
        self._watches: set[_EndWatch] = set()

    def retired(self, pool: Pool[C], conn: C, *, lingers: ServerProcess | None, sock: socket.socket | None) -> None:
        """Tell `pool` that `conn` is closed; `lingers` as `Pool.retired` has it, and `sock` hears of its end."""
        one = pool.retired(conn, lingers=lingers)
        if one is None:
            if sock is not None:
                sock.close()
        elif sock is not None:
            watch = _EndWatch(sock, lambda: pool.budget.gone(one))
            self._watches.add(watch)
            one.on_release = lambda: self._end(watch)

    def _end(self, watch: _EndWatch) -> None:
        watch.close()
        self._watches.discard(watch)

    def close(self) -> None:
        """Stop waiting for all of them."""
        for watch in self._watches:
            watch.close()
        self._watches.clear()

    def forget_loop(self) -> None:
        """The event loop has ended."""
        for watch in self._watches:
            watch.drop()
        self._watches.clear()
