"""Is a PgBouncer reached by TLS, proven, and shown our certificate, as a server itself is? On both drivers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.binaries import unprivileged_account
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import Isolation, Tenant
from tests.integration.test_behind_pooler import a_router, names
from tests.integration.test_port_behind_pooler import NAMES, a_client, a_port
from tests.support.authority import Authority
from tests.support.pooler import PGBOUNCER, PgBouncer, a_pooler
from tests.support.wire_client import Refused
from tests.support.world import World, a_world

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")


class Proofs:
    """An authority, the pooler's certificate of it and ours, in a folder that PgBouncer may read."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.pooler = self.authority.certificate("pooler", "127.0.0.1")
        self.ours = self.authority.certificate("tenantproxy")

    @property
    def of_pooler(self) -> dict[str, object]:
        """In its configuration: TLS alone, and clients that show a certificate of the authority."""
        return {
            "client_tls_sslmode": "verify-ca",
            "client_tls_cert_file": self.pooler.certificate,
            "client_tls_key_file": self.pooler.key,
            "client_tls_ca_file": self.authority.root,
        }

    def keys(self, **changes: Any) -> dict[str, Any]:
        """As of `[servers.NAME]`."""
        return {"ssl": "verify-full", "ssl_root_cert_file": str(self.authority.root), **self.ours.listener, **changes}


@pytest.fixture(scope="module")
def proofs() -> Iterator[Proofs]:
    folder = Path(tempfile.mkdtemp(prefix="tenantproxy-pooler-tls-"))
    folder.chmod(0o755)
    made = Proofs(folder)
    account = unprivileged_account()
    if account is not None:
        os.chown(made.pooler.key, account.uid, account.gid)
    yield made
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            for role in ("of_schema1", "of_schema2"):
                await admin.execute(f"ALTER ROLE {role} IN DATABASE {made.shared.name} SET search_path = ''")
        yield made


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres, proofs: Proofs) -> Iterator[PgBouncer]:
    with a_pooler(postgres, default_pool_size=1, **proofs.of_pooler) as made:
        yield made


async def by_library(world: World, pooler: PgBouncer, tenant: Tenant, keys: dict[str, Any]) -> list[str]:
    async with a_router(world, pooler, **keys) as router:
        return [row["name"] for row in await router.tenant(tenant.id).fetch(NAMES)]


async def by_port(world: World, pooler: PgBouncer, tenant: Tenant, keys: dict[str, Any]) -> list[str]:
    async with a_port(world, pooler, **keys) as port, a_client(port, tenant) as client:
        return [row[0] or "" for row in (await client.query(NAMES)).rows]


SIDES = pytest.mark.parametrize("ask", [by_library, by_port])


@SIDES
@pytest.mark.parametrize("kind", list(Isolation))
async def test_tenants_are_served_by_tls_to_a_pooler_that_wants_our_certificate(
    lasting: World, pooler: PgBouncer, proofs: Proofs, ask: Any, kind: Isolation
) -> None:
    for tenant in lasting.of(kind):
        assert await ask(lasting, pooler, tenant, proofs.keys()) == names(tenant)


BAD: dict[str, tuple[Callable[[Proofs], dict[str, Any]], str]] = {
    "another authority": (
        lambda made: made.keys(ssl_root_cert_file=str(made.stranger.root)),
        "an authority that is not trusted here",
    ),
    "another host": (lambda made: made.keys(host="localhost"), "is not for the host name"),
    "no certificate of ours": (
        lambda made: {key: value for key, value in made.keys().items() if key not in made.ours.listener},
        "",
    ),
    "in clear text": (lambda made: {"ssl": "disable"}, ""),
}


@SIDES
@pytest.mark.parametrize("kind", BAD)
async def test_a_pooler_that_is_not_proven_or_does_not_know_us_serves_no_tenant(
    lasting: World, pooler: PgBouncer, proofs: Proofs, ask: Any, kind: str
) -> None:
    keys, words = BAD[kind]
    tenant = lasting.of(Isolation.ROW)[0]
    with pytest.raises((ConnectFailed, Refused)) as caught:
        await ask(lasting, pooler, tenant, keys(proofs))
    told = caught.value
    assert words in (f"{told.message} {told.detail}" if isinstance(told, ConnectFailed) else str(told))


@SIDES
async def test_a_pooler_without_tls_gets_no_login_where_it_must_be_proven(
    lasting: World, proofs: Proofs, postgres: EmbeddedPostgres, ask: Any
) -> None:
    with a_pooler(postgres) as plain:
        with pytest.raises((TenantProxyError, Refused)):
            await ask(lasting, plain, lasting.of(Isolation.ROW)[0], proofs.keys())
