"""Does a transaction that begins with its first statement, and ends in one write with a reset, keep its promises?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.driver import beginning
from tenantproxy.driver.guard import Guard
from tenantproxy.driver.joined import JoiningTransport
from tests.support.faults import Moment, cancel_at
from tests.support.leases import one_connection, pid_of
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
INSERT = "INSERT INTO projects (name) VALUES ($1)"
IN_BLOCK = "SELECT now() <> statement_timestamp(), current_setting('transaction_isolation')"
Step = Callable[[Guard], Awaitable[object]]


async def a_cursor(conn: Guard) -> None:
    async for _ in conn.cursor("SELECT name FROM projects"):
        pass
    portal = await conn.cursor("SELECT name FROM projects")
    await portal.fetch(1)


async def an_awaited_cursor(conn: Guard) -> None:
    portal = await conn.cursor("SELECT name FROM projects")
    await portal.fetch(1)


async def a_savepoint(conn: Guard) -> None:
    async with conn.transaction():
        await conn.fetchval("SELECT 1")


async def a_statement(conn: Guard) -> None:
    statement = await conn.prepare("SELECT 1")
    await statement.fetchval()


FIRST: dict[str, Step] = {
    "fetch": lambda conn: conn.fetch("SELECT 1"),
    "fetchrow": lambda conn: conn.fetchrow("SELECT 1"),
    "fetchval": lambda conn: conn.fetchval("SELECT 1"),
    "execute": lambda conn: conn.execute("SELECT 1; SELECT 2"),
    "execute with a parameter": lambda conn: conn.execute("SELECT $1::int", 1),
    "executemany": lambda conn: conn.executemany("SELECT $1::int", [(1,), (2,)]),
    "fetchmany": lambda conn: conn.fetchmany("SELECT $1::int", [(1,), (2,)]),
    "copy in": lambda conn: conn.copy_records_to_table("projects", records=[("copied",)], columns=["name"]),
    "copy out": lambda conn: conn.copy_from_query("SELECT 1", output=_swallow),
    "a cursor": a_cursor,
    "an awaited cursor": an_awaited_cursor,
    "a savepoint": a_savepoint,
    "a prepared statement": a_statement,
    "a listener": lambda conn: conn.add_listener("something", lambda *_: None),
}


async def _swallow(_: bytes) -> None:
    pass


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What went out in one write with something of ours ahead or behind."""
    written: list[bytes] = []
    write = JoiningTransport._write_joined

    def noting(wire: JoiningTransport, data: bytes | memoryview) -> None:
        written.append(wire.ahead + bytes(data) + (wire.behind.message if wire.behind is not None else b""))
        write(wire, data)

    monkeypatch.setattr(JoiningTransport, "_write_joined", noting)
    return written


async def test_a_transaction_of_one_statement_is_two_writes(world: World, joined: list[bytes]) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        for _ in range(2):
            async with scope.transaction() as conn:
                assert await conn.fetchval(COUNT) == 3
        begin, commit = joined[-2:]
        assert begin.count(b"BEGIN;") == 1
        assert begin.count(b"S\0\0\0\4") == 1
        assert commit.startswith(b"Q\0\0\0\x0cCOMMIT;\0Q")


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("name", FIRST)
async def test_whatever_comes_first_is_in_the_transaction(world: World, name: str, is_known: bool) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        if is_known:
            with suppress(KeyError):
                async with scope.transaction() as conn:
                    await FIRST[name](conn)
                    raise KeyError
        with suppress(KeyError):
            async with scope.transaction(isolation="repeatable_read") as conn:
                assert conn.is_in_transaction()
                await FIRST[name](conn)
                assert conn._con is not None
                assert conn._con._protocol.is_in_transaction()
                assert tuple(await conn.fetchrow(IN_BLOCK) or ()) == (True, "repeatable read")
                await conn.execute(INSERT, "undone")
                raise KeyError
        assert await scope.fetchval(COUNT) == 3
        assert router.stats().resets["failed"] == 0


