"""Does a turn of the trusted form let in whom it was signed for, once, and bring none back? However it is sent."""

from __future__ import annotations

import re
from typing import Final

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.turn import RESET
from tests.support.entered import EnteredSession
from tests.support.sessions import READ, bind, names
from tests.support.world import World

NO_TENANT: Final = asyncpg.InsufficientPrivilegeError
NOT_VALID: Final = "proof of tenancy is not valid"
OWN: Final = ["row1 1", "row1 2", "row1 3"]
OTHERS: Final = ["row2 1", "row2 2", "row2 3"]


async def seen(conn: asyncpg.Connection) -> set[str]:
    """The tenants whose rows the session sees; none when it is refused."""
    try:
        return {name.split()[0] for name in await names(conn)}
    except asyncpg.PostgresError:
        return set()


async def test_tenants_take_turns(trusted: EnteredSession) -> None:
    for tenant in ("row2", "row1", "row1", "row2"):
        await trusted.enter(tenant)
        assert await seen(trusted.conn) == {tenant}


async def test_a_proof_lets_in_once(trusted: EnteredSession) -> None:
    entry = trusted.entry("row2")
    await trusted.conn.execute(f"{RESET.sql}; {entry}")
    trusted.nonce = trusted.next
    await trusted.enter("row1")
    for again in (entry, f"{RESET.sql}; {entry}"):
        with pytest.raises(NO_TENANT, match=NOT_VALID):
            await trusted.conn.execute(again)
    assert await names(trusted.conn) == OWN


@pytest.mark.parametrize(
    "what",
    [
        "pid",
        "nonce",
        "expired",
        "longer than it says",
        "eleven digits",
        "database",
        "key id",
        "tenant",
        "form",
        "bound",
        "another's key",
    ],
)
async def test_a_proof_made_for_anything_else_lets_no_tenant_in(
    trusted: EnteredSession, trusting: World, what: str
) -> None:
    if what == "database":
        trusted.signer = Signer(b"k" * 32, database="elsewhere")
    elif what == "another's key":
        trusted.signer = Signer(b"x" * 32, database=trusting.shared.name)
    elif what == "bound":
        trusted.form = "bound"
    entry = trusted.entry(
        "row2",
        seconds={"expired": -1, "eleven digits": 90_000_000_000, "longer than it says": 360}.get(what, 60),
        **({"pid": 1} if what == "pid" else {}),
        **({"nonce": trusted.nonce + 1} if what == "nonce" else {}),
    )
    if what == "tenant":
        entry = entry.replace("'row2'", "'row3'")
    elif what == "key id":
        entry = re.sub(r"', 1, ", "', 7, ", entry)
    elif what == "form":
        entry = entry.replace(", false)", ", true)")
    elif what == "bound":
        entry = entry.replace("tenantproxy.enter", "tenantproxy.trust").replace(", 0)", ", 0, false)")
    with pytest.raises(NO_TENANT, match=NOT_VALID):
        await trusted.conn.execute(f"{RESET.sql}; {entry}")
    assert await seen(trusted.conn) == {"row1"}, "a message is undone as a whole"


@pytest.mark.parametrize("name", ["row 2", "row\t2", "", "a|row2"])
async def test_a_name_that_could_be_read_otherwise_is_refused(trusted: EnteredSession, name: str) -> None:
    entry = trusted.entry(name)
    if name == "a|row2":  # what is signed for one must not be good for another
        entry = entry.replace("'a|row2'", "'row2'")
    with pytest.raises(NO_TENANT, match=NOT_VALID):
        await trusted.conn.execute(f"{RESET.sql}; {entry}")


@pytest.mark.parametrize("lost", ["DISCARD SEQUENCES", "DISCARD ALL", "SELECT tenantproxy.hello()"])
async def test_who_takes_the_nonce_away_lets_no_tenant_in(trusted: EnteredSession, lost: str) -> None:
    await trusted.conn.execute(lost)
    with pytest.raises((NO_TENANT, asyncpg.ObjectNotInPrerequisiteStateError)):
        await trusted.conn.execute(f"{RESET.sql}; {trusted.entry('row2')}")
    assert "row2" not in await seen(trusted.conn)


@pytest.mark.parametrize("before", ["BEGIN", "BEGIN; SELECT 1", "BEGIN; SAVEPOINT s", "BEGIN; COMMIT AND CHAIN"])
async def test_a_tenant_cannot_be_entered_in_the_transaction_of_another(trusted: EnteredSession, before: str) -> None:
    await trusted.conn.execute(before)
    with pytest.raises((asyncpg.ActiveSQLTransactionError, asyncpg.PostgresError)):
        await trusted.conn.execute(f"RESET ALL; {trusted.entry('row2')}")
    await trusted.conn.execute("ROLLBACK")
    assert await seen(trusted.conn) == {"row1"}


