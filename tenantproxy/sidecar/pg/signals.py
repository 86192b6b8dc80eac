"""Which client does a process id mean that was told by the port, where SQL is to cancel or end it?

A server does not know the ids that clients are told in transaction mode, and says so in a warning. Where the function
was alone in its statement, the id is looked up among the clients, and the answer to it is turned from false to true.
That costs nothing while no such warning comes, and what a role may not do the server has refused by then.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from tenantproxy.raw.backend import RawBackend
from tenantproxy.wire.frames import DATA_ROW, HEADER, ROW_DESCRIPTION, frame

__all__ = ["FIRST_TOLD", "ClientRights", "NoRights", "Signal", "ToldPid", "TrueRow", "signal_of"]

FIRST_TOLD: Final = 2**22 + 1
"""The lowest id that is told in place of a server's: above the highest that Linux gives to a process."""

_BOOL: Final = struct.pack("!IhIhi", 0, 0, 16, 1, -1)  # of no table, one byte
_ALONE: Final = {
    frame(ROW_DESCRIPTION, b"\0\1" + name + b"\0" + _BOOL + form): ends
    for name, ends in ((b"pg_terminate_backend", True), (b"pg_cancel_backend", False))
    for form in (b"\0\0", b"\0\1")
}
_STATEMENT: Final = re.compile(
    rb"\s*select\s+(?:pg_catalog\s*\.\s*)?pg_(terminate|cancel)_backend\s*\([^;()]*\)\s*;?\s*",
    re.IGNORECASE,
)
_PID: Final = re.compile(rb"\0M[^\0]*?([0-9]{1,10})")
_MAX_TEXT: Final = 200
_FALSE: Final = tuple(frame(DATA_ROW, b"\0\1\0\0\0\1" + value) for value in (b"f", b"\0"))  # as text, binary
_TRUE: Final = tuple(frame(DATA_ROW, b"\0\1\0\0\0\1" + value) for value in (b"t", b"\1"))


class ClientRights(Protocol):
    """What a client may do to others than itself. `pid`: what it was told itself."""

    @property
    def pid(self) -> int:
        """Its process id, as it was told."""
        ...

    @property
    def starts_on_replica(self) -> bool:
        """Whether its user reads from replicas until it says otherwise."""
        ...

    def signal(self, pid: int, *, ends: bool) -> bool:
        """Cancel what runs for the client that was told `pid`, or end it; False: it may signal none that was."""
        ...

    def vacate(self, database: bytes) -> None:
        """Let go of idle connections to a database of the client's server, where its user may reach it."""
        ...


class NoRights:
    """Of a client that is alone."""

    pid = 0
    starts_on_replica = False

    def signal(self, pid: int, *, ends: bool) -> bool:
        """See `ClientRights`."""
        return False

    def vacate(self, database: bytes) -> None:
        """See `ClientRights`."""


class HoldsBackend(Protocol):
    """A checkout."""

    @property
    def backend(self) -> RawBackend | None:
        """What it holds."""
        ...


class ToldPid:
    """The id that a client was told; see `wire.responses.Pids`."""

    __slots__ = ("_checkout", "_told")

    def __init__(self, told: int, checkout: HoldsBackend) -> None:
        self._told = told.to_bytes(4, "big")
        self._checkout = checkout

    def as_told(self, notification: bytes) -> bytes | None:
        """See `wire.responses.Pids`."""
        backend = self._checkout.backend
        if backend is None or int.from_bytes(notification[HEADER : HEADER + 4], "big") != backend.pid:
            return None
        return notification[:HEADER] + self._told + notification[HEADER + 4 :]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a statement asked for. `ends`: to end the client, and not only what runs for it."""

    pid: int
    ends: bool


def signal_of(warning: bytes, before: bytes, statement: bytes) -> Signal | None:
    """What the server could not signal; None: it was not asked by a function that is alone in its statement.

    `before`: the answer up to the warning; `statement`: the text of the only one that is being answered, if known.
    """
    found = _PID.search(warning)
    if found is None:
        return None
    for described, ends in _ALONE.items():
        if before.endswith(described):
            return Signal(int(found[1]), ends)
    alone = _STATEMENT.fullmatch(statement) if len(statement) <= _MAX_TEXT else None
    return None if alone is None else Signal(int(found[1]), alone[1].lower() == b"terminate")


class TrueRow:
    """Listens to a backend until the row behind the warning has come, and passes it on as true."""

    __slots__ = ("_backend", "_received", "_sink")

    def __init__(self, backend: RawBackend, sink: Callable[[bytes], None]) -> None:
        self._backend = backend
        self._sink = sink
        self._received = b""
        backend.sink = self

    def __call__(self, data: bytes) -> None:
        """Bytes came from the server."""
        self._received += data
        size = len(_FALSE[0])
        row = self._received[:size]
        if len(row) < size and any(each.startswith(row) for each in _FALSE):
            return
        self._backend.sink = self._sink
        if row in _FALSE:
            row = _TRUE[_FALSE.index(row)]
        self._sink(row + self._received[size:])