@pytest.mark.parametrize("is_known", [False, True])
async def test_the_options_are_those_that_were_asked_for(each_world: World, is_known: bool) -> None:
    asked = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    asked += ", current_setting('transaction_deferrable')"
    options: tuple[tuple[dict[str, Any], tuple[str, str, str]], ...] = (
        ({}, ("read committed", "off", "off")),
        ({"readonly": True}, ("read committed", "on", "off")),
        ({"isolation": "read_uncommitted"}, ("read uncommitted", "off", "off")),
        ({"isolation": "repeatable_read", "readonly": True}, ("repeatable read", "on", "off")),
        ({"isolation": "serializable", "readonly": True, "deferrable": True}, ("serializable", "on", "on")),
    )
    async with one_connection(each_world) as router:
        for tenant in ("database1", "schema1", "row1"):
            scope = router.tenant(tenant)
            if is_known:
                await scope.fetchrow(asked)
            for given, expected in options:
                async with scope.transaction(**given) as conn:
                    assert tuple(await conn.fetchrow(asked) or ()) == expected


async def test_a_transaction_without_a_statement_asks_the_server_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one_connection(world, pools={"reset": "on_tenant_change"}) as router:
        scope = router.tenant("database1")
        await scope.fetchval("SELECT 1")
        written: list[bytes] = []
        monkeypatch.setattr(JoiningTransport, "write", lambda _, data: written.append(bytes(data)))
        async with scope.transaction():
            pass
        with suppress(KeyError):
            async with scope.transaction():
                raise KeyError
        monkeypatch.undo()
        assert written == []
        assert await scope.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_first_statement_that_fails_leaves_a_failed_transaction(world: World, is_known: bool) -> None:
    failing = "SELECT 1 / count(*) FROM projects WHERE id < 0"
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        if is_known:
            with suppress(asyncpg.DivisionByZeroError):
                await scope.fetchval(failing)
        async with scope.transaction() as conn:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await conn.fetchval(failing)
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await conn.execute(INSERT, "lost")
        assert await scope.fetchval(COUNT) == 3


async def test_a_first_statement_that_cannot_be_parsed_leaves_a_failed_transaction(world: World) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        async with scope.transaction() as conn:
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await conn.fetch("no statement")
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await conn.execute(INSERT, "lost")
        assert await scope.fetchval(COUNT) == 3


async def test_a_first_statement_whose_argument_is_refused_leaves_the_transaction_to_come(world: World) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        await scope.execute("SELECT $1::int", 1)
        async with scope.transaction(isolation="serializable") as conn:
            with pytest.raises(asyncpg.DataError):
                await conn.execute("SELECT $1::int", "no number")
            assert tuple(await conn.fetchrow(IN_BLOCK) or ()) == (True, "serializable")
            await conn.execute(INSERT, "kept")
        assert await scope.fetchval(COUNT) == 4


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_first_statement_that_times_out_lets_nothing_run_outside(world: World, is_known: bool) -> None:
    slow = "SELECT pg_sleep($1)"
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        if is_known:
            await scope.fetchval(slow, 0.0)
        with suppress(asyncpg.InterfaceError):
            async with scope.transaction() as conn:
                with pytest.raises(TimeoutError):
                    await conn.fetchval(slow, 60.0, timeout=0.05)
                with pytest.raises((asyncpg.InFailedSQLTransactionError, asyncpg.InterfaceError)):
                    await conn.execute(INSERT, "lost")
        assert await scope.fetchval(COUNT) == 3


