"""Did a fault leave anything behind? A router that is watched while it works and audited when its work is over.

`async with checked(settings, world) as router:` samples the budget's sum all the time; at the end of the block nothing
may be used or waiting, each idle session must be whose it is said to be, `pg_stat_activity` must agree, and after
`close` there must be no connection and no task of tenantproxy's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg

import tenantproxy
from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.driver.connector import Init
from tenantproxy.driver.state import DriverConnection
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.events import Event, Observer, ignore
from tenantproxy.model import Route
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.registry import Registry
from tenantproxy.scope import Found, Lease, Scope
from tests.support.database import Database
from tests.support.waiting import until
from tests.support.world import APP_ROLE, SERVER, World

_OURS: Final = tuple(str(Path(str(module.__file__)).parent) for module in (tenantproxy, asyncpg))
_SESSION: Final = (
    "SELECT current_setting('app.current_tenant_id', true), current_setting('search_path'), current_user::text,"
    " (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),"
    " (SELECT count(*) FROM pg_class WHERE relpersistence = 't'), (SELECT count(*) FROM pg_listening_channels())"
)

OPENED: list[CheckedRouter] = []
"""Routers of the running test, so that its fixture can see that each was audited."""


class CheckedRouter(Router):
    """A router that knows what it has lent to whom, and hears every event."""

    def __init__(self, settings: Settings, *, observer: Observer = ignore, **options: Any) -> None:
        self.lent: dict[DriverConnection, Route] = {}
        self.acquired = 0
        self.released = 0
        self.events: list[Event] = []
        self.more_managers: list[PoolManager[Any]] = []  # of listeners that have their own connections
        self.was_audited = False
        self._hear = observer
        super().__init__(settings, observer=self._heard, **options)
        OPENED.append(self)

    def _heard(self, event: Event) -> None:
        self.events.append(event)
        self._hear(event)

    def lend_nowait(self, found: Found) -> DriverConnection | None:
        backend = super().lend_nowait(found)
        return self._noted((backend, found[1]))[0] if backend is not None else None

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        return self._noted(await super().lend(scope, found, timeout))

    def _noted(self, lease: Lease) -> Lease:
        backend, route = lease
        assert backend not in self.lent, "a backend has two owners"
        self.lent[backend] = route
        self.acquired += 1
        return lease

    def release(self, backend: DriverConnection, route: Route) -> None:
        assert self.lent.pop(backend) == route
        self.released += 1
        super().release(backend, route)

    def count(self, kind: type[Event]) -> int:
        """How many events of that kind were heard."""
        return sum(isinstance(event, kind) for event in self.events)

    @property
    def all_pools(self) -> list[Pool[DriverConnection]]:
        """Open ones and those whose last connections are still ending."""
        return list(dict.fromkeys([*self._parts.manager, *self._parts.manager.closing()]))

    @property
    def pools_of_all(self) -> list[Pool[Any]]:
        """The same, and those of listeners that have connections of their own under our budgets."""
        managers: list[PoolManager[Any]] = [self._parts.manager, *self.more_managers]
        return list(dict.fromkeys(pool for each in managers for pool in [*each, *each.closing()]))

    @property
    def is_at_rest(self) -> bool:
        """Nothing is lent but to the registry's listener; nothing is waited for, opened, reset or ended."""
        if len(self.lent) > self.listener.is_wanted or not all(backend.pool.is_main for backend in self.lent):
            return False
        pools = [pool.stats() for pool in self.pools_of_all]
        return not any(one.waiting or one.opening or one.resetting or one.retiring for one in pools)

    def audit_sums(self) -> None:
        """`idle + used + opening + resetting + retiring + lingering = in_use <= limit`, for every server. Always."""
        for name, budget in self._budgets.items():
            pools = [pool.stats() for pool in self.pools_of_all if pool.budget is budget]
            total = sum(one.idle + one.used + one.opening + one.resetting + one.retiring for one in pools)
            assert total + len(budget.lingering) == budget.in_use, (
                f"{name}: {total} + {len(budget.lingering)} lingering != {budget.in_use}: {pools}"
            )
            assert budget.in_use <= budget.limit, f"{name}: {budget.in_use} of {budget.limit}"

    async def audit_sessions(self) -> None:
        """Every idle session is reset, and bound to whom we think it is."""
        for pool in self.all_pools:
            if pool.is_main:  # what listens in the background may use one at any moment: each is borrowed as usual
                async with contextlib.AsyncExitStack() as leases:
                    for _ in range(pool.stats().idle):
                        found = self.known(self.main())
                        backend = self.lend_nowait(found) if found is not None else None
                        if found is not None and backend is not None:
                            leases.callback(self.release, backend, found[1])
                            await _audit_session(pool, backend)
                continue
            for backend in list(pool.connections()):
                if backend not in self.lent and not backend.con.is_closed():
                    await _audit_session(pool, backend)


