"""What becomes of a connection when SQLAlchemy's user is cancelled, forgets it, holds it for long, or is done?"""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any, Final

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, MissingGreenlet, SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tenantproxy import PoolClosed, Router, use
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter, checked
from tests.support.notes import Note
from tests.support.waiting import until
from tests.support.world import World

KINDS: Final = ("row1", "schema1", "database1")
PID: Final = text("SELECT pg_backend_pid()")
OWN: Final = text("SELECT name FROM projects ORDER BY name")
WINDOW: Final = 1.0

kinds = pytest.mark.parametrize("tenant", KINDS)


def own(tenant: str) -> list[str]:
    return [f"{tenant} {n}" for n in (1, 2, 3)]


async def pid_of(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        pid: int = (await conn.execute(PID)).scalar_one()
        return pid


def profile_connections(router: Router) -> int:
    pools = [pool for pool in router.stats().pools if pool.key.profile == "sqlalchemy"]
    return sum(pool.idle + pool.used + pool.resetting + pool.retiring for pool in pools)


# --- SQLAlchemy's own record and events ------------------------------------------------------------------------------
async def test_listeners_hear_of_each_lease_whenever_they_were_added(narrow: CheckedRouter) -> None:
    engine = create_async_engine(narrow)
    pool, heard = engine.sync_engine.pool, list[str]()
    with use(narrow.tenant("row1")):
        for _ in range(2):
            await pid_of(engine)
        for name in ("connect", "checkout", "reset", "checkin", "close"):
            event.listen(pool, name, lambda *_, name=name: heard.append(name))
        for _ in range(2):
            await pid_of(engine)
    assert heard == ["connect", "checkout", "reset", "checkin", "close"] * 2


async def test_what_a_user_notes_of_a_connection_is_gone_with_its_lease(narrow: CheckedRouter) -> None:
    engine = create_async_engine(narrow)
    for tenant in ("row1", "row2", "row1"):
        with use(narrow.tenant(tenant)):
            async with engine.connect() as conn:
                noted = (await conn.get_raw_connection()).info
                assert noted == {}
                noted["whose"] = tenant


# --- cancelled -------------------------------------------------------------------------------------------------------
@kinds
async def test_a_statement_that_is_cancelled_ends_on_the_server_and_its_connection_serves_on(
    narrow: CheckedRouter, notes: World, tenant: str
) -> None:
    engine = create_async_engine(narrow)

    async def sleep() -> None:
        async with AsyncSession(engine) as session:
            session.add(Note(text=f"{tenant} of the cancelled"))
            await session.flush()
            await session.execute(text("SELECT pg_sleep(600)"))

    with use(narrow.tenant(tenant)):
        pid = await pid_of(engine)
        task = asyncio.create_task(sleep())
        async with notes.main.connect() as admin:
            await until(lambda: _sleeps(admin, pid), "the statement runs")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with AsyncSession(engine) as session:
                assert (await session.scalars(OWN)).all() == own(tenant)
                left = select(Note).where(Note.text == f"{tenant} of the cancelled")
                assert (await session.scalars(left)).all() == []
            assert not await _sleeps(admin, pid)
        assert await pid_of(engine) == pid


async def _sleeps(admin: Any, pid: int) -> bool:
    found = await admin.fetchval(
        "SELECT true FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND query LIKE '%pg_sleep%'", pid
    )
    return found is not None


async def test_a_wait_for_a_connection_that_is_cancelled_leaves_nothing(narrow: CheckedRouter) -> None:
    engine = create_async_engine(narrow)
    with use(narrow.tenant("row1")):
        async with engine.connect() as held:
            waiting = asyncio.create_task(pid_of(engine))
            await until(lambda: any(pool.waiting for pool in narrow.stats().pools), "it waits")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            pid = await held.scalar(PID)
        assert await pid_of(engine) == pid


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 40, 70, 110, 160, 220, 300])
async def test_wherever_a_session_is_cancelled_the_next_one_finds_its_connection(
    narrow: CheckedRouter, steps: int
) -> None:
    engine = create_async_engine(narrow)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            session.add(Note(text=f"row1 cancelled {steps}"))
            await session.flush()
            await session.execute(OWN)
            await session.rollback()

    with use(narrow.tenant("row1")):
        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        async with AsyncSession(engine) as session:
            assert (await session.scalars(OWN)).all() == own("row1")


# --- forgotten -------------------------------------------------------------------------------------------------------
@kinds
async def test_a_connection_that_is_at_hand_is_taken_without_a_step_of_the_loop(
    router: CheckedRouter, tenant: str
) -> None:
    engine = create_async_engine(router)
    with use(router.tenant(tenant)):
        await pid_of(engine)
        await until(lambda: any(pool.idle for pool in router.stats().pools if pool.key.profile), "it lies idle")
        conn = engine.connect()
        with pytest.raises(StopIteration):
            conn.start().send(None)
        assert await conn.scalar(text("SELECT 1")) == 1
        await conn.close()


