"""How do roles, databases and schemas of tenants come to be, closed to all others? One function per step.

Each step looks first and may be run again after a crash. They take a connection with the server's admin credentials, or
`connect(database)` that opens one (closed here). Names are checked before anything is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.install import DEFAULT_SETTING, alone, ensure_keeper, install, isolate_table
from tenantproxy.lifecycle.verifier import scram_verifier
from tenantproxy.model import quote_identifier

__all__ = [
    "Connect",
    "ConnectTo",
    "change_grants",
    "close_database",
    "close_functions",
    "close_maintenance",
    "close_public",
    "create_closed",
    "ensure_database",
    "ensure_role",
    "ensure_schema",
    "functions_closing",
    "grant_access",
    "provision_database",
    "provision_schema",
    "provision_shared",
    "run_statements",
]

Connect = Callable[[str], Awaitable[asyncpg.Connection]]
ConnectTo = Callable[[str, str], Awaitable[asyncpg.Connection]]
"""Opens a connection to a database (the second) of a server with the server's admin credentials."""

_TRIES: Final = 50  # to change the grants of a database that others change
# Functions that reach other sessions or run SQL from text, open to PUBLIC by default. pg_stat_get_backend_activity and
# its like show the statements of other sessions of the same role; pg_prepared_statement those of its former tenants.
_OPEN_FUNCTIONS: Final = """
SELECT oid::regprocedure::text FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f'
  AND (proname IN ('pg_terminate_backend', 'pg_cancel_backend', 'pg_stat_get_activity',
                   'pg_log_backend_memory_contexts', 'pg_prepared_statement', 'loread', 'lowrite')
       OR proname ~ '^(query|cursor|table|schema|database)_to_xml' OR proname LIKE 'lo\\_%'
       OR proname LIKE 'pg\\_stat\\_get\\_backend\\_%')
  AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
"""
_HAS_KEEPER: Final = "SELECT true FROM pg_roles WHERE rolname = 'tenantproxy_keeper'"
_KEEPER_SEES_PREPARED: Final = (  # by a grant of its own, and not only as long as PUBLIC does
    "SELECT EXISTS (SELECT FROM pg_proc p, aclexplode(p.proacl) a JOIN pg_roles r ON r.oid = a.grantee"
    " WHERE p.oid = 'pg_catalog.pg_prepared_statement()'::regprocedure AND r.rolname = 'tenantproxy_keeper')"
)


async def ensure_role(conn: asyncpg.Connection, role: str, *, password: str | None = None) -> None:
    """A role that may log in and nothing else: it inherits nothing, creates nothing, bypasses nothing.

    `password` (printable ASCII) is set each time; only its SCRAM verifier is sent. None: the role keeps what it has.
    Raises ConfigurationError when the role exists and is more than that.
    """
    name = quote_identifier(role)
    found = await conn.fetchrow(
        "SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication AS mighty,"
        " rolcanlogin AND NOT rolinherit AS fits FROM pg_roles WHERE rolname = $1",
        role,
    )
    if found is None:
        try:
            await conn.execute(f"CREATE ROLE {name} LOGIN NOINHERIT")
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            return await ensure_role(conn, role, password=password)  # another process was first: look again
    elif found["mighty"]:
        problem = "it is superuser, bypasses row security, or may create roles, create databases or replicate"
        raise ConfigurationError([Problem(key=f"role {role}", problem=problem, fix="choose another role")])
    elif not found["fits"]:
        await conn.execute(f"ALTER ROLE {name} LOGIN NOINHERIT")
    if password is not None:
        await conn.execute(f"ALTER ROLE {name} PASSWORD '{scram_verifier(password)}'")
    return None


async def ensure_database(conn: asyncpg.Connection, database: str, *, owner: str | None = None) -> bool:
    """A database named so; True when it was created now. `conn` must not be in a transaction."""
    name = quote_identifier(database)
    if await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
        return False
    try:
        await conn.execute(f"CREATE DATABASE {name}" + (f" OWNER {quote_identifier(owner)}" if owner else ""))
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return False
    return True


