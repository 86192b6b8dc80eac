"""Can a row tenant's SQL say of itself what its request did not? Settings that are signed with the tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from tenantproxy import AccessDenied, Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import InvalidSetting
from tests.support.checked import checked
from tests.support.lasting import a_lasting_world
from tests.support.lasting import lasting as in_thread
from tests.support.trusting import trust
from tests.support.world import World, a_world

WORKSPACE = "app.current_workspace"
SIGNED = {WORKSPACE: "claim:workspace", "app.role": "claim:role"}
ONE = {"max_size": 1, "shared_size": 1}
SAID = f"SELECT tenantproxy.context('{WORKSPACE}')"
ROLE = "SELECT tenantproxy.context('app.role')"
NO_CONTEXT = asyncpg.InsufficientPrivilegeError  # 42501
NOT_SET = asyncpg.ObjectNotInPrerequisiteStateError  # 55000
TO_OTHER = '\'{"app.current_workspace": "other"}\''
ESCAPES = (
    f"SET app.context = {TO_OTHER}",
    f"SELECT set_config('app.context', {TO_OTHER}, false)",
    f"SELECT set_config('app.context', {TO_OTHER}, false), set_config('app.context_proof', 'bound', false)",
    f"DO $$ BEGIN PERFORM set_config('app.context', {TO_OTHER}, false); END $$",
    f"WITH s AS MATERIALIZED (SELECT set_config('app.context', {TO_OTHER}, false)) SELECT FROM s",
    "SET app.context_proof = ''",
    "RESET app.context",
    "RESET ALL",
    "DISCARD SEQUENCES",
    "DISCARD ALL",
    "SET app.current_tenant_id = 'row2'",
)
FORBIDDEN = (
    "SELECT setval('tenantproxy.context_mark', 1)",
    "SELECT nextval('tenantproxy.context_salt')",
    "SELECT currval('tenantproxy.context_mark')",
    "SELECT * FROM tenantproxy.context_salt",
    "SELECT tenantproxy.context_proven('row1', '{}', 'x')",
    "SELECT tenantproxy.mark(1, 'row1|{}')",
    f"SELECT tenantproxy.sign_context({TO_OTHER}, 'bound')",
    f"SELECT tenantproxy.sign_context({TO_OTHER}, repeat('0', 120))",
    f"SELECT tenantproxy.sign_context({TO_OTHER}, NULL)",
)


@pytest.fixture(scope="session")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres) as world:
        yield world


@asynccontextmanager
async def a_trusting_world(server: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(server, schemas=0, databases=0) as world:
        await trust(world)
        yield world


@pytest.fixture(scope="session")
def trusting(postgres: EmbeddedPostgres) -> Iterator[World]:
    with in_thread(a_trusting_world(postgres)) as world:
        yield world


def signing(world: World, **changes: Any) -> Settings:
    return world.settings(signed_context=SIGNED, pools=ONE, **changes)


@pytest.fixture(params=["bound", "trusted"])
async def router(request: pytest.FixtureRequest) -> AsyncIterator[Router]:
    """One connection for all, so that each caller has the session of the one before."""
    is_trusted = request.param == "trusted"
    world: World = request.getfixturevalue("trusting" if is_trusted else "lasting")
    async with checked(signing(world, row={"form": request.param}), world) as made:
        yield made


def of(router: Router, workspace: str, tenant: str = "row1", **more: str) -> Any:
    return router.tenant(tenant, context={WORKSPACE: workspace, **more})


async def test_each_caller_has_what_was_signed_for_it(router: Router) -> None:
    for workspace in ("one", "two", "one"):
        for tenant in ("row1", "row2"):
            assert await of(router, workspace, tenant).fetchval(SAID) == workspace
            assert await of(router, workspace, tenant).fetchval(f"SELECT current_setting('{WORKSPACE}')") == workspace


async def test_a_caller_that_gives_nothing_has_nothing_of_the_former_one(router: Router) -> None:
    assert await of(router, "one", **{"app.role": "admin"}).fetchval(ROLE) == "admin"
    for scope in (router.tenant("row1"), of(router, "one")):
        assert await scope.fetchval(ROLE) is None
    async with router.tenant("row1").connection() as conn:
        former = '{"app.current_workspace": "one", "app.role": "admin"}'
        await conn.execute("SELECT set_config('app.context', $1, false)", former)
        with pytest.raises(NO_CONTEXT):
            await conn.fetchval(ROLE)


@pytest.mark.parametrize("escape", ESCAPES)
async def test_sql_cannot_have_another_value_than_the_signed_one(router: Router, escape: str) -> None:
    assert await of(router, "other").fetchval(SAID) == "other"
    async with of(router, "one").connection() as conn:
        await conn.execute(escape)
        with suppress(NO_CONTEXT, NOT_SET):  # or, where that is not what the tenant is known by, it is unchanged
            await conn.execute(f"SELECT 1/(tenantproxy.context('{WORKSPACE}') = 'one')::int")
    assert await of(router, "two").fetchval(SAID) == "two"


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_sql_cannot_reach_what_a_signature_rests_on(router: Router, statement: str) -> None:
    async with of(router, "one").connection() as conn:
        with pytest.raises(NO_CONTEXT):
            await conn.execute(statement)


async def test_a_rollback_leaves_the_signed_value_in_force(router: Router) -> None:
    async with of(router, "one").connection() as conn:
        await conn.execute(f"BEGIN; SET LOCAL app.context = {TO_OTHER}; SAVEPOINT s; RESET app.context; ROLLBACK")
        assert await conn.fetchval(SAID) == "one"


async def test_a_proof_is_nowhere_to_be_read_in_the_session(router: Router) -> None:
    async with of(router, "one").connection() as conn:
        assert await conn.fetchval("SELECT current_setting('app.context_proof')") == "bound"
        with pytest.raises(NO_CONTEXT):
            await conn.fetch("SELECT query FROM pg_stat_activity")


async def test_a_statement_that_a_user_prepares_does_not_stand_in_for_the_signing_one(router: Router) -> None:
    async with of(router, "one").connection() as conn:
        with pytest.raises(asyncpg.PostgresError):
            await conn.execute('DEALLOCATE ALL; PREPARE "" AS SELECT $1::text')
        await conn.execute("DEALLOCATE ALL")
    assert await of(router, "two").fetchval(SAID) == "two"


@pytest.mark.parametrize(
    "value", ["it's", 'a "quoted" \\ one', "'; RESET ALL; --", "€ \U0001f600 \x01\x7f", "{}", "", " ", "x" * 8000]
)
async def test_any_text_arrives_as_it_was_given(router: Router, value: str) -> None:
    scope = of(router, value)
    assert await scope.fetchval(SAID) == value
    assert await scope.fetchval(f"SELECT current_setting('{WORKSPACE}')") == value


@pytest.mark.parametrize(
    ("value", "why"), [("a\0b", "NUL"), ("x" * 1_000_000, "too long"), ("\ud800", "UTF-8"), (7, "no text")]
)
async def test_a_value_that_no_session_can_have_is_refused_without_it(router: Router, value: Any, why: str) -> None:
    with pytest.raises(InvalidSetting, match=why) as caught:
        of(router, value)
    assert len(f"{caught.value} {caught.value.detail}") < 300


@pytest.mark.parametrize("name", ["app.context", "APP.Context_Proof"])
async def test_a_caller_cannot_give_what_signed_settings_rest_on(router: Router, name: str) -> None:
    with pytest.raises(AccessDenied):
        router.tenant("row1", context={name: "{}"})


async def test_a_renewed_session_keeps_its_signed_settings(lasting: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with checked(signing(lasting), lasting) as router, of(router, "one").connection() as conn:
        con = conn._con
        await conn.execute("SET default_transaction_read_only = on; RESET app.context")
        con.renew_at = 0.0
        assert await conn.fetchval(SAID) == "one"


@pytest.mark.parametrize("tenant", ["schema1", "database1"])
async def test_a_tenant_with_a_place_of_its_own_has_them_as_plain_settings(lasting: World, tenant: str) -> None:
    async with checked(signing(lasting), lasting) as router:
        assert await of(router, "one", tenant).fetchval(f"SELECT current_setting('{WORKSPACE}')") == "one"