@kinds
async def test_outside_of_a_greenlet_nothing_is_lent(router: CheckedRouter, tenant: str) -> None:
    engine = create_async_engine(router)
    with use(router.tenant(tenant)):
        await pid_of(engine)
        with pytest.raises(MissingGreenlet):
            engine.sync_engine.connect()
    await until(lambda: not any(pool.used for pool in router.stats().pools if pool.key.profile), "none is lent")


async def test_a_connection_that_is_forgotten_comes_back(narrow: CheckedRouter) -> None:
    engine = create_async_engine(narrow)

    async def forget() -> None:
        conn = await engine.connect()
        await conn.execute(text("SET TimeZone = 'Asia/Tokyo'"))

    with use(narrow.tenant("database1")):
        pid = await pid_of(engine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # SQLAlchemy tells who forgot it
            await forget()
            gc.collect()
        assert await pid_of(engine) == pid
        async with engine.connect() as conn:
            assert await conn.scalar(text("SHOW TimeZone")) != "Asia/Tokyo"


# --- lost ------------------------------------------------------------------------------------------------------------
@kinds
async def test_a_connection_that_the_server_ended_is_told_as_usual_and_the_next_session_works(
    narrow: CheckedRouter, notes: World, tenant: str
) -> None:
    engine = create_async_engine(narrow)
    with use(narrow.tenant(tenant)):
        async with AsyncSession(engine) as session:
            pid = await session.scalar(PID)
            async with notes.main.connect() as admin:
                await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            with pytest.raises(DBAPIError) as caught:
                await session.execute(OWN)
            assert caught.value.connection_invalidated
            await session.rollback()
            assert (await session.scalars(OWN)).all() == own(tenant)


async def test_a_router_that_is_closed_lends_nothing(notes: World) -> None:
    async with checked(notes.settings(), notes) as router:
        engine = create_async_engine(router)
        with use(router.tenant("row1")):
            await pid_of(engine)
            await router.close()
            with pytest.raises(PoolClosed):
                await pid_of(engine)
            await engine.dispose()


# --- done ------------------------------------------------------------------------------------------------------------
async def test_dispose_closes_what_lies_idle_and_later_what_is_lent_and_the_engine_works_on(
    router: CheckedRouter,
) -> None:
    engine = create_async_engine(router)
    scope = router.tenant("database1")
    plain = await scope.fetchval("SELECT pg_backend_pid()")
    with use(scope):
        before = await pid_of(engine)
        async with engine.connect() as conn:
            lent = await conn.scalar(PID)
            await engine.dispose()
            assert (await conn.scalars(OWN)).all() == own("database1")
        await until(lambda: profile_connections(router) == 0, "all of the profile are closed")
        assert await pid_of(engine) not in (before, lent)
    assert await scope.fetchval("SELECT pg_backend_pid()") == plain


async def test_expiring_a_tenants_connections_closes_those_of_the_engine_too(router: CheckedRouter) -> None:
    engine = create_async_engine(router)
    with use(router.tenant("schema1")):
        before = await pid_of(engine)
        await router.expire_connections("schema1")
        assert await pid_of(engine) != before


# --- held ------------------------------------------------------------------------------------------------------------
async def _pass(world: World, seconds: float) -> None:
    async with world.shared.connect() as clock:
        end = await clock.fetchval("SELECT clock_timestamp() + make_interval(secs => $1)", seconds)
        await until(lambda: clock.fetchval("SELECT clock_timestamp() > $1", end), "time passes on the server")


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
async def test_a_connection_held_beyond_its_proof_is_renewed(notes: World, level: str) -> None:
    pools = {"shared_size": 1, "acquire_timeout": 10.0}
    async with checked(notes.settings(pools=pools, row={"proof_window": WINDOW}), notes) as router:
        engine = create_async_engine(router)
        with use(router.tenant("row1")):
            async with engine.execution_options(isolation_level=level).connect() as conn:
                pid = await conn.scalar(PID)
                assert (await conn.scalars(OWN)).all() == own("row1")
                await conn.commit()
                await _pass(notes, WINDOW + 0.1)
                assert (await conn.scalars(OWN)).all() == own("row1")
                await conn.commit()
                await _pass(notes, WINDOW + 0.1)
                assert (await conn.scalars(select(text("name FROM projects ORDER BY name")))).all() == own("row1")
                assert await conn.scalar(PID) == pid


async def test_a_transaction_longer_than_the_window_is_not_cut(notes: World) -> None:
    pools = {"shared_size": 1, "acquire_timeout": 10.0}
    async with checked(notes.settings(pools=pools, row={"proof_window": WINDOW}), notes) as router:
        engine = create_async_engine(router)
        with use(router.tenant("row1")):
            async with AsyncSession(engine) as session:
                stream = await session.stream_scalars(OWN)
                await _pass(notes, WINDOW + 0.2)
                assert await stream.all() == own("row1")
                assert (await session.scalars(OWN)).all() == own("row1")
                await session.commit()
                assert (await session.scalars(OWN)).all() == own("row1")
