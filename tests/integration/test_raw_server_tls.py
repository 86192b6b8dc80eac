"""Do both drivers prove servers and show certificates as libpq does? Debian's PostgreSQL, and real certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.binaries import unprivileged_account
from tenantproxy.errors import ConfigurationError, ConnectFailed, TenantProxyError
from tests.support.authority import Authority, Pair
from tests.support.chaos import ChaosProxy
from tests.support.lasting import lasting
from tests.support.port_house import a_port
from tests.support.raw_house import a_raw_house, value
from tests.support.tls import TlsProxy
from tests.support.waiting import PATIENCE, until
from tests.support.world import APP_ROLE, SERVER, World, a_world

WHO: Final = "SELECT current_user::text"  # whom pg_hba.conf lets in with a certificate of this name alone


class Places:
    """Certificates of all kinds, in a folder that the server may read."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.server = self.authority.certificate("server", "127.0.0.1")
        self.app = self.authority.certificate(APP_ROLE)
        self.revoked = self.authority.certificate(APP_ROLE, file="revoked")
        self.crl = self.authority.crl(self.revoked)
        self.hba = folder / "pg_hba.conf"
        self.hba.write_text(
            f"hostssl all {APP_ROLE} 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
            f"host all {APP_ROLE} 127.0.0.1/32 reject\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )

    @property
    def server_settings(self) -> dict[str, str]:
        files = {"ssl_cert_file": self.server.certificate, "ssl_key_file": self.server.key}
        files |= {"ssl_ca_file": self.authority.root, "ssl_crl_file": self.crl, "hba_file": self.hba}
        return {"ssl": "on", **{name: str(path) for name, path in files.items()}}

    def keys(self, pair: Pair | None = None, **changes: Any) -> dict[str, Any]:
        """As of `[servers.NAME]`."""
        shown = {} if pair is None else pair.listener
        return {"ssl": "verify-full", "ssl_root_cert_file": str(self.authority.root), **shown, **changes}


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    folder = Path(tempfile.mkdtemp(prefix="tenantproxy-tls-"))
    folder.chmod(0o755)
    made = Places(folder)
    account = unprivileged_account()
    if account is not None:
        os.chown(made.server.key, account.uid, account.gid)
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def secured(places: Places) -> Iterator[World]:
    """A world on a server with TLS."""
    try:
        server = EmbeddedPostgres(version=15, durable=False, settings=places.server_settings)
    except ConfigurationError:
        pytest.skip("needs a PostgreSQL with TLS: apt install postgresql-15")
    with server, lasting(a_world(server, rows=1, schemas=1, databases=1)) as world:
        yield world


Ask = Callable[[World, str, dict[str, Any], str], Coroutine[Any, Any, str | None]]


async def by_asyncpg(world: World, tenant: str, keys: dict[str, Any], sql: str) -> str | None:
    async with Router(world.settings(servers={SERVER: keys}, pools={"acquire_timeout": PATIENCE})) as router:
        answer: str | None = await router.tenant(tenant).fetchval(sql)
        return answer


async def by_raw_backends(world: World, tenant: str, keys: dict[str, Any], sql: str) -> str | None:
    async with a_raw_house(world.settings(servers={SERVER: keys})) as house:
        one = next(each for each in world.tenants if each.id == tenant)
        async with house.leased(one) as backend:
            return await value(backend, sql)


@pytest.fixture(params=[by_asyncpg, by_raw_backends], ids=["asyncpg", "raw"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


@pytest.mark.parametrize("tenant", ["row1", "database1"])
async def test_a_server_that_is_proven_sees_the_certificate_of_the_application(
    secured: World, places: Places, ask: Ask, tenant: str
) -> None:
    assert await ask(secured, tenant, places.keys(places.app), WHO) == APP_ROLE
    keys = places.keys(places.app, ssl_crl_file=str(places.crl))
    assert await ask(secured, tenant, keys, "SELECT repeat('x', 200000)") == "x" * 200_000


BAD: Final[dict[str, tuple[Callable[[Places], dict[str, Any]], str]]] = {
    "another authority": (
        lambda made: made.keys(made.app, ssl_root_cert_file=str(made.stranger.root)),
        "an authority that is not trusted here",
    ),
    "another host": (lambda made: made.keys(made.app, host="localhost"), "is not for the host name"),
    "a revoked server": (
        lambda made: made.keys(made.app, ssl_crl_file=str(made.authority.crl(made.server, made.revoked))),
        "has been revoked",
    ),
    "a list of another authority": (
        lambda made: made.keys(made.app, ssl_crl_file=str(made.stranger.crl())),
        "no list of revoked certificates",
    ),
    "require with an authority": (
        lambda made: made.keys(made.app, ssl="require", ssl_root_cert_file=str(made.stranger.root)),
        "an authority that is not trusted here",
    ),
    "no file of authorities": (
        lambda made: made.keys(made.app, ssl_root_cert_file="/nowhere"),
        "ssl_root_cert_file cannot be read",
    ),
    "a key that others may read": (lambda made: made.keys(_readable(made)), "ssl_key_file has permissions 0644"),
    "no certificate of ours": (lambda made: made.keys(), "28000"),
    "an expired one": (
        lambda made: made.keys(made.authority.certificate(APP_ROLE, days=-1, file="old")),
        "our certificate has expired",
    ),
    "a revoked one": (lambda made: made.keys(made.revoked), "our certificate has been revoked"),
    "one of a stranger": (
        lambda made: made.keys(made.stranger.certificate(APP_ROLE)),
        "does not trust the authority of our certificate",
    ),
    "one of another role": (lambda made: made.keys(made.authority.certificate("other")), "28"),
}


def _readable(made: Places) -> Pair:
    pair = made.authority.certificate(APP_ROLE, file="open")
    pair.key.chmod(0o644)
    return pair


async def told(ask: Ask, world: World, keys: dict[str, Any]) -> str:
    with pytest.raises(TenantProxyError) as caught:
        await ask(world, "database1", keys, "SELECT 1")
    assert isinstance(caught.value, ConnectFailed), caught.value
    assert caught.value.hint
    return f"{caught.value.message} {caught.value.detail}"


@pytest.mark.parametrize("kind", BAD)
async def test_what_is_wrong_with_a_certificate_is_said_and_nothing_is_sent(
    secured: World, places: Places, ask: Ask, kind: str
) -> None:
    keys, words = BAD[kind]
    assert words in await told(ask, secured, keys(places))


@pytest.mark.parametrize("kind", ["expired", "self-signed"])
async def test_a_server_whose_certificate_is_no_proof_is_refused(
    secured: World, places: Places, ask: Ask, kind: str
) -> None:
    if kind == "expired":
        pair, words = places.authority.certificate("old", "127.0.0.1", days=-1), "it has expired"
    else:
        other = Authority(places.authority.folder, "self")
        pair, words = Pair(other.root, other.own_key(), 0), "self-signed"
    pem = places.authority.folder / "both.pem"
    pem.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    async with TlsProxy(secured.server.host, secured.server.port, pem) as proxy:
        keys = places.keys(host=proxy.host, port=proxy.port)
        assert words in await told(ask, secured, keys)
        assert not proxy.in_clear


async def test_what_comes_in_the_clear_behind_a_servers_yes_ends_the_connection(
    secured: World, places: Places, ask: Ask
) -> None:
    """CVE-2021-23222: it would be taken for the server's own word."""
    async with TlsProxy(secured.server.host, secured.server.port, _pem(places)) as proxy:
        proxy.answer = b"SE\0\0\0\x05\0"
        keys = places.keys(host=proxy.host, port=proxy.port)
        asking = asyncio.create_task(ask(secured, "database1", keys, "SELECT 1"))
        await until(lambda: proxy.accepted >= 1 or asking.done(), "it has come")
        with pytest.raises(TenantProxyError):
            await asking
        assert (proxy.secured, proxy.in_clear) == (0, 0)


def _pem(places: Places) -> Path:
    pem = places.authority.folder / "proxy.pem"
    pem.write_bytes(places.server.key.read_bytes() + places.server.certificate.read_bytes())
    return pem


async def test_transactions_are_carried_with_tls_to_the_server(secured: World, places: Places) -> None:
    async with a_port(secured, servers={SERVER: places.keys(places.app)}) as house:
        async with house.a_client("database1") as client:
            for _ in range(20):
                assert (await client.query(WHO)).value == APP_ROLE
            big = await client.query("SELECT repeat('x', 1000000)")
            assert len(big.value or "") == 1_000_000
        stats = house.listener.pg_stats()
        assert not stats.is_compiled or stats.carried >= 15


async def test_a_login_is_bound_to_the_certificate_of_the_server(secured: World, places: Places) -> None:
    keys = places.keys(places.app, channel_binding="require")
    assert await by_raw_backends(secured, "database1", keys, WHO) == APP_ROLE


async def test_the_records_of_a_server_may_come_one_byte_at_a_time(secured: World, places: Places, ask: Ask) -> None:
    async with ChaosProxy(secured.server.host, secured.server.port) as proxy:
        proxy.slice_size = 1
        keys = places.keys(places.app, host=proxy.host, port=proxy.port)
        assert await ask(secured, "database1", keys, WHO) == APP_ROLE
        assert proxy.accepted
