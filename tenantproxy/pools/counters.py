"""What is counted of pools and leases? Monotonic counters and histograms, which outlive pools."""

from __future__ import annotations

from tenantproxy.events import CloseReason, EvictReason, ExhaustCause, Histogram, OpenReason
from tenantproxy.model import Isolation, TenantId
from tenantproxy.pools.queue import AcquireCounts

__all__ = ["Counters"]


class Counters:
    """Written by pools and lenders, read at scrape."""

    def __init__(self, *, max_tenants: int) -> None:
        self._max_tenants = max_tenants
        self._named: set[str] = set()  # tenants with series of their own, for the life of the process
        self.places: set[str] = set()  # labels of shared pools and of main that have series of their own, likewise
        self.acquires: dict[str, AcquireCounts] = {}
        self.exhaustions: dict[ExhaustCause, int] = dict.fromkeys(
            ("tenant_limit", "server_budget", "queue_full", "connect", "registry"), 0
        )
        self.closed: dict[CloseReason, int] = dict.fromkeys(
            ("idle", "lifetime", "evicted", "max_hold", "fenced", "failover", "reset_failed", "error", "shutdown"), 0
        )
        self.opened: dict[OpenReason, int] = {"cold": 0, "reopen": 0}
        self.evicted: dict[EvictReason, int] = {"lru": 0, "idle": 0, "removed": 0, "failed": 0}
        self.resets: dict[str, int] = {"ok": 0, "failed": 0}
        self.bind_failures = 0  # sessions that could not be made a tenant's
        self.violations: dict[str, int] = {"bind": 0, "connect": 0, "role_settings": 0}  # by check
        self.acquire_wait: dict[Isolation, Histogram] = {isolation: Histogram() for isolation in Isolation}
        self.hold: dict[Isolation, Histogram] = {isolation: Histogram() for isolation in Isolation}

    def label_of(self, tenant: str) -> str:
        """The tenant's label in all series: its id for the first `max_tenants` that came, `_other` for the rest.

        A label is never taken away, so that no counter goes back; names of our own (`_main`) do not count.
        """
        if tenant in self._named or tenant.startswith("_"):
            return tenant
        if len(self._named) >= self._max_tenants:
            return "_other"
        self._named.add(tenant)
        return tenant

    def note_place(self, label: str) -> None:
        """A shared pool of this label opened; the first `max_tenants` have series of their own."""
        if len(self.places) < self._max_tenants:
            self.places.add(label)

    def acquires_of(self, tenant: TenantId) -> AcquireCounts:
        """The counts of `tenant`, under its label."""
        name = self.label_of(tenant)
        counts = self.acquires.get(name)
        if counts is None:
            counts = self.acquires[name] = {"ok": 0, "timeout": 0, "rejected": 0, "cancelled": 0, "error": 0}
        return counts
