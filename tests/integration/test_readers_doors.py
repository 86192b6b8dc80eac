"""Who comes in to read only, by a token or as a user of the port: does no door give more than that?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

import tenantproxy
from tenantproxy import Router
from tenantproxy.auth.claims import reads_only
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth, Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.model import tenant_id
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg import PgPort
from tests.integration.test_readers import installed, settings
from tests.support.reading import WRITES
from tests.support.sql_house import SqlClient, a_sql_client
from tests.support.web import ask
from tests.support.wire_client import PASSWORD, WireClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER: Final = {"password": PASSWORD, "tenants": "*"}
USERS: Final = {
    "all": USER,
    "bi": USER | {"read_only": True},
    "sitting": USER | {"read_only": True, "pool_mode": "session"},
}
AIM: Final = "SELECT name FROM aims"


def doors(server: EmbeddedPostgres) -> Settings:
    return settings(
        server,
        auth={"key": "a key of thirty-two bytes to sign tokens with", "read_only_roles": ["viewer", "guest"]},
        pg={"listen": "127.0.0.1:0", "jwt": True, "users": USERS},
        sql={"enabled": True},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router() -> AsyncIterator[Router]:
    with EmbeddedPostgres(durable=False) as server:
        await installed(server, doors(server))
        async with Router(doors(server)) as opened:
            yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(router: Router) -> AsyncIterator[PgPort]:
    desk = AuthDesk(router)
    await desk.open()
    port = PgPort(router, desk, drain_timeout=5.0, version="of the tests")
    await port.open()
    yield port
    await port.close()
    await desk.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sql(port: PgPort, router: Router) -> AsyncIterator[SqlClient]:
    async with a_sql_client(port, router, drains=False) as client:
        yield client


async def token(router: Router, role: str | None) -> str:
    found = await router.registry.get(tenant_id("ones"))
    return Tokens(router.settings.auth, tenants=router.registry).issue(tenant=found, user="7", role=role)


async def test_no_statement_writes_through_the_port(port: PgPort) -> None:
    for user in ("bi", "sitting"):
        client = await WireClient.connect(port.listener.address[1], "ones", user)
        assert (await client.query(AIM)).value == "untouched"
        for statement, wanted in WRITES.items():
            said = (await client.query(statement)).sqlstate
            assert not wanted or said == wanted, (user, statement, said)
            if said:
                await client.query("ROLLBACK")
        assert (await client.query(AIM)).value == "untouched"
        await client.close()
    writer = await WireClient.connect(port.listener.address[1], "ones", "all")
    assert not (await writer.query("UPDATE aims SET name = name")).sqlstate
    await writer.close()


async def test_no_statement_writes_through_requests_of_sql(sql: SqlClient) -> None:
    for statement, wanted in WRITES.items():
        answer = await sql.ask(statement, tenant="ones", user="bi")
        assert answer.code == wanted or not wanted or answer.code == "42601", statement  # several in one
    read = await sql.batch("DELETE FROM aims", tenant="ones", user="bi", headers={"Neon-Batch-Read-Only": "false"})
    assert read.code == "42501"
    assert (await sql.ask(AIM, tenant="ones", user="bi")).value == "untouched"
    assert (await sql.ask("UPDATE aims SET name = name", tenant="ones", user="all")).status == 200


async def test_a_token_of_a_viewer_reads_at_every_door(router: Router, port: PgPort, sql: SqlClient) -> None:
    write = "UPDATE aims SET name = name"
    for role, may_write in (("viewer", False), ("guest", False), ("admin", True), (None, True)):
        bearer = await token(router, role)
        told = {"Neon-Connection-String": None, "Authorization": f"Bearer {bearer}"}
        assert (await sql.ask(AIM, headers=told)).value == "untouched"
        assert (await sql.ask(write, headers=told)).code == (None if may_write else "42501"), role
        client = await asyncpg.connect(
            host="127.0.0.1", port=port.listener.address[1], user="jwt", password=bearer, database="ones", ssl=False
        )
        try:
            done = await client.execute(write)
        except asyncpg.InsufficientPrivilegeError:
            done = ""
        assert done == ("UPDATE 1" if may_write else ""), role
        await client.close()


async def test_a_request_of_a_viewer_reads_only_in_the_middleware(router: Router) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        db = tenantproxy.current()
        body = f"{db.read_only} {await db.fetchval(AIM)}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    outer = TenantMiddleware(application, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))
    nested = TenantMiddleware(
        TenantMiddleware(application, router=router, resolver=_Always()),
        router=router,
        tokens=Tokens(router.settings.auth, tenants=router.registry),
    )
    for role, reads in (("viewer", True), ("admin", False)):
        headers = ("authorization", f"Bearer {await token(router, role)}")
        for app in (outer, nested):
            assert (await ask(app, "/", headers)).body.decode() == f"{reads} untouched"


class _Always:
    def resolve(self, request: Any) -> str:
        return "ones"


@pytest.mark.parametrize(
    ("claims", "reads"),
    [
        ({"role": "viewer"}, True),
        ({"role": "admin"}, False),
        ({}, False),
        ({"role": ["viewer", "guest"]}, True),
        ({"role": ["viewer", "admin"]}, False),
        ({"role": []}, False),
        ({"role": {"viewer": True}}, True),
        ({"role": 7}, True),
    ],
)
async def test_only_a_role_that_writes_makes_a_token_write(claims: dict[str, Any], reads: bool) -> None:
    assert reads_only(claims, Auth(key="k" * 32, read_only_roles=("viewer", "guest"))) is reads
