"""Does what was made in a lease, and runs or goes on after it, reach the next holder of the connection?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.late import CALLS, KNOWN, NOT_AWAITED, OWN, PLAIN, PLAIN_TABLE, ByHand, awaiting, methods_of
from tests.support.leases import one_connection, own_rows, rows_of
from tests.support.waiting import until
from tests.support.world import World, a_world

_ACTIVITY: Final = "SELECT query, query_start, state, state_change FROM pg_stat_activity WHERE pid = $1"

PATIENCE: Final = 30.0  # a server that waits for the data of a COPY is left alone only after a while

both_resets = pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
calls = pytest.mark.parametrize("call", CALLS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            await admin.execute(PLAIN_TABLE)
        yield replace(made, unprotected=(f"public.{PLAIN}",))


async def seen(admin: asyncpg.Connection, conn: Guard) -> object:
    """What the server has heard last from this connection, and when."""
    return await admin.fetchrow(_ACTIVITY, conn.get_server_pid())


@pytest.mark.parametrize("cls", KNOWN, ids=lambda cls: cls.__name__)
def test_every_method_of_asyncpg_that_can_be_awaited_is_tried_late(cls: type) -> None:
    assert methods_of(cls) == (KNOWN[cls], NOT_AWAITED[cls])


@both_resets
@calls
async def test_what_was_made_in_a_lease_and_runs_in_the_next_sends_nothing(
    one_world: World, call: str, reset: Any
) -> None:
    async with one_world.shared.connect() as admin, one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            use = await CALLS[call](conn)
            late: Any = awaiting(use())
        async with router.tenant("row2").connection() as other:
            assert await other.fetchval("SELECT pg_backend_pid()") == pid
            assert await own_rows(other) == rows_of("row2")
            before = await seen(admin, other)
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await late
            assert await seen(admin, other) == before
            assert not other.is_closed()
            assert not other.is_in_transaction()
            assert await own_rows(other) == rows_of("row2")
            assert await other.fetchval("SELECT pg_backend_pid()") == pid
        async with router.tenant("row1").connection() as conn:
            use = await CALLS[call](conn)
            late = asyncio.ensure_future(use())  # its first step comes after the block
        async with router.tenant("row2").connection() as other:
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await late
            assert await own_rows(other) == rows_of("row2")
            assert await other.fetchval("SELECT pg_backend_pid()") == pid


@both_resets
@calls
async def test_what_goes_on_after_its_lease_has_a_connection_that_serves_nobody_any_more(
    one_world: World, call: str, reset: Any
) -> None:
    async with one_world.shared.connect() as admin, one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            use = await CALLS[call](conn)
            left = ByHand(awaiting(use()))
            left.go_on()
            if left.is_done:
                assert call == "connection.reload_schema_state"  # it waits for nothing, so it cannot be left
                assert left.error is None
                return
            await left.answered()  # the driver is free, and the next step would send what comes next
        async with router.tenant("row2").connection(timeout=PATIENCE) as other:
            assert other.get_server_pid() != pid
            assert await own_rows(other) == rows_of("row2")
            before = await seen(admin, other)
            await left.finish()
            assert await seen(admin, other) == before
            assert await own_rows(other) == rows_of("row2")


class _Held:
    """Something of a user's own that a COPY or a statement waits for."""

    def __init__(self) -> None:
        self.is_waiting = False
        self.may_go_on = asyncio.Event()

    async def wait(self) -> None:
        self.is_waiting = True
        await self.may_go_on.wait()

    async def records(self) -> AsyncIterator[tuple[str]]:
        await self.wait()
        yield ("late",)

    async def data(self) -> AsyncIterator[bytes]:
        await self.wait()
        yield b"late\n"

    async def take(self, data: bytes) -> None:
        await self.wait()


_HELD: Final[dict[str, Callable[[Guard, _Held], Any]]] = {
    "records": lambda conn, held: conn.copy_records_to_table(PLAIN, records=held.records()),
    "bytes": lambda conn, held: conn.copy_to_table(PLAIN, source=held.data()),
    "rows": lambda conn, held: conn.copy_from_query(OWN, output=held.take),
}


