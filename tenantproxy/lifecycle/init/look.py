"""What is on a server? Reads the catalogue in one read-only transaction, and of tables only what names tenants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Any, Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import connect_as
from tenantproxy.lifecycle.change import SEARCH_PATH
from tenantproxy.lifecycle.column_type import unusable_ids
from tenantproxy.lifecycle.init.dsn import GivenServer
from tenantproxy.lifecycle.init.found import (
    ColumnFound,
    DatabaseFound,
    InitFound,
    KeyFound,
    RegistryValues,
    RelationFound,
    RoleFound,
    RoutineFound,
    RowTable,
    SchemaFound,
    ServerFound,
    TypeFound,
)
from tenantproxy.lifecycle.init.recognise import named_like_a_place
from tenantproxy.lifecycle.table_facts import find_table, read_table
from tenantproxy.model import quote_identifier

__all__ = ["connect", "look", "look_at_rows", "look_at_server", "read_ids", "read_words", "reading"]

_ROWS: Final = 5000  # of a table that may be a registry
_WORDS: Final = 50
_IDS: Final = 10_000
_STATEMENT: Final = "20s"
# A policy is an error then, and calls nothing; nor are checks looked at.
_PINS: Final = """
SELECT pg_catalog.set_config(s.name, given.value, true)
FROM unnest($1::text[], $2::text[]) AS given (name, value) JOIN pg_catalog.pg_settings s USING (name)
"""
_PINNED: Final = {
    "statement_timeout": _STATEMENT,
    "lock_timeout": "2s",  # the rows of a table that is held so long are not read
    "jit": "off",
    "row_security": "off",
    "constraint_exclusion": "off",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
}


@asynccontextmanager
async def connect(given: GivenServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the DSN says. Raises ConfigurationError that says which part of it is wrong."""
    try:
        conn = await connect_as(given.section(), given.database, given.user, given.password)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as exc:
        fix = "correct user and password; the password may also be in PGPASSWORD"
        raise _refused(f"is refused by the server: {_said(exc)}", fix) from None
    except asyncpg.InvalidCatalogNameError as exc:
        raise _refused(f"names what is not there: {_said(exc)}", "name the database of your application") from None
    except (OSError, TimeoutError) as exc:
        problem = f"leads to no PostgreSQL server: {given.host}:{given.port}: {str(exc) or 'no answer in time'}"
        raise _refused(problem, "correct host and port, or start the server") from None
    try:
        yield conn
    finally:
        await conn.close()


def _refused(problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key="DSN", problem=problem, fix=fix)], source="init")


