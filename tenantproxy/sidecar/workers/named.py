"""How do counters of tenants add up over workers, each of which names the tenants that matter most there? Pure.

What a worker counted of a tenant stays in the sum when that worker names another instead, or ends: the sum never goes
back. Tenants that no worker names any more keep their series as long as there is room; then these add to the families
of former ones (see `metrics.prometheus`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from tenantproxy.metrics.families import PREFIX
from tenantproxy.sidecar.workers.merged import FamilyData

__all__ = ["NamedCounters"]

_LABEL: Final = "tenant"
_FORMER: Final = tuple(PREFIX + name for name in ("pool_acquires", "exhaustions"))  # those that have a family of these

Rest = tuple[tuple[str, str], ...]
"""Labels without the tenant's."""


class CounterKey(NamedTuple):
    """One series of a tenant: `family` without `_total`."""

    family: str
    rest: Rest


Counts = dict[CounterKey, float]


class NamedCounters:
    """What each worker last told of each tenant, and what it told before of those that it does not name now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: dict[Hashable, dict[str, Counts]] = {}
        self._kept: OrderedDict[str, Counts] = OrderedDict()  # the tenant that lost its series last comes last
        self._former: Counts = {}
        self._texts: dict[str, str] = {}

    def told(self, worker: Hashable, families: Sequence[FamilyData]) -> list[FamilyData]:
        """A worker told its metrics; returns those that are not of this."""
        now: dict[str, Counts] = {}
        others: list[FamilyData] = []
        for name, text, kind, samples in families:
            if kind == "counter" and name.endswith("_former"):
                self._texts[name] = text
            elif kind == "counter":
                self._texts[name] = text
                others.append([name, text, kind, [one for one in samples if not _take(now, name, one)]])
            else:
                others.append([name, text, kind, samples])
        former = self._last.get(worker, {})
        for tenant in former.keys() - now.keys():
            self._keep(tenant, former[tenant])
        self._last[worker] = now
        return others

    def gone(self, worker: Hashable) -> None:
        """A worker has ended; what it told last was heard."""
        for tenant, counts in self._last.pop(worker, {}).items():
            self._keep(tenant, counts)

    def _keep(self, tenant: str, counts: Counts) -> None:
        _add(self._kept.setdefault(tenant, {}), counts)
        self._kept.move_to_end(tenant)
        while len(self._kept) > self._most:
            _, lost = self._kept.popitem(last=False)
            _add(self._former, {key: count for key, count in lost.items() if key.family in _FORMER})

    def families(self) -> list[FamilyData]:
        """The sums of all, and those of former tenants."""
        sums: dict[str, list[list[object]]] = {}
        by_tenant: dict[str, Counts] = {}
        for each in (self._kept, *self._last.values()):
            for tenant, counts in each.items():
                _add(by_tenant.setdefault(tenant, {}), counts)
        for tenant, counts in by_tenant.items():
            for (family, rest), count in counts.items():
                sample = [f"{family}_total", {**dict(rest), _LABEL: tenant}, count]
                sums.setdefault(family, []).append(sample)
        for (family, rest), count in self._former.items():
            sums.setdefault(f"{family}_former", []).append([f"{family}_former_total", dict(rest), count])
        names = [*sums, *(name for name in self._texts if name.endswith("_former") and name not in sums)]
        return [[name, self._texts.get(name, ""), "counter", sums.get(name, [])] for name in names]


def _take(counts: dict[str, Counts], family: str, sample: Sequence[object]) -> bool:
    """Add a sample of a tenant; False: it is of none."""
    _, labels, value, *_ = sample
    assert isinstance(labels, dict)
    assert isinstance(value, int | float)
    tenant = labels.get(_LABEL, "_")
    if tenant.startswith("_"):
        return False
    rest = tuple((name, label) for name, label in labels.items() if name != _LABEL)
    counts.setdefault(tenant, {})[CounterKey(family, rest)] = value
    return True


def _add(counts: Counts, more: Counts) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
