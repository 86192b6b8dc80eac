"""Which tenants have series of their own now? Those that matter most, as few as `max_tenants`. Pure; told the time.

A tenant that gets none, or loses them, is counted under `_other`. Prometheus takes a counter that is lower than it was
for one that began at 0 again, and what was counted before its first sample for nothing. So, once any tenant has lost
its series, those of the next ones stand at 0 for a while before they count: each reader sees that, and whatever the
same tenant had before, the increase is right over any range.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from tenantproxy.pools.heaviest import Heaviest

__all__ = ["OTHER", "TenantNames"]

OTHER: Final = "_other"

_KEPT: Final = 4  # tenants that are weighed for each that may be named
_REVIEW_SECONDS: Final = 15.0
_HALF_LIFE: Final = 300.0  # seconds after which what happened counts half
_ZERO_SECONDS: Final = 60.0  # longer than most intervals between two scrapes
_CLEARLY: Final = 2.0  # times as heavy as the one whose place it takes, so that no two take it in turns
_CHANGES: Final = 20  # at most so small a part of all names changes in a review


class TenantNames:
    """Weighs tenants and names the heaviest.

    Each is in `_counts_from` with the time from which it counts under its name. While there is room, a tenant is named
    at once; later `review` gives it the place of one that weighs clearly less.
    """

    __slots__ = ("_counts_from", "_due", "_most", "_now", "_reviewed", "_was_any_lost", "_weights")

    def __init__(self, most: int) -> None:
        self._most = most
        self._weights = Heaviest(_KEPT * most)
        self._counts_from: dict[str, float] = {}
        self._now = 0.0
        self._reviewed: float | None = None
        self._due = 0.0
        self._was_any_lost = False

    def __contains__(self, tenant: str) -> bool:
        """Whether its gauges are shown, and its counters, if at 0. Names of our own (`_registry`) always are."""
        return tenant in self._counts_from or tenant.startswith("_")

    def note(self, tenant: str, weight: float = 1.0) -> str:
        """Something of so much weight happened to `tenant`; the label under which it counts."""
        if tenant.startswith("_"):
            return tenant
        self._weights.add(tenant, weight)
        if tenant not in self._counts_from and len(self._counts_from) < self._most:
            self._name(tenant)
        return self.label_of(tenant)

    def label_of(self, tenant: str) -> str:
        """The label under which what happens to it counts now."""
        if tenant.startswith("_"):
            return tenant
        since = self._counts_from.get(tenant)
        return tenant if since is not None and since <= self._now else OTHER

    def review(self, now: float) -> list[str]:
        """Called often, with the monotonic time; those that lost their series."""
        self._now = now
        if now < self._due:
            return []
        self._due = now + _REVIEW_SECONDS
        if self._reviewed is not None:
            self._weights.fade(0.5 ** ((now - self._reviewed) / _HALF_LIFE))
        self._reviewed = now
        return self._replaced()

    def _replaced(self) -> list[str]:
        candidates = [each for each in self._weights.ranked() if each.key not in self._counts_from]
        room = self._most - len(self._counts_from)
        for each in candidates[:room]:
            self._name(each.key)
        named = map(self._weights.of, (key for key, since in self._counts_from.items() if since <= self._now))
        lightest = sorted(named, key=attrgetter("weight"))[: max(1, self._most // _CHANGES)]
        lost = []
        for light, heavy in zip(lightest, candidates[room:], strict=False):
            if heavy.certain <= _CLEARLY * light.weight:
                break
            lost.append(light.key)
            self._drop(light.key)
            self._name(heavy.key)
        return lost

    def _name(self, tenant: str) -> None:
        self._counts_from[tenant] = self._now + _ZERO_SECONDS if self._was_any_lost else self._now

    def _drop(self, tenant: str) -> None:
        del self._counts_from[tenant]
        self._was_any_lost = True

    def forget(self, tenant: str) -> bool:
        """The tenant is not registered any more; whether it had series."""
        self._weights.forget(tenant)
        if tenant not in self._counts_from:
            return False
        self._drop(tenant)
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._counts_from))