def _said(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


@asynccontextmanager
async def reading(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """A read-only transaction with built-in names first, so that names are printed in full.

    Each statement sees what is committed by then, as what the planner calls is of that moment too.
    """
    async with conn.transaction(isolation="read_committed", readonly=True):
        await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
        await conn.fetch(_PINS, list(_PINNED), list(_PINNED.values()))
        yield


@cache
def _text(name: str) -> str:
    return resources.files("tenantproxy.lifecycle.init").joinpath("sql", name).read_text()


async def _rows(conn: asyncpg.Connection, name: str) -> list[dict[str, Any]]:
    return [
        {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in await conn.fetch(_text(name))
    ]


async def look_at_server(conn: asyncpg.Connection) -> ServerFound:
    """What it is, which decides whether there is more to look at; in the transaction of `reading`, as all of these."""
    (row,) = await _rows(conn, "server.sql")
    return ServerFound(is_pooled=row.pop("pid") != conn.get_server_pid(), **row)


async def look(conn: asyncpg.Connection, server: ServerFound) -> InitFound:
    """Everything that the catalogue says."""
    found = InitFound(
        server=server,
        databases=tuple(DatabaseFound(**row) for row in await _rows(conn, "databases.sql")),
        roles=tuple(RoleFound(**row) for row in await _rows(conn, "roles.sql")),
        schemas=tuple(SchemaFound(**row) for row in await _rows(conn, "schemas.sql")),
        relations=tuple(_relation(row) for row in await _rows(conn, "relations.sql")),
        routines=tuple(RoutineFound(**row) for row in await _rows(conn, "routines.sql")),
        types=tuple(TypeFound(**row) for row in await _rows(conn, "types.sql")),
        keys=tuple(_key(row) for row in await _rows(conn, "keys.sql")),
    )
    return InitFound(**{**_fields(found), "values": tuple([each async for each in _values(conn, found)])})


def _fields(found: InitFound) -> dict[str, Any]:
    return {name: getattr(found, name) for name in InitFound.__dataclass_fields__}


def _relation(row: Mapping[str, Any]) -> RelationFound:
    columns = json.loads(row["columns"]) if row["columns"] else []
    made = tuple(ColumnFound(name=name, type=kind, label=label) for name, kind, label in columns)
    return RelationFound(**{**row, "columns": made})


def _key(row: Mapping[str, Any]) -> KeyFound:
    sets = tuple(frozenset(each) for each in json.loads(row["unique_sets"]) if each)
    return KeyFound(**{**row, "unique_sets": sets})


async def _values(conn: asyncpg.Connection, found: InitFound) -> AsyncIterator[RegistryValues]:
    """Which columns hold names of schemas or databases? Only those are read whose own name says that they may."""
    schemas = [each.name for each in found.schemas if each.name != "public"]
    others = ("postgres", "template1", found.server.database)
    databases = [each.name for each in found.databases if each.name not in others]
    for table in found.tables:
        for column in table.columns:
            if not named_like_a_place(column):
                continue
            row = await _attempt(
                conn,
                table,
                "SELECT count(*) AS values, count(*) FILTER (WHERE v = ANY ($1)) AS schemas,"
                " count(*) FILTER (WHERE v = ANY ($2)) AS databases"
                f" FROM (SELECT {quote_identifier(column.name)}::text AS v FROM {table.sql} LIMIT {_ROWS}) t",
                schemas,
                databases,
            )
            if row and row[0]["values"]:
                yield RegistryValues(table=table.label, column=column.name, **row[0])


async def _attempt(conn: asyncpg.Connection, table: RelationFound, sql: str, *args: object) -> Sequence[asyncpg.Record]:
    """Its rows; none where the table may not be read, or to read it would be to run what its owner made."""
    rows: Sequence[asyncpg.Record] = ()
    try:
        async with _unchanged(conn, table) as is_safe:
            if is_safe:
                rows = await conn.fetch(sql, *args)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.QueryCanceledError):
        return ()
    return rows


@asynccontextmanager
async def _unchanged(conn: asyncpg.Connection, table: RelationFound) -> AsyncIterator[bool]:
    """Whether reading `table`, and casting to the types of its columns, calls no function of a role that is neither the
    user of `conn` nor a superuser. It gets no index within the block, where that user may lock it.

    False too where another session holds the table.
    """
    within = conn.transaction()
    await within.start()
    try:
        yield await _is_locked(conn, table) and not await conn.fetchval(_text("calls.sql"), table.sql)
    finally:
        await within.rollback()


async def _is_locked(conn: asyncpg.Connection, table: RelationFound) -> bool:
    try:
        async with conn.transaction():
            await conn.execute(f"LOCK TABLE {table.sql} IN SHARE UPDATE EXCLUSIVE MODE")
    except asyncpg.InsufficientPrivilegeError:
        return True  # it may be read alone
    except (asyncpg.LockNotAvailableError, asyncpg.UndefinedTableError):
        return False
    return True


# --- what only rows tell ---------------------------------------------------------------------------------------------
async def read_words(conn: asyncpg.Connection, table: RelationFound, column: str) -> tuple[str, ...]:
    """The different values of a column, when they are few."""
    name = quote_identifier(column)
    sql = f"SELECT DISTINCT {name}::text AS v FROM {table.sql} WHERE {name} IS NOT NULL ORDER BY 1 LIMIT {_WORDS}"
    return tuple(row["v"] for row in await _attempt(conn, table, sql))


async def read_ids(conn: asyncpg.Connection, registry: RelationFound, list_query: str) -> tuple[str, ...]:
    """The tenants that a registry lists; its names are found as the application's are."""
    return tuple(str(row["id"]) for row in await _attempt(conn, registry, list_query, "", _IDS))


async def look_at_rows(
    conn: asyncpg.Connection, tables: Sequence[RelationFound], column: str, *, role: str, tenants: Sequence[str]
) -> tuple[RowTable, ...]:
    """What the installer reads of each of `tables`, for tenants whose SQL will run as `role`."""
    looked = []
    for table in tables:
        row = await find_table(conn, table.sql, column, SEARCH_PATH)
        if isinstance(row, str):
            continue  # dropped since the catalogue was read
        facts = await read_table(conn, row["oid"], column, (role,))
        nulls = f"SELECT EXISTS (SELECT FROM {table.sql} WHERE {quote_identifier(column)} IS NULL) AS v"
        has_nulls = (
            any(row["v"] for row in await _attempt(conn, table, nulls)) if facts.relations[0].nullable else False
        )
        async with _unchanged(conn, table) as is_safe:
            unusable = await unusable_ids(conn, facts.kind, tenants) if is_safe else []
        looked.append(RowTable(facts=facts, unusable=tuple(unusable), has_nulls=has_nulls))
    return tuple(looked)
