"""Can a client of the port or of /sql say of itself what its token, its user or its startup did not?"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import IsolationError
from tests.fault.sql.test_sql_callers import AUTH
from tests.support.port_house import a_port, users
from tests.support.sql_house import a_sql_house
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused
from tests.support.world import World, a_world

SIGNED = {"app.role": "claim:role", "app.user_id": "claim:sub", "app.ip": "client:ip"}
ROLE = "SELECT tenantproxy.context('app.role')"
FORGED = "SELECT set_config('app.context', '{\"app.role\": \"admin\"}', false), set_config('app.role', 'admin', false)"
FORGERIES = (
    FORGED,
    "RESET ALL",
    "DISCARD SEQUENCES",
    "SET app.context_proof = 'bound'",
    f"DO $d$BEGIN {FORGED.replace('SELECT', 'PERFORM')}; END$d$",
)
ONE = {"max_size": 1, "shared_size": 1}
EVERYWHERE = {"password": PASSWORD, "tenants": "*"}


def some(**more: Any) -> dict[str, Any]:
    viewer = EVERYWHERE | {"context": {"app.role": "value:viewer", "app.ip": "client:ip"}}
    given = EVERYWHERE | {"context": {"app.role": "startup"}}
    in_session = {"pool_mode": "session"}
    return users(viewer=viewer, viewing=viewer | in_session, given=given, giving=given | in_session, **more)


@pytest.mark.parametrize("user", ["viewer", "viewing"])
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_client_cannot_have_another_role_than_its_users(lasting: World, user: str, forgery: str) -> None:
    async with a_port(lasting, signed_context=SIGNED, pools=ONE, pg={"users": some()}) as house:
        async with house.a_client("row1", "given", options="-c app.role=admin") as admin:
            assert (await admin.query(ROLE)).value == "admin"
        async with house.a_client("row1", user) as client:
            assert (await client.query("SELECT tenantproxy.context('app.ip')")).value == "127.0.0.1"
            await client.query(forgery)
            for _ in range(2):
                answer = await client.query(ROLE)
                assert answer.sqlstate in ("42501", "55000") or answer.value == "viewer", answer
        async with house.a_client("row1", "given", options="-c app.role=admin") as admin:
            assert (await admin.query(ROLE)).value == "admin"


@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_only_a_user_that_may_say_at_startup_what_it_is(lasting: World, tenant: str) -> None:
    async with a_port(lasting, signed_context=SIGNED, pg={"users": some()}) as house:
        for user in ("given", "giving"):
            async with house.a_client(tenant, user, options="-c app.role=it's") as client:
                assert (await client.query("SELECT current_setting('app.role')")).value == "it's"
        for user in ("viewer", "viewing", "all", "session"):
            with pytest.raises(Refused):
                await house.client(tenant, user, options="-c app.role=admin")
        with pytest.raises(Refused):
            await house.client(tenant, "given", options="-c app.user_id=7")
        with pytest.raises(Refused):
            await house.client(tenant, "giving", options="-c app.context={}")


async def test_what_a_client_lacks_is_empty_and_not_that_of_another(lasting: World) -> None:
    async with a_port(lasting, signed_context=SIGNED, pools=ONE, pg={"users": some()}) as house:
        async with house.a_client("row1", "given", options="-c app.role=admin") as client:
            assert (await client.query(ROLE)).value == "admin"
        for user in ("all", "session", "given"):
            async with house.a_client("row1", user) as client:
                assert (await client.query(ROLE)).value == ""


async def test_statements_over_http_have_what_the_token_or_the_user_says(lasting: World) -> None:
    changes: dict[str, Any] = {"auth": AUTH, "signed_context": SIGNED, "context": {"app.plain": "claim:sub"}}
    async with a_sql_house(lasting, pools=ONE, pg={"jwt": True, "users": some()}, **changes) as house:
        desk = house.port.port._desk
        assert desk.tokens is not None
        token = desk.tokens.issue(tenant=await desk.tokens.look_up("row1"), user="ann", role="viewer")
        bearer = {"Authorization": f"Bearer {token}", "Neon-Connection-String": None}
        asked = (
            "SELECT concat_ws('|', tenantproxy.context('app.role'), tenantproxy.context('app.user_id'),"
            " tenantproxy.context('app.ip'), current_setting('app.plain', true))"
        )
        for _ in range(2):
            assert (await house.ask(asked, headers=bearer)).value == "viewer|ann|127.0.0.1|ann"
            assert (await house.ask(ROLE, user="viewer")).value == "viewer"
            string = f"postgresql://given:{PASSWORD}@h/row1?options=-c%20app.role%3Dadmin"
            assert (await house.ask(ROLE, headers={"Neon-Connection-String": string})).value == "admin"
            refused = await house.ask(ROLE, headers={"Neon-Connection-String": string.replace("given", "viewer")})
            assert refused.code == "22023"
            forged = await house.batch(FORGED, ROLE, user="viewer")
            assert forged.code == "42501"
        conn = await asyncpg.connect(
            host="127.0.0.1", port=house.port.number, user="jwt", password=token, database="row1", ssl=False
        )
        assert await conn.fetchval(ROLE) == "viewer"
        await conn.close()


async def test_a_session_that_its_client_reset_is_signed_again_with_its_tenant(lasting: World) -> None:
    async with a_port(lasting, signed_context=SIGNED, pg={"users": some()}) as house:
        async with house.a_client("row1", "viewing") as client:
            for reset in ("RESET ALL", "DISCARD ALL"):
                await client.query(reset)

                async def signed() -> bool:
                    return (await client.query(ROLE)).value == "viewer"

                await until(signed, "the session is the tenant's again")


async def test_where_settings_cannot_be_signed_each_door_says_what_to_run(postgres: EmbeddedPostgres) -> None:
    async with (
        a_world(postgres, rows=1, schemas=0, databases=0) as world,
        a_sql_house(world, signed_context=SIGNED, pg={"users": some()}) as house,
    ):
        async with world.shared.connect() as admin:
            await admin.execute("DROP FUNCTION tenantproxy.sign_context(text, text)")
        await house.port.router.expire_connections("row1")
        with pytest.raises(Refused) as refused:
            await house.port.client("row1")
        answered = await house.ask("SELECT 1")
        for message, hint in (
            (refused.value.fields["M"], refused.value.fields["H"]),
            (answered.body["message"], answered.body["hint"]),
        ):
            assert "[signed_context]" in message
            assert "`tenantproxy install --config FILE` again" in hint
        with pytest.raises(IsolationError, match="tenantproxy install --config FILE"):
            await house.port.router.tenant("row1").fetchval("SELECT 1")
