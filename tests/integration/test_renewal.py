"""Does a connection that is held beyond its proof go on being its tenant's, and end when that fails?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, IsolationError
from tests.support.leases import OWN_ROWS, ResetMode, one_connection, own_rows, pid_of, rows_of
from tests.support.waiting import until
from tests.support.world import World, a_world

WINDOW: Final = 1.0
TENANT: Final = "row1"
Act = Callable[[], Awaitable[list[str]]]
Kind = Callable[[Guard], Awaitable[Act]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world16(postgres16: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres16) as made:
        yield made


def _names(rows: list[asyncpg.Record]) -> list[str]:
    return [row["name"] for row in rows]


async def fetching(conn: Guard) -> Act:
    return lambda: own_rows(conn)


# They run at once: one that locks several rows shares none with another, or they would lock each other out.
FIRST, *OTHERS = rows_of(TENANT)


async def executing(conn: Guard) -> Act:
    async def act() -> list[str]:
        tag = await conn.execute(f"UPDATE projects SET name = name WHERE name = '{FIRST}'")
        return rows_of(TENANT) if tag == "UPDATE 1" else [tag]

    return act


async def executing_with_arguments(conn: Guard) -> Act:
    async def act() -> list[str]:
        tag = await conn.execute("UPDATE projects SET name = name WHERE name = $1", FIRST)
        return rows_of(TENANT) if tag == "UPDATE 1" else [tag]

    return act


async def running_a_prepared_statement(conn: Guard) -> Act:
    statement = await conn.prepare(OWN_ROWS)

    async def act() -> list[str]:
        return _names(await statement.fetch())

    return act


async def preparing(conn: Guard) -> Act:
    async def act() -> list[str]:
        return _names(await (await conn.prepare(OWN_ROWS)).fetch())

    return act


async def reading_a_cursor(conn: Guard) -> Act:
    async def act() -> list[str]:
        async with conn.transaction():
            return [row["name"] async for row in conn.cursor(OWN_ROWS, prefetch=1)]

    return act


async def reading_a_cursor_of_a_statement(conn: Guard) -> Act:
    statement = await conn.prepare(OWN_ROWS)

    async def act() -> list[str]:
        async with conn.transaction(readonly=True):
            return _names(await (await statement.cursor()).fetch(10))

    return act


async def executing_many(conn: Guard) -> Act:
    async def act() -> list[str]:
        many = [(name,) for name in OTHERS]
        rows = await conn.fetchmany("UPDATE projects SET name = name WHERE name = $1 RETURNING name", many)
        await conn.executemany("UPDATE projects SET name = name WHERE name = $1", many)
        return [FIRST, *_names(rows)]

    return act


async def copying(conn: Guard) -> Act:
    async def act() -> list[str]:
        chunks: list[bytes] = []

        async def sink(data: bytes) -> None:
            chunks.append(data)

        await conn.copy_from_query(OWN_ROWS, output=sink)
        return b"".join(chunks).decode().splitlines()

    return act


KINDS: tuple[Kind, ...] = (
    fetching, executing, executing_with_arguments, running_a_prepared_statement, preparing, reading_a_cursor,
    reading_a_cursor_of_a_statement, executing_many, copying,
)  # fmt: skip


@asynccontextmanager
async def _router(world: World, connections: int = 1, reset: ResetMode = "always") -> AsyncIterator[Router]:
    pools = {"max_size": connections, "shared_size": connections, "acquire_timeout": 10.0}
    async with one_connection(world, reset=reset, pools=pools, row={"proof_window": WINDOW}) as router:
        yield router


async def _pass(world: World, seconds: float) -> None:
    """Return when the server's clock has gone on by so much."""
    async with world.shared.connect() as clock:
        end = await clock.fetchval("SELECT clock_timestamp() + make_interval(secs => $1)", seconds)
        await until(lambda: clock.fetchval("SELECT clock_timestamp() > $1", end), "time passes on the server")


