"""Does a session that stays with its tenant stay as it was, when a client changes settings in a SELECT?

No message of the server's tells of such a change, but for the few settings that it reports.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation
from tests.support.leases import one_connection
from tests.support.port_house import a_port
from tests.support.raw_house import a_raw_house, ask, value
from tests.support.wire_client import PASSWORD
from tests.support.world import APP_ROLE, World, a_world

NAMES = "SELECT name FROM projects ORDER BY 1"
_OPEN = f"""
DROP POLICY tenantproxy ON projects;
CREATE POLICY plain ON projects USING (tenant_id = current_setting('app.current_tenant_id', true));
GRANT EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement() TO {APP_ROLE};
"""
FLIP = "SELECT set_config('app.current_tenant_id', 'row2', false)"
UNSIGNED: dict[str, Any] = {"row": {"signed": False}}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=(18, 16), ids=("pg18", "pg16"))
async def old_world(request: pytest.FixtureRequest, cluster: Callable[[int], EmbeddedPostgres]) -> AsyncIterator[World]:
    """Its shared table has the policy that people write: on the plain setting."""
    async with a_world(cluster(request.param)) as made:
        async with made.shared.connect() as admin:
            await admin.execute(_OPEN)
        yield made


def own(tenant: str) -> list[list[str | None]]:
    return [[f"{tenant} {n}"] for n in (1, 2, 3)]


# --- unsigned row tenants --------------------------------------------------------------------------------------------
async def test_a_plain_setting_flipped_on_the_port_is_put_back_for_the_next_client(old_world: World) -> None:
    async with a_port(old_world, pools={"shared_size": 1}, pg={"session_features": "warn"}, **UNSIGNED) as house:
        async with house.a_client("row1") as one, house.a_client("row1") as other:
            for _ in range(3):
                assert (await one.query(FLIP)).errors == []
                assert (await other.query(NAMES)).rows == own("row1")
                assert (await one.query(NAMES)).rows == own("row1")


async def test_a_plain_setting_flipped_in_the_extended_protocol_is_put_back(old_world: World) -> None:
    async with a_raw_house(old_world.settings(pools={"shared_size": 1}, **UNSIGNED)) as house:
        tenant = old_world.of(Isolation.ROW)[0]
        for _ in range(3):
            async with house.leased(tenant) as backend:
                assert await ask(backend, NAMES) == own("row1")
                await ask(backend, FLIP)


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_a_plain_setting_flipped_in_the_library_is_put_back(old_world: World, reset: Any) -> None:
    async with one_connection(old_world, reset=reset, **UNSIGNED) as router:
        for _ in range(3):
            scope = router.tenant("row1")
            await scope.fetchval(FLIP)
            assert [[row["name"]] for row in await scope.fetch(NAMES)] == own("row1")
            async with scope.connection() as conn:
                await conn.execute(FLIP)
            async with scope.connection() as conn:
                assert [[row["name"]] for row in await conn.fetch(NAMES)] == own("row1")


# --- a schema's search_path ------------------------------------------------------------------------------------------
async def test_a_search_path_changed_in_a_select_is_the_schemas_for_the_next_client(old_world: World) -> None:
    async with a_port(old_world, pools={"max_size": 1}, **UNSIGNED) as house:
        async with house.a_client("schema1") as one, house.a_client("schema1") as other:
            for _ in range(3):
                await one.query("SELECT set_config('search_path', 'schema2', false)")
                assert (await other.query(NAMES)).rows == own("schema1")
                assert (await other.query("SHOW search_path")).rows == [['"schema1"']]


async def test_a_clients_own_search_path_goes_with_it_from_backend_to_backend(old_world: World) -> None:
    async with a_port(old_world, pools={"max_size": 1}, **UNSIGNED) as house:
        async with house.a_client("schema1") as one, house.a_client("schema1") as other:
            for _ in range(2):
                await one.query("SET search_path = schema1, pg_temp")
                assert (await other.query("SHOW search_path")).rows == [['"schema1"']]
                assert (await one.query("SHOW search_path")).rows[0][0] in ("schema1, pg_temp", '"schema1", "pg_temp"')
            await one.query("RESET search_path")


async def test_the_librarys_search_path_is_the_schemas_again_after_each_lease(old_world: World) -> None:
    async with one_connection(old_world, **UNSIGNED) as router:
        for _ in range(2):
            await router.tenant("schema1").fetchval("SELECT set_config('search_path', 'schema2', false)")
            assert [[row["name"]] for row in await router.tenant("schema1").fetch(NAMES)] == own("schema1")


# --- the context of a request ----------------------------------------------------------------------------------------
CONTEXT = (("app.user_id", "7"),)
FORGE = "SELECT set_config('app.user_id', 'root', false)"


async def test_a_context_changed_by_one_client_is_set_again_for_the_next(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings(pools={"max_size": 1})) as house:
        route = house.route(tenant, context=CONTEXT)
        for _ in range(2):
            backend = await house.ask_by(route).answer()
            assert await value(backend, "SELECT current_setting('app.user_id')") == "7"
            await ask(backend, FORGE)
            house.lender.release(backend, route, is_dirty=False)


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_a_context_changed_in_the_library_is_gone_with_its_lease(old_world: World, reset: Any) -> None:
    async with one_connection(old_world, reset=reset, **UNSIGNED) as router:
        assert await _user(router) == "7"
        await router.tenant("database1", context=dict(CONTEXT)).fetchval(FORGE)
        assert await _user(router) == "7"
        assert not await router.tenant("database1").fetchval("SELECT current_setting('app.user_id', true)")


async def _user(router: Router) -> Any:
    return await router.tenant("database1", context=dict(CONTEXT)).fetchval("SELECT current_setting('app.user_id')")


# --- what the server reports -----------------------------------------------------------------------------------------
READ_ONLY = "SELECT set_config('default_transaction_read_only', 'on', false)"


@pytest.mark.parametrize("tenant", ["row2", "row1"])
async def test_a_login_is_not_greeted_with_what_another_client_did(world: World, tenant: str) -> None:
    async with a_port(world, pools={"shared_size": 1, "max_size": 1}) as house:
        async with house.a_client("row1") as one:
            await one.query(READ_ONLY)
            house.listener.forget_greetings()
            for options in ({}, {"TimeZone": "Asia/Tokyo"}, {"DateStyle": "ISO"}):
                async with house.a_client(tenant, **options) as other:
                    assert other.parameters["default_transaction_read_only"] == "off"
                    assert other.parameters["DateStyle"] == "ISO, MDY"


async def test_a_client_that_wants_a_session_that_writes_gets_in_after_one_that_only_reads(world: World) -> None:
    async with a_port(world, pools={"shared_size": 1}) as house:
        async with house.a_client("row1") as one:
            await one.query(READ_ONLY)
            house.listener.forget_greetings()
            login: dict[str, Any] = {
                "host": "127.0.0.1",
                "port": house.number,
                "user": "all",
                "password": PASSWORD,
                "dbname": "row2",
            }
            conn = await psycopg.AsyncConnection.connect(**login, target_session_attrs="read-write", sslmode="disable")
            async with conn:
                row = await (await conn.execute("SELECT min(name) FROM projects")).fetchone()
                assert row == ("row2 1",)


async def test_a_date_style_of_one_client_does_not_complete_the_greeting_of_another(world: World) -> None:
    async with a_port(world, pools={"shared_size": 1}) as house:
        async with house.a_client("row1") as one:
            await one.query("SET DateStyle = 'German, DMY'")
            async with house.a_client("row2", DateStyle="SQL") as other:
                assert other.parameters["DateStyle"] == "SQL, MDY"


@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_a_reported_setting_that_does_not_go_along_makes_a_backend_dirty(world: World, tenant: str) -> None:
    async with a_port(world, pools={"shared_size": 1, "max_size": 1}) as house:
        async with house.a_client(tenant) as one, house.a_client(tenant) as other:
            assert (await one.query(READ_ONLY)).errors == []
            assert (await other.query("SHOW default_transaction_read_only")).rows == [["off"]]