async def test_an_error_behind_the_entry_lets_no_tenant_in(trusted: EnteredSession) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await trusted.conn.execute(f"{RESET.sql}; {trusted.entry('row2')}; SELECT 1/0")
    assert "row2" not in await seen(trusted.conn)


async def test_a_session_that_was_not_reset_is_refused(trusted: EnteredSession) -> None:
    with pytest.raises(asyncpg.ObjectInUseError, match="another tenant's"):
        await trusted.conn.execute(trusted.entry("row2"))
    assert await names(trusted.conn) == OWN


LEFT: Final[dict[str, str]] = {
    "read only": "SET default_transaction_read_only = on",
    "serializable": "SET default_transaction_isolation = serializable; SET default_transaction_deferrable = on",
    "a cursor": "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "backslashes": "SET standard_conforming_strings = off; SET backslash_quote = on; SET bytea_output = escape",
    "nulls that equal": "SET transform_null_equals = on; SET extra_float_digits = -15; SET datestyle = german",
    "the next tenant's name": "SET app.current_tenant_id = 'row2'",
    "locks": "SELECT pg_advisory_lock(7), setseed(0.5)",
    "a lock timeout": "SET lock_timeout = 1",
    "plans": "SET plan_cache_mode = force_generic_plan; SET jit = on; SET jit_above_cost = 0",
}


@pytest.mark.parametrize("left", LEFT)
async def test_whatever_was_left_the_next_tenant_is_let_in_and_meets_nothing(
    trusted: EnteredSession, left: str
) -> None:
    await trusted.conn.execute(LEFT[left])
    await trusted.enter("row2")
    assert await names(trusted.conn) == OTHERS
    state = await trusted.conn.fetchrow(
        "SELECT current_setting('transaction_read_only'), current_setting('lock_timeout'),"
        " current_setting('app.current_tenant_id'),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
    )
    assert state is not None
    assert tuple(state) == ("off", "0", "row2", 0)


# --- the same tenant again -------------------------------------------------------------------------------------------
async def test_a_tenant_goes_on_after_a_reset_as_it_was_let_in(trusted: EnteredSession) -> None:
    await trusted.conn.execute(f"RESET ALL; SELECT tenantproxy.trust_again('row1', {trusted.until})")
    assert await names(trusted.conn) == OWN


@pytest.mark.parametrize(
    ("before", "tenant", "later"),
    [
        ("", "row2", 0), ("", "row1", 100), ("SELECT tenantproxy.hello()", "row1", 0), ("DISCARD SEQUENCES", "row1", 0),
        ("DISCARD ALL", "row1", 0),
    ],
)  # fmt: skip
async def test_going_on_opens_nothing_new(trusted: EnteredSession, before: str, tenant: str, later: int) -> None:
    await trusted.conn.execute(before or "SELECT 1")
    with pytest.raises((NO_TENANT, asyncpg.ObjectNotInPrerequisiteStateError)):
        await trusted.conn.execute(f"RESET ALL; SELECT tenantproxy.trust_again('{tenant}', {trusted.until + later})")


async def test_going_on_takes_a_time_of_ten_digits_and_no_part_of_one(trusted: EnteredSession) -> None:
    until = str(trusted.until)
    for digits in (1, 9):
        call = f"SELECT tenantproxy.trust_again('{until[digits:]}row1', {until[:digits]})"
        with pytest.raises(NO_TENANT, match="was not this tenant's"):
            await trusted.conn.execute(f"RESET ALL; {call}")


async def test_after_another_tenant_the_former_one_cannot_go_on(trusted: EnteredSession) -> None:
    until = trusted.until
    await trusted.enter("row2")
    with pytest.raises(NO_TENANT, match="was not this tenant's"):
        await trusted.conn.execute(f"RESET ALL; SELECT tenantproxy.trust_again('row1', {until})")
    assert await names(trusted.conn) == OTHERS


async def test_a_fenced_tenant_is_not_let_in_and_does_not_go_on(trusted: EnteredSession, trusting: World) -> None:
    async with trusting.shared.connect() as admin:
        await admin.execute("INSERT INTO tenantproxy.fenced_tenant VALUES ('row1', 'moved')")
        try:
            for call in (trusted.entry("row1"), f"SELECT tenantproxy.trust_again('row1', {trusted.until})"):
                with pytest.raises(NO_TENANT):
                    await trusted.conn.execute(f"{RESET.sql}; {call}")
            assert await names(trusted.conn) == OWN, "a session that was let in before is the weaker side of this form"
        finally:
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant")


