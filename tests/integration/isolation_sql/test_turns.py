"""Does a turn let in the tenant that was signed for, on this connection and once? Whatever was left."""

from __future__ import annotations

import contextlib
import re
from typing import Final

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.turn import RESET
from tests.support.entered import EnteredSession
from tests.support.sessions import READ, bind, names
from tests.support.world import World

NO_TENANT: Final = asyncpg.InsufficientPrivilegeError  # 42501
NOT_VALID: Final = "proof of tenancy is not valid"


@pytest.fixture
async def turns(conn: asyncpg.Connection, signer: Signer) -> EnteredSession:
    return await EnteredSession.of(conn, signer)


async def test_tenants_take_turns_on_one_connection(turns: EnteredSession) -> None:
    for tenant in ("row1", "row2", "row1", "row1"):
        await turns.enter(tenant)
        assert await names(turns.conn) == [f"{tenant} {n}" for n in (1, 2, 3)]


async def test_the_answer_is_the_echo_that_only_the_key_tells(turns: EnteredSession) -> None:
    entry = turns.entry("row1")
    assert await turns.conn.fetchval(entry) == turns.echo
    assert turns.echo.split()[0] not in entry


async def test_a_proof_lets_in_once(turns: EnteredSession) -> None:
    entry = turns.entry("row1")
    await turns.conn.execute(f"{RESET.sql}; {entry}")
    for again in (entry, f"{RESET.sql}; {entry}"):
        with pytest.raises(NO_TENANT, match=NOT_VALID):
            await turns.conn.execute(again)
    assert await names(turns.conn) == ["row1 1", "row1 2", "row1 3"]  # a message is undone as a whole


@pytest.mark.parametrize(
    "what",
    ["pid", "nonce", "expired", "longer than it says", "database", "key id", "tenant", "fenced", "another's key"],
)
async def test_a_proof_made_for_anything_else_lets_no_tenant_in(
    turns: EnteredSession, admin: asyncpg.Connection, what: str
) -> None:
    signer = turns.signer
    if what == "database":
        turns.signer = Signer(b"k" * 32, database="elsewhere")
    elif what == "another's key":
        turns.signer = Signer(b"x" * 32, database=await admin.fetchval("SELECT current_database()"))
    entry = turns.entry(
        "row1",
        seconds={"expired": -1, "longer than it says": 360}.get(what, 60),
        **({"pid": 1} if what == "pid" else {}),
        **({"nonce": turns.nonce + 1} if what == "nonce" else {}),
    )
    turns.signer = signer
    entry = entry.replace("'row1'", "'row2'") if what == "tenant" else entry
    entry = re.sub(r"', 1, ", "', 7, ", entry) if what == "key id" else entry
    if what == "fenced":
        await admin.execute("INSERT INTO tenantproxy.fenced_tenant VALUES ('row1', 'moved')")
    try:
        with pytest.raises(NO_TENANT, match=NOT_VALID):
            await turns.conn.execute(f"{RESET.sql}; {entry}")
    finally:
        await admin.execute("DELETE FROM tenantproxy.fenced_tenant")
    with pytest.raises(asyncpg.PostgresError, match=r"no valid tenant|not yet defined"):
        await turns.conn.fetch(READ)


