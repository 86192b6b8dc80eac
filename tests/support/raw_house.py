"""How does a test play the relay? Raw backends from a lender, with queries whose answers are read whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Event
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.model import Isolation, Route, Tenant
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.backend import Settings as SessionSettings
from tenantproxy.raw.exchange import query, sqlstate_of, values_of
from tenantproxy.raw.lender import Acquire, raw_route
from tenantproxy.raw.side import new_raw_side
from tenantproxy.wire.frames import COMMAND_COMPLETE, DATA_ROW, ERROR, HEADER, NOTIFICATION, READY, length_of
from tests.support.waiting import until

Rows = list[list[str | None]]


class ServerError(Exception):
    """The server answered with an error."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class Talk:
    """Reads what a backend answers until it is ready."""

    def __init__(self, backend: RawBackend) -> None:
        self.backend = backend
        self.rows: Rows = []
        self.tags: list[str] = []
        self.kinds: list[int] = []
        self._buffer = b""
        self._left = 1
        self.error: str | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        backend.sink, backend.on_lost = self._received, self._lost

    def _received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER and len(self._buffer) >= (length := length_of(self._buffer, 0)):
            kind, payload, self._buffer = self._buffer[0], self._buffer[HEADER:length], self._buffer[length:]
            self.kinds.append(kind)
            if kind == DATA_ROW:
                self.rows.append([None if value is None else value.decode() for value in values_of(payload)])
            elif kind == COMMAND_COMPLETE:
                self.tags.append(payload[:-1].decode())
            elif kind == ERROR:
                self.error = sqlstate_of(payload)
            elif kind == READY:
                self._left -= 1
                if not self._left and not self._done.done():
                    self._done.set_result(None)

    def _lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server closed the connection"))

    async def say(self, messages: bytes, *, answers: int = 1) -> Rows:
        """Write, and wait for so many ReadyForQuery. Raises ServerError."""
        self._left = answers
        self.backend.write(messages)
        await self._done
        if self.error is not None:
            raise ServerError(self.error)
        return self.rows

    @property
    def heard_notification(self) -> bool:
        return NOTIFICATION in self.kinds


async def ask(backend: RawBackend, sql: str) -> Rows:
    """The rows of a simple query, as its client would see them."""
    return await Talk(backend).say(query(sql))


async def value(backend: RawBackend, sql: str) -> str | None:
    """The first column of the first row."""
    return (await ask(backend, sql))[0][0]


class Client:
    """Waits for a backend."""

    def __init__(self) -> None:
        self.backend: RawBackend | None = None
        self.error: TenantProxyError | None = None
        self.calls = 0
        self.acquire: Acquire | None = None

    def entering(self) -> None:
        """See `raw.lender.Lessee`."""

    def leased(self, backend: RawBackend) -> None:
        """See `raw_lender.Lessee`."""
        assert backend.conversation is None
        self.calls += 1
        self.backend = backend

    def refused(self, error: TenantProxyError) -> None:
        """See `raw_lender.Lessee`."""
        self.calls += 1
        self.error = error

    async def answer(self) -> RawBackend:
        """What it got; raises what it was told instead."""
        await until(lambda: self.calls, "the client is told")
        assert self.calls == 1
        if self.error is not None:
            raise self.error
        assert self.backend is not None
        return self.backend


class RawHouse:
    """The raw side alone, over the servers of some settings."""

    def __init__(self, settings: Settings, *, budgets: Mapping[str, ServerBudget] | None = None) -> None:
        """`budgets`: those of a router whose servers it shares."""
        clock = monotonic
        self.settings = settings
        self.events: list[Event] = []
        self.counters = Counters(max_tenants=100)
        self.budgets = budgets or {
            name: ServerBudget(name, limit=server.max_connections, clock=clock, observer=self.events.append)
            for name, server in settings.servers.items()
        }
        self.manager: PoolManager[RawBackend]
        self.manager, self.lender, self.connector = new_raw_side(
            settings, self.budgets, self.counters, clock, self.events.append
        )
        self._plans: dict[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(signed=settings.row.signed, setting=settings.row.setting, form=settings.row.form),
        }

    def route(self, tenant: Tenant, *, replica: str | None = None, context: tuple[tuple[str, str], ...] = ()) -> Route:
        """The plan of its client."""
        plan = raw_route(self._plans[tenant.placement.isolation].plan(tenant, replica=replica))
        return replace(plan, session=replace(plan.session, context=context)) if context else plan

    def pool(self, tenant: Tenant) -> Pool[RawBackend]:
        """The pool of its backends."""
        return self.manager.pool(self.route(tenant))

    def ask_for(self, tenant: Tenant, session: SessionSettings = ()) -> Client:
        """A client that wants a backend."""
        return self.ask_by(self.route(tenant), session)

    def ask_by(self, route: Route, session: SessionSettings = ()) -> Client:
        """A client that wants a backend by this plan."""
        client = Client()
        client.acquire = self.lender.acquire(self.manager.pool(route), route, session, client)
        return client

    async def lease(self, tenant: Tenant, session: SessionSettings = ()) -> RawBackend:
        """As the relay does: at once, or in its turn."""
        route = self.route(tenant)
        backend = self.lender.lease_nowait(self.manager.pool(route), route, session)
        return backend if backend is not None else await self.ask_for(tenant, session).answer()

    def release(self, backend: RawBackend, tenant: Tenant, *, is_dirty: bool = False) -> None:
        """As the relay does."""
        self.lender.release(backend, self.route(tenant), is_dirty=is_dirty)

    @asynccontextmanager
    async def leased(
        self, tenant: Tenant, session: SessionSettings = (), *, is_dirty: bool = False
    ) -> AsyncIterator[RawBackend]:
        """A lease for a block."""
        backend = await self.lease(tenant, session)
        yield backend
        self.release(backend, tenant, is_dirty=is_dirty)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        await until(self._is_settled, "connects, resets and ends are over")

    def _is_settled(self) -> bool:
        pools = [pool.stats() for pool in (*self.manager, *self.manager.closing())]
        return not any(pool.opening or pool.resetting or pool.retiring for pool in pools)

    async def close(self) -> None:
        """As the router does."""
        pools = [*self.manager, *self.manager.closing()]
        self.manager.close()
        for pool in pools:
            for backend in list(pool.connections()):
                pool.retire(backend, "shutdown")
        await self.connector.settle(5.0)
        await self.connector.close()
        assert not any(pool.permits for pool in pools), "a permit was lost"


@asynccontextmanager
async def a_raw_house(
    settings: Settings, *, budgets: Mapping[str, ServerBudget] | None = None
) -> AsyncIterator[RawHouse]:
    """Closed afterwards, with every permit back."""
    house = RawHouse(settings, budgets=budgets)
    try:
        yield house
    finally:
        await house.close()
