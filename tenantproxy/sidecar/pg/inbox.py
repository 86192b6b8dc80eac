"""Which bytes of a client must wait, and for what? Beyond a limit it is not read any further."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Final

from tenantproxy.wire.memory import FREE_BYTES, TenantMemory

__all__ = ["Hold", "Inbox"]

_MAX_HELD: Final = 262_144  # bytes of a client that waits, before it is not read any further


class Hold(StrEnum):
    """Why a client's bytes must wait."""

    NOTHING = "nothing"  # they need not
    BACKEND = "backend"  # for one, or until it is bound again, or until a segment has been sent once more
    BYTES = "bytes"  # for more of a message
    TURN = "turn"  # for the next turn of the loop: others have theirs first
    ROOM = "room"  # until fewer answers are outstanding
    COMPARED = "compared"  # until it is known whether a statement is still what the client was told of it
    ANSWERS = "answers"  # until none is: the binding is to be renewed then
    CANCELLED = "cancelled"  # until a request to cancel what took too long cannot hit them


_NOTHING, _BYTES = Hold.NOTHING, Hold.BYTES


class Inbox:
    """What one client has sent and must wait. `hold` is NOTHING exactly while nothing waits."""

    __slots__ = ("_counted", "_held", "_is_blocked", "_memory", "_needed", "_transport", "hold", "is_paused", "size")

    def __init__(self, transport: asyncio.Transport, memory: TenantMemory) -> None:
        self._memory = memory
        self._counted = 0  # of `size`
        self.hold = _NOTHING
        self.size = 0  # bytes that wait
        self.is_paused = False  # the client is not read
        self._is_blocked = False  # for its server does not read fast enough, so also when nothing waits
        self._transport = transport
        self._held: list[bytes] = []
        self._needed = 0  # bytes from which on it is worth looking again

    def wait(self, hold: Hold, data: bytes, *, needed: int = 0) -> None:
        """Keep `data` because of `hold`; for BYTES, until `needed` are there. Raises OutOfMemory, as `keep`."""
        self.hold, self._needed = hold, needed
        self.keep(data)

    def keep(self, data: bytes) -> bool:
        """Keep what comes behind it. Whether it may be looked at again now.

        Raises OutOfMemory: it is kept all the same, and the client must be ended.
        """
        self._held.append(data)
        self.size += len(data)
        if self.size > FREE_BYTES:
            self._memory.take(self.size - self._counted)
            self._counted = self.size
        if self.hold is _BYTES:
            return self.size >= self._needed
        if self.size > _MAX_HELD:
            self.pause()
        return False

    def take(self) -> bytes:
        """All that waits, which waits no longer."""
        held, self._held = self._held, []
        self.hold, self.size = _NOTHING, 0
        if self._counted:
            self._memory.give(self._counted)
            self._counted = 0
        if not self._is_blocked:
            self._read_on()
        return held[0] if len(held) == 1 else b"".join(held)

    def clear(self) -> None:
        """Nothing of it is wanted any more."""
        self._held = []
        self._memory.give(self._counted)
        self._counted = 0

    def block(self) -> None:
        """Do not read the client until `resume`: its server does not read fast enough."""
        self._is_blocked = True
        self.pause()

    def pause(self) -> None:
        """Do not read the client: it has sent too much."""
        if not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The server reads again."""
        self._is_blocked = False
        if self.hold is _NOTHING or self.hold is _BYTES:
            self._read_on()

    def _read_on(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
