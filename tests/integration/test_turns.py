"""Do row tenants who take turns on a connection meet only what is their own, and does it end when it is to end?"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tenantproxy import Router
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.connector import AsyncpgConnector
from tenantproxy.driver.saying import Saying
from tenantproxy.driver.state import DriverConnection
from tenantproxy.events import BackendLingers, Event
from tenantproxy.isolation.base import SOFT_RESET
from tenantproxy.isolation.turn import Said
from tenantproxy.pools.pool import Pool
from tenantproxy.wire.frames import QUERY, frame
from tests.support.faults import frozen
from tests.support.leases import ResetMode, one_connection, own_rows, pid_of, rows_of
from tests.support.waiting import until
from tests.support.world import World

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said to servers on connections that change their tenants."""
    texts: list[str] = []
    say = TenantConnection.say

    async def noting(conn: TenantConnection, what: Said) -> None:
        texts.append(what.sql)
        await say(conn, what)

    monkeypatch.setattr(TenantConnection, "say", noting)
    return texts


async def test_a_session_that_is_reset_for_no_tenant_holds_no_lock(each_world: World, said: list[str]) -> None:
    pools = {"max_size": 2, "shared_size": 2}
    async with Router(each_world.settings(pools=pools)) as router, each_world.shared.connect() as admin:
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            conns = [await leases.enter_async_context(router.tenant("row1").connection()) for leases in (first, second)]
            for number, conn in enumerate(conns):
                await conn.execute("SELECT pg_advisory_lock($1::int)", number)
            waiting = asyncio.create_task(router.tenant("row2").fetchval("SELECT 1"))
            await until(lambda: any(pool.waiting for pool in router.stats().pools), "the other tenant waits")
            with frozen(conns[1].get_server_pid()):  # so that the first one serves the other tenant
                await first.aclose()
                await second.aclose()
                assert await waiting == 1
        await until(lambda: not any(pool.resetting for pool in router.stats().pools), "the resets are over")
        assert any("enter" not in text and "RESET ALL" in text for text in said)
        assert await admin.fetchval(LOCKS) == 0
        assert router.stats().resets["failed"] == 0


async def test_a_nonce_that_a_tenant_draws_keeps_no_other_tenant_out_of_its_session(each_world: World) -> None:
    pools = {"max_size": 2, "shared_size": 2}
    async with Router(each_world.settings(pools=pools)) as router:
        first, second = router.tenant("row1"), router.tenant("row2")
        async with AsyncExitStack() as one, AsyncExitStack() as other:
            conns = [await leases.enter_async_context(first.connection()) for leases in (one, other)]
            for conn in conns:
                await conn.execute("SELECT tenantproxy.hello()")
            pids = {conn.get_server_pid() for conn in conns}
            waiting = asyncio.create_task(second.fetchval("SELECT 1"))
            await until(lambda: any(pool.waiting for pool in router.stats().pools), "the other tenant waits")
            with frozen(conns[1].get_server_pid()):  # its session is made no tenant's then
                await one.aclose()
                await other.aclose()
                assert await waiting == 1
        await until(lambda: not any(pool.resetting for pool in router.stats().pools), "the resets are over")
        async with second.connection() as mine, second.connection() as another:
            assert len(pids & {mine.get_server_pid(), another.get_server_pid()}) == 1, (
                "one is the session made no one's"
            )
            assert await own_rows(mine) == await own_rows(another) == rows_of("row2")
        assert not any(router.stats().violations.values())


async def test_a_connection_is_ended_at_once_while_its_tenant_is_being_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    ended: list[DriverConnection] = []
    end = AsyncpgConnector._end

    async def noting(connector: AsyncpgConnector, pool: Pool[DriverConnection], backend: DriverConnection) -> None:
        ended.append(backend)
        await end(connector, pool, backend)

    monkeypatch.setattr(AsyncpgConnector, "_end", noting)
    async with one_connection(world, observer=events.append) as router, AsyncExitStack() as stopped:
        async with router.tenant("row1").connection() as conn:
            inner: Any = conn._con
            stopped.enter_context(frozen(conn.get_server_pid()))
        await until(lambda: isinstance(inner._transport.get_protocol(), Saying), "the reset has been sent")
        closing = asyncio.create_task(router.close())
        await until(lambda: any(backend.con is inner for backend in ended), "the connection is being ended")
        await stopped.aclose()
        await closing
    assert not [event for event in events if isinstance(event, BackendLingers)]