@asynccontextmanager
async def _held(router: Router) -> AsyncIterator[dict[str, tuple[Guard, Act]]]:
    """A held connection for each kind of statement."""
    async with AsyncExitStack() as stack:
        held = {}
        for kind in KINDS:
            conn = await stack.enter_async_context(router.tenant(TENANT).connection())
            held[kind.__name__] = (conn, await kind(conn))
        yield held


async def _work_for_three_windows(world: World) -> None:
    async with world.shared.connect() as clock, _router(world, len(KINDS)) as router, _held(router) as held:
        end = await clock.fetchval("SELECT clock_timestamp() + make_interval(secs => $1)", 3 * WINDOW + 0.1)

        async def work(name: str, conn: Guard, act: Act) -> None:
            pid = conn.get_server_pid()
            while await conn.fetchval("SELECT clock_timestamp() < $1", end):
                assert await act() == rows_of(TENANT), name
            assert conn.get_server_pid() == pid

        async with asyncio.TaskGroup() as group:
            for name, (conn, act) in held.items():
                group.create_task(work(name, conn, act))


async def test_a_connection_held_for_three_windows_works_in_every_way(one_world: World) -> None:
    await _work_for_three_windows(one_world)


async def test_a_connection_held_for_three_windows_works_on_postgresql_16(one_world16: World) -> None:
    await _work_for_three_windows(one_world16)


async def test_whatever_comes_first_after_the_window_of_a_held_connection_works(one_world: World) -> None:
    async with _router(one_world, len(KINDS)) as router, _held(router) as held:
        await _pass(one_world, WINDOW + 0.1)
        for name, (_, act) in held.items():
            assert await act() == rows_of(TENANT), name


async def test_a_transaction_longer_than_the_window_is_not_cut_and_the_next_one_is_renewed(one_world: World) -> None:
    async with _router(one_world) as router, router.tenant(TENANT).connection() as conn:
        statement = await conn.prepare(OWN_ROWS)
        async with conn.transaction():
            await conn.execute("UPDATE projects SET name = name")
            await _pass(one_world, WINDOW + 0.2)
            assert await own_rows(conn) == rows_of(TENANT)
            assert _names(await statement.fetch()) == rows_of(TENANT)
            assert await conn.execute("UPDATE projects SET name = name") == "UPDATE 3"
            assert [row["name"] async for row in conn.cursor(OWN_ROWS)] == rows_of(TENANT)
            async with conn.transaction():
                assert await own_rows(conn) == rows_of(TENANT)
        assert _names(await statement.fetch()) == rows_of(TENANT)


async def test_a_transaction_opened_in_sql_is_not_cut_either(one_world: World) -> None:
    async with _router(one_world) as router, router.tenant(TENANT).connection() as conn:
        await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await _pass(one_world, WINDOW + 0.2)
        assert await own_rows(conn) == rows_of(TENANT)
        await conn.execute("COMMIT")
        assert await own_rows(conn) == rows_of(TENANT)


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
async def test_a_session_that_its_user_made_read_only_is_renewed_and_stays_so(one_world: World, level: str) -> None:
    async with _router(one_world) as router, router.tenant(TENANT).connection() as conn:
        await conn.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}, READ ONLY")
        await _pass(one_world, WINDOW * 0.8)
        assert await own_rows(conn) == rows_of(TENANT)
        assert await conn.fetchval("SHOW transaction_read_only") == "on"
        assert not conn.is_in_transaction()


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_an_idle_bound_connection_past_its_window_is_bound_again(one_world: World, reset: ResetMode) -> None:
    async with _router(one_world, reset=reset) as router:
        scope = router.tenant(TENANT)
        pid = await pid_of(scope)
        await _pass(one_world, WINDOW + 0.1)
        assert await own_rows(scope) == rows_of(TENANT)
        assert await pid_of(scope) == pid


