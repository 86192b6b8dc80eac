"""Can a session ever be another tenant's than the one it began with? An explicit error, or the right rows."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from tenantproxy import (
    AccessDenied,
    ConfigurationError,
    PoolTimeout,
    Router,
    TenantNotFound,
    TenantUnresolved,
    current,
    use,
)
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter, checked
from tests.support.notes import Note, a_world_with_notes
from tests.support.world import World

PID: Final = text("SELECT pg_backend_pid()")
OWN: Final = text("SELECT name FROM projects ORDER BY name")
BODY: Final = text("""SELECT '{"a": [1]}'::jsonb, '[2]'::json""")
RAW_BODY: Final = """SELECT '{"a": [1]}'::jsonb, '[2]'::json"""
PAIRS: Final = (("row1", "row2"), ("schema1", "schema2"), ("database1", "database2"), ("row1", "schema1"))

pairs = pytest.mark.parametrize(("first", "second"), PAIRS)


def own(tenant: str) -> list[str]:
    return [f"{tenant} {n}" for n in (1, 2, 3)]


async def names(session: AsyncSession) -> Sequence[str]:
    return (await session.scalars(OWN)).all()


# --- nobody's --------------------------------------------------------------------------------------------------------
async def test_without_a_tenant_nothing_is_opened(engine: AsyncEngine, router: CheckedRouter) -> None:
    lent = router.acquired
    with pytest.raises(TenantUnresolved):
        async with engine.connect():
            pass
    async with AsyncSession(engine) as session:
        with pytest.raises(TenantUnresolved):
            await session.execute(OWN)
    assert router.acquired == lent


async def test_a_session_outside_of_the_block_that_it_was_used_in_is_nobodys(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    async with AsyncSession(engine) as session:
        with use(router.tenant("row1")):
            assert await names(session) == own("row1")
        with pytest.raises(TenantUnresolved):
            await session.execute(OWN)
        with pytest.raises(TenantUnresolved):
            await session.commit()


async def test_errors_of_ours_come_out_as_they_are(notes: World) -> None:
    one = {"max_size": 1, "shared_size": 1, "acquire_timeout": 1.5}
    async with checked(notes.settings(pools=one), notes) as router:
        engine = create_async_engine(router)
        with use(router.tenant("nobody")):
            async with AsyncSession(engine) as session:
                with pytest.raises(TenantNotFound):
                    await session.execute(OWN)
        with use(router.tenant("database1")):
            async with engine.connect() as held, AsyncSession(engine) as session:
                with pytest.raises(PoolTimeout):
                    await session.execute(OWN)
                assert (await held.scalars(OWN)).all() == own("database1")
            async with AsyncSession(engine) as session:
                assert await names(session) == own("database1")


# --- somebody else's -------------------------------------------------------------------------------------------------
@pairs
async def test_a_session_that_goes_on_for_another_tenant_is_refused_for_good(
    engine: AsyncEngine, router: CheckedRouter, first: str, second: str
) -> None:
    async with AsyncSession(engine) as session:
        with use(router.tenant(first)):
            assert await names(session) == own(first)
            await session.commit()
        with use(router.tenant(second)):
            for _ in range(3):
                with pytest.raises(AccessDenied, match=f"{first}'s, and {second} is"):
                    await session.execute(OWN)
            await session.rollback()
            with pytest.raises(AccessDenied):
                await session.execute(OWN)
            await session.rollback()
            session.add(Note(text=f"{first} in the wrong place"))
            with pytest.raises(AccessDenied):
                await session.commit()
            await session.rollback()
        with use(router.tenant(first)):
            assert await names(session) == own(first)
    with use(router.tenant(second)):
        async with AsyncSession(engine) as session:
            wrong = select(func.count()).where(Note.text == f"{first} in the wrong place")
            assert await session.scalar(wrong) == 0


@pairs
async def test_an_open_transaction_runs_nothing_and_commits_nothing_for_another_tenant(
    engine: AsyncEngine, router: CheckedRouter, first: str, second: str
) -> None:
    async with AsyncSession(engine) as session:
        with use(router.tenant(first)):
            session.add(Note(text=f"{first} uncommitted"))
            await session.flush()
        with use(router.tenant(second)):
            with pytest.raises(AccessDenied):
                await session.execute(OWN)
            with pytest.raises(AccessDenied):
                await session.commit()
            await session.rollback()
    with use(router.tenant(first)):
        async with AsyncSession(engine) as session:
            assert await session.scalar(select(func.count()).where(Note.text == f"{first} uncommitted")) == 0


async def test_a_stream_is_not_read_on_for_another_tenant(engine: AsyncEngine, router: CheckedRouter) -> None:
    async with AsyncSession(engine) as session:
        with use(router.tenant("row1")):
            stream = await session.stream_scalars(select(func.generate_series(1, 500)))
            assert await stream.fetchmany(2) == [1, 2]
        with use(router.tenant("row2")):
            with pytest.raises(AccessDenied):
                await stream.fetchmany(100)
            with pytest.raises(AccessDenied):
                await stream.all()


async def test_a_connection_that_was_lost_does_not_come_back_as_another_tenants(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    with use(router.tenant("row1")):
        conn = await engine.connect()
    async with aclosing(conn):
        with use(router.tenant("row1")):
            assert (await conn.scalars(OWN)).all() == own("row1")
            await conn.rollback()
            await conn.invalidate()
        with use(router.tenant("row2")):
            for _ in range(2):
                with pytest.raises(AccessDenied):
                    await conn.execute(OWN)
            await conn.rollback()
        with use(router.tenant("row1")):
            await conn.invalidate()
            assert (await conn.scalars(OWN)).all() == own("row1")


async def test_a_transaction_stays_in_the_context_that_it_was_opened_in(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    who = text("SELECT current_setting('app.user_id', true)")
    async with AsyncSession(engine) as session:
        with use(router.tenant("row1", context={"app.user_id": "7"})):
            assert await session.scalar(who) == "7"
        with use(router.tenant("row1", context={"app.user_id": "8"})):
            with pytest.raises(AccessDenied):
                await session.execute(who)
            await session.rollback()
            assert await session.scalar(who) == "8"
        with use(router.tenant("row1")):
            await session.rollback()
            assert not await session.scalar(who)
        with use(router.tenant("row1")):  # an equal scope is as good as the same one
            assert not await session.scalar(who)


async def test_the_tenants_of_another_router_are_not_this_engines(
    engine: AsyncEngine, router: CheckedRouter, notes: World
) -> None:
    other = Router(notes.settings())
    with use(other.tenant("row1")), pytest.raises(AccessDenied, match="another router"):
        async with engine.connect():
            pass


async def test_a_task_made_in_the_block_has_the_tenant_and_a_session_of_its_own(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    async def job() -> tuple[str, Sequence[str]]:
        async with AsyncSession(engine) as session:
            return current().id, await names(session)

    with use(router.tenant("row1")):
        task = asyncio.create_task(job())
    with use(router.tenant("row2")):
        assert await job() == ("row2", own("row2"))
        assert await task == ("row1", own("row1"))


# --- on the same backend ---------------------------------------------------------------------------------------------
POISON: Final = (
    "SET app.current_tenant_id = '{other}'",
    "SELECT set_config('app.current_tenant_id', '{other}', false)",
    "SET app.tenant_proof = 'bound'",
    "SET search_path = pg_catalog",
    "SET row_security = off",
    "SET default_transaction_read_only = on",
    "SET TimeZone = 'Asia/Tokyo'",
    "SELECT pg_advisory_lock(42)",
    "LISTEN gossip",
    "PREPARE stolen AS SELECT name FROM projects",
    "DECLARE c CURSOR WITH HOLD FOR SELECT name FROM projects",
    "DEALLOCATE ALL",
    "DISCARD ALL",
)
_STATE: Final = text(
    "SELECT current_setting('search_path'), current_setting('TimeZone'), current_setting('row_security'),"
    " current_setting('default_transaction_read_only'), current_user::text,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE name <> '')"
)


async def _state(engine: AsyncEngine, router: CheckedRouter, tenant: str) -> tuple[Any, ...]:
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            assert await names(session) == own(tenant)
            return tuple((await session.execute(_STATE)).one())


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
@pytest.mark.parametrize(("first", "second"), [("row1", "row2"), ("schema1", "schema1"), ("database1", "database1")])
async def test_nothing_that_a_session_does_to_its_connection_meets_the_next(
    narrow: CheckedRouter, first: str, second: str, level: str
) -> None:
    engine = create_async_engine(narrow)
    clean = await _state(engine, narrow, second)
    for statement in POISON:
        with use(narrow.tenant(first)):
            try:
                async with engine.execution_options(isolation_level=level).connect() as conn:
                    await conn.exec_driver_sql(statement.format(other=second))
                    await conn.commit()
            except DBAPIError:
                pass  # refused: as good
        assert await _state(engine, narrow, second) == clean, statement
        assert await _state(engine, narrow, first)


# --- codecs ----------------------------------------------------------------------------------------------------------
async def test_the_codecs_of_the_engine_stay_on_its_connections_and_reach_no_others(
    narrow: CheckedRouter,
) -> None:
    engine = create_async_engine(narrow)
    for tenant in ("row1", "schema1", "database1"):
        scope = narrow.tenant(tenant)
        pids = set()
        for _ in range(3):
            plain = await scope.fetchrow(RAW_BODY)
            assert plain is not None
            assert tuple(plain) == ('{"a": [1]}', "[2]")
            with use(scope):
                async with engine.connect() as conn:
                    assert tuple((await conn.execute(BODY)).one()) == ({"a": [1]}, [2])
                    raw: Any = (await conn.get_raw_connection()).driver_connection
                    assert tuple(await raw.fetchrow(RAW_BODY)) == ({"a": [1]}, [2])
                    pids.add(raw.get_server_pid())
        assert len(pids) == 1
        assert await scope.fetchval("SELECT pg_backend_pid()") not in pids


async def test_the_codecs_of_the_router_do_not_change_what_the_engine_reads(notes: World) -> None:
    async def init(conn: Any) -> None:
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=lambda _: "the router's")
        await conn.set_type_codec("int4", schema="pg_catalog", encoder=str, decoder=lambda n: -int(n), format="text")

    async with checked(notes.settings(), notes, init=init) as router:
        engine = create_async_engine(router)
        with use(router.tenant("row1")) as scope:
            assert await scope.fetchval("SELECT '{}'::jsonb") == "the router's"
            async with AsyncSession(engine) as session:
                assert await session.scalar(text("SELECT '{}'::jsonb")) == {}
                assert await session.scalar(text("SELECT 3")) == -3
            assert await scope.fetchval("SELECT '{}'::jsonb") == "the router's"


async def test_codecs_of_an_init_stay_and_those_of_a_session_end_with_it(
    narrow: CheckedRouter,
) -> None:
    async def init(conn: Any) -> None:
        await conn.set_type_codec("int4", schema="pg_catalog", encoder=str, decoder=lambda n: -int(n), format="text")

    engine = create_async_engine(narrow, init=init, json_deserializer=lambda text: ("read", json.loads(text)))
    pids = []
    with use(narrow.tenant("schema1")):
        for _ in range(2):
            async with engine.connect() as conn:
                assert await conn.scalar(text("SELECT 3")) == -3
                assert await conn.scalar(text("SELECT '[]'::jsonb")) == ("read", [])
                pids.append(await conn.scalar(text("SELECT pg_backend_pid()::text")))
        async with engine.connect() as conn:
            raw: Any = (await conn.get_raw_connection()).driver_connection
            await raw.set_type_codec("int4", schema="pg_catalog", encoder=str, decoder=lambda _: "mine", format="text")
            assert await conn.scalar(text("SELECT 4")) == "mine"
        async with engine.connect() as conn:
            assert await conn.scalar(text("SELECT 3")) == -3
            pids.append(await conn.scalar(text("SELECT pg_backend_pid()::text")))
    assert pids[0] == pids[1] != pids[2]


async def test_engines_that_read_alike_share_connections_and_others_need_a_profile_of_their_own(
    narrow: CheckedRouter,
) -> None:
    first, alike = create_async_engine(narrow), create_async_engine(narrow, echo=False)
    with pytest.raises(ConfigurationError, match="profile"):
        create_async_engine(narrow, json_deserializer=str)
    other = create_async_engine(narrow, json_deserializer=str, profile="reports")
    pids = []
    with use(narrow.tenant("database1")):
        for engine in (first, alike, other):
            async with engine.connect() as conn:
                pids.append(await conn.scalar(PID))
        async with other.connect() as conn:
            assert await conn.scalar(text("SELECT '[1]'::jsonb")) == "[1]"
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.parametrize("profile", ["", "admin", "login"])
async def test_a_profile_that_means_something_else_is_refused(router: CheckedRouter, profile: str) -> None:
    with pytest.raises(ConfigurationError, match="profile"):
        create_async_engine(router, profile=profile)


@pytest.mark.parametrize(
    "option", ["pool_size", "max_overflow", "poolclass", "connect_args", "creator", "async_creator", "pool_pre_ping"]
)
async def test_an_engine_refuses_to_be_told_how_to_connect_or_pool(router: CheckedRouter, option: str) -> None:
    refused: dict[str, Any] = {option: None}
    with pytest.raises(ConfigurationError, match=option):
        create_async_engine(router, **refused)


# --- many at once ----------------------------------------------------------------------------------------------------
async def _interleave(world: World, *, tasks: int) -> None:
    pools = {"max_size": 2, "shared_size": 5, "acquire_timeout": 30.0, "max_waiting": 1000}
    async with checked(world.settings(pools=pools), world) as router:
        sessions = async_sessionmaker(create_async_engine(router))
        tenants = [tenant.id for tenant in world.tenants]
        chance = random.Random(7)

        async def work(number: int) -> None:
            tenant = tenants[number % len(tenants)]
            mark = f"{tenant} {number}"
            with use(router.tenant(tenant)):
                async with sessions() as session:
                    assert await names(session) == own(tenant)
                    session.add(Note(text=mark, body={"whose": tenant}))
                    await asyncio.sleep(0)
                    if chance.random() < 0.3:
                        await session.rollback()
                        session.add(Note(text=mark, body={"whose": tenant}))
                    await session.commit()
                    rows = (await session.scalars(select(Note))).all()
                    assert {row.body["whose"] for row in rows} == {tenant}
                    assert all(row.text.startswith(f"{tenant} ") for row in rows)
                    assert mark in {row.text for row in rows}

        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(work(number))
        shared = [pool for pool in router.stats().pools if pool.key.shared and pool.key.profile]
        assert [pool.limit for pool in shared] == [5]


async def test_twenty_tenants_in_two_hundred_tasks_never_see_each_other(postgres: EmbeddedPostgres) -> None:
    async with a_world_with_notes(postgres, rows=14, schemas=3, databases=3) as world:
        await _interleave(world, tasks=200)


async def test_tenants_in_many_tasks_never_see_each_other_on_postgresql_16(postgres16: EmbeddedPostgres) -> None:
    async with a_world_with_notes(postgres16, rows=4, schemas=1, databases=1) as world:
        await _interleave(world, tasks=60)
