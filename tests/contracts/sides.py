"""How does one test lend from both sides? The driver's connections and the raw backends, behind the same few calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic
from typing import Any, Protocol

from tenantproxy.config import Settings
from tenantproxy.connect.opening import Opening
from tenantproxy.driver.connector import AsyncpgConnector
from tenantproxy.driver.lender import Lender
from tenantproxy.driver.state import DriverConnection
from tenantproxy.events import Event
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.model import Isolation, Route, RowForm, Tenant
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.raw.backend import RawBackend
from tests.support.raw_house import RawHouse, a_raw_house, ask
from tests.support.waiting import until

Rows = list[list[str | None]]


class Side(Protocol):
    """One of the two: what it lends differs, what it must do does not."""

    budgets: dict[str, ServerBudget]
    counters: Counters
    events: list[Event]
    manager: PoolManager[Any]

    def route(self, tenant: Tenant) -> Route:
        """The plan of its sessions."""
        ...

    async def lease(self, tenant: Tenant, *, timeout: float = 15.0) -> Any:
        """A connection of the tenant's; as the side's users get one: at once, or in the tenant's turn."""
        ...

    def release(self, conn: Any, tenant: Tenant) -> None:
        """It goes back."""
        ...

    async def ask(self, conn: Any, sql: str) -> Rows:
        """The rows of one statement, as text."""
        ...

    def transport(self, conn: Any) -> asyncio.BaseTransport:
        """What it speaks over."""
        ...


class DriverSide:
    """asyncpg's connections, as a router lends them."""

    def __init__(self, settings: Settings) -> None:
        self.events: list[Event] = []
        self.counters = Counters(max_tenants=100)
        observer = self.events.append
        self.budgets = {
            name: ServerBudget(name, limit=server.max_connections, clock=monotonic, observer=observer)
            for name, server in settings.servers.items()
        }
        opening = Opening(settings, observer=observer, violations=self.counters.violations)
        self.connector = AsyncpgConnector(opening, init=None)
        self.manager: PoolManager[DriverConnection] = PoolManager(
            budgets=self.budgets,
            settings=settings.pools,
            connector=self.connector,
            clock=monotonic,
            observer=observer,
            counters=self.counters,
        )
        self.lender = Lender(
            counters=self.counters,
            observer=observer,
            reset="on_tenant_change",  # as the raw side does
            acquire_timeout=settings.pools.acquire_timeout,
            proof_window=settings.row.proof_window,
        )
        self.connector.reset = self.lender.begin_reset
        self._plans: dict[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(signed=settings.row.signed, setting=settings.row.setting, form=settings.row.form),
        }

    def route(self, tenant: Tenant) -> Route:
        return self._plans[tenant.placement.isolation].plan(tenant)

    async def lease(self, tenant: Tenant, *, timeout: float = 15.0) -> DriverConnection:
        route = self.route(tenant)
        pool = self.manager.pool(route)
        return self.lender.acquire_nowait(pool, route) or await self.lender.acquire(pool, route, timeout)

    def release(self, conn: DriverConnection, tenant: Tenant) -> None:
        self.lender.release(conn, self.route(tenant))

    async def ask(self, conn: DriverConnection, sql: str) -> Rows:
        return [[None if value is None else str(value) for value in row] for row in await conn.con.fetch(sql)]

    def transport(self, conn: DriverConnection) -> asyncio.BaseTransport:
        return conn.con._transport

    async def close(self) -> None:
        pools = [*self.manager, *self.manager.closing()]
        self.manager.close()
        for pool in pools:
            for conn in list(pool.connections()):
                pool.retire(conn, "shutdown")
        await self.connector.settle(5.0)
        await self.connector.close()
        assert not any(pool.permits for pool in pools), "a permit was lost"


class RawSide:
    """Raw backends, as the PostgreSQL port lends them."""

    def __init__(self, house: RawHouse) -> None:
        self._house = house
        self.budgets = dict(house.budgets)
        self.counters = house.counters
        self.events = house.events
        self.manager = house.manager

    def route(self, tenant: Tenant) -> Route:
        return self._house.route(tenant)

    async def lease(self, tenant: Tenant, *, timeout: float = 15.0) -> RawBackend:
        self._house.lender.acquire_timeout = timeout
        return await self._house.lease(tenant)

    def release(self, conn: RawBackend, tenant: Tenant) -> None:
        self._house.release(conn, tenant)

    async def ask(self, conn: RawBackend, sql: str) -> Rows:
        return await ask(conn, sql)

    def transport(self, conn: RawBackend) -> asyncio.BaseTransport:
        return conn.transport


@asynccontextmanager
async def _a_driver_side(settings: Settings) -> AsyncIterator[Side]:
    side = DriverSide(settings)
    try:
        yield side
    finally:
        await side.close()


@asynccontextmanager
async def _a_raw_side(settings: Settings) -> AsyncIterator[Side]:
    async with a_raw_house(settings) as house:
        yield RawSide(house)


SIDES = ("driver", "raw")
SIDES_AND_FORMS = (*SIDES, "driver, trusted", "raw, trusted")


def form_of(name: str) -> RowForm:
    """How row tenants are kept apart on the side called so."""
    return "trusted" if name.endswith("trusted") else "bound"


def a_side(name: str, settings: Settings) -> AbstractAsyncContextManager[Side]:
    """Closed afterwards, with every permit back."""
    return _a_driver_side(settings) if name.startswith("driver") else _a_raw_side(settings)


async def settled(side: Side) -> None:
    """Wait until nothing is being opened, reset or ended."""

    def is_settled() -> bool:
        pools = [pool.stats() for pool in (*side.manager, *side.manager.closing())]
        return not any(pool.opening or pool.resetting or pool.retiring for pool in pools)

    await until(is_settled, "connects, resets and ends are over")