@pytest.mark.parametrize(
    "call",
    [
        "('row1', 1, 1, '', 0)", "(NULL, NULL, NULL, NULL, NULL)", "('row1', 1, 9999999999, repeat('0', 32), 0)",
        "('', 1, 4102444800, repeat('0', 32), 0)", "('row1', 1, 4102444800, NULL, 0)",
        "('row1', 1, 4102444800, 'zz', 0)", "('row1', 1, -1, repeat('0', 32), -1)",
    ],
)  # fmt: skip
async def test_no_value_stands_for_a_proof(turns: EnteredSession, call: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await turns.conn.execute(f"SELECT tenantproxy.enter{call}")
    with pytest.raises(asyncpg.PostgresError, match=r"no valid tenant|not yet defined"):
        await turns.conn.fetch(READ)


@pytest.mark.parametrize("lost", ["DISCARD SEQUENCES", "DISCARD ALL", "SELECT tenantproxy.hello()"])
async def test_who_takes_the_nonce_away_lets_no_tenant_in(turns: EnteredSession, lost: str) -> None:
    await turns.enter("row1")
    await turns.conn.execute(lost)
    with pytest.raises((NO_TENANT, asyncpg.ObjectNotInPrerequisiteStateError)):
        await turns.conn.execute(f"{RESET.sql}; {turns.entry('row2')}")
    with contextlib.suppress(asyncpg.PostgresError):
        assert "row2" not in repr(await turns.conn.fetch(READ))


async def test_each_connection_has_a_nonce_of_its_own_each_time(turns: EnteredSession) -> None:
    seen = {await turns.conn.fetchval("SELECT tenantproxy.hello()") for _ in range(500)}
    assert len(seen) == 500
    assert min(seen) < 0 < max(seen)


@pytest.mark.parametrize(
    "what",
    ["session_nonce", "tenant_binding", "tenant_mark"],
)
async def test_what_the_backend_keeps_cannot_be_read_or_set(turns: EnteredSession, what: str) -> None:
    await turns.enter("row1")
    for statement in (
        f"SELECT currval('tenantproxy.{what}')", f"SELECT nextval('tenantproxy.{what}')",
        f"SELECT setval('tenantproxy.{what}', 1)", f"TABLE tenantproxy.{what}",
    ):  # fmt: skip
        with pytest.raises(NO_TENANT):
            await turns.conn.execute(statement)
    with pytest.raises((asyncpg.ObjectNotInPrerequisiteStateError, NO_TENANT)):
        await turns.conn.execute("SELECT lastval()")


async def test_a_session_that_was_not_reset_is_refused(turns: EnteredSession) -> None:
    await turns.enter("row1")
    with pytest.raises(asyncpg.ObjectInUseError, match="another tenant's"):
        await turns.conn.execute(turns.entry("row2"))
    assert await names(turns.conn) == ["row1 1", "row1 2", "row1 3"]


LEFT: Final[dict[str, str]] = {
    "a role": "SET ROLE app; SET search_path = pg_temp",
    "read only": "SET default_transaction_read_only = on",
    "serializable": "SET default_transaction_isolation = serializable; SET default_transaction_deferrable = on",
    "a cursor": "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "backslashes": "SET standard_conforming_strings = off; SET backslash_quote = on; SET bytea_output = escape",
    "nulls that equal": "SET transform_null_equals = on; SET extra_float_digits = -15; SET datestyle = german",
    "the next tenant's name": "SET app.current_tenant_id = 'row2'; SET app.tenant_proof = 'bound'",
    "a forced plan": "SET plan_cache_mode = force_generic_plan; SET jit = on; SET jit_above_cost = 0",
    "locks and a seed": "SELECT pg_advisory_lock(7), setseed(0.5)",
    "channels": "LISTEN news; NOTIFY news",
}


@pytest.mark.parametrize("left", LEFT)
async def test_whatever_was_left_the_next_tenant_is_let_in_and_meets_nothing(turns: EnteredSession, left: str) -> None:
    conn = turns.conn
    await turns.enter("row1")
    await conn.execute(LEFT[left])
    await turns.enter("row2")
    assert await names(conn) == ["row2 1", "row2 2", "row2 3"]
    state = await conn.fetchrow(
        "SELECT current_user = session_user AS same, current_setting('transaction_read_only') AS reads,"
        " current_setting('transaction_isolation') AS isolation, current_setting('app.current_tenant_id') AS tenant,"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,"
        " (SELECT count(*) FROM pg_listening_channels()) AS channels"
    )
    assert state is not None
    assert tuple(state) == (True, "off", "read committed", "row2", 0, 0)


async def test_the_seed_of_random_is_new_for_each_tenant(turns: EnteredSession) -> None:
    found = set()
    for tenant in ("row1", "row2"):
        await turns.conn.execute("SELECT setseed(0.5)")
        await turns.enter(tenant)
        found.add(await turns.conn.fetchval("SELECT random()"))
    assert len(found) == 2


async def test_numbers_of_the_former_tenant_are_gone(each_world: World) -> None:
    async with each_world.shared.connect() as admin, each_world.app(each_world.shared) as conn:
        await admin.execute("CREATE SEQUENCE public.numbers; GRANT USAGE ON SEQUENCE public.numbers TO app")
        turns = await EnteredSession.of(conn, each_world.signer())
        await turns.enter("row1")
        await conn.execute("SELECT nextval('public.numbers')")
        await conn.execute(turns.entry("row1"))  # a renewal leaves them
        turns.nonce = turns.next
        assert await conn.fetchval("SELECT currval('public.numbers')") == 1
        await turns.enter("row2")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await conn.fetchval("SELECT currval('public.numbers')")


@pytest.mark.parametrize("how", ["BEGIN", "BEGIN; SELECT 1; SAVEPOINT s"])
async def test_a_turn_that_is_rolled_back_leaves_no_tenant(turns: EnteredSession, how: str) -> None:
    await turns.enter("row1")
    await turns.conn.execute(f"{how}; RESET ALL; {turns.entry('row2')}; ROLLBACK")
    with pytest.raises(NO_TENANT):
        await turns.conn.fetch(READ)


async def test_an_error_behind_the_entry_lets_no_tenant_in(turns: EnteredSession) -> None:
    await turns.enter("row1")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await turns.conn.execute(f"{RESET.sql}; {turns.entry('row2')}; SELECT 1/0")
    with pytest.raises(NO_TENANT):
        await turns.conn.fetch(READ)


@pytest.mark.parametrize("hostile", ["PREPARE mine AS SELECT 1", "DEALLOCATE {name}", "DEALLOCATE ALL"])
async def test_statements_that_were_prepared_or_taken_away_in_sql_let_no_tenant_in(
    turns: EnteredSession, hostile: str
) -> None:
    conn = turns.conn
    await turns.enter("row1")
    name = (await conn.prepare("SELECT 'the driver''s'")).get_name()  # the other one asked for the nonce
    await conn.execute(hostile.format(name=name))
    with pytest.raises(asyncpg.ObjectInUseError, match=r"statements of the driver are gone|prepared in SQL"):
        await conn.execute(f"{RESET.sql}; {turns.entry('row2', prepared=2)}")


async def test_a_turn_and_a_bind_can_follow_each_other(turns: EnteredSession) -> None:
    await turns.enter("row1")
    await turns.conn.execute(RESET.sql)
    await bind(turns.conn, turns.signer, "row2")
    assert await names(turns.conn) == ["row2 1", "row2 2", "row2 3"]
    await turns.enter("row1")
    assert await names(turns.conn) == ["row1 1", "row1 2", "row1 3"]


async def test_no_setting_shows_the_key_or_the_nonce(turns: EnteredSession, admin: asyncpg.Connection) -> None:
    found = await admin.fetch("SELECT unnest(ARRAY[ipad, opad]) FROM tenantproxy.context_key")
    pads = [bytes(row[0]).hex() for row in found]
    told: list[str] = []
    turns.conn.add_log_listener(lambda _, message: told.append(f"{message} {message.detail}"))
    for what in ("parse", "rewritten", "plan"):
        await turns.conn.execute(f"SET debug_print_{what} = on")
    await turns.conn.execute("SET client_min_messages = debug1")
    entry = turns.entry("row1")
    await turns.conn.execute(entry)
    text = " ".join(told)
    assert len(text) > 10_000
    assert not any(pad in text for pad in pads)
    assert str(turns.next) not in text
