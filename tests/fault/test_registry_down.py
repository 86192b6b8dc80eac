"""What if the main database, where tenants are registered, is down?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tenantproxy import ConnectFailed, RegistryUnavailable, TenantNotFound
from tenantproxy.config import Settings
from tenantproxy.events import RegistryDegraded, RegistryRecovered
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy
from tests.support.checked import CheckedRouter, audit_closed, checked
from tests.support.waiting import SLACK, until
from tests.support.world import APP_PASSWORD, APP_ROLE, World

COUNT = "SELECT count(*) FROM projects"
KINDS = ("database1", "schema1", "row1")


class Clock:
    """Monotonic seconds that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return monotonic() + self.ahead


@pytest.fixture
async def proxy(lasting: World) -> AsyncIterator[ChaosProxy]:
    """Before the main database alone: as if it were on a server of its own."""
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        yield proxy


def apart(world: World, proxy: ChaosProxy) -> Settings:
    """Main and the registry on a server of their own, the tenants on another."""
    central = {"host": proxy.host, "port": proxy.port, "user": APP_ROLE, "password": APP_PASSWORD, "ssl": "disable"}
    return world.settings(
        registry="postgres",
        main={"server": "central"},
        servers={"central": central | {"max_connections": 10, "connect_timeout": 1.0}},
    )


async def listening(router: CheckedRouter) -> None:
    """From here on an answer of the registry stays in the cache: nothing that was said before may."""
    assert router.listener.is_wanted
    await router.listener.listening.wait()


async def shut(router: CheckedRouter, proxy: ChaosProxy) -> None:
    """Main is gone: open connections break, new ones are refused."""
    proxy.refusing = True
    proxy.reset_all()
    mains = [pool for pool in router.all_pools if pool.is_main]
    await until(lambda: all(one.con.is_closed() for pool in mains for one in pool.connections()), "main is cut off")


async def test_known_tenants_are_served_while_main_is_down_and_unknown_ones_get_a_503_until_it_is_back(
    lasting: World, proxy: ChaosProxy, figure: Figure
) -> None:
    clock = Clock()
    both = {"primary": lasting.server, "central": lasting.server}
    async with checked(apart(lasting, proxy), lasting, servers=both, clock=clock) as router:
        await listening(router)
        for tenant in KINDS:
            assert await router.tenant(tenant).fetchval(COUNT) == 3
        await shut(router, proxy)
        clock.ahead += 31.0  # what is cached is not fresh any more
        for tenant in KINDS:
            began = monotonic()
            assert await router.tenant(tenant).fetchval(COUNT) == 3
            figure(f"seconds_of_the_first_call_{tenant}", monotonic() - began)
            began = monotonic()
            assert await router.tenant(tenant).fetchval(COUNT) == 3
            assert monotonic() - began < 0.2 + SLACK, "a source that is down was asked again"
        assert router.count(RegistryDegraded) == 1
        for unknown in ("database2", "no_such_tenant"):
            with pytest.raises(RegistryUnavailable) as caught:
                await router.tenant(unknown).fetchval(COUNT)
            assert (caught.value.http_status, caught.value.retryable) == (503, True)
            assert caught.value.retry_after
        assert router.stats().exhaustions["registry"] == 2
        began = monotonic()
        with pytest.raises(ConnectFailed):
            await router.main().fetchval("SELECT 1")
        assert monotonic() - began < 0.2 + SLACK, "main's breaker should be open"
        proxy.heal()
        healed_at = monotonic()
        await until(lambda: served(router, "database2"), "an unknown tenant is found again")
        figure("seconds_to_recover", monotonic() - healed_at)
        assert monotonic() - healed_at < 4.0 + SLACK
        assert router.count(RegistryRecovered) >= 1
        with pytest.raises(TenantNotFound):
            await router.tenant("no_such_tenant").fetchval(COUNT)
        for tenant in KINDS:
            assert await router.tenant(tenant).fetchval(COUNT) == 3


async def served(router: CheckedRouter, tenant: str) -> bool:
    try:
        return bool(await router.tenant(tenant).fetchval(COUNT) == 3)
    except RegistryUnavailable:
        return False


async def test_a_caller_does_not_wait_longer_for_a_silent_registry_than_it_wants_to(
    lasting: World, proxy: ChaosProxy
) -> None:
    both = {"primary": lasting.server, "central": lasting.server}
    async with checked(apart(lasting, proxy), lasting, servers=both) as router:
        await listening(router)
        assert await router.tenant("database1").fetchval(COUNT) == 3
        proxy.stall()
        began = monotonic()
        with pytest.raises(RegistryUnavailable, match="in time"):
            await router.tenant("database2").fetchval(COUNT, timeout=0.3)
        assert monotonic() - began < 0.3 + SLACK
        proxy.heal()
        assert await router.tenant("database2").fetchval(COUNT) == 3


async def test_what_was_last_known_is_served_for_stale_for_seconds_and_no_longer(
    lasting: World, proxy: ChaosProxy
) -> None:
    clock = Clock()
    settings = apart(lasting, proxy)
    both = {"primary": lasting.server, "central": lasting.server}
    async with checked(settings, lasting, servers=both, clock=clock) as router:
        await listening(router)
        assert await router.tenant("database1").fetchval(COUNT) == 3
        await shut(router, proxy)
        clock.ahead += settings.registry.cache_ttl + settings.registry.stale_for - 5.0
        assert await router.tenant("database1").fetchval(COUNT) == 3
        clock.ahead += 10.0
        with pytest.raises(RegistryUnavailable):
            await router.tenant("database1").fetchval(COUNT)
        proxy.heal()
        await until(lambda: served(router, "database1"), "it is found again")


async def test_a_router_does_not_open_without_its_main_database_and_leaves_nothing(
    lasting: World, proxy: ChaosProxy, figure: Figure
) -> None:
    proxy.refusing = True
    router = CheckedRouter(apart(lasting, proxy))
    began = monotonic()
    with pytest.raises(ConnectFailed, match="cannot be reached"):
        await router.open()
    figure("seconds_to_fail", monotonic() - began)
    assert monotonic() - began < 2.5 + SLACK
    assert not router.is_open
    await audit_closed(router, [lasting.server])
    proxy.heal()
    await router.open()
    assert await router.tenant("row1").fetchval(COUNT) == 3
    await router.close()
    await audit_closed(router, [lasting.server])
