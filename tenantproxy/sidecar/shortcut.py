"""Which bytes of an HTTP connection go past aiohttp? Whole requests that a `ShortDoor` takes, one at a time.

State, of one connection: the request that is under way, and whether aiohttp is between two requests.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple, Protocol, TypeVar

__all__ = ["Framed", "Peer", "ShortDoor", "ShortRequest", "Shortcut", "ShortcutClient"]

_MOST_BEHIND: Final = 64 * 1024  # bytes that are read while a request runs: a client that is not read goes unheard


class Peer(NamedTuple):
    """The other end of a connection. `remote`: its address, if it has one."""

    remote: str | None
    is_encrypted: bool


class Framed(Protocol):
    """A request whose head was understood."""

    @property
    def size(self) -> int:
        """Bytes, of head and body."""
        ...


F = TypeVar("F", bound=Framed)


class ShortRequest(Protocol):
    """One that was taken. Calls `Shortcut.over` once, with its answer or without."""

    def ended(self) -> None:
        """Its answer is read."""
        ...

    def lost(self) -> None:
        """Its client is gone, before that."""
        ...


class ShortDoor(Protocol[F]):
    """What answers requests without aiohttp."""

    def read(self, data: bytes, peer: Peer) -> F | None:
        """The request that `data` begins with; None: its end is for aiohttp to find."""
        ...

    def take(self, data: bytes, framed: F, shortcut: Shortcut) -> ShortRequest | None:
        """Answer it, all of which is there; None: aiohttp answers, and nothing has been done."""
        ...


class ShortcutClient(Protocol):
    """The connection: `listener` has it."""

    def is_between(self) -> bool:
        """Whether aiohttp waits for a request, and more may be answered."""
        ...

    def works(self) -> None:
        """A request is under way, of which aiohttp does not know."""
        ...

    def waits(self) -> None:
        """It is answered. The connection is closed if it was the last."""
        ...

    def is_last(self) -> bool:
        """Whether the listener closes, so that the answer says it is the last."""
        ...

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        ...


class Shortcut:
    """Of one connection. `offer` it all that comes; what it does not take is aiohttp's, in order."""

    def __init__(self, door: ShortDoor[Any], client: ShortcutClient, transport: asyncio.Transport) -> None:
        self._door = door
        self._client = client
        self._transport = transport
        peer = transport.get_extra_info("peername")
        remote = str(peer[0]) if isinstance(peer, (tuple, list)) else str(peer) if peer else None
        self.peer = Peer(remote, transport.get_extra_info("ssl_object") is not None)
        self._is_level = True  # aiohttp has had whole requests, so what comes next begins one
        self._owed = 0  # bytes of the body of one that are still to come
        self._running: ShortRequest | None = None
        self._is_answered = False  # it is, and the answer is not read yet
        self._is_paused = False
        self._behind: list[bytes] = []  # came while it runs
        self._waiting = 0  # bytes of those

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self._running is not None

    @property
    def is_last(self) -> bool:
        """See `ShortcutClient`."""
        return self._client.is_last()

    def offer(self, data: bytes) -> bool:
        """Bytes came. False: they are aiohttp's."""
        if self._running is not None:
            self._behind.append(data)
            self._waiting += len(data)
            if self._waiting > _MOST_BEHIND:
                self._transport.pause_reading()
            return True
        if not self._is_level:
            return False
        if self._owed:
            self._left(len(data), self._owed)
            return False
        framed = self._door.read(data, self.peer)
        if framed is None:
            self._is_level = False  # where the next one begins only aiohttp knows
            return False
        if framed.size == len(data) and self._client.is_between():
            self._running = self._door.take(data, framed, self)
            if self._running is not None:
                self._client.works()
                return True
        self._left(len(data), framed.size)
        return False

    def _left(self, size: int, wanted: int) -> None:
        """aiohttp gets `size` bytes, where its request still wants so many."""
        self._owed = max(0, wanted - size)
        self._is_level = size <= wanted

    def over(self, answer: bytes) -> None:
        """The request has its answer; without one the connection ends. Not called before `take` has returned."""
        if not answer:
            self._transport.abort()
            return
        if not self._transport.is_closing():
            self._transport.write(answer)
        if self._is_paused:
            self._is_answered = True
        else:
            self._next()

    def _next(self) -> None:
        running, self._running = self._running, None
        self._is_answered = False
        if running is not None:
            running.ended()
        self._client.waits()
        behind, self._behind, self._waiting = self._behind, [], 0
        if behind and not self._transport.is_closing():
            self._transport.resume_reading()
            for data in behind:
                self._client.data_received(data)

    def pause(self) -> None:
        """Too much of what was answered is not read."""
        self._is_paused = True

    def resume(self) -> None:
        """It is."""
        self._is_paused = False
        if self._is_answered:
            self._next()

    def lost(self) -> None:
        """The connection is."""
        running, self._running = self._running, None
        self._behind = []
        if running is not None:
            running.lost()