@both_resets
@pytest.mark.parametrize("what", _HELD)
async def test_a_copy_that_waits_for_its_user_as_the_block_ends_reaches_nobody_else(
    one_world: World, what: str, reset: Any
) -> None:
    held = _Held()
    async with one_world.shared.connect() as admin, one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            left = asyncio.ensure_future(_HELD[what](conn, held))
            await until(lambda: held.is_waiting, "the copy waits")
        async with router.tenant("row2").connection(timeout=PATIENCE) as other:
            assert other.get_server_pid() != pid
            assert await own_rows(other) == rows_of("row2")
            before = await seen(admin, other)
            held.may_go_on.set()
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await left
            assert await seen(admin, other) == before
            assert await own_rows(other) == rows_of("row2")
        assert await admin.fetchval(f"SELECT count(*) FROM {PLAIN}") == 0


@both_resets
@pytest.mark.parametrize("many", ["executemany", "fetchmany"])
async def test_a_statement_that_runs_on_as_the_block_ends_reaches_nobody_else(
    one_world: World, many: str, reset: Any
) -> None:
    blocked = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted"
    async with one_world.shared.connect() as admin, one_connection(one_world, reset=reset) as router:
        await admin.execute("SELECT pg_advisory_lock(77)")
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            left = asyncio.ensure_future(getattr(conn, many)("SELECT pg_advisory_lock($1)", [(77,), (78,)]))

            async def is_blocked() -> bool:
                return bool(await admin.fetchval(blocked, pid))

            await until(is_blocked, "the statement waits for the lock")
        async with router.tenant("row2").connection(timeout=PATIENCE) as other:
            assert other.get_server_pid() != pid
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await left
            assert await own_rows(other) == rows_of("row2")


@both_resets
async def test_a_query_logger_whose_block_begins_after_the_lease_hears_nothing(one_world: World, reset: Any) -> None:
    heard: list[object] = []
    async with one_connection(one_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            late = conn.query_logger(heard.append)
            with conn.query_logger(lambda _: None):
                await conn.fetch(OWN)
            begun = conn.query_logger(heard.append)
            begun.__enter__()
        async with router.tenant("row2").connection() as other:
            assert other.get_server_pid() == pid
            with pytest.raises(asyncpg.InterfaceError, match="released"), late:
                raise AssertionError("the block of a released connection was entered")
            assert await own_rows(other) == rows_of("row2")
            begun.__exit__(None, None, None)
    assert heard == []


@both_resets
async def test_calls_that_end_or_fail_in_their_lease_cost_no_connection(one_world: World, reset: Any) -> None:
    async with one_connection(one_world, reset=reset) as router:
        pids = set()
        for _ in range(2):
            for tenant in ("row1", "row2"):
                async with router.tenant(tenant).connection() as conn:
                    pids.add(await _all_sorts(conn, tenant))
    assert len(pids) == 1


async def _all_sorts(conn: Guard, tenant: str) -> int:
    with pytest.raises(asyncpg.PostgresError):
        await conn.fetch("SELECT 1/0")
    statement = await conn.prepare(OWN)
    with pytest.raises(asyncpg.InterfaceError):
        await statement.fetch("one too many")
    async with conn.transaction():
        assert [row["name"] async for row in conn.cursor(OWN, prefetch=1)] == rows_of(tenant)
        assert [row["name"] async for row in statement.cursor(prefetch=2)] == rows_of(tenant)
        assert len(await (await conn.cursor(OWN)).fetch(9)) == 3
    return conn.get_server_pid()


def test_a_lent_connection_has_nothing_of_the_lenders() -> None:
    con = asyncpg.Connection
    ours = {name for name in dir(Guard) if name[0] != "_"} - {name for name in dir(con) if name[0] != "_"}
    assert ours == {"begin_with_next", "commit_begun", "detach", "prepare_kept", "rollback_begun", "run_kept"}


async def test_what_the_lender_uses_cannot_be_reached_by_a_lease(one_world: World) -> None:
    async with one_connection(one_world) as router, router.tenant("row1").connection() as conn:
        assert not any(hasattr(conn, name) for name in ("simple", "settle", "enter", "renew_if_due", "take_back"))


async def test_a_closed_router_refuses_what_was_made_before(one_world: World) -> None:
    async with Router(one_world.settings()) as router:
        async with router.tenant("row1").connection() as conn:
            late = conn.fetch(OWN)
    with pytest.raises(asyncpg.InterfaceError, match="released"):
        await late
