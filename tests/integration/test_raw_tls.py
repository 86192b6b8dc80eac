"""Does a raw backend speak TLS with its server exactly as far as `ssl` says, and with no other?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import Isolation
from tenantproxy.raw.backend import discard
from tenantproxy.raw.exchange import query
from tests.support.raw_house import RawHouse, a_raw_house, value
from tests.support.tls import TlsProxy, certificate
from tests.support.waiting import until
from tests.support.world import SERVER, World, a_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def old_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """One for all of these tests."""
    async with a_world(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the address that the proxy has."""
    return certificate(tmp_path_factory.mktemp("tls"), host="127.0.0.1")


@pytest.fixture(scope="module")
def other_pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For another one."""
    return certificate(tmp_path_factory.mktemp("tls"), host="192.0.2.1")


@pytest.fixture(autouse=True)
def no_files_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificates in the home folder of the user that runs the tests say nothing here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)


def through(world: World, proxy: TlsProxy, **keys: Any) -> Settings:
    return world.settings(servers={SERVER: {"host": proxy.host, "port": proxy.port, **keys}})


@asynccontextmanager
async def house_behind(world: World, pem: Path, **keys: Any) -> AsyncIterator[tuple[RawHouse, TlsProxy]]:
    async with TlsProxy(world.server.host, world.server.port, pem) as proxy:
        async with a_raw_house(through(world, proxy, **keys)) as house:
            yield house, proxy


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_a_session_is_secured_where_the_server_offers_it(old_world: World, pem: Path, mode: str) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    root = {"ssl_root_cert_file": str(pem)} if mode.startswith("verify") else {}
    async with house_behind(old_world, pem, ssl=mode, **root) as (house, proxy):
        async with house.leased(tenant) as backend:
            assert await value(backend, "SELECT tenantproxy.bound_tenant()") == tenant.id
            # More than a record, both ways.
            assert await value(backend, f"SELECT length('{'x' * 100_000}') FROM projects LIMIT 1") == "100000"
            assert len(await value(backend, "SELECT repeat('y', 200000)") or "") == 200_000
        assert proxy.secured
        assert not proxy.in_clear


@pytest.mark.parametrize("mode", ["disable", "allow"])
async def test_a_session_is_in_the_clear_where_nothing_else_is_asked_for(
    old_world: World, pem: Path, mode: str
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl=mode) as (house, proxy):
        async with house.leased(tenant) as backend:
            assert await value(backend, "SELECT 1") == "1"
        assert proxy.in_clear
        assert not proxy.secured


async def test_a_server_without_tls_is_used_in_the_clear_where_tls_is_only_preferred(
    old_world: World, pem: Path
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl="prefer") as (house, proxy):
        proxy.answer = b"N"
        async with house.leased(tenant) as backend:
            assert await value(backend, "SELECT 1") == "1"
        assert proxy.in_clear
        assert not proxy.secured


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_tls_is_refused_where_tls_is_required(old_world: World, pem: Path, mode: str) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl=mode) as (house, proxy):
        proxy.answer = b"N"
        with pytest.raises(ConnectFailed, match="does not offer TLS"):
            await house.ask_for(tenant).answer()
        assert house.pool(tenant).is_empty


async def test_who_ends_tls_before_the_server_gets_no_login_that_must_be_bound(old_world: World, pem: Path) -> None:
    tenant, root = old_world.of(Isolation.DATABASE)[0], {"ssl": "verify-full", "ssl_root_cert_file": str(pem)}
    async with house_behind(old_world, pem, **root, channel_binding="require") as (house, proxy):
        with pytest.raises(ConnectFailed) as caught:
            await house.ask_for(tenant).answer()
        assert "not bound to the certificate" in f"{caught.value.message} {caught.value.detail}"
        assert (proxy.secured, proxy.in_clear) == (1, 0)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(
    old_world: World, pem: Path, other_pem: Path, mode: str
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl=mode, ssl_root_cert_file=str(other_pem)) as (house, proxy):
        client = house.ask_for(tenant)
        await until(lambda: proxy.accepted and house.pool(tenant).stats().opening == 0, "the connect has failed")
        assert proxy.secured == 0
        assert client.acquire is not None
        client.acquire.cancel()


async def test_a_certificate_of_another_host_is_refused_by_verify_full_alone(old_world: World, other_pem: Path) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    root = {"ssl_root_cert_file": str(other_pem)}
    async with house_behind(old_world, other_pem, ssl="verify-ca", **root) as (house, proxy):
        async with house.leased(tenant) as backend:
            assert await value(backend, "SELECT 1") == "1"
        assert proxy.secured
    async with house_behind(old_world, other_pem, ssl="verify-full", **root) as (house, proxy):
        client = house.ask_for(tenant)
        await until(lambda: proxy.accepted and house.pool(tenant).stats().opening == 0, "the connect has failed")
        assert client.acquire is not None
        client.acquire.cancel()
        assert not client.calls or isinstance(client.error, TenantProxyError)


@pytest.mark.parametrize(
    "behind", [b"E\0\0\0\x05\0", b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", b"S"], ids=["an error", "a login", "a byte"]
)
async def test_what_comes_in_the_clear_behind_the_answer_to_tls_is_not_believed(
    old_world: World, pem: Path, behind: bytes
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl="require") as (house, proxy):
        proxy.answer = b"S" + behind
        client = house.ask_for(tenant)
        await until(lambda: proxy.accepted and house.pool(tenant).stats().opening == 0, "the connect has failed")
        assert client.backend is None
        assert client.acquire is not None
        client.acquire.cancel()


async def test_a_request_to_cancel_is_secured_too_and_a_busy_backend_ends_behind_tls(
    old_world: World, pem: Path
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with house_behind(old_world, pem, ssl="require") as (house, proxy):
        backend = await house.lease(tenant)
        backend.sink = discard
        backend.write(query("SELECT pg_sleep(60)"))
        house.lender.destroy(backend)
        await until(lambda: backend.pool.is_empty, "it has ended")
        assert proxy.secured >= 2
        assert proxy.in_clear == 0
