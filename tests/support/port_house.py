"""Did a fault leave anything behind on the PostgreSQL port? A port that is watched while it works, audited afterwards.

`async with a_port(world) as house:` serves the world's tenants on a free port; `house.client("row1")` logs in. At the
end of the block no client may be left that the test closed, every permit must be accounted for, each idle backend must
be whose it is said to be with nothing left in its session, and `pg_stat_activity` must agree with our own count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import tenant_id
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.registry import Registry
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg import PgPort
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import PgListener
from tests.support.checked import CheckedRouter, agrees, checked
from tests.support.raw_house import ask
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, WireClient
from tests.support.world import APP_ROLE, SERVER, World

_LEFT_BEHIND: Final = (
    "SELECT current_setting('app.current_tenant_id', true), current_setting('search_path'), current_user,"
    " (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')"
    " + (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND pg_table_is_visible(oid))"
    " + (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_cursors WHERE is_holdable)"
)
_COUNTED: Final = ("acquires", "exhaustions", "closed", "opened", "evicted", "resets", "violations")


class PortHouse:
    """A port on `number`, and everything behind it."""

    def __init__(self, router: CheckedRouter, port: PgPort) -> None:
        self.router = router
        self.port = port
        self.clients: list[WireClient] = []
        self._before: dict[str, float] = {}

    @property
    def number(self) -> int:
        """Where it listens."""
        return self.listener.address[1]

    @property
    def listener(self) -> PgListener:
        """The listener."""
        return self.port.listener

    @property
    def lending(self) -> RawLending:
        """Its raw backends."""
        assert self.port._lending is not None
        return self.port._lending

    async def client(self, tenant: str, user: str = "all", **options: Any) -> WireClient:
        """One that has logged in, and is aborted at the end of the block if it is still there."""
        client = await WireClient.connect(self.number, tenant, user, **options)
        self.clients.append(client)
        return client

    @asynccontextmanager
    async def a_client(self, tenant: str, user: str = "all", **options: Any) -> AsyncIterator[WireClient]:
        """One for a block."""
        client = await self.client(tenant, user, **options)
        yield client
        await client.close()

    def pool(self, tenant: str) -> Pool[RawBackend]:
        """The raw pool of a tenant that has used it."""
        known = self.lending.known(tenant_id(tenant))
        assert known is not None
        return known[0]

    @property
    def is_at_rest(self) -> bool:
        """No client, no startup connection, and no outstanding request on any backend."""
        return not (self.listener._clients or self.listener._startups) and self.is_quiet

    @property
    def is_quiet(self) -> bool:
        """Nothing is lent, waited for, opened, reset or ended."""
        return self.router.is_at_rest and not any(pool.stats().used for pool in self.lending._pools)

    # --- audits ------------------------------------------------------------------------------------------------------
    def audit_counters(self) -> None:
        """No counter ever goes back; those of a tenant that is not registered any more are part of `_other`."""
        now = dict(self._counters())
        for name, before in self._before.items():
            if name not in now and name.startswith("acquires.") and self._is_unknown(name.split(".")[1]):
                continue
            assert now.get(name, 0.0) >= before, f"{name} went from {before} back to {now.get(name)}"
        self._before = now

    def _is_unknown(self, tenant: str) -> bool:
        return self.router.registry.entry(tenant_id(tenant)) is None

    def _counters(self) -> Iterator[tuple[str, float]]:
        stats = self.router.stats()
        for name in _COUNTED:
            yield from _flat(name, getattr(stats, name))
        for tenant, traffic in self.listener.traffic.items():
            for counter in traffic.__slots__:
                yield f"{tenant}.{counter}", getattr(traffic, counter)
        yield from _flat("logins", self.listener.logins)

    async def audit_sessions(self) -> None:
        """Every idle backend is bound to whom we think it is, and holds nothing that a client left."""
        for backend in list(self.lending.backends()):
            pool = backend.pool
            if not backend.is_resting:  # its pool may end it while another one is asked
                await until(lambda: self.is_quiet, "nothing is under way")
                assert backend not in set(self.lending.backends()), f"{backend} is at rest and is not"
                continue
            bound = pool.bound_to(backend)
            assert backend.bound == bound
            try:
                ((setting, path, user, left),) = await ask(backend, _LEFT_BEHIND)
            except ConnectionAbortedError:
                assert backend.is_ending, f"{backend} is at rest and does not answer"
                continue
            backend.rest()
            assert (setting or None) == bound, f"the session says {setting!r}, we say {bound!r}"
            assert path == f'"{pool.key.schema or "public"}"'
            assert user == (pool.key.user or APP_ROLE)
            assert left == "0", "locks, temporary tables, channels or cursors are left"

    async def audit(self, servers: Mapping[str, EmbeddedPostgres]) -> None:
        """All of it, when every client has gone."""
        for client in self.clients:
            client.abort()
        await until(lambda: self.is_at_rest, "every client is gone, and nothing is under way")
        self.router.audit_sums()
        self.audit_counters()
        await self.audit_sessions()
        await agrees(self.router, servers)


def _flat(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, int | float):
        yield name, value


def users(**more: Mapping[str, Any]) -> dict[str, Any]:
    """`all` keeps backends for a transaction, `session` for good; both may reach every tenant."""
    everywhere = {"password": PASSWORD, "tenants": "*"}
    return {"all": everywhere, "session": everywhere | {"pool_mode": "session"}, **more}


def port_settings(world: World, *, pg: Mapping[str, Any] | None = None, **changes: Any) -> Settings:
    """`world.settings`, with a port."""
    return world.settings(pg={"listen": "127.0.0.1:0", "users": users()} | dict(pg or {}), **changes)


@asynccontextmanager
async def a_port(
    world: World,
    *,
    drain_timeout: float = 5.0,
    real: Mapping[str, EmbeddedPostgres] | None = None,
    known: Registry | None = None,
    **changes: Any,
) -> AsyncIterator[PortHouse]:
    """The tenants of `world` on a free port; `changes` as of `World.settings`. Audited at the end of the block.

    `real`: which server each name is by then. `known`: instead of the registry that is configured.
    """
    real = {SERVER: world.server} if real is None else real
    uncaught: list[dict[str, Any]] = []  # exceptions in callbacks, which are not reported otherwise
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    async with checked(port_settings(world, **changes), world, servers=real, registry=known) as router:
        desk = AuthDesk(router)
        if router.settings.pg.jwt or router.settings.pg.oauth_issuer:
            await desk.open()
        port = PgPort(router, desk, drain_timeout=drain_timeout, version="of the tests")
        await port.open()
        house = PortHouse(router, port)
        manager = house.lending._pools
        router.more_managers.append(manager)
        watcher = asyncio.create_task(_watch(house))
        try:
            yield house
            if port.is_open:
                await house.audit(real)
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])
            for client in house.clients:
                client.abort()
            await port.close()
            await desk.close()
        if not watcher.cancelled():
            watcher.result()
        assert not [*manager, *manager.closing()], "a raw pool is left"
        assert not any(backend for backend in _open_backends(manager)), "a raw backend is left"
    assert not uncaught, uncaught


def _open_backends(manager: Any) -> Iterator[RawBackend]:
    for pool in [*manager, *manager.closing()]:
        yield from pool.connections()


async def _watch(house: PortHouse) -> None:
    with contextlib.suppress(RuntimeError):  # the test closed the port
        while True:
            house.audit_counters()
            await asyncio.sleep(0.02)
