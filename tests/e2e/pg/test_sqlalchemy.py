"""Do SQLAlchemy's own ways work at every seat: its pool, its sessions, its bulk inserts and isolation levels?"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import BigInteger, Engine, Identity, Text, create_engine, delete, func, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.e2e.pg.clients.sqlalchemy_client import url
from tests.e2e.pg.seats import Seat


class Base(DeclarativeBase):
    """Of the two tables below."""


class Project(Base):
    """Only read."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class Note(Base):
    """Written."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    body: Mapped[str] = mapped_column(Text)


@pytest.fixture
def engine(seat: Seat) -> Iterator[Engine]:
    """Over psycopg."""
    engine = create_engine(url("psycopg", seat, seat.crowded), pool_size=3, pool_pre_ping=True)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(seat: Seat) -> AsyncIterator[AsyncEngine]:
    """Over asyncpg."""
    engine = create_async_engine(url("asyncpg", seat, seat.crowded), pool_size=3, pool_pre_ping=True)
    yield engine
    await engine.dispose()


def test_a_session_reads_writes_and_undoes(engine: Engine, seat: Seat) -> None:
    mark = secrets.token_hex(6)
    written = select(func.count()).select_from(Note).where(Note.body == mark)
    with Session(engine) as session:
        names = session.scalars(select(Project.name).order_by(Project.name)).all()
        assert names == [f"{seat.crowded} {n}" for n in (1, 2, 3)]
        session.add_all([Note(body=mark) for _ in range(300)])
        session.flush()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(text("INSERT INTO notes (body) VALUES (NULL)"))
        assert session.scalar(written) == 300
        session.rollback()
        assert session.scalar(written) == 0


async def test_an_async_session_does_too(async_engine: AsyncEngine, seat: Seat) -> None:
    mark = secrets.token_hex(6)
    written = select(func.count()).select_from(Note).where(Note.body == mark)
    async with AsyncSession(async_engine) as session:
        session.add_all([Note(body=mark) for _ in range(300)])
        await session.commit()
    async with AsyncSession(async_engine) as session, session.begin():
        assert await session.scalar(written) == 300
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(text("INSERT INTO notes (body) VALUES (NULL)"))
        await session.execute(delete(Note).where(Note.body == mark))
    async with AsyncSession(async_engine) as session:
        assert await session.scalar(written) == 0


def test_isolation_levels_are_had_and_given_back(engine: Engine) -> None:
    for level in ("SERIALIZABLE", "AUTOCOMMIT", "REPEATABLE READ"):
        with engine.connect().execution_options(isolation_level=level) as conn:
            expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
            assert conn.scalar(text("SHOW transaction_isolation")) == expected
    with engine.connect() as conn:
        assert conn.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_isolation_levels_are_had_and_given_back_over_asyncpg(async_engine: AsyncEngine) -> None:
    for level in ("SERIALIZABLE", "AUTOCOMMIT", "REPEATABLE READ"):
        async with async_engine.connect() as conn:
            conn = await conn.execution_options(isolation_level=level)
            expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
            assert await conn.scalar(text("SHOW transaction_isolation")) == expected
    async with async_engine.connect() as conn:
        assert await conn.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_tables_are_found_where_the_tenant_has_them(engine: Engine, seat: Seat) -> None:
    found = inspect(engine)
    assert {"notes", "projects"} <= set(found.get_table_names())
    assert {column["name"] for column in found.get_columns("projects")} >= {"id", "name"}
    assert found.default_schema_name == seat.crowded_schema