async def create_closed(conn: asyncpg.Connection, database: str, *, template: str | None = None) -> None:
    """Create `database`, which PUBLIC may not connect to at any moment; it may be called again behind a crash.

    Who sees its name before it is closed could come in, and its session would stay: LISTEN needs no right.
    """
    name = quote_identifier(database)
    if not await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
        copied = f" TEMPLATE {quote_identifier(template)}" if template is not None else ""
        await conn.execute(f"CREATE DATABASE {name}{copied} CONNECTION LIMIT 0")
    await conn.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    await conn.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


async def close_database(conn: asyncpg.Connection, database: str, *, roles: Sequence[str]) -> None:
    """Only `roles`, the owner and superusers connect to `database`; `roles` make no schema and no temp table in it."""
    name, grantees = quote_identifier(database), ", ".join(map(quote_identifier, roles))
    async with conn.transaction():
        await conn.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        if grantees:
            await conn.execute(f"REVOKE CREATE, TEMPORARY ON DATABASE {name} FROM {grantees}")
            await conn.execute(f"GRANT CONNECT ON DATABASE {name} TO {grantees}")


async def change_grants(conn: asyncpg.Connection, sql: str) -> None:
    """GRANT or REVOKE on a database that several tenants share; again where another change came first.

    PostgreSQL refuses the second of two at once (XX000). No advisory lock: each tenant of that database could hold it.
    """
    for left in range(_TRIES, -1, -1):
        try:
            async with conn.transaction():
                await conn.execute(sql)
            return
        except asyncpg.InternalServerError:
            if not left:
                raise
            await asyncio.sleep(random.uniform(0.0, 0.05))


async def close_maintenance(conn: asyncpg.Connection) -> None:
    """No tenant connects to the databases that every server has. Those of others are left as they are."""
    mine = await conn.fetch(
        "SELECT datname FROM pg_database WHERE datname IN ('postgres', 'template1') AND pg_has_role(datdba, 'USAGE')"
    )
    for row in mine:
        await close_database(conn, row["datname"], roles=())


async def close_public(conn: asyncpg.Connection, *, role: str) -> None:
    """The schema public of this database: only its owner creates in it; `role` sees it."""
    async with conn.transaction():
        await conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        await conn.execute(f"REVOKE CREATE ON SCHEMA public FROM {quote_identifier(role)}")
        await conn.execute(f"GRANT USAGE ON SCHEMA public TO {quote_identifier(role)}")


async def functions_closing(conn: asyncpg.Connection) -> list[str]:
    """The statements that `close_functions` would run in this database, for a superuser; the keeper exists by then."""
    open_functions = ", ".join(row[0] for row in await conn.fetch(_OPEN_FUNCTIONS))
    closing = [f"REVOKE EXECUTE ON FUNCTION {open_functions} FROM PUBLIC"] if open_functions else []
    if not await conn.fetchval(_KEEPER_SEES_PREPARED):
        closing.append("GRANT EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement() TO tenantproxy_keeper")
    return closing


async def close_functions(conn: asyncpg.Connection) -> bool:
    """Take from PUBLIC, in this database, the functions that reach other sessions or run text as SQL.

    The keeper, made if it is missing, alone goes on seeing what is prepared: the check between two row tenants is its.
    False, and nothing done, when `conn` is not a superuser's: they belong to one.
    """
    if not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        return False
    if await conn.fetchval(_HAS_KEEPER) and not await functions_closing(conn):
        return True  # and no lock is taken, which a tenant of this database could hold
    async with alone(conn, 5.0):
        await ensure_keeper(conn)
        for statement in await functions_closing(conn):
            await conn.execute(statement)
    return True


async def ensure_schema(conn: asyncpg.Connection, schema: str, *, role: str, owner: str | None = None) -> None:
    """A schema that only its owner and `role` may look into."""
    name = quote_identifier(schema)
    async with conn.transaction():
        if not await conn.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", schema):
            await conn.execute(f"CREATE SCHEMA {name}" + (f" AUTHORIZATION {quote_identifier(owner)}" if owner else ""))
        await conn.execute(f"REVOKE ALL ON SCHEMA {name} FROM PUBLIC")
        await conn.execute(f"GRANT USAGE ON SCHEMA {name} TO {quote_identifier(role)}")


