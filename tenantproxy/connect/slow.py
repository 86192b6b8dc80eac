"""Which leases and statements are told as slow? Those longer than `[log]` says, and not more than a few a second.

State: how many were told in this second, and how many were left out.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.config import LogSettings
from tenantproxy.events import Observer, SlowLease, SlowStatement
from tenantproxy.pools.base import Clock
from tenantproxy.watch import LeaseOver, StatementOver, Watch
from tenantproxy.wire.fingerprint import fingerprint

__all__ = ["SlowWatch", "watch_of"]

_PER_SECOND: Final = 10  # of each kind: a slow server makes every statement slow


class _Allowance:
    """How many may be told."""

    __slots__ = ("_second", "_told", "untold")

    def __init__(self) -> None:
        self._second = -1
        self._told = 0
        self.untold = 0  # since the last one that was

    def take(self, now: float) -> bool:
        second = int(now)
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= _PER_SECOND:
            self.untold += 1
            return False
        self._told += 1
        return True


class SlowWatch:
    """A watch that tells `observer` of slow leases and statements; see `watch.Watch`."""

    def __init__(self, log: LogSettings, observer: Observer, clock: Clock) -> None:
        self._lease_seconds = log.slow_lease or float("inf")
        self._statement_seconds = log.slow_statement or float("inf")
        self._observer = observer
        self._clock = clock
        self._leases, self._statements = _Allowance(), _Allowance()

    def lease(self, lease: LeaseOver) -> None:
        """See `watch.Watch`. The wait counts as much as the time for which it was held."""
        if max(lease.waited, lease.held) < self._lease_seconds or not self._leases.take(self._clock()):
            return
        untold, self._leases.untold = self._leases.untold, 0
        self._observer(
            SlowLease(
                server=lease.server,
                pool=lease.pool,
                tenant=lease.tenant,
                waited=lease.waited,
                held=lease.held,
                untold=untold,
                request_id=lease.request,
            )
        )

    def statement(self, statement: StatementOver) -> None:
        """See `watch.Watch`."""
        if statement.seconds < self._statement_seconds or not self._statements.take(self._clock()):
            return
        untold, self._statements.untold = self._statements.untold, 0
        self._observer(
            SlowStatement(
                server=statement.server,
                pool=statement.pool,
                tenant=statement.tenant,
                seconds=statement.seconds,
                statement=fingerprint(statement.text),
                error=statement.error,
                untold=untold,
                request_id=statement.request,
            )
        )


class _Both:
    """Two watches."""

    def __init__(self, *watches: Watch) -> None:
        self._watches = watches

    def lease(self, lease: LeaseOver) -> None:
        for watch in self._watches:
            watch.lease(lease)

    def statement(self, statement: StatementOver) -> None:
        for watch in self._watches:
            watch.statement(statement)


def watch_of(log: LogSettings, observer: Observer, clock: Clock, more: Watch | None) -> Watch | None:
    """What looks at each lease and statement: for `[log]` and `more`; None: nothing does."""
    slow = SlowWatch(log, observer, clock) if log.slow_lease or log.slow_statement else None
    if slow is None or more is None:
        return slow or more
    return _Both(slow, more)