# --- code of the former tenant in the message ------------------------------------------------------------------------
SPY: Final = """
CREATE FUNCTION pg_temp.f(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  PERFORM nextval('public.heard'); RETURN $1; END $$;
CREATE FUNCTION pg_temp.tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_temp.f(1); RETURN NULL; END $$"""
PLANTED: Final[dict[str, str]] = {
    "a cursor": "DECLARE h CURSOR WITH HOLD FOR SELECT pg_temp.f(1)",
    "a half-read cursor": "BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT pg_temp.f(n) FROM generate_series(1, 3) n;"
                          " FETCH 1 FROM h; COMMIT",
    "an index expression": "CREATE TEMP TABLE x (id int) ON COMMIT DELETE ROWS; CREATE INDEX ON x ((pg_temp.f(id)))",
    "an index predicate": "CREATE TEMP TABLE x (id integer); CREATE INDEX ON x (id) WHERE id < pg_temp.f(1)",
    "a partition key": "CREATE TEMP TABLE x (id integer) PARTITION BY RANGE ((id + pg_temp.f(1)));"
                       " CREATE TEMP TABLE x1 PARTITION OF x DEFAULT",
    "a deferred trigger": "CREATE TEMP TABLE a (id integer PRIMARY KEY); CREATE TEMP TABLE b (id integer REFERENCES a"
                          " DEFERRABLE INITIALLY DEFERRED); CREATE CONSTRAINT TRIGGER q AFTER INSERT OR DELETE ON b"
                          " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.tr()",
    "checks and defaults": "CREATE TEMP TABLE x (id integer DEFAULT pg_temp.f(1) CHECK (id >= pg_temp.f(0)));"
                           " CREATE TEMP VIEW v AS SELECT pg_temp.f(1); INSERT INTO x DEFAULT VALUES",
    "a domain": "CREATE DOMAIN pg_temp.d AS integer CHECK (pg_temp.f(VALUE) > 0); CREATE TEMP TABLE x (id pg_temp.d)",
    "statement triggers": "CREATE TEMP TABLE x (id integer); CREATE TRIGGER q AFTER TRUNCATE ON x"
                          " EXECUTE FUNCTION pg_temp.tr();"
                          " CREATE TRIGGER r AFTER DELETE ON x EXECUTE FUNCTION pg_temp.tr()",
    "a channel": "LISTEN news; NOTIFY news",
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
async def test_nothing_that_was_planted_runs_in_the_reset(each_world: World, planted: str) -> None:
    """It could read the proof in current_query(). The router sends two messages where a role can plant something."""
    async with each_world.shared.connect() as admin, each_world.app(each_world.shared) as conn:
        await admin.execute(
            f"GRANT TEMPORARY ON DATABASE {each_world.shared.name} TO app; CREATE SEQUENCE public.heard;"
            "GRANT USAGE ON SEQUENCE public.heard TO app"
        )
        session = await EnteredSession.of(conn, each_world.signer())
        await session.enter("row1")
        await conn.execute(SPY)
        await conn.execute(PLANTED[planted])
        before = await admin.fetchval("SELECT last_value FROM public.heard")
        await session.enter("row2")
        assert await admin.fetchval("SELECT last_value FROM public.heard") == before
        assert await names(conn) == OTHERS


async def test_both_forms_work_through_the_same_policies(trusted: EnteredSession, trusting: World) -> None:
    conn = trusted.conn
    await conn.execute(RESET.sql)
    await bind(conn, trusted.signer, "row2")
    assert await names(conn) == OTHERS
    await trusted.enter("row1")
    assert await names(conn) == OWN
    await conn.execute(RESET.sql)
    bound = await EnteredSession.of(conn, trusted.signer)
    await bound.enter("row2")
    assert await names(conn) == OTHERS


async def test_no_setting_shows_the_key_or_the_nonce(trusted: EnteredSession, trusting: World) -> None:
    async with trusting.shared.connect() as admin:
        found = await admin.fetch("SELECT unnest(ARRAY[ipad, opad]) FROM tenantproxy.context_key")
    told: list[str] = []
    trusted.conn.add_log_listener(lambda _, message: told.append(f"{message} {message.detail}"))
    for what in ("parse", "rewritten", "plan"):
        await trusted.conn.execute(f"SET debug_print_{what} = on")
    await trusted.conn.execute("SET client_min_messages = debug1")
    await trusted.conn.execute(trusted.entry("row1"))
    text = " ".join(told)
    assert len(text) > 10_000
    assert not any(bytes(row[0]).hex() in text for row in found)
    assert str(trusted.next) not in text


async def test_statements_that_were_prepared_in_sql_let_no_tenant_in(trusted: EnteredSession) -> None:
    await trusted.conn.execute("PREPARE mine AS SELECT 1")
    with pytest.raises(asyncpg.ObjectInUseError, match="prepared in SQL"):
        await trusted.conn.execute(f"{RESET.sql}; {trusted.entry('row2')}")
    with pytest.raises(asyncpg.PostgresError):
        await trusted.conn.execute(f"DISCARD ALL; {READ}")