@pytest.mark.parametrize("is_known", [False, True])
async def test_what_did_not_begin_runs_nothing_and_cannot_be_committed(
    world: World, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    refused = beginning._Begun(None, "BEGIN ISOLATION LEVEL READ SOMETHING;")
    monkeypatch.setattr(beginning, "_begun", lambda *_: refused)
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        pid = await pid_of(scope)
        if is_known:
            async with scope.connection() as conn:
                await conn.execute(INSERT, "before")
        before = await scope.fetchval(COUNT)

        async def swallowing() -> None:
            async with scope.transaction() as conn:
                for _ in range(2):
                    with pytest.raises((asyncpg.PostgresSyntaxError, asyncpg.InterfaceError)):
                        await conn.execute(INSERT, "alone")
                for step in FIRST.values():
                    with pytest.raises(asyncpg.InterfaceError, match="did not begin"):
                        await step(conn)

        with pytest.raises(asyncpg.InterfaceError, match="did not begin"):
            await swallowing()
        assert await scope.fetchval(COUNT) == before
        assert await pid_of(scope) == pid


async def test_two_first_statements_at_once_run_in_the_transaction_or_not_at_all(world: World) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        async with scope.connection() as conn:
            await conn.execute(INSERT, "known")
        before = await scope.fetchval(COUNT)
        with suppress(KeyError):
            async with scope.transaction() as conn:
                calls = (conn.execute(INSERT, str(number)) for number in range(5))
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert [one for one in ended if not isinstance(one, asyncpg.InterfaceError)] == ["INSERT 0 1"]
                raise KeyError
        assert await scope.fetchval(COUNT) == before


async def test_a_commit_that_a_deferred_constraint_refuses_raises_and_commits_nothing(each_world: World) -> None:
    (tenant,) = (one for one in each_world.tenants if one.id == "database1")
    async with each_world.database(tenant).connect() as admin:
        await admin.execute("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await admin.execute("GRANT ALL ON once TO PUBLIC")
    async with one_connection(each_world) as router:
        scope = router.tenant("database1")
        pid = await pid_of(scope)

        async def twice() -> None:
            async with scope.transaction() as conn:
                await conn.execute("INSERT INTO once VALUES ($1)", 1)
                await conn.execute("SELECT set_config('work_mem', '5MB', false), $1::int", 1)
                await conn.execute("INSERT INTO once VALUES ($1)", 1)

        for _ in range(2):
            with pytest.raises(asyncpg.UniqueViolationError):
                await twice()
            assert await scope.fetchval("SELECT count(*) FROM once") == 0
            assert await scope.fetchval("SHOW work_mem") != "5MB"
        assert await pid_of(scope) == pid
        assert router.stats().resets["failed"] == 0


async def test_a_serialization_failure_at_the_commit_raises(world: World) -> None:
    async with Router(world.settings(pools={"max_size": 2})) as router:
        scope = router.tenant("database1")

        async def crossing() -> None:
            async with scope.transaction(isolation="serializable") as one:
                await one.fetchval(COUNT)
                async with scope.transaction(isolation="serializable") as other:
                    await other.fetchval(COUNT)
                    await other.execute(INSERT, "other")
                    await one.execute(INSERT, "one")

        with pytest.raises(asyncpg.SerializationError):
            await crossing()
        assert await scope.fetchval(COUNT) == 4


async def test_nothing_can_be_asked_of_a_connection_while_it_commits(world: World) -> None:
    async with one_connection(world) as router:
        scope = router.tenant("database1")
        asked: list[asyncio.Task[Any]] = []
        async with scope.transaction() as conn:
            await conn.execute(INSERT, "kept")
            statement = await conn.prepare(COUNT)

            async def late() -> None:
                await asyncio.sleep(0)
                for ask in (lambda: conn.fetchval(COUNT), statement.fetchval, lambda: conn.execute("SELECT 1")) * 20:
                    with pytest.raises(asyncpg.InterfaceError, match="released back"):
                        await ask()
                    await asyncio.sleep(0)

            asked.append(asyncio.ensure_future(late()))
        await asked[0]
        assert await scope.fetchval(COUNT) == 4


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_transaction_cancelled_anywhere_is_whole_or_not_at_all(
    world: World, reset: str, moment: Moment
) -> None:
    async with one_connection(world, pools={"reset": reset}) as router:
        for tenant, insert in (
            ("database1", INSERT),
            ("row1", "INSERT INTO projects (tenant_id, name) VALUES ('row1', $1)"),
        ):
            scope = router.tenant(tenant)

            async def work(insert: str = insert, scope: Any = scope) -> None:
                async with scope.transaction() as conn:
                    await conn.execute(insert, "first")
                    await conn.execute(insert, "second")

            await work()
            for awaits in range(5):
                before = await scope.fetchval(COUNT)
                await cancel_at(work(), awaits, moment)
                assert await scope.fetchval(COUNT) - before in (0, 2)
                async with scope.connection() as conn:
                    assert not conn.is_in_transaction()


async def test_two_row_tenants_on_one_backend_begin_and_commit_apart(each_world: World) -> None:
    async with one_connection(each_world) as router:
        scopes = [router.tenant(tenant) for tenant in ("row1", "row2")]
        for _ in range(3):
            for scope in scopes:
                async with scope.transaction() as conn:
                    names = [row["name"] for row in await conn.fetch("SELECT name FROM projects ORDER BY name LIMIT 3")]
                    assert names == [f"{scope.id} {number}" for number in (1, 2, 3)]
                    await conn.execute(
                        "INSERT INTO projects (tenant_id, name) VALUES ($1, $2)", scope.id, f"{scope.id} 9"
                    )
        assert len({await pid_of(scope) for scope in scopes}) == 1
        assert router.stats().resets["failed"] == 0
