"""How do budgets and shares keep in step? What budgets hold becomes claims, what is granted becomes their limits.

State: the member, what each server's pools wanted last, and quotas that the budgets follow. Changed by `Fleet` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from tenantproxy.config import Settings
from tenantproxy.connect.failures import LOST
from tenantproxy.errors import TenantProxyError
from tenantproxy.fleet.ledger import HostLedger
from tenantproxy.fleet.link import FleetLink
from tenantproxy.fleet.member import Member
from tenantproxy.fleet.ration import SharedQuota
from tenantproxy.fleet.share import Holding, Lease, Share
from tenantproxy.fleet.stats import FleetServerStats
from tenantproxy.fleet.values import Census, Terms
from tenantproxy.fleet.want import Want
from tenantproxy.pools.budget import ServerBudget

__all__ = ["OUTSIDE", "STARTING", "Books", "Connections"]

OUTSIDE: Final = 1
"""Connections to each server outside of the cap, so that a full one can be counted."""
STARTING: Final = 2
"""And to that of the main database: a process that starts has a connection there before it has been heard of."""
_COUNT_SECONDS: Final = 3.0


class Connections(Protocol):
    """What the process has on its servers."""

    def pids(self, budget: ServerBudget) -> tuple[int, ...]:
        """Process ids of all connections of a budget, lingering ones too."""
        ...

    async def count(self, budget: ServerBudget, users: tuple[str, ...]) -> tuple[int, ...]:
        """All process ids of `users` on a budget's server, by a connection to it."""
        ...


class Books:
    """The shares of one process and the budgets they belong to. `wants` is called when a budget wants more."""

    def __init__(
        self,
        settings: Settings,
        budgets: Mapping[str, ServerBudget],
        *,
        link: FleetLink | HostLedger,
        connections: Connections,
        clock: Callable[[], float],
        wants: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._budgets = budgets
        self._link = link
        self._connections = connections
        self._clock = clock
        self._each: Final = tuple(dict.fromkeys(budgets.values()))
        keeps = settings.fleet.on_main_loss == "keep"
        self.member = Member({budget.server: self._terms(budget) for budget in self._each}, keeps=keeps)
        self._wants = {budget.server: Want() for budget in self._each}
        self._quotas = {budget: self._quota(budget, wants) for budget in self._each}

    def __iter__(self) -> Iterator[tuple[ServerBudget, Share]]:
        return ((budget, self.member.shares[budget.server]) for budget in self._each)

    # --- budgets -> shares -------------------------------------------------------------------------------------------
    def holdings(self, now: float) -> dict[str, Holding]:
        """What each server's budget holds and wants. The connection of the link is part of the main database's."""
        found = {}
        for budget, share in self:
            share.terms = self._terms(budget)
            own = self._own(budget)
            want = self._wants[budget.server].follow(budget.wanted, now, displaced=budget.displaced)
            pids = self._pids(budget) if share.is_counted else ()
            found[budget.server] = Holding(total=budget.in_use + own, want=want + own, pids=pids)
        return found

    def _pids(self, budget: ServerBudget) -> tuple[int, ...]:
        own = self._link.pids if self._is_main(budget) else ()
        return (*self._connections.pids(budget), *own)

    def _terms(self, budget: ServerBudget) -> Terms:
        fleet, is_main = self._settings.fleet, self._is_main(budget)
        return Terms(
            cap=max(1, budget.whole - OUTSIDE - (STARTING if is_main else 0)),
            floor=fleet.floor + int(is_main),  # the link takes one
            burst=fleet.burst,
            ttl=fleet.ttl,
        )

    async def census(self) -> tuple[Census, ...]:
        """Count the servers that this process is the witness of; what cannot be counted, another one counts later."""
        found = []
        for budget, share in self:
            if not share.is_witness or share.lease(self._clock()) is not Lease.FRESH:
                continue
            epoch, users = share.epoch, self._users(budget)  # counted after the epoch was known
            try:
                if self._is_main(budget) and self._link.reaches_main:
                    pids = await self._link.pids_of(users, timeout=_COUNT_SECONDS)
                else:
                    pids = await self._connections.count(budget, users)
            except (TenantProxyError, TimeoutError, *LOST):
                continue
            found.append(Census(server=budget.server, epoch=epoch, pids=pids))
        return tuple(found)

    def _users(self, budget: ServerBudget) -> tuple[str, ...]:
        """The users that log in to a server for this fleet; none: any user, as each tenant has one."""
        if self._settings.tenant_roles is not None:
            return ()
        servers = [each for name, each in self._settings.servers.items() if self._budgets[name] is budget]
        users = {each.user for each in servers} | {each.login.user for each in servers if each.login is not None}
        return tuple(sorted(users))

    # --- shares -> budgets -------------------------------------------------------------------------------------------
    def take_over(self) -> None:
        """Let the budgets follow their shares from now on."""
        for budget in self._each:
            budget.follow(self._quotas[budget])

    def regrant(self) -> None:
        """Shares have changed or grown old: hand out what is free, and close what is too many."""
        for budget, quota in self._quotas.items():
            orders = quota.look(budget.in_use, budget.closing)
            budget.regrant()
            if orders.cancel_used:
                budget.end_leases(orders.cancel_used)

    def _quota(self, budget: ServerBudget, wants: Callable[[], None]) -> SharedQuota:
        return SharedQuota(
            self.member.shares[budget.server],
            clock=self._clock,
            own=lambda: self._own(budget),
            wants=wants,
            is_main=self._is_main(budget),
        )

    # --- what is -----------------------------------------------------------------------------------------------------
    @property
    def is_fresh(self) -> bool:
        """Whether main has answered not long ago."""
        now = self._clock()
        return all(share.lease(now) is Lease.FRESH for _, share in self)

    @property
    def has_floors(self) -> bool:
        """Whether main has granted its floor on each server, or all that there is."""
        return all(share.limit >= min(share.terms.floor, share.terms.cap) for _, share in self)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is open, but for the link."""
        return all(budget.in_use == 0 for budget in self._each)

    def stats(self) -> tuple[FleetServerStats, ...]:
        """A snapshot of each server."""
        return tuple(
            FleetServerStats(
                server=budget.server,
                granted=share.granted,
                target=share.target,
                wanted=self._wants[budget.server].value,
                used=budget.in_use + self._own(budget),
                cap=share.terms.cap,
                processes=share.processes,
                ghosts=share.ghosts,
            )
            for budget, share in self
        )

    def _is_main(self, budget: ServerBudget) -> bool:
        return self._budgets[self._settings.main.server] is budget

    def _own(self, budget: ServerBudget) -> int:
        return self._link.count if self._is_main(budget) else 0
