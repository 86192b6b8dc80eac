"""Is a session the former tenant's, the next one's or no tenant's, wherever a turn was cut? In both forms."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from tenantproxy.isolation.proof import TurnForm
from tenantproxy.isolation.turn import RESET
from tests.support.entered import EnteredSession
from tests.support.sessions import names
from tests.support.world import World

both_forms = pytest.mark.parametrize("form", ["bound", "first"])


async def cut(session: EnteredSession, tenant: str) -> bool:
    """Whether a turn was cut. Then its nonce may be used up, or not; the router destroys the connection."""
    try:
        await session.conn.execute(f"{RESET.sql}; {session.entry(tenant)}")
    except asyncpg.QueryCanceledError:
        return True
    session.nonce = session.next
    return False


async def seen(conn: asyncpg.Connection) -> set[str]:
    try:
        return {name.split()[0] for name in await names(conn)}
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError):
        return set()


async def another(trusting: World, conn: asyncpg.Connection, form: TurnForm) -> EnteredSession:
    """The session of row1, whatever it was before."""
    await conn.execute("SET statement_timeout = 0")
    await conn.execute(f"{RESET.sql}; SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES")
    session = await EnteredSession.of(conn, trusting.signer(), form)
    await session.enter("row1")
    return session


@both_forms
async def test_a_request_to_cancel_at_any_point_of_a_turn_leaves_no_mixture(trusting: World, form: TurnForm) -> None:
    counts = {True: 0, False: 0}
    async with trusting.app(trusting.shared) as conn, trusting.shared.connect() as admin:
        session = await another(trusting, conn, form)
        for number in range(150):
            turn = asyncio.create_task(cut(session, "row2"))
            for _ in range(number % 8):
                await asyncio.sleep(0)
            await admin.execute(f"SELECT pg_cancel_backend({conn.get_server_pid()})")
            was_cut = await turn
            with suppress(asyncpg.QueryCanceledError):  # one that came after the turn
                await conn.execute("SELECT pg_sleep(0.001)")
            counts[was_cut] += 1
            assert await seen(conn) in (({"row1"}, set()) if was_cut else ({"row2"},))
            session = await another(trusting, conn, form)
    assert counts[False], "some were not cut"


@both_forms
async def test_a_timeout_of_the_former_tenant_leaves_no_mixture(trusting: World, form: TurnForm) -> None:
    counts = {True: 0, False: 0}
    async with trusting.app(trusting.shared) as conn:
        for locks in (0, 300, 1000, 2000, 3000):
            for timeout in (1, 2, 3):
                session = await another(trusting, conn, form)
                await conn.execute(f"SELECT count(pg_advisory_lock(n)) FROM generate_series(1, {locks}) n")
                await conn.execute(f"SET statement_timeout = {timeout}")
                was_cut = await cut(session, "row2")
                counts[was_cut] += 1
                await conn.execute("SET statement_timeout = 0")
                assert await seen(conn) in (({"row1"}, set()) if was_cut else ({"row2"},))
    assert counts[False], "some were not cut"