async def grant_access(
    conn: asyncpg.Connection, schema: str, *, role: str, owner: str | None = None, is_shared: bool = False
) -> None:
    """`role` reads and writes the tables of `schema`, those to come too: SELECT, INSERT, UPDATE, DELETE and no more.

    Of sequences it takes numbers, and reads and sets them too, as pg_dump and pg_restore do; not where tenants share
    them (`is_shared`), for they count the rows of all. Those to come are the ones that `owner` creates, or the user of
    `conn`.
    """
    sequences = "USAGE" if is_shared else "USAGE, SELECT, UPDATE"
    name, grantee = quote_identifier(schema), quote_identifier(role)
    creator = f" FOR ROLE {quote_identifier(owner)}" if owner else ""
    async with conn.transaction():
        for kind, rights in (("TABLES", "SELECT, INSERT, UPDATE, DELETE"), ("SEQUENCES", sequences)):
            await conn.execute(f"GRANT {rights} ON ALL {kind} IN SCHEMA {name} TO {grantee}")
            await conn.execute(
                f"ALTER DEFAULT PRIVILEGES{creator} IN SCHEMA {name} GRANT {rights} ON {kind} TO {grantee}"
            )


async def run_statements(
    conn: asyncpg.Connection, statements: Sequence[str], *, schema: str = "public", owner: str | None = None
) -> bool:
    """Run the operator's `statements` once, as `owner`, with `schema` alone on the search_path; True when they ran now.

    One transaction, which also leaves their fingerprint as the schema's comment: the same ones do not run twice.
    """
    mark = "tenantproxy: " + hashlib.sha256("\0".join(statements).encode()).hexdigest()
    name = quote_identifier(schema)
    async with conn.transaction():
        if await conn.fetchval("SELECT obj_description($1::regnamespace, 'pg_namespace')", name) == mark:
            return False
        await conn.execute(f"COMMENT ON SCHEMA {name} IS '{mark}'")
        await conn.execute(f"SET LOCAL search_path = {name}")
        if owner is not None:
            await conn.execute(f"SET LOCAL ROLE {quote_identifier(owner)}")
        for statement in statements:
            await conn.execute(statement)
    return True


@asynccontextmanager
async def _closed_database(
    connect: Connect, database: str, *, role: str, maintenance: str
) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `database`, which is made if it is not there, and is open to `role` alone."""
    async with _opened(connect, maintenance) as conn:
        await ensure_database(conn, database)
        await close_database(conn, database, roles=[role])
    async with _opened(connect, database) as conn:
        await close_public(conn, role=role)
        await close_functions(conn)
        yield conn


async def provision_database(
    connect: Connect, *, database: str, role: str, statements: Sequence[str] = (), maintenance: str = "postgres"
) -> None:
    """A database tenant: its database, open to `role` alone (which exists), with `statements` run in it."""
    async with _closed_database(connect, database, role=role, maintenance=maintenance) as conn:
        await grant_access(conn, "public", role=role)
        await run_statements(conn, statements)


async def provision_schema(
    connect: Connect, *, database: str, schema: str, role: str, statements: Sequence[str] = ()
) -> None:
    """A schema tenant in an existing database: its schema, open to `role` alone, with `statements` run in it."""
    async with _opened(connect, database) as conn:
        await close_functions(conn)
        await ensure_schema(conn, schema, role=role)
        await grant_access(conn, schema, role=role)
        await run_statements(conn, statements, schema=schema)


async def provision_shared(
    connect: Connect,
    *,
    database: str,
    role: str,
    keys: Mapping[int, bytes],
    tables: Sequence[str],
    statements: Sequence[str] = (),
    setting: str = DEFAULT_SETTING,
    trusted: bool = False,
    maintenance: str = "postgres",
) -> None:
    """A database for row tenants: closed, the signed context in it, `statements` run, each of `tables` isolated."""
    async with _closed_database(connect, database, role=role, maintenance=maintenance) as conn:
        await install(conn, app_role=role, keys=keys, setting=setting, trusted=trusted)
        async with conn.transaction():  # a new table is not seen before it is isolated, whatever is granted by default
            await run_statements(conn, statements)
            for table in tables:
                await isolate_table(conn, table)
        await grant_access(conn, "public", role=role, is_shared=True)


@asynccontextmanager
async def _opened(connect: Connect, database: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await connect(database)
    try:
        yield conn
    finally:
        await conn.close()
