"""Does the service start while its main database is down, and serve as soon as it can?"""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.pg_process import free_port
from tenantproxy import ConnectFailed, Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Tenant, TenantId, TenantStatus
from tenantproxy.registry import MemoryRegistry
from tenantproxy.sidecar.app import Sidecar
from tests.e2e.conftest import get
from tests.support.chaos import ChaosProxy
from tests.support.waiting import until, wait_until
from tests.support.world import APP_PASSWORD, APP_ROLE, World, a_world

COUNT = "SELECT count(*) FROM projects"


@pytest.fixture
async def own(own_postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(own_postgres) as world:
        yield world


@contextmanager
def starting(world: World, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A sidecar that need not come up, and the address of its admin listener."""
    admin = f"127.0.0.1:{free_port()}"
    config = folder / "tenantproxy.toml"
    config.write_text(
        f'{world.toml()}\n[admin]\nlisten = "{admin}"\n[http]\nlisten = "127.0.0.1:0"\n[pg]\nlisten = "127.0.0.1:0"\n'
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        yield process, f"http://{admin}"
    finally:
        process.kill()
        process.communicate()


def status(url: str) -> int:
    try:
        return get(url)[0]
    except urllib.error.URLError:
        return 0


async def test_it_waits_for_its_main_database_and_is_ready_without_a_caller(own: World, tmp_path: Path) -> None:
    own.server.stop()
    with starting(own, tmp_path) as (process, admin):
        wait_until(lambda: status(f"{admin}/livez") == 200, "it is alive", timeout=40)
        wait_until(lambda: "tries again" in (tmp_path / "log").read_text(), "it says why it waits", timeout=40)
        assert status(f"{admin}/readyz") == 503
        assert process.poll() is None
        own.server.start()
        wait_until(lambda: status(f"{admin}/readyz") == 200, "it is ready", timeout=40)
        assert "Traceback" not in (tmp_path / "log").read_text()


async def test_a_signal_ends_it_while_it_waits(own: World, tmp_path: Path) -> None:
    own.server.stop()
    with starting(own, tmp_path) as (process, admin):
        wait_until(lambda: status(f"{admin}/livez") == 200, "it is alive", timeout=40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
async def proxy(world: World) -> AsyncIterator[ChaosProxy]:
    """Before the main database, and down."""
    async with ChaosProxy(world.server.host, world.server.port) as proxy:
        proxy.refusing = True
        yield proxy


def apart(world: World, proxy: ChaosProxy, *, password: str = APP_PASSWORD) -> Settings:
    """The tenants in the file, and main on a server of its own."""
    central = {"host": proxy.host, "port": proxy.port, "user": APP_ROLE, "password": password, "ssl": "disable"}
    return world.settings(
        main={"server": "central"},
        servers={"central": central},
        tenants=_tenants(world),
        http={"listen": "127.0.0.1:0"},
        admin={"listen": "127.0.0.1:0"},
        auth={"key": "k" * 40},
    )


def _tenants(world: World) -> dict[str, dict[str, str]]:
    return {
        tenant.id: {
            "isolation": tenant.placement.isolation.value,
            "server": "primary",
            "database": tenant.placement.database,
        }
        | ({"schema": tenant.placement.schema} if tenant.placement.schema else {})
        | ({"role": tenant.placement.role} if tenant.placement.role else {})
        for tenant in world.tenants
    }


async def test_tenants_of_a_file_are_served_while_the_main_database_is_down(world: World, proxy: ChaosProxy) -> None:
    router = Router(apart(world, proxy))
    async with Sidecar(router, drain_timeout=1.0) as sidecar:
        assert all(sidecar.readiness().values()), sidecar.readiness()
        for tenant in world.tenants:
            assert await router.tenant(tenant.id).fetchval(COUNT) == 3
        with pytest.raises(ConnectFailed):
            await router.main().fetchval("SELECT 1")
        assert not router.revocations.is_open
        proxy.heal()
        await until(lambda: router.revocations.is_open, "what needs the main database comes when it is up", timeout=40)


async def test_a_main_database_that_refuses_us_is_an_error_at_start(world: World, proxy: ChaosProxy) -> None:
    proxy.heal()
    with pytest.raises(ConnectFailed) as caught:
        await Router(apart(world, proxy, password="wrong")).open()
    assert caught.value.refusal == "28P01"


class Own:
    """A registry of a user's own, which fails when it is first asked."""

    source = "own"

    def __init__(self, tenants: MemoryRegistry) -> None:
        self._tenants = tenants
        self.failures = 1

    async def get(self, tenant: TenantId) -> Tenant:
        if self.failures:
            self.failures -= 1
            raise OSError("down")
        return await self._tenants.get(tenant)

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        return self._tenants.tenants(status=status)

    async def open(self) -> None: ...

    async def close(self) -> None: ...


async def test_readiness_asks_a_registry_by_itself_until_it_answers(world: World) -> None:
    settings = world.settings(http={"listen": "127.0.0.1:0"}, admin={"listen": "127.0.0.1:0"})
    async with Sidecar(Router(settings, registry=Own(MemoryRegistry(world.tenants))), drain_timeout=1.0) as sidecar:
        assert not sidecar.readiness()["registry loaded"]
        await until(lambda: sidecar.readiness()["registry loaded"], "it is asked again", timeout=40)