async def _audit_session(pool: Pool[DriverConnection], backend: DriverConnection) -> None:
    bound, con = pool.bound_to(backend), backend.con
    assert backend.bound == bound
    assert not con.is_in_transaction()
    found = await con.fetchrow(_SESSION, timeout=30.0)
    assert found is not None
    setting, path, user, *left_behind = found
    assert (setting or None) == bound, f"the session says {setting!r}, we say {bound!r}"
    assert path == f'"{pool.key.schema or "public"}"'
    assert user == (pool.key.user or APP_ROLE)
    assert left_behind == [0, 0, 0], "locks, temporary tables or channels are left"
    if pool.key.shared and backend.signer is not None:
        try:
            verified = await con.fetchval("SELECT tenantproxy.bound_tenant()", timeout=30.0)
        except asyncpg.PostgresError:
            verified = None
        assert verified in (bound, None)  # None: no tenant is bound, or the proof has expired
        if bound is None:
            assert verified is None, f"a session that should be bound to no tenant is {verified!r}'s"


async def activity(server: EmbeddedPostgres, databases: Iterable[str] | None = None) -> int:
    """How many backends the server has that are not an administrator's, by its own count."""
    async with Database(server=server, name="postgres").connect() as admin:
        wanted = list(databases) if databases is not None else None
        count: int = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> $1"
            " AND ($2::text[] IS NULL OR datname = ANY ($2))",
            server.superuser, wanted,
        )  # fmt: skip
        return count


def tasks_of_ours() -> list[asyncio.Task[Any]]:
    """Tasks of this loop that run our code or the driver's."""
    return [task for task in asyncio.all_tasks() if _file_of(task).startswith(_OURS)]


async def no_task_left() -> None:
    """Return when no task runs our code or the driver's: one that was cancelled may have a step to go."""
    await until(lambda: not tasks_of_ours(), "no task of tenantproxy's is left")


def _file_of(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


@asynccontextmanager
async def checked(
    settings: Settings,
    world: World,
    *,
    servers: Mapping[str, EmbeddedPostgres] | None = None,
    registry: Registry | None = None,
    init: Init | None = None,
    clock: Callable[[], float] = monotonic,
    close_timeout: float = 5.0,
) -> AsyncIterator[CheckedRouter]:
    """An open router, watched in the block and audited at its end. `servers`: which real server each name is."""
    router = CheckedRouter(settings, registry=registry, init=init, clock=clock)
    real = dict(servers) if servers is not None else {SERVER: world.server}
    await router.open()
    watcher = asyncio.create_task(_watch(router))
    try:
        yield router
        if router.is_open:
            await until(lambda: router.is_at_rest, "nothing is lent, waited for, opened, reset or ended")
            router.audit_sums()
            assert router.acquired == router.released + len(router.lent)
            await router.audit_sessions()
            await agrees(router, real)
    except BaseException:
        router.was_audited = True  # the test fails already, for a better reason
        raise
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
        await router.close(timeout=close_timeout)
    if not watcher.cancelled():
        watcher.result()
    await audit_closed(router, real.values())


async def audit_closed(router: CheckedRouter, servers: Iterable[EmbeddedPostgres]) -> None:
    """After `close`: every lease came back, no permit but those of backends that linger, no task, no backend."""
    await no_task_left()
    assert not router.lent
    assert router.acquired == router.released
    router.audit_sums()
    assert all(budget.in_use == len(budget.lingering) for budget in router._budgets.values())
    for server in dict.fromkeys(servers):
        if server.is_running:
            await until(lambda server=server: _none(server), "the server has no backend of tenantproxy's")  # type: ignore[misc]
    router.was_audited = True


async def _none(server: EmbeddedPostgres) -> bool:
    return await activity(server) == 0


async def agrees(router: CheckedRouter, servers: Mapping[str, EmbeddedPostgres]) -> None:
    """Wait until the servers count as many connections as our budgets do."""

    async def same() -> bool:
        for server in set(servers.values()):
            names = [name for name, one in servers.items() if one is server]
            budgets = {router._budgets[name] for name in names}
            ours = sum(budget.in_use - len(budget.lingering) + budget.watching for budget in budgets)
            if await activity(server) != ours:
                return False
        return True

    await until(same, "pg_stat_activity agrees with our own count")


async def _watch(router: CheckedRouter) -> None:
    while True:
        router.audit_sums()
        await asyncio.sleep(0.002)
