"""Are backends that linger still on their server? Asks it, once a second at most, while there are any.

State: the looks under way, and which servers did not answer the last one. Changed by `sweep` and by the looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import asyncpg

from tenantproxy.connect.failures import LOST, describe
from tenantproxy.connect.tasks import ConnectorTasks
from tenantproxy.driver.lender import Lender
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import LookFailed, Observer
from tenantproxy.model import Isolation, Limits, PoolKey, Route, Session, TenantId
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool

__all__ = ["LOOK_PROFILE", "Looker"]

LOOK_PROFILE: Final = "look"  # of the pools that only look
_LOOKER: Final = TenantId("_look")  # no tenant can be called so
_TIMEOUT: Final = 5.0  # for each of: to get a connection, to ask, to end what is left

_LOOK: Final = (
    "SELECT pid, pg_catalog.date_part('epoch', backend_start) AS started"
    " FROM pg_catalog.pg_stat_get_activity(NULL) WHERE pid = ANY ($1::int[])"
)
# Its client is gone, so nothing is lost with it. Only those of our own role: others are not ours to end.
_END: Final = (
    "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity(NULL) a"
    " JOIN ROWS FROM (pg_catalog.unnest($1::int[]), pg_catalog.unnest($2::float8[])) AS ours (pid, seen)"
    " ON a.pid = ours.pid AND pg_catalog.date_part('epoch', a.backend_start) <= ours.seen"
    " JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid AND r.rolname = current_user"
)


class Looker:
    """Looks for all budgets of a router, by connections of its main database, or of the reserve of other servers."""

    def __init__(
        self,
        lender: Lender,
        budgets: Mapping[str, ServerBudget],
        *,
        main: PoolKey,
        main_size: int,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._lender = lender
        self._budgets = budgets
        self._main = main
        self._main_size = main_size
        self._clock = clock
        self._observer = observer
        self._tasks = ConnectorTasks()
        self._looking: set[ServerBudget] = set()
        self._failed: set[ServerBudget] = set()  # in the last look
        self._looks = 0

    def sweep(self, manager: PoolManager[DriverConnection]) -> None:
        """Begin a look at each server on which something lingers; called about every second."""
        for name, budget in self._budgets.items():
            if budget.lingering and budget not in self._looking:
                self._looking.add(budget)
                self._tasks.spawn(self._look(manager, budget))
            elif not budget.lingering:
                manager.drop_reserved(name)
                self._failed.discard(budget)

    def forget_loop(self) -> None:
        """The event loop has ended, and with it every look."""
        self._tasks.forget_loop()
        self._looking.clear()

    async def close(self) -> None:
        """End the looks under way. The manager is still open."""
        await self._tasks.close()

    async def _look(self, manager: PoolManager[DriverConnection], budget: ServerBudget) -> None:
        try:
            pool, route = self._place(manager, budget)
            backend = await self._lender.acquire(pool, route, _TIMEOUT)
            try:
                await self._ask(backend, budget)
            except BaseException:
                pool.retire(backend, "error")
                raise
            self._lender.release(backend, route)
            self._failed.discard(budget)
        except (TenantProxyError, TimeoutError, *LOST) as exc:
            self._not_seen(manager, budget, exc)
        finally:
            self._looking.discard(budget)

    def _place(
        self, manager: PoolManager[DriverConnection], budget: ServerBudget
    ) -> tuple[Pool[DriverConnection], Route]:
        """Where to ask: in the main database, or with the rights of one of the pools that something lingers of."""
        if self._budgets[self._main.server] is budget:
            return manager.main(self._main, size=self._main_size), _route(self._main)
        self._looks += 1
        keys = sorted({one.key for one in budget.lingering}, key=lambda key: key.name)
        key = replace(keys[self._looks % len(keys)], schema=None, profile=LOOK_PROFILE, shared=False)
        pool = manager.reserved(key)
        return pool, _route(pool.key)

    async def _ask(self, backend: DriverConnection, budget: ServerBudget) -> None:
        began = self._clock()
        asked = [one.process for one in budget.lingering if one.process.pid]
        pids = [process.pid for process in asked]
        found = {row["pid"]: row["started"] for row in await backend.con.fetch(_LOOK, pids, timeout=_TIMEOUT)}
        budget.looked(found, began=began)
        left = [one.process for one in budget.lingering if one.process.pid in found and one.process.started]
        if left:
            try:
                await backend.con.fetch(
                    _END, [one.pid for one in left], [one.started for one in left], timeout=_TIMEOUT
                )
            except asyncpg.InsufficientPrivilegeError:
                pass  # then what lingers ends by itself

    def _not_seen(self, manager: PoolManager[DriverConnection], budget: ServerBudget, exc: BaseException) -> None:
        manager.drop_reserved(budget.server)
        if budget not in self._failed:
            self._failed.add(budget)
            self._observer(LookFailed(server=budget.server, error=describe(exc), lingering=len(budget.lingering)))


def _route(key: PoolKey) -> Route:
    """To the pool of `key`, where looks do not queue behind other callers."""
    return Route(tenant=_LOOKER, isolation=Isolation.DATABASE, pool=key, session=Session(), limits=Limits(max_size=1))
