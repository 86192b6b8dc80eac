"""What one row tenant leaves in a raw session, does the next one meet it? One backend, the same pid.

The relay tells of what command tags show (`is_dirty`). Here nothing is told: the change of tenant alone must do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.prove.poisons import GONE, STATE, Poison, poisons
from tenantproxy.model import Isolation, Tenant
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import SYNC_NOW, fresh_nonce, parse, query, reset, statement
from tenantproxy.wire.frames import BIND, COPY_DATA, HEADER, length_of
from tests.support.raw_house import RawHouse, ServerError, Talk, a_raw_house, ask, value
from tests.support.world import World, a_world

POISONS = poisons(read="SELECT name FROM projects", other="row2", role="app", schema="schema1")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=(18, 16), ids=("pg18", "pg16"))
async def old_world(request: pytest.FixtureRequest, cluster: Callable[[int], EmbeddedPostgres]) -> AsyncIterator[World]:
    """One for all of these tests: whatever a tenant does to a backend, it ends with it."""
    async with a_world(cluster(request.param)) as made:
        yield made


@asynccontextmanager
async def one_backend(world: World) -> AsyncIterator[tuple[RawHouse, Tenant, Tenant]]:
    """Two row tenants that can only have one backend, between them."""
    async with a_raw_house(world.settings(pools={"shared_size": 1})) as house:
        first, second = world.of(Isolation.ROW)
        yield house, first, second


async def names_of(backend: RawBackend) -> set[str | None]:
    return {name for (name,) in await ask(backend, "SELECT name FROM projects")}


def own(tenant: Tenant) -> set[str | None]:
    return {f"{tenant.id} {n}" for n in (1, 2, 3)}


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.name)
async def test_what_one_tenant_leaves_the_next_one_on_the_same_backend_does_not_meet(
    old_world: World, poison: Poison
) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(second) as backend:
            pid, clean = backend.pid, await ask(backend, STATE)
        async with house.leased(first) as backend:
            assert backend.pid == pid
            for sql in poison.statements:
                await ask(backend, sql)
        async with house.leased(second) as backend:
            assert backend.pid == pid
            assert await ask(backend, STATE) == clean
            assert await names_of(backend) == own(second)
            assert await value(backend, "SELECT tenantproxy.bound_tenant()") == second.id
            with pytest.raises(ServerError, match="26000"):
                await ask(backend, GONE)
        assert house.counters.resets["failed"] == 0


async def test_a_temporary_table_and_view_do_not_stand_before_the_next_tenants_tables(each_world: World) -> None:
    """Where TEMP was granted, against advice."""
    async with each_world.shared.connect() as admin:
        await admin.execute(f'GRANT TEMP ON DATABASE "{each_world.shared.name}" TO app')
    async with one_backend(each_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            await ask(backend, "CREATE TEMP TABLE projects AS SELECT 'of the first'::text AS name")
            await ask(backend, "CREATE TEMP VIEW stolen AS SELECT 1 AS one")
        async with house.leased(second) as backend:
            assert backend.pid == pid
            assert await names_of(backend) == own(second)
            with pytest.raises(ServerError, match="42P01"):
                await ask(backend, "SELECT * FROM stolen")


async def test_a_hostile_statement_timeout_does_not_cancel_a_reset_that_takes_long(each_world: World) -> None:
    async with each_world.shared.connect() as admin:
        await admin.execute(f'GRANT TEMP ON DATABASE "{each_world.shared.name}" TO app')
    tables = "FOR n IN 1..20 LOOP EXECUTE format('CREATE TEMP TABLE t%s (id int PRIMARY KEY)', n); END LOOP"
    async with one_backend(each_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            await ask(backend, f"DO $$ BEGIN {tables}; END $$")
            await ask(backend, "SET statement_timeout = '1ms'")
        async with house.leased(second) as backend:
            assert backend.pid == pid
            assert await names_of(backend) == own(second)


async def test_a_reset_waits_for_no_transaction_that_its_tenant_left_open(old_world: World) -> None:
    """A serializable, deferrable one waits for its first snapshot until the writing ones before it are over."""
    async with old_world.app(old_world.shared) as other, one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            for name in ("isolation = serializable", "read_only = on", "deferrable = on"):
                await ask(backend, f"SET default_transaction_{name}")
            await other.execute("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE; SELECT 1 FROM pg_class")
        async with house.leased(second) as backend:
            assert await names_of(backend) == own(second)
            assert backend.pid == pid
        await other.execute("ROLLBACK")
        assert house.counters.resets["failed"] == 0


async def test_a_notification_for_the_former_tenant_reaches_nobody(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            await ask(backend, "LISTEN gossip")
        async with house.leased(second) as backend:
            assert backend.pid == pid
            async with old_world.app(old_world.shared) as sister:
                await sister.execute("NOTIFY gossip, 'for the first'")
            talk = Talk(backend)
            assert await talk.say(query("SELECT 1")) == [["1"]]
            assert not talk.heard_notification


async def test_a_notification_for_an_idle_session_ends_it(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            await ask(backend, "LISTEN gossip")
        async with old_world.app(old_world.shared) as sister:
            await sister.execute("NOTIFY gossip, 'for the first'")
        await house.settled()
        async with house.leased(second) as other:
            assert await names_of(other) == own(second)


async def test_a_session_that_is_dirty_is_reset_for_the_next_client_of_its_own_tenant(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, _):
        async with house.leased(first) as backend:
            pid, clean = backend.pid, await ask(backend, STATE)
        async with house.leased(first, is_dirty=True) as backend:
            for sql in ("SET work_mem = '64kB'", "LISTEN gossip", "PREPARE p AS SELECT 1"):
                await ask(backend, sql)
        async with house.leased(first) as backend:
            assert backend.pid == pid
            assert await ask(backend, STATE) == clean
            assert await names_of(backend) == own(first)
        assert house.counters.resets == {"ok": 1, "failed": 0}


async def test_the_tenant_that_comes_again_needs_no_reset_and_no_bind(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, _):
        async with house.leased(first) as backend:
            await ask(backend, "SELECT set_config('app.mark', 'still here', false)")
        again = house.lender.lease_nowait(house.pool(first), house.route(first), ())
        assert again is backend
        assert await value(again, "SELECT current_setting('app.mark')") == "still here"
        house.release(again, first)
        assert house.counters.resets == {"ok": 0, "failed": 0}


async def test_a_bind_that_the_database_refuses_lets_nothing_of_the_client_run(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
        async with old_world.shared.connect() as admin:
            await admin.execute(
                "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ($1, 'it moves')", second.id
            )
            client = house.ask_for(second)
            with pytest.raises(Exception, match="refuses the proof") as refused:
                await client.answer()
            assert refused.type.__name__ == "IsolationError"
            await house.settled()
            gone = await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)
            assert gone == 0, "a backend whose bind failed lives on"
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant")
        assert house.counters.violations["bind"] == 1
        async with house.leased(second) as backend:
            assert await names_of(backend) == own(second)


async def test_a_statement_timeout_that_has_just_struck_does_not_strike_the_reset(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            await ask(backend, "SET statement_timeout = '1ms'")
            with pytest.raises(ServerError, match="57014"):
                await ask(backend, "SELECT pg_sleep(5)")
        async with house.leased(second) as backend:
            assert backend.pid == pid, "the hostile timeout cancelled the reset"
            assert await names_of(backend) == own(second)


async def test_row_tenants_in_turns_on_one_backend_never_see_each_others_rows(old_world: World) -> None:
    async with one_backend(old_world) as (house, *tenants):
        pids = set()
        for turn in range(20):
            tenant = tenants[turn % 2]
            async with house.leased(tenant) as backend:
                pids.add(backend.pid)
                assert await names_of(backend) == own(tenant)
        assert len(pids) == 1
        assert house.counters.resets == {"ok": 19, "failed": 0}


async def test_many_clients_of_two_tenants_crowd_one_backend_and_each_sees_its_own_rows(old_world: World) -> None:
    async with one_backend(old_world) as (house, *tenants):

        async def client(tenant: Tenant, times: int) -> None:
            for n in range(times):
                async with house.leased(tenant, is_dirty=n % 3 == 0) as backend:
                    assert await names_of(backend) == own(tenant)
                    await ask(backend, f"SET search_path = schema{1 + n % 2}" if n % 3 == 0 else "SELECT 1")

        async with asyncio.TaskGroup() as group:
            for n in range(8):
                group.create_task(client(tenants[n % 2], 6))
        assert house.counters.resets["failed"] == 0
        assert house.counters.violations["bind"] == 0


async def test_a_statement_without_a_name_of_the_former_tenant_is_not_what_the_next_one_runs(old_world: World) -> None:
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            await Talk(backend).say(statement("SELECT 'of the first'") + SYNC_NOW)
        async with house.leased(second) as backend:
            bind_and_run = statement("SELECT 1")
            parse_size = int.from_bytes(bind_and_run[1:5], "big") + 1
            with pytest.raises(ServerError):  # our own stands there
                await Talk(backend).say(bind_and_run[parse_size:] + SYNC_NOW)


UNDO = (
    "SET statement_timeout = 0",
    "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED; SET default_transaction_isolation = 'read committed';"
    " SET lock_timeout = 0",
    "DISCARD ALL",
)


async def test_answers_that_a_tenant_left_under_way_are_not_taken_for_those_to_our_reset_and_bind(
    old_world: World,
) -> None:
    """All that can be foreseen of both, on a backend that came back too early, whatever the cause."""
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            undo = UNDO
            later = "FROM pg_sleep(0.02)"  # than the question it seems to answer
            forged = b"".join(map(query, undo)) + statement(f"SELECT '{second.id}' {later}") + SYNC_NOW
            backend.write(forged + query(f"SELECT 'of the former tenant' {later}"))
        async with house.leased(second) as other:
            assert await names_of(other) == own(second)
            assert other.pid != pid
        assert house.counters.resets["failed"] == 1


# --- internal messages that the server would take for the rest of a former user's -------------------------------------
MARK = "SELECT current_setting('app.mark', true)"
LATE = "SELECT convert_from(substring($1 from length($1) - 31), 'UTF8') FROM set_config('app.mark', 'left', false)"


def messages_of(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = length_of(data, 0)
        found.append(data[:size])
        data = data[size:]
    return found


def headed(kind: int, body: bytes, size: int) -> bytes:
    """The beginning of a message, whose other `size` bytes are still to come."""
    return bytes([kind]) + (HEADER - 1 + len(body) + size).to_bytes(4, "big") + body


def bound_with(size: int) -> bytes:
    """A statement that leaves something and answers the last 32 bytes of its value, which is to come.

    The last two bytes of what comes are the count of formats of a Bind.
    """
    value = b"\0\1\0\1\0\1" + (size - 2).to_bytes(4, "big")
    return parse(LATE, [17]) + headed(BIND, b"\0\0" + value, size)


SWALLOWS: dict[str, Callable[[int], bytes]] = {
    "the value of a Bind": bound_with,
    "a message of COPY outside of one": lambda size: (
        query("SELECT set_config('app.mark', 'left', false)") + headed(COPY_DATA, b"", size)
    ),
}
RESET = messages_of(reset(fresh_nonce())[0])


@pytest.mark.parametrize("way", SWALLOWS)
@pytest.mark.parametrize("count", range(1, len(RESET)))
async def test_a_reset_of_which_a_former_user_swallows_a_part_and_answers_it_itself_is_not_confirmed(
    old_world: World, way: str, count: int
) -> None:
    """Whatever let the backend come back too early: all of the answer that can be foreseen is there, in its order."""
    swallowed = RESET[:count]
    async with one_backend(old_world) as (house, first, second):
        async with house.leased(first) as backend:
            pid = backend.pid
            forged = b"".join(query(sql) for sql in UNDO if any(sql.encode() in each for each in swallowed))
            backend.write(forged + SWALLOWS[way](sum(map(len, swallowed))))
        async with house.leased(second) as other:
            assert (await value(other, MARK)) is None
            assert await names_of(other) == own(second)
            assert other.pid != pid
        assert house.counters.resets["failed"] == 1
