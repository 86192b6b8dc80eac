"""When has a server ended a connection that we closed? Waits on a copy of its socket, with no transport and no task.

A transport that is aborted gives its socket up, and with it the one sign that the backend is gone: the end of what it
sends. The copy keeps the connection there, tells the server that its client left, and hears that end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

__all__ = ["EndWatch", "keep_socket", "may_live_on"]

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


class EndWatch:
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
