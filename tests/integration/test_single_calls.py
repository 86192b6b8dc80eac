"""Does a call that is a whole lease, whose reset goes out with its statement, leave as little as any other lease?

Each call is sent by a pool of one connection, so the next lease has the same backend; a reset that failed would have
ended it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router, TenantScope
from tenantproxy.driver.behind import ResetBehind
from tenantproxy.isolation.turn import SOFT, Asked
from tests.support.faults import Moment, cancel_at
from tests.support.leases import SHOW_PREPARED, one_connection, pid_of, state_of
from tests.support.waiting import until
from tests.support.world import World

Call = Callable[[TenantScope], Awaitable[object]]
TENANTS = ("database1", "schema1", "row1")
LEAVE = (
    "SELECT set_config('work_mem', '5MB', false), set_config('app.evil', '1', false),"
    " pg_advisory_lock(4711), public.leave()"
)
LEAVING = """
CREATE FUNCTION public.leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE 'CREATE TEMP TABLE left_behind AS SELECT 1 AS one';
  EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
  EXECUTE 'LISTEN something';
END $$"""

CALLS: dict[str, Call] = {
    "fetch": lambda scope: scope.fetch(LEAVE),
    "fetchrow": lambda scope: scope.fetchrow(LEAVE),
    "fetchval": lambda scope: scope.fetchval(LEAVE),
    "execute with a parameter": lambda scope: scope.execute(LEAVE + ", $1::int", 1),
    "a timeout that does not run out": lambda scope: scope.fetchrow(LEAVE, timeout=60.0),
    "an error of the server": lambda scope: scope.fetch(LEAVE + ", 1 / count(*) FROM projects WHERE id < 0"),
    "an error of an argument": lambda scope: scope.fetch(LEAVE + ", $1::int", "no number"),
    "a statement that times out": lambda scope: scope.fetch(LEAVE + ", pg_sleep(60)", timeout=0.05),
    "a transaction left open": lambda scope: scope.fetch("BEGIN"),
    "many rows": lambda scope: scope.fetch(LEAVE + ", generate_series(1, 3000)"),
    "an explained one": lambda scope: scope.fetch("EXPLAIN ANALYZE " + LEAVE),
    "a row that is the answer to a reset": lambda scope: scope.fetch(
        LEAVE + ", E'C\\\\001SELECT 1\\\\001Z\\\\001I' || repeat('Z', 5000)"
    ),
}


@pytest_asyncio.fixture
async def leaving(each_world: World) -> World:
    """Tenants who can leave everything behind by a call of a function."""
    for database in {each_world.database(tenant) for tenant in each_world.tenants if tenant.id in TENANTS}:
        async with database.connect() as admin:
            await admin.execute(SHOW_PREPARED)
            await admin.execute(LEAVING)
            await admin.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
            await admin.execute(f'GRANT TEMP ON DATABASE "{database.name}" TO PUBLIC')
    return each_world


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[ResetBehind]:
    """The resets that went out behind a statement so far."""
    found: list[ResetBehind] = []
    begin = ResetBehind.begin

    def noting(behind: ResetBehind) -> None:
        found.append(behind)
        begin(behind)

    monkeypatch.setattr(ResetBehind, "begin", noting)
    return found


async def quiet(router: Router) -> None:
    """Wait until no connection is being reset."""
    await until(lambda: not any(pool.resetting for pool in router.stats().pools), "the resets are over")


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("name", CALLS)
async def test_the_next_lease_meets_nothing_of_a_call(leaving: World, tenant: str, name: str) -> None:
    async with one_connection(leaving) as router:
        scope = router.tenant(tenant)
        pid = await pid_of(scope)
        async with scope.connection() as conn:
            await conn.execute(LEAVE)  # once, for what is shown only when PL/pgSQL is loaded
        async with scope.connection() as conn:
            before = json.loads(await state_of(conn))
        with suppress(asyncpg.PostgresError, asyncpg.DataError, TimeoutError):
            await CALLS[name](scope)
        async with scope.connection() as conn:
            assert json.loads(await state_of(conn)) == before
        assert await pid_of(scope) == pid
        await quiet(router)
        assert router.stats().resets["failed"] == 0


async def test_the_reset_of_a_call_goes_out_with_its_statement(each_world: World, sent: list[ResetBehind]) -> None:
    async with one_connection(each_world) as router:
        sent.clear()  # opening it asked main whether there is a fleet
        for number, tenant in enumerate(("database1", "schema1", "row1", "row1", "database1"), start=1):
            assert await router.tenant(tenant).fetchval("SELECT count(*) FROM projects") == 3
            assert len(sent) == number
        await quiet(router)
        assert all(one.is_confirmed for one in sent)
        assert router.stats().resets["failed"] == 0


async def test_a_row_tenants_call_goes_out_with_a_reset_only_where_no_other_waits(
    each_world: World, sent: list[ResetBehind]
) -> None:
    async with one_connection(each_world) as router:
        sent.clear()  # opening it asked main whether there is a fleet
        one, other = router.tenant("row1"), router.tenant("row2")
        names = "SELECT min(name) FROM projects, pg_sleep(0.01)"
        assert await one.fetchval(names) == "row1 1"
        assert len(sent) == 1
        asked = [scope.fetchval(names) for _ in range(5) for scope in (one, other)]
        assert await asyncio.gather(*asked) == ["row1 1", "row2 1"] * 5
        assert len(sent) < 11
        for scope in (one, other, one):
            assert await scope.fetchval("SELECT current_setting('app.current_tenant_id')") == scope.id
        await quiet(router)
        assert router.stats().resets["failed"] == 0
        assert not any(router.stats().closed.values())


async def test_a_statement_that_a_ddl_made_stale_runs_again_and_is_reset(
    each_world: World, sent: list[ResetBehind]
) -> None:
    (tenant,) = (one for one in each_world.tenants if one.id == "database1")
    async with one_connection(each_world) as router:
        scope = router.tenant("database1")
        pid = await pid_of(scope)
        assert len(await scope.fetchrow("SELECT * FROM projects") or ()) == 2
        async with each_world.database(tenant).connect() as admin:
            await admin.execute("ALTER TABLE projects ADD COLUMN more text")
        row = await scope.fetchrow("SELECT *, set_config('work_mem', '5MB', false) FROM projects LIMIT 1")
        assert row is not None
        assert len(await scope.fetchrow("SELECT * FROM projects") or ()) == 3
        assert await scope.fetchval("SHOW work_mem") != "5MB"
        assert await pid_of(scope) == pid
        assert any(one.is_stale for one in sent)
        assert router.stats().resets["failed"] == 0


async def test_an_answer_of_many_rows_is_not_looked_through_twice(world: World, sent: list[ResetBehind]) -> None:
    async with one_connection(world) as router:
        sent.clear()  # opening it asked main whether there is a fleet
        scope = router.tenant("database1")
        for _ in range(3):
            assert len(await scope.fetch("SELECT generate_series(1, 500)")) == 500
        assert len(sent) == 1


async def test_a_reset_that_answers_otherwise_ends_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Asked("SELECT 1, '????????????????????????????????'", SOFT.said("?" * 32).answer)
    monkeypatch.setattr("tenantproxy.driver.leaving.SOFT", other)
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        pid = await pid_of(scope)
        await until(lambda: router.stats().closed.get("reset_failed"), "the connection is ended")
        assert await pid_of(scope) != pid


@pytest.mark.parametrize("awaits", range(4))
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_call_that_is_cancelled_leaves_nothing_to_the_next(leaving: World, awaits: int, moment: Moment) -> None:
    async with one_connection(leaving) as router:
        scope = router.tenant("database1")
        await scope.fetch(LEAVE)
        async with scope.connection() as conn:
            before = json.loads(await state_of(conn))
        await cancel_at(scope.fetch(LEAVE), awaits, moment)
        async with scope.connection() as conn:
            assert json.loads(await state_of(conn)) == before


async def test_calls_at_once_get_their_own_answers_and_clean_connections(world: World) -> None:
    async with Router(world.settings(pools={"max_size": 3})) as router:
        scopes = [router.tenant(tenant) for tenant in ("database1", "database2", "schema1", "schema2")]

        async def ask(number: int) -> None:
            scope = scopes[number % 4]
            found = await scope.fetchrow("SELECT $1::int, (SELECT min(name) FROM projects), pg_backend_pid()", number)
            assert found is not None
            assert found[:2] == (number, f"{scope.id} 1")
            assert await scope.fetchval("SELECT set_config('work_mem', '5MB', false), $1::int", number) == "5MB"
            assert await scope.fetchval("SELECT current_setting('work_mem')") != "5MB"

        await asyncio.gather(*(ask(number) for number in range(200)))
        await quiet(router)
        assert router.stats().resets["failed"] == 0
        assert not any(router.stats().closed.values())
