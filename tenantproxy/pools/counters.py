"""What is counted of pools and leases? Monotonic counters and histograms, which outlive pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, get_args
from weakref import WeakSet

from tenantproxy.events import CloseReason, EvictReason, ExhaustCause, Histogram, OpenReason
from tenantproxy.model import Isolation
from tenantproxy.pools.base import AcquireResult
from tenantproxy.pools.names import OTHER, TenantNames

__all__ = ["AcquireCounts", "Counters", "ExhaustCounts"]

AcquireCounts = dict[AcquireResult, int]
"""How the acquires of a tenant ended."""

ExhaustCounts = dict[ExhaustCause, int]
"""Which limits its callers met that got no connection."""

_SERVED: Final[tuple[AcquireResult, ...]] = ("ok", "cancelled")
_UNSERVED_WEIGHT: Final = 100.0  # leases: a tenant whose callers get none is looked for before a busy one


class LeaseCounter(Protocol):
    """Counts leases by itself, and adds them here when it is asked to: a pool."""

    def settle(self) -> None:
        """Add what was counted since."""
        ...


class Counters:
    """Written by pools and lenders, read at scrape.

    What a tenant counted while it had series (see `TenantNames`) goes to `former_acquires` and `former_exhaustions`
    when it loses them: so these and the series that are there make up all that ever happened, and none of them jumps.
    """

    def __init__(self, *, max_tenants: int) -> None:
        self._max_tenants = max_tenants
        self._names = TenantNames(max_tenants)
        self._pools: WeakSet[LeaseCounter] = WeakSet()
        self.places: set[str] = set()  # labels of shared pools and of main that have series of their own
        self.acquires_by_label: dict[str, AcquireCounts] = {}  # as of when pools were last asked
        self.former_acquires: AcquireCounts = no_acquires()
        self.exhaustions: ExhaustCounts = no_exhaustions()  # of all tenants
        self.exhaustions_by_label: dict[str, ExhaustCounts] = {OTHER: no_exhaustions()}
        self.former_exhaustions: ExhaustCounts = no_exhaustions()
        self.closed: dict[CloseReason, int] = dict.fromkeys(
            ("idle", "lifetime", "evicted", "max_hold", "fenced", "failover", "reset_failed", "error", "shutdown"), 0
        )
        self.opened: dict[OpenReason, int] = {"cold": 0, "reopen": 0}
        self.evicted: dict[EvictReason, int] = {"lru": 0, "idle": 0, "removed": 0, "failed": 0}
        self.resets: dict[str, int] = {"ok": 0, "failed": 0}
        self.bind_failures = 0  # sessions that could not be made a tenant's
        self.violations: dict[str, int] = {"bind": 0, "rebind": 0, "connect": 0, "role_settings": 0}  # by check
        self.acquire_wait: dict[Isolation, Histogram] = {isolation: Histogram() for isolation in Isolation}
        self.hold: dict[Isolation, Histogram] = {isolation: Histogram() for isolation in Isolation}

    # --- by tenant ---------------------------------------------------------------------------------------------------
    def join(self, pool: LeaseCounter) -> None:
        """`pool` counts leases from now on."""
        self._pools.add(pool)

    @property
    def acquires(self) -> Mapping[str, AcquireCounts]:
        """By label, as of now: every pool is asked, which takes time with thousands of tenants."""
        for pool in list(self._pools):
            pool.settle()
        return self.acquires_by_label

    def count(self, tenant: str, result: AcquireResult, number: int = 1) -> None:
        """So many acquires of `tenant` ended like that."""
        weight = number if result in _SERVED else number * _UNSERVED_WEIGHT
        self._acquires_of(self._names.note(tenant, max(0.0, weight)))[result] += number
        if tenant in self._names:
            self._show(tenant)

    def exhausted(self, tenant: str, cause: ExhaustCause) -> None:
        """A caller of `tenant`, which may not exist, met a limit."""
        self.exhaustions[cause] += 1
        label = self._names.label_of(tenant) if cause == "registry" else self._names.note(tenant, 0.0)
        self._show(label)
        self.exhaustions_by_label[label][cause] += 1

    def label_of(self, tenant: str) -> str:
        """The label under which what happens to `tenant` counts now: its id, or `_other`."""
        label = self._names.note(tenant)
        if tenant in self._names:
            self._show(tenant)
        return label

    def is_named(self, tenant: str) -> bool:
        """Whether it has series of its own now."""
        return tenant in self._names

    def review(self, now: float) -> None:
        """Let those that matter more now have the series of others; called often, with the monotonic time."""
        for tenant in self._names.review(now):
            self._hide(tenant)
        for tenant in self._names:
            self._show(tenant)

    def forget(self, tenant: str) -> None:
        """The tenant is not registered any more: its series are another tenant's."""
        if self._names.forget(tenant):
            self._hide(tenant)

    def _show(self, tenant: str) -> None:
        """All its series, from 0: Prometheus finds no increase in one that begins with its first event."""
        if tenant not in self.exhaustions_by_label:
            self._acquires_of(tenant)
            self.exhaustions_by_label[tenant] = no_exhaustions()

    def _hide(self, tenant: str) -> None:
        for result, acquires in self.acquires_by_label.pop(tenant, {}).items():
            self.former_acquires[result] += acquires
        for cause, exhaustions in self.exhaustions_by_label.pop(tenant, {}).items():
            self.former_exhaustions[cause] += exhaustions

    def _acquires_of(self, label: str) -> AcquireCounts:
        counts = self.acquires_by_label.get(label)
        if counts is None:
            counts = self.acquires_by_label[label] = no_acquires()
        return counts

    # --- by place ----------------------------------------------------------------------------------------------------
    def note_place(self, label: str) -> None:
        """A shared pool of this label opened; the first `max_tenants` have series of their own."""
        if len(self.places) < self._max_tenants:
            self.places.add(label)


def no_acquires() -> AcquireCounts:
    """None of any result."""
    return {"ok": 0, "timeout": 0, "rejected": 0, "cancelled": 0, "error": 0}


def no_exhaustions() -> ExhaustCounts:
    """None for any cause."""
    return dict.fromkeys(get_args(ExhaustCause), 0)
