"""How do budgets and shares keep in step? What budgets hold becomes claims, what is granted becomes their limits.

State: the member, what each server's pools wanted last, and quotas that the budgets follow. Changed by `Fleet` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from tenantproxy.config import Settings
from tenantproxy.connect.failures import LOST, describe
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import FleetUncounted, Observer
from tenantproxy.fleet.ledger import HostLedger
from tenantproxy.fleet.link import FleetLink
from tenantproxy.fleet.member import Member
from tenantproxy.fleet.ration import SharedQuota
from tenantproxy.fleet.share import Holding, Lease, Share
from tenantproxy.fleet.stats import FleetServerStats
from tenantproxy.fleet.values import Census, FleetReport, Terms
from tenantproxy.fleet.want import Want
from tenantproxy.pools.budget import ServerBudget

__all__ = ["OUTSIDE", "STARTING", "Books", "Connections"]

OUTSIDE: Final = 1
"""Connections to each server outside of the cap, so that a full one can be counted."""
STARTING: Final = 2
"""And to that of the main database: a process that starts has a connection there before it has been heard of, and
one more where it looks at its hosts."""
_COUNT_SECONDS: Final = 3.0


class Connections(Protocol):
    """What the process has on its servers."""

    def pids(self, budget: ServerBudget) -> tuple[int, ...]:
        """Process ids of all connections of a budget, lingering ones too."""
        ...

    async def count(self, budget: ServerBudget, users: tuple[str, ...]) -> tuple[int, ...]:
        """All process ids of `users` on a budget's server, by a connection to it."""
        ...

    def adopt(self, settings: Settings) -> None:
        """The configuration has changed."""
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
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._budgets = budgets
        self._link = link
        self._connections = connections
        self._clock = clock
        self._ask_for_more = wants
        self._observer = observer
        self._uncounted: set[str] = set()  # servers whose last census failed
        self.member = Member(keeps=settings.fleet.on_main_loss == "keep")
        self._wants: dict[str, Want] = {}
        self._quotas: dict[ServerBudget, SharedQuota] = {}
        self._logins: dict[ServerBudget, set[str]] = {}  # all users that were configured since the process started
        self._take_in()

    def __iter__(self) -> Iterator[tuple[ServerBudget, Share]]:
        return ((budget, self.member.shares[budget.server]) for budget in self._quotas)

    def _take_in(self) -> list[ServerBudget]:
        """Keep books of the budgets that are new, and of their users; those budgets."""
        new = [budget for budget in dict.fromkeys(self._budgets.values()) if budget not in self._quotas]
        for budget in new:
            self.member.add(budget.server, self._terms(budget))
            self._wants[budget.server] = Want()
            self._quotas[budget] = self._quota(budget, self._ask_for_more)
        for name, server in self._settings.servers.items():
            users = self._logins.setdefault(self._budgets[name], set())
            users |= {server.user} if server.login is None else {server.user, server.login.user}
        return new

    def adopt(self, settings: Settings, *, take_over: bool) -> None:
        """Servers may be new, and users others. `take_over`: budgets follow their shares already."""
        self._settings = settings
        for budget in self._take_in():
            if take_over:
                budget.follow(self._quotas[budget])

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
            cap=max(1, budget.whole - OUTSIDE - (STARTING + budget.watching if is_main else 0)),
            floor=fleet.floor + int(is_main) + budget.watching,  # the link takes one, and what looks at its hosts
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
            except (TenantProxyError, TimeoutError, *LOST) as exc:
                if budget.server not in self._uncounted:
                    self._uncounted.add(budget.server)
                    self._observer(FleetUncounted(server=budget.server, error=describe(exc)))
                continue
            self._uncounted.discard(budget.server)
            found.append(Census(server=budget.server, epoch=epoch, pids=pids))
        return tuple(found)

    def _users(self, budget: ServerBudget) -> tuple[str, ...]:
        """The users that log in to a server for this fleet; none: any user, as each tenant has one."""
        if self._settings.tenant_roles is not None:
            return ()
        return tuple(sorted(self._logins[budget]))

    # --- shares -> budgets -------------------------------------------------------------------------------------------
    def take_over(self) -> None:
        """Let the budgets follow their shares from now on."""
        for budget, quota in self._quotas.items():
            budget.follow(quota)

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

    def last_reports(self, now: float) -> tuple[FleetReport, ...]:
        """What main is to hear before this process ends: that it leaves, or what is still open of what it had.

        That is reserved then until a census finds it gone; its row is forgotten as that of a process known to be dead.
        """
        if not any(budget.in_use for budget in self._quotas):
            return (self.member.leave(),)
        left = {budget.server: budget.in_use + self._own(budget) for budget in self._quotas}
        return self.member.end(now, left)

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
        """Connections that are no pool's: the link, and what looks at the hosts of the server."""
        return budget.watching + (self._link.count if self._is_main(budget) else 0)
