"""What passed through the PostgreSQL port? Plain counters, written by relays and read at scrape."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tenantproxy.model import TenantId

__all__ = ["Traffic", "TrafficTable"]

_OTHER: Final = TenantId("_other")


class Traffic:
    """One tenant's: all its clients add to it, and it outlives them, so that no counter ever goes back."""

    __slots__ = (
        "leases",
        "logins",
        "pins",
        "queries",
        "query_seconds",
        "received",
        "sent",
        "transaction_seconds",
        "transactions",
        "wait_seconds",
    )

    def __init__(self) -> None:
        self.logins = 0  # clients that were let in
        self.received = 0  # bytes from clients
        self.sent = 0  # bytes to clients
        self.queries = 0  # answered with ReadyForQuery
        self.query_seconds = 0.0  # from the first message to that
        self.transactions = 0  # ended
        self.transaction_seconds = 0.0  # that their backends were held
        self.leases = 0  # of backends
        self.pins = 0  # how often a client began to keep its backend for what it had left there
        self.wait_seconds = 0.0  # for them

    def add(self, more: Traffic, less: Traffic | None = None) -> None:
        """Add what `more` has, without what `less` has."""
        for name in self.__slots__:
            value = getattr(more, name) - (getattr(less, name) if less is not None else 0)
            setattr(self, name, getattr(self, name) + value)

    def copy(self) -> Traffic:
        """The same, of this moment."""
        one = Traffic()
        one.add(self)
        return one


class TrafficTable:
    """Who counts where. A client counts under the label that its tenant had when it logged in.

    When a tenant loses its series, those of its clients that stay go on in `_other`; what they had is in `former`.
    """

    def __init__(self, label_of: Callable[[str], str], is_named: Callable[[str], bool]) -> None:
        self._label_of = label_of
        self._is_named = is_named
        self._left: list[tuple[Traffic, Traffic]] = []  # of such clients: what they count, and what of it is told
        self.by_label: dict[TenantId, Traffic] = {}
        self.former = Traffic()

    def of(self, tenant: TenantId) -> Traffic:
        """Where what passes of `tenant` is counted."""
        return self._of(TenantId(self._label_of(tenant)))

    def _of(self, label: TenantId) -> Traffic:
        traffic = self.by_label.get(label)
        if traffic is None:
            traffic = self.by_label[label] = Traffic()
        return traffic

    def settle(self, in_use: Callable[[], Collection[int]]) -> None:
        """Take the series of tenants that lost them into others; `in_use`: `id`s of what clients count in."""
        for label in [label for label in self.by_label if not self._is_named(label)]:
            traffic = self.by_label.pop(label)
            told = traffic.copy()
            self.former.add(told)
            self._left.append((traffic, told))
        if self._left:
            used, others = in_use(), self._of(_OTHER)
            for traffic, told in self._left:
                others.add(traffic, told)
            self._left = [(traffic, traffic.copy()) for traffic, _ in self._left if id(traffic) in used]
