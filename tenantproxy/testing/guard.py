"""Did a test leak? Data of one tenant to another, a connection that is still lent, or a tenant that stays set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from tenantproxy.context import current
from tenantproxy.errors import TenantMissing
from tenantproxy.pools.base import Stats
from tenantproxy.routes import MAIN
from tenantproxy.testing.isolated import IsolationLeak, fresh_secret, holds

__all__ = ["LeakGuard"]


class HasStats(Protocol):
    """A `Router`, or a `FakeRouter`."""

    def stats(self) -> Stats:
        """What its pools hold."""
        ...


R = TypeVar("R", bound=HasStats)


class LeakGuard:
    """Gives each tenant a secret, looks for it where it must not be, and watches the connections of routers.

    The fixture `leak_guard` calls `check` at the end of the test.
    """

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}
        self._watched: list[Callable[[], Stats]] = []

    def secret(self, tenant: str) -> str:
        """Text to store as data of `tenant`; the same each time, and known to no other tenant."""
        return self._secrets.setdefault(tenant, fresh_secret())

    def saw(self, tenant: str, *values: object) -> None:
        """Say what was shown to `tenant`: rows, responses, bodies, log lines. Raises IsolationLeak."""
        for other, text in self._secrets.items():
            if other != tenant and any(holds(value, text) for value in values):
                raise IsolationLeak(f"{tenant} is shown what belongs to {other}")

    def watch(self, router: R) -> R:
        """Look at the end whether `router` has its connections back; returns it."""
        self._watched.append(router.stats)
        return router

    def check(self) -> None:
        """All connections were given back, no check of isolation failed, no tenant is set. Raises AssertionError."""
        for stats in (ask() for ask in self._watched):
            lent = {
                each.tenant.lstrip("_"): each.leased  # a lane of the router's own begins with _, but for `main()`
                for pool in stats.pools
                for each in pool.tenants
                if each.leased and (not each.tenant.startswith("_") or each.tenant == MAIN)
            }
            if lent:
                raise AssertionError(f"connections are still lent: {_listed(lent)}")
            if any(stats.violations.values()):
                raise IsolationLeak(f"checks of isolation failed: {_listed(dict(stats.violations))}")
        try:
            scope = current()
        except TenantMissing:
            return
        raise AssertionError(
            f"the tenant {scope.id} is still set: leave the block of `use` in the task that entered it"
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
