"""What one lease leaves in our own process and on our role: does the next one, or its owner, notice it?"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.events import Event, IsolationViolation
from tests.support.leases import one_connection, own_rows, pid_of, rows_of
from tests.support.waiting import PATIENCE, until
from tests.support.world import APP_ROLE, World, a_world

Use = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


async def a_connection(conn: Guard) -> Use:
    return lambda: conn.fetch("SELECT name FROM projects")


async def a_statement(conn: Guard) -> Use:
    statement = await conn.prepare("SELECT name FROM projects")
    assert await statement.fetch()
    return statement.fetch


async def a_cursor(conn: Guard) -> Use:
    await conn.transaction().start()
    cursor = await conn.cursor("SELECT name FROM projects")
    return lambda: cursor.fetch(1)


async def a_cursor_being_read(conn: Guard) -> Use:
    await conn.transaction().start()
    rows = conn.cursor("SELECT name FROM projects", prefetch=1).__aiter__()
    await anext(rows)
    return lambda: anext(rows)


async def a_cursor_not_yet_open(conn: Guard) -> Use:
    factory = conn.cursor("SELECT name FROM projects")

    async def use() -> object:
        return await factory

    return use


async def a_cursor_of_a_statement(conn: Guard) -> Use:
    statement = await conn.prepare("SELECT name FROM projects")

    async def use() -> object:
        return await statement.cursor()

    return use


async def a_transaction(conn: Guard) -> Use:
    transaction = conn.transaction()
    await transaction.start()
    return transaction.commit


async def a_transaction_not_yet_begun(conn: Guard) -> Use:
    return conn.transaction().start


async def a_listener_to_add(conn: Guard) -> Use:
    return lambda: conn.add_listener("news", lambda *_: None)


async def a_codec_to_set(conn: Guard) -> Use:
    return lambda: conn.set_type_codec("text", schema="pg_catalog", encoder=str, decoder=str)


async def a_method(conn: Guard) -> Use:
    method = conn.execute
    return lambda: method("SET app.evil = 'x'")


KEPT = (
    a_connection, a_statement, a_cursor, a_cursor_being_read, a_cursor_not_yet_open, a_cursor_of_a_statement,
    a_transaction, a_transaction_not_yet_begun, a_listener_to_add, a_codec_to_set, a_method,
)  # fmt: skip


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
@pytest.mark.parametrize("keep", KEPT)
async def test_what_is_kept_after_the_block_does_nothing_while_another_tenant_is_served(
    one_world: World, keep: Callable[[Guard], Awaitable[Use]], reset: Any
) -> None:
    async with one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            use = await keep(conn)
        with pytest.raises(asyncpg.InterfaceError, match="released"):
            await use()
        async with router.tenant("row2").connection() as other:
            assert other.get_server_pid() == pid
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await use()
            assert await own_rows(other) == rows_of("row2")
        async with router.tenant("row1").connection() as again:
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await use()  # its own tenant's next lease is not its own
            assert again.get_server_pid() == pid


async def test_a_transaction_block_that_outlives_its_lease_says_so_and_touches_nothing(one_world: World) -> None:
    async with one_connection(one_world) as router:
        async with router.tenant("row1").connection() as conn:
            transaction = conn.transaction()
            await transaction.__aenter__()
            await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ('row1', 'lost')")
        async with router.tenant("row2").transaction() as other:
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await transaction.__aexit__(None, None, None)
            assert other.is_in_transaction()
            assert await own_rows(other) == rows_of("row2")
        assert await own_rows(router.tenant("row1")) == rows_of("row1")


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_no_listener_or_logger_of_one_tenant_hears_another(one_world: World, reset: Any) -> None:
    heard: list[object] = []

    def hear(*what: object) -> None:
        heard.append(what)

    async with one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            await conn.add_listener("news", hear)
            conn.add_log_listener(hear)
            conn.add_termination_listener(hear)
            conn.add_query_logger(hear)
        async with router.tenant("row2").connection() as conn:
            assert conn.get_server_pid() == pid
            seen: list[object] = []
            await conn.add_listener("news", lambda *what: seen.append(what))
            await conn.execute("NOTIFY news, 'of row2'; DO $$ BEGIN RAISE WARNING 'of row2'; END $$")
            await until(lambda: seen, "the notification of row2 comes")
            conn.terminate()
        await pid_of(router.tenant("row2"))
    assert heard == []


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_a_listener_that_comes_to_be_as_the_block_ends_hears_nobody(one_world: World, reset: Any) -> None:
    heard: list[object] = []
    async with one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            inner = conn._con
            assert inner is not None
            await conn.execute("LISTEN news")
            pid = conn.get_server_pid()
        # What add_listener does when LISTEN has been answered, one step of the loop after the block ended.
        inner._listeners["news"] = set()
        inner._listeners["news"].add(_callback(heard.append))
        async with router.tenant("row2").connection() as conn:
            assert conn.get_server_pid() == pid
            seen: list[object] = []
            await conn.add_listener("news", lambda *what: seen.append(what))
            await conn.execute("NOTIFY news")
            await until(lambda: seen, "the notification comes to whom it was sent")
    assert heard == []


def _callback(call: Callable[[object], None]) -> Any:
    driver: Any = asyncpg.connection
    return driver._Callback.from_callable(lambda *what: call(what))


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
@pytest.mark.parametrize("way", ["out", "in"])
async def test_a_copy_whose_file_opens_after_the_block_reaches_no_other_tenant(
    one_world: World, tmp_path: Path, reset: Any, way: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it waits for its other end, while nothing runs on the connection
    async with one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            if way == "out":
                left = asyncio.ensure_future(conn.copy_from_query("SELECT name FROM projects", output=pipe))
            else:
                left = asyncio.ensure_future(conn.copy_to_table("projects", source=pipe))
            inner = conn._con
            assert inner is not None
            await until(lambda: inner.runs_directly, "the copy begins")
        async with router.tenant("row2").connection() as other:
            moved = await asyncio.to_thread(_the_other_end, pipe, way)
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await left
            assert moved == b""
            assert await own_rows(other) == rows_of("row2")


def _the_other_end(pipe: Path, way: str) -> bytes:
    if way == "out":
        return pipe.read_bytes()
    with contextlib.suppress(BrokenPipeError):
        pipe.write_bytes(b"of row1\n")
    return b""


async def test_codecs_of_init_stay_and_those_of_a_lease_go_with_its_connection(one_world: World) -> None:
    async def init(conn: asyncpg.Connection) -> None:
        await conn.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=lambda text: f"init {text}")

    settings = one_world.settings(pools={"max_size": 1, "shared_size": 1})
    async with Router(settings, init=init) as router:
        for tenant in ("row1", "schema1", "database1"):
            scope = router.tenant(tenant)
            async with scope.connection() as conn:
                pid = conn.get_server_pid()
                await conn.reload_schema_state()
                assert await conn.fetchval("SELECT '1'::json") == "init 1"
            assert await pid_of(scope) == pid
            async with scope.connection() as conn:
                await conn.reset_type_codec("json", schema="pg_catalog")
                assert await conn.fetchval("SELECT '1'::json") == "1"
            assert await scope.fetchval("SELECT '1'::json") == "init 1"
            assert await pid_of(scope) != pid


@pytest_asyncio.fixture
async def own_role(one_world: World) -> AsyncIterator[World]:
    yield one_world
    async with one_world.shared.connect() as admin:
        await admin.execute(f"ALTER ROLE {APP_ROLE} RESET ALL")
        await admin.execute(f'ALTER ROLE {APP_ROLE} IN DATABASE "{one_world.shared.name}" RESET ALL')


@pytest.mark.parametrize("where", ["", "IN DATABASE"])
@pytest.mark.parametrize(
    "setting",
    [
        "work_mem = '64kB'", "transform_null_equals = on", "synchronous_commit = off", "datestyle = 'German'",
        "gin_fuzzy_search_limit = 1", "jit = off", "default_tablespace = 'pg_default'", "role = 'app'",
    ],
)  # fmt: skip
async def test_what_a_tenant_lays_on_our_role_is_taken_off_before_anybody_is_served(
    own_role: World, setting: str, where: str
) -> None:
    events: list[Event] = []
    async with one_connection(own_role, observer=events.append) as router:
        name = setting.partition(" ")[0]
        before = await router.tenant("row2").fetchval("SELECT current_setting($1)", name)
        async with router.tenant("row1").connection() as conn:
            place = f'IN DATABASE "{own_role.shared.name}"' if where else ""
            await conn.execute(f"ALTER ROLE {APP_ROLE} {place} SET {setting}")
            await conn.close()
        assert await router.tenant("row2").fetchval("SELECT current_setting($1)", name) == before
        assert await own_rows(router.tenant("row2")) == rows_of("row2")
    assert [event.detail.lower() for event in events if isinstance(event, IsolationViolation)] == [name]
    async with own_role.shared.connect() as admin:
        left = "SELECT count(*) FROM pg_db_role_setting WHERE setrole = $1::regrole"
        assert await admin.fetchval(left, APP_ROLE) == 0


@pytest.mark.parametrize(
    "setting",
    [
        "local_preload_libraries = 'no_such_library'", "standard_conforming_strings = off", "search_path = 'pg_temp'",
        "statement_timeout = '1ms'", "transaction_timeout = '1ms'", "idle_session_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'", "lock_timeout = '1ms'", "default_transaction_read_only = on",
        "row_security = off", "client_encoding = 'LATIN1'",
    ],
)  # fmt: skip
async def test_no_setting_of_our_role_locks_a_new_router_out(own_role: World, setting: str) -> None:
    async with one_connection(own_role) as router:
        async with router.tenant("row1").connection() as conn:
            await conn.execute(f"ALTER ROLE {APP_ROLE} SET {setting}")
    async with asyncio.timeout(PATIENCE), one_connection(own_role) as router:
        for tenant in ("row1", "row2", "schema1", "database1"):
            assert await own_rows(router.tenant(tenant)) == rows_of(tenant)
