"""Which permits belong to closed connections whose backends may still run? Pure; changed by `ServerBudget` alone.

PostgreSQL looks at a request to cancel, and at the end of its client, between steps of a statement: one that is inside
a long step goes on for minutes. Such a backend counts on the server, so its permit stays taken until it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from tenantproxy.model import PoolKey
from tenantproxy.pools.base import ServerProcess

__all__ = ["STARTUP_SECONDS", "UNKNOWN", "Lingering", "gone_by_look", "gone_by_time"]

STARTUP_SECONDS: Final = 60.0  # PostgreSQL's authentication_timeout: an abandoned login has ended by then
_SETTLE_SECONDS: Final = 2.0  # a server that answers a query has noticed by then that such a client left
UNKNOWN: Final = ServerProcess()
"""Of a connect that was given up before the server told its process id."""


class Lingering:
    """One such permit. `since` is the pool's clock.

    `release` returns it to its pool; `on_release`, where its connector set it, ends what still waits for the server.
    Both are called once, by the budget.
    """

    __slots__ = ("key", "on_release", "process", "release", "since")

    def __init__(self, process: ServerProcess, *, key: PoolKey, since: float, release: Callable[[], None]) -> None:
        self.process = process
        self.key = key  # of its pool: where a connection with the same rights can be opened
        self.since = since
        self.release = release
        self.on_release: Callable[[], None] | None = None


def gone_by_time(lingering: Collection[Lingering], now: float) -> list[Lingering]:
    """Those that were given up while they logged in, and that the server has ended by now."""
    return [one for one in lingering if not one.process.pid and one.since + STARTUP_SECONDS <= now]


def gone_by_look(
    lingering: Collection[Lingering], found: Mapping[int, float | None], *, began: float
) -> Iterator[Lingering]:
    """Those that a look, which began at `began`, shows to be gone.

    `found`: process ids that the server has, and when each began (None: it does not tell us). A process that began
    after ours was last seen has only taken over its id.
    """
    for one in lingering:
        process = one.process
        if not process.pid:
            if one.since + _SETTLE_SECONDS <= began:
                yield one
        elif one.since <= began and (process.pid not in found or _is_later(found[process.pid], process.started)):
            yield one


def _is_later(began: float | None, ours: float | None) -> bool:
    return began is not None and ours is not None and began > ours