@asynccontextmanager
async def _fenced(world: World, tenant: str = TENANT) -> AsyncIterator[None]:
    async with world.shared.connect() as admin:
        await admin.execute("INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ($1, 'a test')", tenant)
        try:
            yield
        finally:
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant WHERE tenant_id = $1", tenant)


async def test_a_renewal_that_is_refused_lets_nothing_run_and_ends_the_connection(one_world: World) -> None:
    async with _router(one_world, len(KINDS)) as router:
        async with _held(router) as held:
            pids = [conn.get_server_pid() for conn, _ in held.values()]
            async with _fenced(one_world):
                await _pass(one_world, WINDOW * 0.8)
                for name, (conn, act) in held.items():
                    with pytest.raises(IsolationError, match="refuses the proof") as caught:
                        await act()
                    assert "fenced" in str(caught.value), name
                    assert conn.is_closed(), name
                    with pytest.raises(asyncpg.InterfaceError, match="closed"):
                        await conn.execute("SELECT 1")
            async with one_world.shared.connect() as admin:
                living = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1::int[])"
                await until(lambda: _is_zero(admin, living, pids), "the backends are gone")
        assert router.stats().violations["rebind"] == len(KINDS)
        assert await own_rows(router.tenant(TENANT)) == rows_of(TENANT)  # the fence is gone, and another backend serves


async def _is_zero(conn: asyncpg.Connection, query: str, *args: object) -> bool:
    return bool(await conn.fetchval(query, *args) == 0)


async def test_what_was_asked_for_when_a_renewal_is_refused_has_not_run(one_world: World) -> None:
    shares = replace(one_world, unprotected=("public.open_to_all",))
    async with one_world.shared.connect() as admin, _router(shares) as router:
        await admin.execute("CREATE TABLE open_to_all (n int); GRANT INSERT ON open_to_all TO app")
        async with router.tenant(TENANT).connection() as conn, _fenced(one_world):
            await _pass(one_world, WINDOW * 0.8)
            with pytest.raises(IsolationError):
                await conn.execute("INSERT INTO open_to_all VALUES (1)")
        assert await admin.fetchval("SELECT count(*) FROM open_to_all") == 0
        await admin.execute("DROP TABLE open_to_all")


async def test_a_fence_ends_the_tenant_at_once_and_nobody_else(one_world: World) -> None:
    async with _router(one_world) as router:
        assert await own_rows(router.tenant(TENANT)) == rows_of(TENANT)
        async with _fenced(one_world):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant context"):
                await own_rows(router.tenant(TENANT))  # bound before the fence
            assert await own_rows(router.tenant("row2")) == rows_of("row2")
            with pytest.raises(IsolationError, match="refuses the proof"):
                await own_rows(router.tenant(TENANT))
            assert await own_rows(router.tenant("row2")) == rows_of("row2")
        assert await own_rows(router.tenant(TENANT)) == rows_of(TENANT)


async def test_a_renewal_on_a_backend_that_is_gone_says_that_the_connection_is_lost(one_world: World) -> None:
    async with one_world.shared.connect() as admin, _router(one_world) as router:
        async with router.tenant(TENANT).connection() as conn:
            await _pass(one_world, WINDOW * 0.8)
            await admin.execute("SELECT pg_terminate_backend($1)", conn.get_server_pid())
            with pytest.raises((ConnectFailed, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
                await own_rows(conn)
            assert conn.is_closed()
        assert await own_rows(router.tenant(TENANT)) == rows_of(TENANT)


async def test_a_renewal_that_is_cancelled_ends_the_connection(one_world: World) -> None:
    async with _router(one_world) as router:
        async with router.tenant(TENANT).connection() as conn:
            await _pass(one_world, WINDOW * 0.8)
            task = asyncio.create_task(own_rows(conn))
            await asyncio.sleep(0)  # its first step sends the renewal
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert conn.is_closed()
        assert await own_rows(router.tenant(TENANT)) == rows_of(TENANT)
