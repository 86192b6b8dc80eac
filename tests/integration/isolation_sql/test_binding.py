"""How long does a binding live? Until a reset, its time, a fence or another tenant; no rollback brings one back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.row import BIND, change_reset, keep_reset
from tenantproxy.model import Binding, Proof, tenant_id
from tests.support.sessions import READ, bind, carry, names, now_us, prove
from tests.support.world import World

OWN: Final = ["row1 1", "row1 2", "row1 3"]
NO_TENANT = asyncpg.InsufficientPrivilegeError  # 42501
NOT_SET = asyncpg.ObjectNotInPrerequisiteStateError  # 55000
BINDING: Final = Binding(tenant=tenant_id("row1"), proof=Proof.BOUND, setting="app.current_tenant_id")
CHANGE_RESET: Final = change_reset(0, Proof.BOUND)
CHANGED: Final = asyncpg.ObjectInUseError  # 55006
CLAIM: Final = (
    "SELECT set_config('app.current_tenant_id', 'row1', false), set_config('app.tenant_proof', 'bound', false)"
)


@pytest.mark.parametrize(
    ("reset", "error"),
    [
        ("RESET ALL", NO_TENANT),
        ("DISCARD ALL", NO_TENANT),
        ("DISCARD SEQUENCES", NOT_SET),
        ("RESET app.current_tenant_id", NO_TENANT),
        ("RESET app.tenant_proof", NO_TENANT),
        (CHANGE_RESET, NO_TENANT),
    ],
)
async def test_a_reset_leaves_no_tenant(
    conn: asyncpg.Connection, signer: Signer, reset: str, error: type[asyncpg.PostgresError]
) -> None:
    await bind(conn, signer, "row1")
    await conn.execute(reset)
    with pytest.raises(error):
        await conn.fetch(READ)


@pytest.mark.parametrize("reset", ["DISCARD ALL", CHANGE_RESET])
async def test_a_reset_between_tenants_leaves_no_binding_to_take_up_again(
    conn: asyncpg.Connection, signer: Signer, reset: str
) -> None:
    await bind(conn, signer, "row1")
    await conn.execute(reset)
    await conn.execute(CLAIM)
    with pytest.raises(NOT_SET):
        await conn.fetch(READ)


async def test_after_the_change_of_tenant_the_next_one_is_bound(conn: asyncpg.Connection, signer: Signer) -> None:
    await bind(conn, signer, "row1")
    await conn.execute(CHANGE_RESET)
    await bind(conn, signer, "row2")
    assert await names(conn) == ["row2 1", "row2 2", "row2 3"]


async def test_the_reset_that_keeps_the_tenant_keeps_the_binding_and_nothing_else(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    await conn.execute(
        "SET work_mem = '1MB'; SELECT pg_advisory_lock(4711); LISTEN channel; SET search_path = nowhere;"
        "SET standard_conforming_strings = off"
    )
    await conn.execute(keep_reset(BINDING))
    assert await names(conn) == OWN
    assert (
        await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()") == 0
    )
    assert await conn.fetch("SELECT pg_listening_channels()") == []
    assert await conn.fetchval("SELECT count(*) FROM pg_settings WHERE source = 'session'") == 0


async def test_a_reset_for_the_same_tenant_does_not_revive_a_binding_to_another(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row2")
    await conn.execute(keep_reset(BINDING))
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_a_statement_prepared_in_sql_makes_the_change_of_tenant_fail(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    await conn.fetch(READ)
    await conn.execute(CHANGE_RESET)
    await conn.execute("PREPARE mine AS SELECT 'a literal'")
    with pytest.raises(CHANGED, match="prepared in SQL") as caught:
        await conn.execute(CHANGE_RESET)
    assert "literal" not in repr(caught.value.as_dict())


async def test_the_drivers_own_statement_replaced_makes_the_change_of_tenant_fail(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    """The statement that binds is the one worth replacing: the next tenants would be bound as the attacker."""
    await bind(conn, signer, "row1")
    name = (await conn.prepare(BIND)).get_name()
    await conn.execute(f'DEALLOCATE "{name}"; PREPARE "{name}" (text, text) AS SELECT \'row1\'::text')
    with pytest.raises(CHANGED, match="prepared in SQL"):
        await conn.execute(CHANGE_RESET)


async def test_a_statement_that_is_gone_makes_the_change_of_tenant_fail(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    await conn.execute("DEALLOCATE ALL")
    statements = [await conn.prepare(f"SELECT {n}") for n in range(3)]
    await conn.execute(change_reset(3, Proof.BOUND))
    await conn.execute(f'DEALLOCATE "{statements[1].get_name()}"')
    await conn.execute(change_reset(2, Proof.BOUND))
    with pytest.raises(CHANGED, match="gone"):
        await conn.execute(change_reset(3, Proof.BOUND))


@pytest.mark.parametrize("way", ["TABLE pg_prepared_statements", "SELECT * FROM pg_catalog.pg_prepared_statement()"])
async def test_the_role_of_the_tenants_sees_nothing_that_is_prepared(
    conn: asyncpg.Connection, signer: Signer, way: str
) -> None:
    await bind(conn, signer, "row1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="function pg_prepared_statement"):
        await conn.execute(way)


LEFT_BEHIND: Final = {
    "a temp table": ("CREATE TEMP TABLE left_behind AS SELECT name FROM public.projects", "SELECT * FROM left_behind"),
    "a temp view": ("CREATE TEMP VIEW left_behind AS SELECT 1", "SELECT * FROM left_behind"),
    "a cursor": ("DECLARE c CURSOR WITH HOLD FOR SELECT name FROM public.projects", "FETCH ALL FROM c"),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
async def test_the_change_of_tenant_leaves_nothing_of_the_former(each_world: World, what: str) -> None:
    leave, find = LEFT_BEHIND[what]
    async with each_world.shared.connect() as admin:
        await admin.execute(f"GRANT TEMP ON DATABASE {each_world.shared.name} TO app")
    async with each_world.app(each_world.shared) as conn:
        await bind(conn, each_world.signer(), "row1")
        await conn.execute(leave)
        await conn.execute(CHANGE_RESET)
        await bind(conn, each_world.signer(), "row2")
        with pytest.raises((asyncpg.UndefinedTableError, asyncpg.InvalidCursorNameError)):
            await conn.execute(find)


async def test_a_hostile_statement_timeout_does_not_stop_the_change_of_tenant(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    await conn.execute("SET statement_timeout = '1ms'")
    await conn.execute("SET statement_timeout = 0")
    await conn.execute(CHANGE_RESET)
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_a_bind_is_refused_while_the_session_names_another_tenant(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await carry(conn, signer, "row1")
    with pytest.raises(asyncpg.ObjectInUseError):
        await conn.execute(BIND, "row2", await prove(conn, signer, "row2"))
    await bind(conn, signer, "row1")
    await bind(conn, signer, "row1")
    assert await names(conn) == OWN


async def test_a_bind_that_is_rolled_back_leaves_no_tenant(conn: asyncpg.Connection, signer: Signer) -> None:
    transaction = conn.transaction()
    await transaction.start()
    await bind(conn, signer, "row1")
    await transaction.rollback()
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_no_rollback_brings_an_older_binding_back(conn: asyncpg.Connection, signer: Signer) -> None:
    await bind(conn, signer, "row1")
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("RESET app.current_tenant_id")
    await bind(conn, signer, "row2")
    await transaction.rollback()
    assert await conn.fetchval("SELECT current_setting('app.current_tenant_id')") == "row1"
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_a_read_only_transaction_cannot_bind(conn: asyncpg.Connection, signer: Signer) -> None:
    proof = await prove(conn, signer, "row1")
    async with conn.transaction(readonly=True):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with conn.transaction():
                await conn.execute(BIND, "row1", proof)


async def test_a_binding_ends_at_its_time_but_cuts_no_transaction(conn: asyncpg.Connection, signer: Signer) -> None:
    end = await now_us(conn) + 1_200_000
    proof = signer.sign("row1", pid=conn.get_server_pid(), from_us=end - 9_000_000, to_us=end)
    await conn.execute(BIND, "row1", proof)
    async with conn.transaction():
        assert await names(conn) == OWN
        while await now_us(conn) <= end:
            await conn.execute("SELECT pg_sleep(0.02)")
        assert await names(conn) == OWN
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_a_bind_reseeds_random_so_that_one_tenant_does_not_know_the_next_ones_numbers(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    expected = await conn.fetchval("SELECT random() FROM (SELECT setseed(0.5)) s")
    await conn.execute("SELECT setseed(0.5)")
    await conn.execute(CHANGE_RESET)
    await bind(conn, signer, "row2")
    assert await conn.fetchval("SELECT random()") != expected


@pytest.fixture
async def fence(admin: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The superuser's connection; row1 is not fenced afterwards."""
    yield admin
    await admin.execute("DELETE FROM tenantproxy.fenced_tenant")


