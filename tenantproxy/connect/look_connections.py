"""By which connection is each host of a server looked at, and may that lead to the wrong server by now?

State: changed by the watch, which has the connections, and by `Hosts`, which doubts them.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.pools.base import Clock

__all__ = ["LookConnections"]

_LATER_SECONDS: Final = 1.0  # after which a host is connected to again that does not serve, one of several
_STRANGE_SECONDS: Final = 1.0  # and one where only another server answers, all that time


class LookConnections:
    """A name or a proxy may lead to several servers in turn: a good connection may be one to the wrong server."""

    def __init__(self, count: int, *, clock: Clock) -> None:
        self._pids = [0] * count  # of the processes there that answer; 0: there is no connection
        self._connected_at = [0.0] * count
        self._doubted: set[int] = set()  # hosts that are to be connected to again
        self._strange_since: dict[int, float] = {}  # where another server answers since the last one that was right
        self._clock = clock

    def connected(self, number: int, pid: int) -> None:
        """Looks at a host go by its process `pid` from now on; 0: there is no connection any more."""
        self._pids[number] = pid
        self._connected_at[number] = self._clock()
        self._strange_since.pop(number, None)

    def pid(self, number: int | None) -> int:
        """The process that answers looks at a host; 0: none does."""
        return 0 if number is None else self._pids[number]

    def was_another(self, number: int, *, at_once: bool) -> None:
        """Another server answers a new connection to this host than the looks at it.

        Where a name or a proxy leads to both in turn, a new look would lead to the wrong one half of the time, and
        end what works: so looks stay where they are unless all connections lead elsewhere, or `at_once`.
        """
        since = self._strange_since.setdefault(number, self._clock())
        if at_once or self._clock() - since >= _STRANGE_SECONDS:
            self._doubted.add(number)

    def was_the_same(self, number: int) -> None:
        """The server of the looks answers a new connection."""
        self._strange_since.pop(number, None)

    def serves_not(self, number: int) -> None:
        """A host answers, and no host serves. Where it is the only one it may be a name: it is connected to again."""
        if len(self._pids) == 1 or self._clock() - self._connected_at[number] >= _LATER_SECONDS:
            self._doubted.add(number)

    def is_doubted(self, number: int) -> bool:
        """Whether a host is to be connected to again; said once."""
        is_doubted = number in self._doubted
        self._doubted.discard(number)
        return is_doubted

    def forget(self) -> None:
        """The event loop has ended, and all connections with it."""
        self._pids = [0] * len(self._pids)
        self._doubted.clear()
        self._strange_since.clear()
