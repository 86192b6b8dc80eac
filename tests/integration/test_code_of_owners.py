"""Does code that a tenant owns stay its own, when we come to its tables with more rights than it has?"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.backup.content import read_content
from tenantproxy.lifecycle.backup.errors import BackupFailed
from tenantproxy.lifecycle.move.tables import read_tables, settle
from tenantproxy.lifecycle.provision.places import make_database
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.support.database import Database, fresh_database

PASSWORD: Final = "a password of an owner"
REFUSED: Final = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientPrivilegeError,
)
SEES: Final = (
    "CREATE FUNCTION sees({0}) RETURNS text LANGUAGE plpgsql"
    " AS $$BEGIN PERFORM set_config('app.ran_as', current_user, false); RETURN 'x'; END$$;"
    " CREATE CAST ({0} AS text) WITH FUNCTION sees({0});"
)
OWNED: Final = f"""
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE people (id bigint PRIMARY KEY, mood mood, moods mood[], at date);
INSERT INTO people VALUES (1, 'sad', '{{sad,happy}}', '2020-01-01'), (2, NULL, NULL, NULL);
{SEES.format("mood")} {SEES.format("mood[]")} {SEES.format("people")}
"""


@pytest.fixture
async def role(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    name = f"owner_{secrets.token_hex(5)}"
    async with Database(server=postgres, name="postgres").connect() as admin:
        await ensure_role(admin, name, password=PASSWORD)
        yield name
        await admin.execute(f"DROP ROLE {name}")


@pytest.fixture
async def owned(postgres: EmbeddedPostgres, role: str) -> AsyncIterator[Database]:
    """A database in which the tables and types of a role have casts of its making."""
    async with fresh_database(postgres) as database:
        async with database.connect() as admin:
            await admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        async with database.connect(role, PASSWORD) as conn:
            await conn.execute(OWNED)
        yield database


async def test_counting_the_rows_of_a_backup_runs_no_cast_of_the_tables_owner(owned: Database) -> None:
    async with owned.connect() as admin:
        async with admin.transaction(isolation="repeatable_read", readonly=True):
            (table,) = (await read_content(admin, ["public"])).tables
        assert await admin.fetchval("SELECT current_setting('app.ran_as', true)") in (None, "")
    assert table.rows == 2
    async with owned.connect() as admin:
        await admin.execute("UPDATE people SET mood = 'happy' WHERE id = 1")
        async with admin.transaction(isolation="repeatable_read", readonly=True):
            assert (await read_content(admin, ["public"])).tables[0].checksum != table.checksum


async def test_a_table_that_becomes_a_view_while_a_backup_counts_is_refused(owned: Database, role: str) -> None:
    async with owned.connect(role, PASSWORD) as theirs:

        class Swapped(asyncpg.Connection):
            """Behind the list of tables, their owner puts a view into the place of one."""

            async def fetch(self, query: str, *args: Any, **kwargs: Any) -> Any:
                found = await super().fetch(query, *args, **kwargs)
                if "relispartition" in query:
                    await theirs.execute(
                        "ALTER TABLE people RENAME TO folk; CREATE VIEW people AS SELECT sees('sad'::mood) AS id"
                    )
                return found

        admin: Any = await asyncpg.connect(**owned.server.connect_args(owned.name), connection_class=Swapped)
        try:
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
                async with admin.transaction(isolation="repeatable_read", readonly=True):
                    await read_content(admin, ["public"])
            assert await admin.fetchval("SELECT current_setting('app.ran_as', true)") in (None, "")
        finally:
            await admin.close()


async def test_comparing_a_moved_table_runs_no_cast_of_the_types_owner(owned: Database) -> None:
    async with owned.connect() as admin:
        await settle(admin)
        (table,) = await read_tables(admin, ["public"])
        before = await admin.fetchrow(table.checksum())
        assert await admin.fetchval("SELECT current_setting('app.ran_as', true)") in (None, "")
        await admin.execute("UPDATE public.people SET moods = '{}' WHERE id = 2")
        assert await admin.fetchrow(table.checksum()) != before


async def test_no_other_role_is_ever_in_a_database_that_is_being_made(postgres: EmbeddedPostgres, role: str) -> None:
    name, entered = f"t_{secrets.token_hex(6)}", list[str]()

    class Watched(asyncpg.Connection):
        """Behind each statement the other role tries to come in."""

        async def execute(self, query: str, *args: Any, **kwargs: Any) -> Any:
            done = await super().execute(query, *args, **kwargs)
            with suppress(*REFUSED):
                async with Database(server=postgres, name=name).connect(role, PASSWORD):
                    entered.append(query)
            return done

    conn: Any = await asyncpg.connect(**postgres.connect_args("postgres"), connection_class=Watched)
    try:
        made = await make_database(conn, name, None)
        assert entered == []
        assert await make_database(conn, name, None) == made  # behind a crash
        assert await conn.fetchval("SELECT datconnlimit FROM pg_database WHERE oid = $1", made) == -1
    finally:
        await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await conn.close()


FOLDED: Final = """
CREATE FUNCTION folded(int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
  AS $$BEGIN PERFORM set_config('app.ran_as', current_user, false); RETURN $1; END$$;
CREATE OPERATOR ~~~~ (RIGHTARG = int, FUNCTION = folded);
"""


@pytest.mark.parametrize(
    "made",
    [
        "CREATE INDEX planted ON people ((folded(1) + id))",
        "CREATE INDEX planted ON people (id) WHERE id > folded(1)",
        "CREATE INDEX planted ON people (((~~~~ 1) + id))",
        "CREATE STATISTICS planted ON (folded(1) + id), at FROM people",
        "CREATE TABLE planted (n bigint) PARTITION BY RANGE ((folded(1) + n))",
    ],
)
async def test_counting_rows_folds_no_constant_by_a_function_of_the_tables_owner(
    owned: Database, role: str, made: str
) -> None:
    async with owned.connect(role, PASSWORD) as theirs:
        await theirs.execute(FOLDED)
        await theirs.execute(made)
    async with owned.connect() as admin:
        with pytest.raises(BackupFailed, match=rf"calls public\.folded\(integer\), which belongs to {role}"):
            async with admin.transaction(isolation="repeatable_read", readonly=True):
                await read_content(admin, ["public"])
        assert await admin.fetchval("SELECT current_setting('app.ran_as', true)") in (None, "")
        await admin.execute("ALTER FUNCTION folded(int) OWNER TO CURRENT_USER")
        await read_content_of(admin)


async def read_content_of(admin: asyncpg.Connection) -> None:
    async with admin.transaction(isolation="repeatable_read", readonly=True):
        assert (await read_content(admin, ["public"])).tables