@pytest.mark.parametrize("right", ["TEMPORARY ON DATABASE", "CREATE ON DATABASE", "CREATE ON SCHEMA"])
async def test_a_proof_does_not_go_out_with_the_reset_where_the_role_can_become_one_that_makes_objects(
    each_world: World, said: list[str], right: str
) -> None:
    where = "public" if right.endswith("SCHEMA") else each_world.shared.name
    async with each_world.shared.connect() as admin:
        await admin.execute(f'CREATE ROLE maker NOLOGIN; GRANT {right} "{where}" TO maker')
        await admin.execute(
            "CREATE ROLE go_between NOLOGIN NOINHERIT; GRANT maker TO go_between; GRANT go_between TO app"
        )
    try:
        async with one_connection(each_world) as router:
            for tenant in ("row1", "row2"):
                async with router.tenant(tenant).connection() as conn:
                    assert await own_rows(conn) == rows_of(tenant)
        entries = [text for text in said if "tenantproxy.enter(" in text]
        assert len(entries) >= 3
        assert not [text for text in entries if "RESET ALL" in text]
    finally:
        async with each_world.shared.connect() as admin:
            await admin.execute("DROP OWNED BY maker; DROP ROLE maker, go_between")


async def test_reset_and_entry_are_one_message_where_the_role_makes_nothing(each_world: World, said: list[str]) -> None:
    async with one_connection(each_world) as router:
        for tenant in ("row1", "row2"):
            async with router.tenant(tenant).connection() as conn:
                assert await own_rows(conn) == rows_of(tenant)
    entries = [text for text in said if "tenantproxy.enter(" in text]
    assert len(entries) >= 3
    assert all("RESET ALL" in text for text in entries)


FORGED = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; DISCARD TEMP;"
    " SET app.current_tenant_id = 'row1'; SET app.tenant_proof = 'bound'; SELECT pg_advisory_unlock_all()::text"
)


@pytest.mark.parametrize(
    ("tenant", "forged"),
    [("row1", FORGED), ("row1", f"{FORGED}, '{'a' * 32}' AS nonce"), ("database1", SOFT_RESET)],
    ids=["no nonce", "a guess", "its own database"],
)
async def test_an_answer_too_many_does_not_stand_for_that_to_the_reset(world: World, tenant: str, forged: str) -> None:
    """The driver has no way to leave one. By what is said here none could take effect, whatever left it."""
    async with one_connection(world) as router:
        scope = router.tenant(tenant)
        pid = await pid_of(scope)
        async with scope.connection() as conn:
            assert conn.get_server_pid() == pid
            inner: Any = conn._con
            slowly = frame(QUERY, b"SELECT pg_sleep(0.3)\0")  # or the rest would come with it, and be one too many
            inner._transport.write(frame(QUERY, f"{forged}\0".encode()) + slowly)
        await until(lambda: router.stats().closed.get("reset_failed"), "the connection is ended")
        assert router.stats().resets["failed"] == 1
        assert await pid_of(scope) != pid


MEANINGS = {
    "DateStyle": ("SET datestyle = 'ISO, DMY'", "SELECT '01/02/2024'::date::text"),
    "TimeZone": ("SET timezone = 'Asia/Tokyo'", "SELECT extract(epoch FROM '2024-01-01'::timestamptz)::bigint"),
    "IntervalStyle": (
        "SET intervalstyle = 'sql_standard'",
        "SELECT extract(epoch FROM '-1 1:00:00'::interval)::bigint",
    ),
    "strings with backslashes": ("SET standard_conforming_strings = off", r"SELECT 'a\\b'"),
    "equal to NULL": ("SET transform_null_equals = on", "SELECT NULL::int = NULL"),
    "NULL in arrays": ("SET array_nulls = off", "SELECT '{NULL}'::text[]"),
    "set by a function": ("SELECT set_config('datestyle', 'ISO, DMY', false)", "SELECT '01/02/2024'::date::text"),
    "in a transaction": ("BEGIN; SET LOCAL datestyle = 'ISO, DMY'", "SELECT '01/02/2024'::date::text"),
    "unseen": ("DO $$ BEGIN EXECUTE 'SET date' || 'style = ''ISO, DMY'''; END $$", "SELECT '01/02/2024'::date::text"),
}


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
@pytest.mark.parametrize("name", MEANINGS)
async def test_a_text_means_to_a_tenant_what_it_means_at_a_sessions_start(
    each_world: World, name: str, reset: ResetMode
) -> None:
    change, text = MEANINGS[name]
    async with one_connection(each_world, reset=reset) as router:
        async with each_world.shared.connect() as admin:
            meant = await admin.fetchval(text)
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            await conn.execute(change)
            other = await conn.fetchval(text)
        async with router.tenant("row2").connection() as conn:
            assert conn.get_server_pid() == pid
            for _ in range(2):
                assert await conn.fetchval(text) == meant != other
