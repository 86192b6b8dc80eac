"""Does SQLAlchemy work as it always does, in the session of the current tenant?"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg
import pytest
import sqlmodel
from sqlalchemy import delete, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from tenantproxy import use
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter, checked
from tests.support.notes import Mood, Note
from tests.support.waiting import until
from tests.support.world import World

KINDS = ("row1", "schema1", "database1")
PID = text("SELECT pg_backend_pid()")
OWN = text("SELECT name FROM projects ORDER BY name")


@pytest.fixture(params=KINDS)
def tenant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def unique(tenant: str) -> str:
    return f"{tenant} {secrets.token_hex(8)}"


async def _create_read_update_delete(router: CheckedRouter, tenant: str) -> None:
    sessions = async_sessionmaker(create_async_engine(router), expire_on_commit=False)
    mark = unique(tenant)
    with use(router.tenant(tenant)):
        async with sessions.begin() as session:
            session.add(Note(text=mark, mood=Mood.keen, body={"a": [1, None, "ä"]}, old=[1.5]))
        async with sessions.begin() as session:
            note = (await session.scalars(select(Note).where(Note.text == mark))).one()
            assert (note.mood, note.body, note.old) == (Mood.keen, {"a": [1, None, "ä"]}, [1.5])
            note.body = {"changed": True}
        async with sessions.begin() as session:
            found = await session.get(Note, note.id)
            assert found is not None
            assert found.body == {"changed": True}
            assert (await session.execute(OWN)).scalars().all() == [f"{tenant} {n}" for n in (1, 2, 3)]
            await session.delete(found)
        async with sessions() as session:
            assert await session.scalar(select(func.count()).where(Note.text == mark)) == 0


async def test_a_row_is_created_read_changed_and_deleted(router: CheckedRouter, tenant: str) -> None:
    await _create_read_update_delete(router, tenant)


@pytest.mark.parametrize("name", KINDS)
async def test_a_row_is_created_read_changed_and_deleted_on_postgresql_16(notes16: World, name: str) -> None:
    async with checked(notes16.settings(), notes16) as router:
        await _create_read_update_delete(router, name)


async def test_what_is_rolled_back_is_not_there_and_what_a_savepoint_kept_is(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    mark = unique(tenant)
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            session.add(Note(text=f"{mark} gone"))
            await session.flush()
            await session.rollback()
            session.add(Note(text=f"{mark} kept"))
            await session.flush()
            savepoint = await session.begin_nested()
            session.add(Note(text=f"{mark} undone"))
            await session.flush()
            await savepoint.rollback()
            await session.commit()
            texts = select(Note.text).where(Note.text.startswith(mark))
            assert (await session.scalars(texts)).all() == [f"{mark} kept"]


async def test_a_session_left_without_a_commit_changes_nothing(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    mark = unique(tenant)
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            session.add(Note(text=mark))
            await session.flush()
        async with AsyncSession(engine) as session:
            assert (await session.scalars(select(Note).where(Note.text == mark))).all() == []


async def test_an_error_of_postgresql_is_wrapped_as_usual_and_the_session_goes_on_after_a_rollback(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    mark = unique(tenant)
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            session.add_all([Note(text=mark), Note(text=mark)])
            with pytest.raises(IntegrityError) as caught:
                await session.commit()
            assert isinstance(caught.value.driver_exception, asyncpg.UniqueViolationError)
            await session.rollback()
            with pytest.raises(ProgrammingError):
                await session.execute(text("SELECT * FROM nowhere"))
            await session.rollback()
            assert await session.scalar(text("SELECT 1")) == 1


async def test_rows_are_streamed_and_a_stream_may_be_left_early(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    numbers = select(func.generate_series(1, 500).label("n"))
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            result = await session.stream(numbers.execution_options(yield_per=50))
            assert [row.n async for row in result] == list(range(1, 501))
            left = await session.stream_scalars(numbers)
            assert await left.fetchmany(3) == [1, 2, 3]
            assert len(await (await session.stream(numbers)).all()) == 500
        async with engine.connect() as conn, conn.stream(numbers) as rows:
            async for row in rows:
                assert row.n == 1
                break


async def test_json_and_enums_come_back_as_they_went_in(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    mark = unique(tenant)
    bodies: list[Any] = [{"k": {"deep": [1, 2]}}, [], "text", 7, True, None]
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            session.add_all(
                [Note(text=f"{mark} {n}", body=body, old=body, mood=Mood.keen) for n, body in enumerate(bodies)]
            )
            await session.commit()
            ours = select(Note).where(Note.text.startswith(mark), Note.mood == Mood.keen).order_by(Note.text)
            found = (await session.scalars(ours)).all()
            assert [(note.body, note.old) for note in found] == [(body, body) for body in bodies]
            assert await session.scalar(select(Note.body["k"]["deep"]).where(Note.text == f"{mark} 0")) == [1, 2]


async def test_many_rows_at_once_are_counted(router: CheckedRouter, engine: AsyncEngine, tenant: str) -> None:
    mark = unique(tenant)
    ours = Note.text.startswith(mark)
    with use(router.tenant(tenant)):
        async with AsyncSession(engine) as session:
            session.add_all([Note(text=f"{mark} {n}") for n in range(120)])
            await session.commit()
            changed: Any = await session.execute(update(Note).where(ours).values(mood=Mood.keen))
            assert changed.rowcount == 120
            await session.execute(
                text("UPDATE notes SET old = '1' WHERE text = :text"), [{"text": f"{mark} {n}"} for n in range(3)]
            )
            gone: Any = await session.execute(delete(Note).where(ours))
            assert gone.rowcount == 120
            await session.commit()


async def test_isolation_levels_and_autocommit_are_those_that_were_asked_for(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    mark = unique(tenant)
    level = text("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
    with use(router.tenant(tenant)):
        async with engine.connect() as conn:
            serial = await conn.execution_options(isolation_level="SERIALIZABLE", postgresql_readonly=True)
            assert tuple((await serial.execute(level)).one()) == ("serializable", "on")
        async with engine.connect() as conn:
            assert tuple((await conn.execute(level)).one()) == ("read committed", "off")
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            await conn.execute(text("INSERT INTO notes (text) VALUES (:text)"), {"text": mark})
            await conn.rollback()
            assert await conn.scalar(text("SELECT count(*) FROM notes WHERE text = :text"), {"text": mark}) == 1


class Project(sqlmodel.SQLModel, table=True):
    __tablename__ = "projects"

    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str


async def test_sqlmodel_works(router: CheckedRouter, engine: AsyncEngine, tenant: str) -> None:
    with use(router.tenant(tenant)):
        async with SQLModelSession(engine) as session:
            found = (await session.exec(sqlmodel.select(Project).order_by(Project.name))).all()
            assert [project.name for project in found] == [f"{tenant} {n}" for n in (1, 2, 3)]


async def test_three_checkouts_of_a_tenant_use_one_backend(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    pids = set()
    with use(router.tenant(tenant)):
        for _ in range(3):
            async with AsyncSession(engine) as session:
                pids.add(await session.scalar(PID))
                await session.commit()
    assert len(pids) == 1
    (pool,) = [pool for pool in router.stats().pools if pool.key.profile == "sqlalchemy"]
    assert pool.idle + pool.resetting == 1


async def test_a_statement_stays_prepared_from_lease_to_lease(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    prepared = set()
    with use(router.tenant(tenant)):
        for _ in range(3):
            async with AsyncSession(engine) as session:
                await session.execute(OWN)
                raw = await (await session.connection()).get_raw_connection()
                connection: Any = raw.driver_connection
                (state,) = [one for one in connection._stmt_cache.iter_statements() if one.query == OWN.text]
                prepared.add(state.name)
    assert len(prepared) == 1


async def test_a_column_is_described_by_the_table_as_it_is_now(
    notes: World, router: CheckedRouter, engine: AsyncEngine
) -> None:
    measure = text("SELECT size FROM sizes")

    async def described() -> list[Any]:
        async with engine.connect() as conn:
            return list((await conn.execute(measure)).cursor.description)

    async with notes.database(notes.tenants[-1]).connect() as admin:
        await admin.execute("CREATE TABLE sizes (size int); GRANT SELECT ON sizes TO PUBLIC")
        with use(router.tenant("database2")):
            assert [column[:2] for column in await described()] == [("size", 23)]
            assert [column[:2] for column in await described()] == [("size", 23)]
            await admin.execute("ALTER TABLE sizes ALTER size TYPE text")
            with pytest.raises(DBAPIError):  # in a transaction the driver may not try again
                await described()
            assert [column[:2] for column in await described()] == [("size", 25)]
        await admin.execute("DROP TABLE sizes")


async def test_every_one_of_more_statements_than_are_remembered_has_its_own_columns(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    with use(router.tenant(tenant)):
        async with engine.connect() as conn:
            for number in (*range(250), 0, 249):
                assert list((await conn.execute(text(f"SELECT 1 AS c{number}"))).keys()) == [f"c{number}"]


async def test_a_query_logger_hears_the_statements_of_its_session_and_of_no_other(
    narrow: CheckedRouter, tenant: str
) -> None:
    engine = create_async_engine(narrow)
    heard: list[str] = []
    with use(narrow.tenant(tenant)):
        async with engine.connect() as conn:
            raw: Any = (await conn.get_raw_connection()).driver_connection
            raw.add_query_logger(lambda record: heard.append(record.query))
            await conn.execute(text("SELECT 'this one'"))
        async with engine.connect() as conn:
            await conn.execute(text("SELECT 'not this one'"))
            await asyncio.sleep(0)  # loggers are called in the next step of the loop
    assert [query for query in heard if "one" in query] == ["SELECT 'this one'"]


async def test_the_drivers_own_connection_is_lent_for_as_long_as_the_session_has_it(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    with use(router.tenant(tenant)):
        async with engine.connect() as conn:
            raw: Any = (await conn.get_raw_connection()).driver_connection
            assert isinstance(raw, asyncpg.Connection)
            assert await raw.fetchval("SELECT 1") == 1
            statement = await raw.prepare("SELECT 1")
    with pytest.raises(asyncpg.InterfaceError):
        await raw.fetchval("SELECT 1")
    with pytest.raises(asyncpg.InterfaceError):
        await statement.fetch()


async def test_the_tables_of_a_tenant_can_be_inspected(router: CheckedRouter, engine: AsyncEngine, tenant: str) -> None:
    def columns(conn: Any) -> tuple[list[str], list[str]]:
        inspector = inspect(conn)
        names = [column["name"] for column in inspector.get_columns("projects")]
        return sorted(inspector.get_table_names()), [name for name in names if name != "tenant_id"]

    with use(router.tenant(tenant)):
        async with engine.connect() as conn:
            assert await conn.run_sync(columns) == (["notes", "projects"], ["id", "name"])


async def test_the_schema_of_whoever_came_first_is_nobodys_default(router: CheckedRouter, engine: AsyncEngine) -> None:
    nowhere = {"schema_translate_map": {None: None}}
    for tenant in ("schema1", "schema2"):
        with use(router.tenant(tenant)):
            async with engine.connect() as conn:
                with pytest.raises(StatementError, match="no default schema name"):  # it would be written out
                    await conn.execute(select(Note), execution_options=nowhere)
    assert engine.dialect.default_schema_name is None


async def test_statements_are_prepared_anew_when_a_table_has_changed(
    notes: World, router: CheckedRouter, engine: AsyncEngine
) -> None:
    every = text("SELECT * FROM shapes")
    async with notes.database(notes.tenants[-1]).connect() as admin:
        await admin.execute(
            "CREATE TABLE shapes (id int); GRANT SELECT ON shapes TO PUBLIC; INSERT INTO shapes VALUES (1)"
        )
        with use(router.tenant("database2")):
            async with engine.connect() as conn:
                assert (await conn.execute(every)).all() == [(1,)]
            await admin.execute("ALTER TABLE shapes ADD COLUMN name text DEFAULT 'new'")
            with pytest.raises(DBAPIError):  # in a transaction the driver may not try again
                async with engine.connect() as conn:
                    await conn.execute(every)
            async with engine.connect() as conn:
                assert (await conn.execute(every)).all() == [(1, "new")]
        await admin.execute("DROP TABLE shapes")


async def test_many_who_come_first_at_once_are_all_served(router: CheckedRouter, engine: AsyncEngine) -> None:
    async def first(tenant: str) -> None:
        with use(router.tenant(tenant)):
            async with AsyncSession(engine) as session:
                assert (await session.scalars(OWN)).all() == [f"{tenant} {n}" for n in (1, 2, 3)]

    async with asyncio.TaskGroup() as group:
        for tenant in (*KINDS, "row2", "schema2", "database2") * 3:
            group.create_task(first(tenant))


# --- a transaction begins with its first statement -------------------------------------------------------------------
STARTED = text("SELECT now(), CAST(:n AS int)")


async def _begun(engine: AsyncEngine) -> None:
    """The statement is prepared before the session that is looked at."""
    async with engine.connect() as conn:
        await conn.execute(STARTED, {"n": 1})


async def test_the_first_statement_of_a_transaction_runs_in_it(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    with use(router.tenant(tenant)):
        await _begun(engine)
        async with engine.connect() as conn:
            began, two = (await conn.execute(STARTED, {"n": 2})).one()
            assert two == 2
            assert (await conn.execute(STARTED, {"n": 3})).one() == (began, 3)
            raw: Any = (await conn.get_raw_connection()).driver_connection
            assert raw.is_in_transaction()
            async with raw.transaction():  # a savepoint: the driver knows that there is one
                assert await raw.fetchval("SELECT now()") == began
            await conn.commit()
            assert not raw.is_in_transaction()
            later, five = (await conn.execute(STARTED, {"n": 5})).one()
            assert five == 5
            assert later > began


async def test_a_first_statement_whose_arguments_the_driver_refuses_leaves_a_connection_that_works(
    narrow: CheckedRouter, tenant: str
) -> None:
    engine = create_async_engine(narrow)
    with use(narrow.tenant(tenant)):
        await _begun(engine)
        async with AsyncSession(engine) as session:
            for _ in range(2):
                with pytest.raises(DBAPIError, match="invalid input"):
                    await session.execute(STARTED, {"n": "not a number"})
                await session.rollback()
            began, _ = (await session.execute(STARTED, {"n": 2})).one()
            with pytest.raises(DBAPIError, match="invalid input"):
                await session.execute(STARTED, {"n": "not a number"})
            assert (await session.execute(STARTED, {"n": 3})).one() == (began, 3)
            await session.commit()
            with pytest.raises(DBAPIError, match="invalid input"):
                await session.execute(STARTED, {"n": "not a number"})
            pid = await session.scalar(PID)  # in the transaction that was begun, as if it had been sent alone
        async with AsyncSession(engine) as session:
            assert await session.scalar(PID) == pid


async def test_a_first_statement_that_the_server_refuses_leaves_a_transaction_to_roll_back(
    narrow: CheckedRouter, tenant: str
) -> None:
    engine = create_async_engine(narrow)
    divide = text("SELECT 1 / CAST(:n AS int)")
    with use(narrow.tenant(tenant)):
        async with engine.connect() as conn:
            assert await conn.scalar(divide, {"n": 1}) == 1
        async with engine.connect() as conn:
            with pytest.raises(DBAPIError, match="division by zero"):
                await conn.execute(divide, {"n": 0})
            with pytest.raises(DBAPIError, match="aborted"):
                await conn.execute(divide, {"n": 1})
            await conn.rollback()
            assert await conn.scalar(divide, {"n": 1}) == 1


async def test_a_first_statement_that_is_cancelled_leaves_a_connection_that_works(
    narrow: CheckedRouter, tenant: str
) -> None:
    engine = create_async_engine(narrow)
    sleep = text("SELECT pg_sleep(CAST(:n AS int))")

    async def run(seconds: int) -> None:
        async with engine.connect() as conn:
            await conn.execute(sleep, {"n": seconds})

    with use(narrow.tenant(tenant)):
        await run(0)
        task = asyncio.create_task(run(600))
        await until(lambda: any(pool.used for pool in narrow.stats().pools if pool.key.profile), "it is lent")
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await run(0)


async def test_a_statement_too_long_to_be_kept_runs_too(
    router: CheckedRouter, engine: AsyncEngine, tenant: str
) -> None:
    long = text(f"SELECT 1 AS one /* {'x' * 20_000} */")
    with use(router.tenant(tenant)):
        for _ in range(2):
            async with AsyncSession(engine) as session:
                assert [(row.one,) for row in await session.execute(long)] == [(1,)]