FENCE: Final = "INSERT INTO tenantproxy.fenced_tenant VALUES ('row1', 'test')"


@pytest.mark.parametrize("how", ["bound", "carried"])
async def test_a_fence_stops_the_next_statement_and_the_next_bind(
    conn: asyncpg.Connection, signer: Signer, fence: asyncpg.Connection, how: str
) -> None:
    await (bind if how == "bound" else carry)(conn, signer, "row1")
    async with conn.transaction():
        assert await names(conn) == OWN
        await fence.execute(FENCE)
        with pytest.raises(NO_TENANT):
            async with conn.transaction():
                await conn.fetch(READ)
    with pytest.raises(NO_TENANT):
        await conn.execute(BIND, "row1", await prove(conn, signer, "row1"))
    await conn.execute("RESET ALL")
    await bind(conn, signer, "row2")
    await conn.execute("RESET ALL")
    await fence.execute("DELETE FROM tenantproxy.fenced_tenant")
    await bind(conn, signer, "row1")
    assert await names(conn) == OWN


async def test_a_fence_does_not_end_a_transaction_whose_snapshot_is_older(
    conn: asyncpg.Connection, signer: Signer, fence: asyncpg.Connection
) -> None:
    """An operator that moves or suspends a tenant must wait for these, or end them."""
    await bind(conn, signer, "row1")
    async with conn.transaction(isolation="repeatable_read"):
        await conn.fetch(READ)
        await fence.execute(FENCE)
        assert await names(conn) == OWN
    with pytest.raises(NO_TENANT):
        await conn.fetch(READ)


async def test_a_key_past_its_time_verifies_nothing(each_world: World) -> None:
    async with each_world.shared.connect() as admin, each_world.app(each_world.shared) as conn:
        await admin.execute("UPDATE tenantproxy.context_key SET not_after = now()")
        with pytest.raises(NO_TENANT):
            await conn.execute(BIND, "row1", await prove(conn, each_world.signer(), "row1"))
