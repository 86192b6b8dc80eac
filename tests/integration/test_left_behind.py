"""What one lease leaves in a session, does the next one meet it? Every way to leave something, on the same backend."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.leases import (
    SHOW_PREPARED,
    ResetMode,
    driver_statements,
    one_connection,
    own_rows,
    rows_of,
    state_of,
)
from tests.support.trusting import trust
from tests.support.world import APP_ROLE, World, a_world

BE_ONESELF = "SELECT set_config('session_authorization', session_user, false)"
Leave = Callable[[Guard], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to leave behind. `kept`: the backend is reset and used on; None: either way is right.

    `hides`: done where no client can see it, so the tenant's own next lease may meet it; another tenant's never.
    """

    name: str
    leave: Leave
    kept: bool | None = True
    hides: bool = False
    since: int = 16


def sql(*statements: str) -> Leave:
    async def leave(conn: Guard) -> None:
        for statement in statements:
            await conn.execute(statement)

    return leave


def hidden(statement: str) -> str:
    """`statement`, with the words that a reader of SQL could look for cut in two."""
    cut = re.sub("(DEALLO|PRE|DIS)(CATE|PARE|CARD)", r"\1'||'\2", statement)
    return f"DO $do$ BEGIN EXECUTE '{cut}'; END $do$"


# What the lender itself runs on a row tenant's session; in a database of an older version, the last one.
LENDERS = re.compile(r"tenantproxy\.hello\(\)|pg_advisory_unlock_all|tenantproxy\.bind\(")


async def replace_own_statements(conn: Guard, *, lenders: bool = False, how: Callable[[str], str] = str) -> None:
    """Put our statements under the names that the driver uses: the binding statement answers as if it had bound."""
    found = {name: text for name, text in driver_statements(conn).items() if not lenders or LENDERS.search(text)}
    for name, statement in found.items():
        binds = "$1, $2)" in statement
        body = "(text, text) AS SELECT $1" if binds else " AS SELECT null::text AS name"
        await conn.execute(how(f'DEALLOCATE "{name}"'))
        await conn.execute(how(f'PREPARE "{name}"{body}'))
    assert found


async def replace_binding(conn: Guard) -> None:
    if await conn.fetchval("SELECT current_setting('app.current_tenant_id') <> ''"):
        await replace_own_statements(conn, lenders=True)


async def replace_binding_unseen(conn: Guard) -> None:
    if await conn.fetchval("SELECT current_setting('app.current_tenant_id') <> ''"):
        await replace_own_statements(conn, lenders=True, how=hidden)
    else:
        await conn.execute(hidden("PREPARE nothing AS SELECT 1"))


async def replace_all_unseen(conn: Guard) -> None:
    await replace_own_statements(conn, how=hidden)


async def abort_transaction(conn: Guard) -> None:
    await conn.execute("BEGIN; SET LOCAL work_mem = '64kB'")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await conn.execute("SELECT 1/0")


async def open_driver_transaction(conn: Guard) -> None:
    await conn.transaction(isolation="serializable").start()
    await conn.execute("SET search_path = pg_catalog; SAVEPOINT s")


async def use_another_codec(conn: Guard) -> None:
    await conn.set_type_codec("text", schema="pg_catalog", encoder=str, decoder="evil {}".format)


async def listen(conn: Guard) -> None:
    await conn.add_listener("news", lambda *_: None)


async def abort_copy_out(conn: Guard) -> None:
    async def sink(_: bytes) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        await conn.copy_from_query("SELECT pg_catalog.repeat('x', 9) FROM generate_series(1, 99999)", output=sink)


async def time_out(conn: Guard) -> None:
    with pytest.raises(TimeoutError):
        await conn.execute("SELECT pg_catalog.pg_sleep(60)", timeout=0.01)


async def leave_query_running(conn: Guard) -> None:
    await _leave_running(conn.execute("SELECT pg_catalog.pg_sleep(60)"))


async def leave_query_being_prepared(conn: Guard) -> None:
    await _leave_running(conn.fetch("SELECT pg_catalog.pg_sleep(60), name FROM projects"))


_RUNNING: set[asyncio.Task[object]] = set()


