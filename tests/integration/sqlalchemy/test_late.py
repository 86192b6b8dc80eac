"""Does what was made in one tenant's session, and runs or goes on after it, reach the next tenant's?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tenantproxy import AccessDenied, use
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter, checked
from tests.support.late import ByHand
from tests.support.world import World

PID: Final = text("SELECT pg_backend_pid()")
OWN: Final = text("SELECT name FROM projects ORDER BY name")
OWN_SQL: Final = "SELECT name FROM projects ORDER BY name"


def own(tenant: str) -> list[str]:
    return [f"{tenant} {n}" for n in (1, 2, 3)]


@pytest.fixture(params=["always", "on_tenant_change"])
async def router(notes: World, request: pytest.FixtureRequest) -> AsyncIterator[CheckedRouter]:
    """One connection per pool."""
    pools = {"max_size": 1, "shared_size": 1, "reset": request.param}
    async with checked(notes.settings(pools=pools), notes) as router:
        yield router


@pytest.fixture
def engine(router: CheckedRouter) -> AsyncEngine:
    return create_async_engine(router)


async def pid_of(conn: AsyncConnection) -> int:
    pid: int = (await conn.execute(PID)).scalar_one()
    return pid


async def names(conn: AsyncConnection) -> list[str]:
    return list((await conn.scalars(OWN)).all())


async def test_what_is_made_of_the_drivers_connection_is_refused_once_the_session_is_closed(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    with use(router.tenant("row1")):
        async with engine.connect() as conn:
            pid = await pid_of(conn)
            driver: Any = (await conn.get_raw_connection()).driver_connection
            statement = await driver.prepare(OWN_SQL)
            late = [
                driver.fetch(OWN_SQL),
                statement.fetch(),
                driver.run_kept(OWN_SQL, ()),
                driver.transaction().start(),
            ]
    with use(router.tenant("row2")):
        async with engine.connect() as other:
            assert await pid_of(other) == pid
            for each in late:
                with pytest.raises(asyncpg.InterfaceError, match="released"):
                    await each
            assert await names(other) == own("row2")


async def test_a_statement_that_is_made_before_its_connection_is_closed_and_runs_after_it_is_refused(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    with use(router.tenant("row1")):
        async with engine.connect() as conn:
            pid = await pid_of(conn)
            late = conn.execute(OWN)
    with use(router.tenant("row2")):
        async with engine.connect() as other:
            assert await pid_of(other) == pid
            with pytest.raises(ResourceClosedError):
                await late
            assert await names(other) == own("row2")


async def test_what_is_asked_of_a_session_before_its_end_and_runs_after_it_is_not_done_for_another_tenant(
    engine: AsyncEngine, router: CheckedRouter
) -> None:
    with use(router.tenant("row1")):
        async with AsyncSession(engine) as session:
            assert list((await session.scalars(OWN)).all()) == own("row1")
            late = session.execute(OWN)
    with use(router.tenant("row2")):
        with pytest.raises(AccessDenied):
            await late
        await session.close()
        async with engine.connect() as other:
            assert await names(other) == own("row2")


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_statement_that_goes_on_after_its_connection_was_given_back_reaches_nobody_else(
    engine: AsyncEngine, router: CheckedRouter, steps: int
) -> None:
    with use(router.tenant("row1")):
        conn = await engine.connect()
        lent: Any = (await conn.get_raw_connection()).dbapi_connection
        pid = lent.driver_connection.get_server_pid()
        left = ByHand(conn.execute(text("SELECT name FROM projects WHERE id > :id"), {"id": 0}))
        for _ in range(steps):  # BEGIN, then the statement is prepared, then it runs
            left.go_on()
            assert not left.is_done
            await left.answered()
        lent.terminate()
    with use(router.tenant("row2")):
        async with engine.connect() as other:
            assert await pid_of(other) != pid
            assert await names(other) == own("row2")
            await left.finish()
            if left.error is None:  # its answer was there by then
                assert list(left.result.scalars().all()) == own("row1")
            else:
                assert isinstance(left.error, (DBAPIError, asyncpg.InterfaceError))
            assert await names(other) == own("row2")
    with use(router.tenant("row1")):
        await conn.invalidate()
        await conn.close()
