"""Does a session that gives its connection back at its commit hear all that a commit may say, and no one else less?"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from tenantproxy import use
from tenantproxy.driver.joined import JoiningTransport
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter
from tests.support.world import World

COUNT = text("SELECT count(*) FROM notes")
SET = text("SELECT set_config('work_mem', '5MB', false)")
SHOWN = text("SELECT current_setting('work_mem')")
PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the drivers of all connections wrote since the list was cleared, without what goes out with it."""
    written: list[bytes] = []
    write = JoiningTransport.write

    def noting(wire: JoiningTransport, data: bytes | memoryview) -> None:
        written.append(bytes(data))
        write(wire, data)

    monkeypatch.setattr(JoiningTransport, "write", noting)
    return written


@pytest.fixture
def engine(narrow: CheckedRouter) -> AsyncEngine:
    return create_async_engine(narrow)


async def test_a_session_of_one_statement_and_a_commit_is_two_writes(
    narrow: CheckedRouter, engine: AsyncEngine, writes: list[bytes]
) -> None:
    sessions = async_sessionmaker(engine)
    with use(narrow.tenant("database1")):
        for _ in range(2):
            async with sessions() as session:
                await session.execute(COUNT)
                await session.commit()
        async with sessions() as session:
            writes.clear()
            await session.execute(COUNT)
            await session.commit()
            assert [one[:1] for one in writes] == [b"B", b"Q"]
            writes.clear()
    assert writes == []


async def test_a_committed_session_has_no_connection_and_goes_on_with_another_lease(
    narrow: CheckedRouter, engine: AsyncEngine
) -> None:
    with use(narrow.tenant("database1")):
        async with AsyncSession(engine) as session:
            await session.execute(SET)
            await session.commit()
            assert narrow.lent == {}
            assert (await session.execute(SHOWN)).scalar_one() != "5MB"
            await session.commit()


async def test_what_is_held_of_a_session_runs_nothing_behind_its_commit(
    narrow: CheckedRouter, engine: AsyncEngine
) -> None:
    with use(narrow.tenant("database1")):
        async with AsyncSession(engine) as session:
            connection = await session.connection()
            heard: list[BaseException] = []

            @event.listens_for(session.sync_session, "after_commit")
            def ask(_: Session) -> None:
                try:
                    connection.sync_connection.execute(SET)  # type: ignore[union-attr]
                except DBAPIError as exc:
                    heard.append(exc)

            await session.execute(COUNT)
            await session.commit()
            assert len(heard) == 1
        async with AsyncSession(engine) as session:
            assert (await session.execute(SHOWN)).scalar_one() != "5MB"


@pytest.mark.parametrize("tenant", ["database1", "schema1"])
async def test_a_deferred_constraint_is_heard_at_the_commit(
    notes: World, narrow: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    (found,) = (one for one in notes.tenants if one.id == tenant)
    schema = found.placement.schema or "public"
    async with notes.database(found).connect() as admin:
        await admin.execute(
            f"CREATE TABLE IF NOT EXISTS {schema}.once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
            f" GRANT ALL ON {schema}.once TO PUBLIC; GRANT USAGE ON SCHEMA {schema} TO PUBLIC"
        )
    try:
        with use(narrow.tenant(tenant)):
            async with AsyncSession(engine) as session:
                pid = (await session.execute(PID)).scalar_one()
                for _ in range(2):
                    await session.execute(text("INSERT INTO once VALUES (1)"))
                with pytest.raises(IntegrityError) as heard:
                    await session.commit()
                assert not heard.value.connection_invalidated
                assert isinstance(heard.value.driver_exception, asyncpg.UniqueViolationError)
                await session.rollback()
                assert (await session.execute(text("SELECT count(*) FROM once"))).scalar_one() == 0
                assert (await session.execute(PID)).scalar_one() == pid
    finally:
        async with notes.database(found).connect() as admin:
            await admin.execute(f"DROP TABLE {schema}.once")
    assert narrow.stats().resets["failed"] == 0


async def test_a_connection_lost_at_the_commit_is_told_as_usual(
    notes: World, narrow: CheckedRouter, engine: AsyncEngine
) -> None:
    (tenant,) = (one for one in notes.tenants if one.id == "database1")
    with use(narrow.tenant("database1")):
        async with AsyncSession(engine) as session:
            pid = (await session.execute(PID)).scalar_one()
            async with notes.database(tenant).connect() as admin:
                await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            with pytest.raises(DBAPIError) as heard:
                await session.commit()
            assert heard.value.connection_invalidated
            await session.rollback()
            assert (await session.execute(PID)).scalar_one() != pid


async def _through_the_commits_of(connection: AsyncConnection) -> None:
    pid = (await connection.execute(PID)).scalar_one()
    await connection.execute(SET)
    await connection.commit()
    assert (await connection.execute(SHOWN)).scalar_one() == "5MB"
    assert (await connection.execute(PID)).scalar_one() == pid
    await connection.commit()


async def test_a_connection_is_kept_through_its_commits(narrow: CheckedRouter, engine: AsyncEngine) -> None:
    with use(narrow.tenant("database1")):
        async with engine.connect() as connection:
            await _through_the_commits_of(connection)
        async with engine.begin() as connection:
            await connection.execute(SET)
        async with engine.connect() as connection:
            assert (await connection.execute(SHOWN)).scalar_one() != "5MB"


async def test_a_session_on_a_connection_of_the_caller_leaves_it_to_the_caller(
    narrow: CheckedRouter, engine: AsyncEngine
) -> None:
    with use(narrow.tenant("database1")):
        async with engine.connect() as connection:
            async with AsyncSession(connection) as session:
                await session.execute(SET)
                await session.commit()
            await _through_the_commits_of(connection)


async def test_a_savepoint_that_is_kept_does_not_end_the_lease(narrow: CheckedRouter, engine: AsyncEngine) -> None:
    with use(narrow.tenant("database1")):
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                await session.execute(SET)
            async with session.begin_nested():
                assert (await session.execute(SHOWN)).scalar_one() == "5MB"
            assert len(narrow.lent) == 1
            await session.commit()
            assert narrow.lent == {}


async def test_autocommit_and_levels_hold_with_the_first_statement(narrow: CheckedRouter, engine: AsyncEngine) -> None:
    asked = text("SELECT current_setting('transaction_isolation')")
    with use(narrow.tenant("database1")):
        for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
            options: dict[str, Any] = {"isolation_level": level}
            for _ in range(3):
                async with AsyncSession(engine.execution_options(**options)) as session:
                    shown = (await session.execute(asked)).scalar_one()
                    raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
                    assert raw.is_in_transaction() == (level != "AUTOCOMMIT")
                    assert shown == ("read committed" if level == "AUTOCOMMIT" else level.lower())
                    await session.commit()
