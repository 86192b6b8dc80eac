"""Do processes share lookups through a real Redis, and is what it says used only where a lookup would say the same?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.errors import RegistryUnavailable, TenantNotFound, TenantSuspended
from tenantproxy.events import Event, RegistryCacheDown, RegistryCacheRefused, RegistryCacheUp
from tenantproxy.lifecycle import install_registry
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry import CachedRegistry, MemoryRegistry, TenantMisconfigured, cache
from tenantproxy.registry.redis import Breaker
from tenantproxy.registry.sealed import MAX_BYTES, Seal
from tenantproxy.registry.shared import SKEW
from tests.support.database import Database
from tests.support.redis_server import PASSWORD, RedisServer, liar
from tests.support.waiting import until

ACME, GLOBEX = tenant_id("acme"), tenant_id("globex")
KEY = "of-the-entries-" * 3
TTL = 30.0
PATIENT = 20.0  # for a Redis on a busy machine


def a_tenant(name: TenantId = ACME, *, database: str = "first", epoch: int = 0) -> Tenant:
    place = Placement(isolation=Isolation.DATABASE, server="primary", database=database)
    return Tenant(id=name, placement=place, epoch=epoch)


class Source:
    """Counts who asks for what, can be down, and announces nothing."""

    source = "memory"

    def __init__(self) -> None:
        self.is_now = MemoryRegistry([a_tenant(), a_tenant(GLOBEX, database="of_globex")])
        self.asked: list[str] = []
        self.broken: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, tenant: TenantId) -> Tenant:
        self.asked.append(tenant)
        if self.broken is not None:
            raise self.broken
        found = await self.is_now.get(tenant)
        await self.gate.wait()
        return found

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        return self.is_now.tenants(status=status)

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class Time:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Deployment:
    """Processes with one source, one Redis and one clock; none hears of changes unless it is told."""

    server: RedisServer
    source: Source
    stack: AsyncExitStack
    time: Time = field(default_factory=Time)

    def settings(self, *, address: str | None = None, timeout: float = PATIENT) -> Settings:
        redis = {"address": address or self.server.address, "password": PASSWORD, "key": KEY, "timeout": timeout}
        return Settings.from_mapping(
            {
                "main": {"server": "primary", "database": "main"},
                "servers": {"primary": {"user": "app", "password": "x"}},
                "registry": {"cache_ttl": TTL, "redis": redis},
            }
        )

    async def process(self, events: list[Event] | None = None, **redis: object) -> CachedRegistry:
        told = events.append if events is not None else lambda event: None
        registry = cache(self.source, self.settings(**redis), clock=self.time, wall=self.time, observer=told)  # type: ignore[arg-type]
        await registry.open()
        self.stack.push_async_callback(registry.close)
        return registry

    async def two(self, events: list[Event] | None = None) -> tuple[CachedRegistry, CachedRegistry]:
        """Two processes that have been open for a while."""
        one, other = await self.process(), await self.process(events)
        self.time.now += SKEW + 1
        return one, other

    @property
    def seal(self) -> Seal:
        return Seal(KEY.encode(), self.settings())

    async def kept(self, tenant: TenantId = ACME) -> bytes | None:
        async with self.server.client() as client:
            entry = await client.get(self.seal.name(tenant))
            assert not isinstance(entry, str)
            return entry

    async def keep(self, entry: bytes, tenant: TenantId = ACME) -> None:
        async with self.server.client() as client:
            await client.set(self.seal.name(tenant), entry)

    async def shared(self, registry: CachedRegistry, tenant: TenantId = ACME) -> bytes:
        """What `registry` looked up, as it is kept."""
        await registry.get(tenant)
        await until(lambda: self.kept(tenant), "the entry is kept")
        entry = await self.kept(tenant)
        assert entry is not None
        return entry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def deployment(server: RedisServer) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        async with server.client() as client:
            await client.flushall()
        yield Deployment(server, Source(), stack)


async def test_what_one_process_looked_up_no_other_asks_for(deployment: Deployment) -> None:
    one, other = await deployment.two()
    await deployment.shared(one)
    assert await other.get(ACME) == a_tenant()
    assert deployment.source.asked == [ACME]
    assert other.lookups["redis", "hit"] == 1


async def test_a_shared_answer_ends_with_the_lookup_that_it_is_of(deployment: Deployment) -> None:
    one, other = await deployment.two()
    await deployment.shared(one)
    deployment.time.now += TTL * 0.45
    assert await other.get(ACME) == a_tenant()
    deployment.source.is_now.replace([a_tenant(database="second")])
    deployment.time.now += TTL * 0.56
    assert (await other.get(ACME)).placement.database == "second"


async def test_one_process_asks_for_all_before_the_answer_ends(deployment: Deployment) -> None:
    processes = [await deployment.process() for _ in range(8)]
    deployment.time.now += SKEW + 1
    await deployment.shared(processes[0])
    for process in processes:
        await process.get(ACME)
    for _ in range(30):
        deployment.time.now += TTL / 20
        before = len(deployment.source.asked)
        await asyncio.gather(*(process.get(ACME) for process in processes))
        if len(deployment.source.asked) > before:
            stamp = int(deployment.time.now * 1e6).to_bytes(8, "big")
            await until(lambda: _has(deployment, stamp), "the entry is kept")  # noqa: B023
    assert len(deployment.source.asked) < 8


async def _has(deployment: Deployment, stamp: bytes) -> bool:
    return stamp in (await deployment.kept() or b"")


async def test_after_a_change_was_heard_no_older_entry_is_used(deployment: Deployment) -> None:
    one, other = await deployment.two()
    before = await deployment.shared(one)
    await other.get(ACME)
    deployment.source.is_now.replace([replace(a_tenant(epoch=1), status=TenantStatus.SUSPENDED)])
    deployment.time.now += 1
    other.invalidate(ACME)
    await deployment.keep(before)  # by a process that lags, or by who kept it
    assert (await other.get(ACME)).status is TenantStatus.SUSPENDED
    other.invalidate(None)
    await deployment.keep(before)
    assert (await other.get(ACME)).status is TenantStatus.SUSPENDED


async def test_a_deleted_tenant_does_not_come_back_by_a_replay(deployment: Deployment) -> None:
    one, other = await deployment.two()
    before = await deployment.shared(one)
    deployment.source.is_now.remove(ACME)
    deployment.time.now += 1
    other.invalidate(ACME)
    for _ in range(3):
        await deployment.keep(before)
        with pytest.raises(TenantNotFound):
            await other.get(ACME)
        deployment.time.now += 6  # longer than it stays unknown


async def test_a_process_believes_nothing_from_before_it_began(deployment: Deployment) -> None:
    one, _ = await deployment.two()
    before = await deployment.shared(one)
    deployment.source.is_now.replace([a_tenant(database="second")])
    deployment.time.now += 1
    late = await deployment.process()
    await deployment.keep(before)
    assert (await late.get(ACME)).placement.database == "second"


async def test_an_answer_from_before_a_change_is_not_shared(deployment: Deployment) -> None:
    one, _ = await deployment.two()
    deployment.source.gate.clear()
    waiting = asyncio.create_task(one.get(ACME))
    await until(lambda: deployment.source.asked, "it is asked")
    deployment.time.now += 1
    one.invalidate(ACME)
    deployment.source.gate.set()
    await waiting
    await deployment.shared(one, GLOBEX)  # written after what was before it
    assert await deployment.kept() is None


async def test_an_entry_with_a_lower_epoch_than_known_is_not_used(deployment: Deployment) -> None:
    one, other = await deployment.two()
    await deployment.shared(one)
    await other.get(ACME)
    deployment.source.is_now.replace([a_tenant(database="second", epoch=3)])
    deployment.time.now += TTL + 1
    await other.get(ACME)
    deployment.time.now += TTL + 1
    await deployment.keep(deployment.seal.seal(a_tenant(epoch=2), deployment.time.now - 1))
    assert (await other.get(ACME)).placement.database == "second"


FORGED = {
    "garbage": b"garbage",
    "huge": b"x" * (8 * 1024 * 1024),
    "an unsigned one": bytes(32) + bytes(8) + b'{"place": ["database", "primary", "of_globex", null, null]}',
}


@pytest.mark.parametrize("lie", FORGED)
async def test_a_forged_entry_costs_a_lookup_and_is_told(lie: str, deployment: Deployment) -> None:
    events: list[Event] = []
    _, other = await deployment.two(events)
    await deployment.keep(FORGED[lie])
    assert await other.get(ACME) == a_tenant()
    assert deployment.source.asked == [ACME]
    assert other.lookups["redis", "refused"] == 1
    assert [type(each) for each in events] == [RegistryCacheRefused]
    assert KEY not in str(events)
    assert PASSWORD not in str(events)


async def test_two_tenants_entries_cannot_be_swapped(deployment: Deployment) -> None:
    events: list[Event] = []
    one, other = await deployment.two(events)
    of_acme, of_globex = await deployment.shared(one), await deployment.shared(one, GLOBEX)
    await deployment.keep(of_globex, ACME)
    await deployment.keep(of_acme, GLOBEX)
    assert (await other.get(ACME)).placement.database == "first"
    assert (await other.get(GLOBEX)).placement.database == "of_globex"
    assert other.lookups["redis", "refused"] == 2
    assert len(events) == 1  # the second one is told with the next, a minute later at the earliest


async def test_an_entry_from_the_future_is_refused(deployment: Deployment) -> None:
    _, other = await deployment.two()
    entry = deployment.seal.seal(a_tenant(database="wrong"), deployment.time.now + 100)
    await deployment.keep(entry)
    assert (await other.get(ACME)).placement.database == "first"
    assert other.lookups["redis", "refused"] == 1


async def test_a_key_of_another_type_costs_only_its_own_lookup(deployment: Deployment) -> None:
    _, other = await deployment.two()
    async with deployment.server.client() as client:
        await client.lpush(deployment.seal.name(ACME), "x")
    assert await other.get(ACME) == a_tenant()
    assert other.lookups["redis", "refused"] == 1


async def test_what_the_source_says_is_asked_past_redis(deployment: Deployment) -> None:
    one, other = await deployment.two()
    await deployment.shared(one)
    await other.ask(ACME)
    assert deployment.source.asked == [ACME, ACME]


async def test_an_outage_and_an_unusable_tenant_are_not_shared(deployment: Deployment) -> None:
    one, _ = await deployment.two()
    for broken in (RegistryUnavailable("down"), TenantMisconfigured("bad")):
        deployment.source.broken = broken
        with pytest.raises(RegistryUnavailable):
            await one.get(ACME)
        one.invalidate(ACME)
    deployment.source.broken = None
    await deployment.shared(one, GLOBEX)
    assert await deployment.kept() is None


async def test_while_redis_is_down_the_source_is_asked_and_redis_left_alone(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with AsyncExitStack() as stack:
        deployment = Deployment(server, Source(), stack)
        events: list[Event] = []
        registry = await deployment.process(events)
        deployment.time.now += SKEW + 1
        assert await registry.get(ACME) == a_tenant()
        await registry.get(GLOBEX)
        assert [type(each) for each in events] == [RegistryCacheDown]
        server.start()
        stack.callback(server.kill)
        deployment.time.now += TTL + 1
        await deployment.shared(registry)
        assert [type(each) for each in events] == [RegistryCacheDown, RegistryCacheUp]


async def test_a_silent_redis_is_waited_for_once(deployment: Deployment) -> None:
    deployment.server.freeze()
    try:
        registry = await deployment.process(timeout=0.05)
        for name in (ACME, GLOBEX):
            await registry.get(name)
        assert deployment.source.asked == [ACME, GLOBEX]
        assert registry.lookups["redis", "error"] == 2
    finally:
        deployment.server.thaw()


LIES = {
    "a long answer": b"$2000000000\r\n" + b"x" * 65_536,
    "a length below zero": b"$-7\r\n",
    "a depth without end": b"*1\r\n" * 5_000,
    "many answers": b"*2000000000\r\n" + b":1\r\n" * 10_000,
    "another protocol": b"HTTP/1.1 200 OK\r\n\r\n",
    "a redirection": b"-MOVED 1 127.0.0.1:1\r\n",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_peer_that_is_no_redis_costs_a_lookup(lie: str, deployment: Deployment) -> None:
    async with liar(LIES[lie]) as port:
        registry = await deployment.process(address=f"127.0.0.1:{port}", timeout=0.3)
        deployment.time.now += SKEW + 1
        assert await registry.get(ACME) == a_tenant()
        assert deployment.source.asked == [ACME]
        await registry.close()


async def test_no_more_of_an_entry_is_read_than_one_can_have(deployment: Deployment) -> None:
    registry = await deployment.process()
    await deployment.keep(FORGED["huge"])
    assert registry.shared is not None
    kept = await registry.shared._entries.read([deployment.seal.name(ACME)])
    assert [len(each) for each in kept or () if isinstance(each, bytes)] == [MAX_BYTES + 1]


async def test_two_routers_share_a_lookup_and_both_refuse_once_it_is_suspended(
    server: RedisServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.registry.shared.SKEW", 0.0)  # both are on this machine
    app, password = f"app_{secrets.token_hex(4)}", secrets.token_hex(16)
    async with database.connect() as admin:
        await admin.execute(f"create role {app} login password '{password}'")
        await install_registry(admin, app_role=app)
        await admin.execute(
            "insert into tenantproxy.tenants (id, isolation, database) values ('acme', 'database', $1)", database.name
        )
        place = {"host": database.server.host, "port": database.server.port, "ssl": "disable"}
        settings = Settings.from_mapping(
            {
                "main": {"server": "primary", "database": database.name},
                "servers": {"primary": {**place, "user": app, "password": password}},
                "registry": {
                    "cache_ttl": 3600,
                    "redis": {"address": server.address, "password": PASSWORD, "key": KEY, "timeout": PATIENT},
                },
            }
        )
        try:
            async with Router(settings) as one, Router(settings) as other:
                await until(one._life._main.listener.listening.is_set, "one listens")
                await until(other._life._main.listener.listening.is_set, "the other one listens")
                await until(lambda: _hits(one, other), "one uses what the other one looked up")
                await admin.execute("update tenantproxy.tenants set status = 'suspended'")
                for router in (one, other):
                    await until(lambda: _refuses(router), "it is refused")  # noqa: B023
                    for _ in range(3):
                        router._registry._entries.clear()  # so that Redis is asked again
                        assert await _refuses(router)
        finally:
            await admin.execute(f"drop owned by {app}; drop role {app}")


async def _hits(*routers: Router) -> bool:
    for router in routers:
        router._registry._entries.clear()
        assert await router.tenant("acme").fetchval("select 1") == 1
    return any(router._registry.lookups.get(("redis", "hit"), 0) for router in routers)


async def _refuses(router: Router) -> bool:
    try:
        await router.tenant("acme").fetchval("select 1")
    except TenantSuspended:
        return True
    return False


def test_one_caller_tries_a_redis_that_failed() -> None:
    time = Time()
    breaker = Breaker(pause=5.0, clock=time)
    assert breaker.admits()
    assert breaker.failed()
    assert not breaker.admits()
    time.now += 5
    assert breaker.admits()
    assert not breaker.admits()
    assert not breaker.failed()
    time.now += 5
    assert breaker.admits()
    assert breaker.worked()
    assert breaker.admits()