async def _leave_running(work: Coroutine[Any, Any, object]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _RUNNING.add(task)  # a reference keeps it alive
    task.add_done_callback(_RUNNING.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.sleep(0)  # its first step: now the connection is busy
    assert not task.done()


async def take_statements_away_unseen(conn: Guard) -> None:
    """All but the lender's, so that the next tenant is bound before it meets that."""
    found = [name for name, text in driver_statements(conn).items() if not LENDERS.search(text)]
    for name in found:
        await conn.execute(hidden(f'DEALLOCATE "{name}"'))
    assert found


async def take_one_statement_away_unseen(conn: Guard) -> None:
    *_, name = (name for name, text in driver_statements(conn).items() if not LENDERS.search(text))
    await conn.execute(hidden(f'DEALLOCATE "{name}"'))


async def ask_nothing(conn: Guard) -> None:
    with pytest.raises(AttributeError):  # the driver does not know the answer to an empty query
        await conn.execute("")


async def close(conn: Guard) -> None:
    await conn.close()


async def terminate(conn: Guard) -> None:
    conn.terminate()


async def reset_by_driver(conn: Guard) -> None:
    await conn.execute("SET work_mem = '64kB'")
    await conn.reset()


async def reload_schema(conn: Guard) -> None:
    await conn.reload_schema_state()


async def name_a_statement(conn: Guard) -> None:
    await conn.prepare("SELECT 1", name="mine")


_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"
_OTHER_TENANT = "SET app.current_tenant_id = 'row2'; SET app.tenant_proof = 'bound'"
_OTHER_FORMATS = "SET datestyle = 'German'; SET bytea_output = 'escape'; SET timezone = 'Asia/Tokyo'"
_IDLE = "SET idle_in_transaction_session_timeout = '1ms'; SET idle_session_timeout = '1ms'"
_SHADOW = "CREATE TEMP TABLE projects AS SELECT 'evil'::text AS name"
_LOCKS = "SELECT pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock_shared(2)"
_HELD = "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT name FROM projects; COMMIT"
_BACKSLASHES = "SET standard_conforming_strings = off; SET backslash_quote = on"

CASES = [
    Case(name="a setting", leave=sql("SET work_mem = '64kB'")),
    Case(name="set_config for the session", leave=sql("SELECT set_config('work_mem', '64kB', false)")),
    Case(name="set_config for the transaction", leave=sql("BEGIN; SELECT set_config('work_mem', '64kB', true)")),
    Case(name="a setting of its own making", leave=sql("SET app.evil = 'x'")),
    Case(name="search_path", leave=sql("SET search_path = pg_temp, public")),
    Case(name="strings with backslashes", leave=sql(_BACKSLASHES)),
    Case(name="row_security off", leave=sql("SET row_security = off")),
    Case(name="read only", leave=sql(_READ_ONLY)),
    Case(name="another tenant in the setting", leave=sql(_OTHER_TENANT)),
    Case(name="another encoding", leave=sql("SET client_encoding = 'LATIN1'")),
    Case(name="another way to write dates", leave=sql(_OTHER_FORMATS)),
    Case(name="statement_timeout", leave=sql("SET statement_timeout = '1ms'"), kept=None),
    Case(name="lock_timeout", leave=sql("SET lock_timeout = '1ms'"), kept=None),
    Case(name="idle timeouts", leave=sql(_IDLE), kept=None),
    Case(name="transaction_timeout", leave=sql("SET transaction_timeout = '1ms'"), kept=None, since=17),
    Case(name="a temporary table in the place of a real one", leave=sql(_SHADOW)),
    Case(name="a temporary view of one's rows", leave=sql("CREATE TEMP VIEW projects AS SELECT name FROM projects")),
    Case(name="a temporary sequence", leave=sql("CREATE TEMP SEQUENCE s; SELECT nextval('s')")),
    Case(name="SET ROLE", leave=sql("SET ROLE hat")),
    Case(name="SET SESSION AUTHORIZATION", leave=sql(f"{BE_ONESELF}; SET ROLE hat")),
    Case(name="advisory locks", leave=sql(_LOCKS)),
    Case(name="LISTEN in SQL", leave=sql("LISTEN news")),
    Case(name="LISTEN through the driver", leave=listen),
    Case(name="a cursor WITH HOLD", leave=sql(_HELD)),
    Case(name="an open transaction", leave=sql("BEGIN; SET LOCAL ROLE hat; SET work_mem = '64kB'")),
    Case(name="an open transaction of the driver", leave=open_driver_transaction),
    Case(name="an aborted transaction", leave=abort_transaction),
    Case(name="a statement that timed out", leave=time_out, kept=None),
    Case(name="PREPARE", leave=sql("PREPARE mine AS SELECT 1")),
    Case(name="PREPARE unseen", leave=sql(hidden("PREPARE mine AS SELECT 1")), kept=None, hides=True),
    Case(name="a named statement of the driver", leave=name_a_statement),
    Case(name="the driver's statements replaced", leave=replace_own_statements),
    Case(name="the driver's statements replaced unseen", leave=replace_all_unseen, kept=None, hides=True),
    Case(name="the lender's statements replaced", leave=replace_binding),
    Case(name="the lender's statements replaced unseen", leave=replace_binding_unseen, kept=None, hides=True),
    Case(name="DEALLOCATE ALL", leave=sql("DEALLOCATE ALL")),
    Case(name="DEALLOCATE ALL unseen", leave=sql(hidden("DEALLOCATE ALL")), kept=None, hides=True),
    Case(name="the driver's statements taken away unseen", leave=take_statements_away_unseen, kept=None, hides=True),
    Case(name="one of them taken away unseen", leave=take_one_statement_away_unseen, kept=False, hides=True),
    Case(name="DISCARD ALL", leave=sql("DISCARD ALL")),
    Case(name="DISCARD SEQUENCES", leave=sql("DISCARD SEQUENCES")),
    Case(name="DISCARD SEQUENCES unseen", leave=sql(hidden("DISCARD SEQUENCES")), kept=None, hides=True),
    Case(name="RESET ALL", leave=sql("RESET ALL")),
    Case(name="a codec", leave=use_another_codec, kept=False),
    Case(name="a COPY that its reader broke off", leave=abort_copy_out, kept=None),
    Case(name="a query that still runs", leave=leave_query_running, kept=False),
    Case(name="a query that is still being prepared", leave=leave_query_being_prepared, kept=False),
    Case(name="an empty query", leave=ask_nothing, kept=None),
    Case(name="a closed connection", leave=close, kept=False),
    Case(name="a terminated connection", leave=terminate, kept=False),
    Case(name="the driver's own reset", leave=reset_by_driver),
    Case(name="the driver's schema reloaded", leave=reload_schema),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made, _generous(made):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_older_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """Installed before there were turns: each session is reset and bound in messages of their own."""
    async with a_world(postgres) as made, made.shared.connect() as admin:
        await admin.execute(f"DROP FUNCTION tenantproxy.enter(text, integer, bigint, text, bigint); {SHOW_PREPARED}")
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world16(postgres16: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres16) as made, _generous(made):
        yield made


def _generous(world: World) -> _Generous:
    return _Generous(world)


class _Generous:
    """Grants what a careful operator does not: TEMP everywhere, a second role to put on, a look at what is prepared."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __aenter__(self) -> None:
        roles = ", ".join(sorted({self._world.role_of(tenant) for tenant in self._world.tenants}))
        async with self._world.shared.connect() as admin:
            await admin.execute(f"CREATE ROLE hat NOLOGIN; GRANT hat TO {roles}")
        for database in {self._world.database(tenant) for tenant in self._world.tenants}:
            async with database.connect() as admin:
                await admin.execute(f'GRANT TEMPORARY ON DATABASE "{database.name}" TO {roles}; {SHOW_PREPARED}')
                await admin.execute(f"GRANT USAGE ON SCHEMA public TO {roles}")

    async def __aexit__(self, *_: object) -> None:
        async with self._world.shared.connect() as admin:
            await admin.execute("DROP ROLE hat")


async def _meets_nothing(router: Router, case: Case, first: str, second: str) -> None:
    """`first` leaves it, `second` comes next and has its rows alone, in a session as it had before."""
    async with router.tenant(second).connection() as conn:
        before = json.loads(await state_of(conn))
        assert await own_rows(conn) == rows_of(second)
    async with router.tenant(first).connection() as conn:
        assert await own_rows(conn) == rows_of(first)
        pid = conn.get_server_pid()
        await case.leave(conn)
    async with router.tenant(second).connection() as conn:
        assert await own_rows(conn) == rows_of(second)
        assert json.loads(await state_of(conn)) == before
        if case.kept is not None:
            assert (await conn.fetchval("SELECT pg_backend_pid()") == pid) is case.kept


def _named(case: Case) -> str:
    return case.name.replace(" ", "_")


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
@pytest.mark.parametrize("case", CASES, ids=_named)
async def test_another_tenant_on_the_same_backend_meets_nothing(one_world: World, case: Case, reset: ResetMode) -> None:
    async with one_connection(one_world, reset=reset) as router:
        await _meets_nothing(router, case, "row1", "row2")
        await _meets_nothing(router, case, "row2", "row1")


@pytest.mark.parametrize("case", [case for case in CASES if not case.hides], ids=_named)
async def test_the_same_tenant_meets_nothing_of_its_last_lease(one_world: World, case: Case) -> None:
    async with one_connection(one_world) as router:
        for tenant in ("row1", "schema1", "database1"):
            await _meets_nothing(router, case, tenant, tenant)


@pytest.mark.parametrize("case", [case for case in CASES if case.since <= 16][::3], ids=_named)
async def test_another_tenant_meets_nothing_on_postgresql_16(one_world16: World, case: Case) -> None:
    async with one_connection(one_world16) as router:
        await _meets_nothing(router, case, "row1", "row2")


@pytest.mark.parametrize("case", [case for case in CASES if case.hides], ids=_named)
async def test_another_tenant_meets_nothing_in_a_database_of_an_older_version(
    one_older_world: World, case: Case
) -> None:
    async with one_connection(one_older_world) as router:
        async with router.tenant("row1").connection() as conn:
            assert any("tenantproxy.bind(" in text for text in driver_statements(conn).values())
        await _meets_nothing(router, case, "row1", "row2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_trusting_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, rows=3) as made:
        await trust(made)
        async with made.shared.connect() as admin:
            await admin.execute(f'{SHOW_PREPARED}; GRANT TEMPORARY ON DATABASE "{made.shared.name}" TO {APP_ROLE}')
        yield made


HATS = ("SET ROLE", "SET SESSION AUTHORIZATION", "an open transaction")  # put on the second role
NEEDS_NO_ROLE = [case for case in CASES if case.name not in HATS]


@pytest.mark.parametrize("case", NEEDS_NO_ROLE, ids=_named)
async def test_another_tenant_meets_nothing_where_the_form_is_trusted(one_trusting_world: World, case: Case) -> None:
    async with one_connection(one_trusting_world, row={"form": "trusted"}) as router:
        await _meets_nothing(router, case, "row1", "row2")


@pytest.mark.parametrize("case", [case for case in NEEDS_NO_ROLE if not case.hides][::2], ids=_named)
async def test_the_same_tenant_meets_nothing_where_the_form_is_trusted(one_trusting_world: World, case: Case) -> None:
    async with one_connection(one_trusting_world, row={"form": "trusted"}) as router:
        await _meets_nothing(router, case, "row1", "row1")


async def _serves_on(router: Router, case: Case, tenant: str) -> None:
    async with router.tenant(tenant).connection() as conn:
        assert await own_rows(conn) == rows_of(tenant)
        await case.leave(conn)
    async with router.tenant(tenant).connection() as conn:
        assert await own_rows(conn) == rows_of(tenant)


# What a session that is kept for its tenant keeps, as the operator asked for: the tenant's own next lease may meet it.
_STAYS = (
    "search_path", "temporary table", "temporary view", "row_security", "timeout", "another tenant", "SET", "advisory",
)  # fmt: skip


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.hides and not any(word in case.name for word in _STAYS)], ids=_named
)
async def test_a_session_kept_for_its_tenant_serves_on_whatever_was_done(one_world: World, case: Case) -> None:
    async with one_connection(one_world, reset="on_tenant_change") as router:
        for tenant in ("row1", "schema1", "database1"):
            await _serves_on(router, case, tenant)
