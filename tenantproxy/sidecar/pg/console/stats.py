"""What passed for each tenant, as SHOW STATS tells it? PgBouncer's totals, and averages since an earlier look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from tenantproxy.sidecar.pg.console.view import ConsoleView, Counts

__all__ = [
    "AVERAGES_NAMES",
    "AVERAGE_NAMES",
    "TOTALS_NAMES",
    "TOTAL_NAMES",
    "Averages",
    "stats_averages",
    "stats_both",
    "stats_totals",
]

Figures: TypeAlias = tuple[str | int, ...]
"""A tenant, and its figures."""

PERIOD: Final = 60.0
"""Averages are over at least this many seconds, as PgBouncer's stats_period."""

_NO_COUNTS: Final = Counts()

_COUNTED: Final = (
    ("server_assignment_count", "leases"),
    ("xact_count", "transactions"),
    ("query_count", "queries"),
    ("received", "received"),
    ("sent", "sent"),
    ("xact_time", "transaction_seconds"),
    ("query_time", "query_seconds"),
    ("wait_time", "wait_seconds"),
    ("client_parse_count", ""),
    ("server_parse_count", ""),
    ("bind_count", ""),
    ("client_login_count", "logins"),
)
"""PgBouncer's names in its order, and ours; those without one are not counted, and always 0."""

_SHORTER: Final = {"received": "recv"}
_LONGER: Final = {"received": "bytes_received", "sent": "bytes_sent"}
_PER: Final = {"xact_time": "transactions", "query_time": "queries", "wait_time": "leases"}

TOTAL_NAMES: Final = " ".join(f"N:total_{name}" for name, _ in _COUNTED)
AVERAGE_NAMES: Final = " ".join(f"N:avg_{_SHORTER.get(name, name)}" for name, _ in _COUNTED)
TOTALS_NAMES: Final = " ".join(f"N:{_LONGER.get(name, name)}" for name, _ in _COUNTED)
AVERAGES_NAMES: Final = " ".join(
    f"N:{'avg_' if 'parse' in name or name in ('bind_count', 'client_login_count') else ''}{_LONGER.get(name, name)}"
    for name, _ in _COUNTED
)


class Averages:
    """Remembers earlier counts, so that rates can be told. One for all consoles; nothing runs between two readings."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        nothing: Mapping[str, Counts] = {}
        self._old = (clock(), nothing)  # what averages are counted from
        self._new = self._old  # becomes `_old` once it is a period old

    def since(self, now: Mapping[str, Counts]) -> tuple[float, Mapping[str, Counts]]:
        """How many seconds ago other counts were read, and which; `now` is remembered."""
        at = self._clock()
        if at - self._new[0] >= PERIOD:
            self._old, self._new = self._new, (at, now)
        return max(at - self._old[0], 1e-6), self._old[1]


def _totals(counts: Counts) -> list[int]:
    """In microseconds where it is a time."""
    return [round(_count(counts, field) * (1e6 if name in _PER else 1)) for name, field in _COUNTED]


def _count(counts: Counts, field: str) -> float:
    count: float = getattr(counts, field) if field else 0
    return count


def _averages(now: Counts, old: Counts, seconds: float) -> list[int]:
    """Of counts and bytes per second, of times microseconds for each of what they are times of."""
    return [round(_average(name, field, now, old, seconds)) for name, field in _COUNTED]


def _average(name: str, field: str, now: Counts, old: Counts, seconds: float) -> float:
    delta = _count(now, field) - _count(old, field)
    if name not in _PER:
        return delta / seconds
    times = _count(now, _PER[name]) - _count(old, _PER[name])
    return delta * 1e6 / times if times else 0.0


def _by_tenant(view: ConsoleView, averages: Averages) -> Iterator[tuple[str, list[int], list[int]]]:
    counts = view.counts()
    seconds, old = averages.since(counts)
    for tenant, now in sorted(counts.items()):
        yield tenant, _totals(now), _averages(now, old.get(tenant, _NO_COUNTS), seconds)


def stats_both(view: ConsoleView, averages: Averages) -> Iterator[Figures]:
    """SHOW STATS: totals and averages."""
    queries = [name for name, _ in _COUNTED].index("query_count")
    for tenant, totals, average in _by_tenant(view, averages):
        yield tenant, *totals, *average, totals[queries]


def stats_totals(view: ConsoleView, averages: Averages) -> Iterator[Figures]:
    """SHOW STATS_TOTALS."""
    return ((tenant, *totals) for tenant, totals, _ in _by_tenant(view, averages))


def stats_averages(view: ConsoleView, averages: Averages) -> Iterator[Figures]:
    """SHOW STATS_AVERAGES."""
    return ((tenant, *average) for tenant, _, average in _by_tenant(view, averages))
