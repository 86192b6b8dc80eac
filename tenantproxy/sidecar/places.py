"""Which HTTP clients hold a place, and which of them gives way to a new one? Pure; only the listener changes it.

A connection between two requests holds a place but needs none: when all are taken, the one that has waited longest is
closed, unless that is not long: who has just connected is about to send something. One address, an IPv6 network of 64
bits, can hold no more than its share; trusted proxies have no such limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Generic, Protocol, TypeVar

__all__ = ["Places", "network_of"]


class Occupant(Hashable, Protocol):
    """A client: knows the address that it counts for; None: for none."""

    @property
    def address(self) -> str | None:
        """See `network_of`."""
        ...


C = TypeVar("C", bound=Occupant)


class Places(Generic[C]):
    """At most `limit` clients, at most `per_address` of one address (0: no such limit).

    `close` is called with a client that gives way, after `grace` seconds of waiting at least; its place is free then.
    """

    def __init__(
        self,
        limit: int,
        per_address: int,
        close: Callable[[C], None],
        *,
        grace: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._grace = grace
        self._clock = clock
        self.limit = limit
        self.per_address = per_address
        self._close = close
        self._taken: dict[C, None] = {}
        self._idle: dict[C, float] = {}  # of those, since when they wait, in that order
        self._of: Counter[str] = Counter()
        self._idle_of: dict[str, dict[C, float]] = {}  # as `_idle`, by address; only where there is a limit for each

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[C]:
        return iter(self._taken)

    def take(self, client: C) -> bool:
        """Give `client` a place; it waits for its first request. False: none is free, not even by closing another."""
        address = self._counted(client)
        if address is not None and self._of[address] >= self.per_address:
            if not self._make_way(self._idle_of.get(address, {})):
                return False
        elif len(self._taken) >= self.limit and not self._make_way(self._idle):
            return False
        self._taken[client] = None
        if address is not None:
            self._of[address] += 1
        self.waits(client)
        return True

    def waits(self, client: C) -> None:
        """It waits for its next request, from now on."""
        if client in self._taken and client not in self._idle:
            self._idle[client] = now = self._clock()
            if (address := self._counted(client)) is not None:
                self._idle_of.setdefault(address, {})[client] = now

    def works(self, client: C) -> None:
        """Its request has begun."""
        if client not in self._idle:
            return
        del self._idle[client]
        if (address := self._counted(client)) is not None:
            waiting = self._idle_of[address]
            del waiting[client]
            if not waiting:
                del self._idle_of[address]

    def recently_idle(self, seconds: float) -> bool:
        """Whether a client has begun to wait within so many seconds."""
        last = next(reversed(self._idle.values()), None)
        return last is not None and self._clock() - last < seconds

    def leave(self, client: C) -> None:
        """It is gone. Safe to call again."""
        if client not in self._taken:
            return
        del self._taken[client]
        self.works(client)
        if (address := self._counted(client)) is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def close_idle_of(self, clients: Container[C]) -> C | None:
        """Close that of `clients` which has waited longest, if it is long; None: none has."""
        longest = next((each for each in self._idle if each in clients), None)
        return longest if longest is not None and self._make_way({longest: self._idle[longest]}) else None

    def _make_way(self, waiting: Mapping[C, float]) -> bool:
        longest = next(iter(waiting), None)
        if longest is None or self._clock() - waiting[longest] < self._grace:
            return False
        self.leave(longest)
        self._close(longest)
        return True

    def _counted(self, client: C) -> str | None:
        return client.address if self.per_address else None


@lru_cache(maxsize=4096)  # the same addresses come again and again
def network_of(peer: str) -> str:
    """What a peer counts as: an IPv4 address, or the IPv6 network of 64 bits that one customer has at least."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))
