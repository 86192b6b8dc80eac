"""Which connections have not said who they are? The oldest of them makes room for one more; only a listener changes it.

The PostgreSQL port and the admin listener have one each. No call costs more because there are more connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

__all__ = ["Pending", "Unauthenticated"]


class Pending(Protocol):
    """A connection of which it is not known whose it is."""

    @property
    def address(self) -> str | None:
        """What it counts as; see `places.network_of`."""
        ...

    def make_room(self, limit: int) -> None:
        """Close, for another takes its place; where its protocol has words for that, say so."""
        ...


class Unauthenticated:
    """At most `limit` connections, the oldest first.

    One more than there may be takes the place of the oldest of those addresses that have the most, which is told so:
    silence must not lock others out, nor a flood from a few addresses. Where one address has half of all, it is its own
    oldest: who floods from one address takes no other's place.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.made_room = 0  # closed to make room, since the start
        self._all: dict[Pending, None] = {}
        self._by_address: dict[str | None, dict[Pending, None]] = {}
        self._with: dict[int, dict[str | None, None]] = {}  # addresses by how many they have; none is empty
        self._most = 0  # that an address has

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, connection: object) -> bool:
        return connection in self._all

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._all)

    def add(self, connection: Pending) -> None:
        """One more."""
        own = self._by_address.get(connection.address, {})
        if len(own) >= (self.limit + 1) // 2 and own:
            self._close_oldest(own)
        elif len(self._all) >= self.limit:
            self.close_oldest()
        self._all[connection] = None
        own = self._by_address.setdefault(connection.address, {})
        own[connection] = None
        self._count(connection.address, len(own) - 1, len(own))

    def close_oldest(self) -> None:
        """Make room for another, if there is one."""
        if self._all:
            self._close_oldest(self._by_address[next(iter(self._with[self._most]))])

    def _close_oldest(self, connections: dict[Pending, None]) -> None:
        oldest = next(iter(connections))
        self.made_room += 1
        self.discard(oldest)
        oldest.make_room(self.limit)

    def discard(self, connection: Pending) -> None:
        """It has said who it is, or left. Safe to call again."""
        if connection not in self._all:
            return
        del self._all[connection]
        own = self._by_address[connection.address]
        del own[connection]
        self._count(connection.address, len(own) + 1, len(own))
        if not own:
            del self._by_address[connection.address]

    def _count(self, address: str | None, before: int, now: int) -> None:
        if now:
            self._with.setdefault(now, {})[address] = None
        if before:
            del self._with[before][address]
            if not self._with[before]:
                del self._with[before]
        self._most = max(self._most, now) if self._most in self._with or now > self._most else now

    @property
    def most_of(self) -> str:
        """The address that has the most; "": none has any."""
        return (next(iter(self._with[self._most])) if self._all else "") or ""
