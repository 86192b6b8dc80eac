"""How are a tenant's role, database and schema made and removed, so that what is others' is never taken for ours?

What was made in one transaction bears the saga's sign as its comment. A database, which cannot be, is made under a
name that cannot be guessed and renamed when its identifier is known: a name of others is never adopted, never dropped.
Every function looks first and may be run again after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.config import TenantRoles, role_password
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.acting import act_for
from tenantproxy.lifecycle.prepared import undo_prepared, undo_prepared_everywhere
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.lifecycle.provisioner import Connect, change_grants, create_closed, ensure_role
from tenantproxy.model import Isolation, quote_identifier, reader_of

__all__ = [
    "database_named",
    "drop_database",
    "drop_role",
    "drop_schemas",
    "is_database",
    "make_database",
    "make_roles",
    "make_schema",
    "name_database",
    "undo_prepared_of",
]

_PATIENCE: Final = "30s"
_ROLE: Final = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1"
_GRANTED: Final = """
SELECT coalesce(d.datname::text, current_database()) FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
  AND (s.dbid = 0 OR d.datallowconn)
GROUP BY 1 HAVING bool_and(s.deptype <> 'o')
"""
_HOLDING: Final = """
SELECT DISTINCT CASE WHEN p.gid IS NOT NULL THEN format('the prepared transaction %L of %s', p.gid, p.owner)
  ELSE format('the session %s of %s', l.pid, a.usename) END AS who
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation AND l.database = (
  SELECT oid FROM pg_database WHERE datname = current_database())
LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
  AND x.locktype = 'transactionid'
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY ($1)) ORDER BY 1 LIMIT 5
"""
_SCHEMA: Final = (
    "SELECT oid, nspname::text AS name, obj_description(oid, 'pg_namespace') AS sign,"
    " pg_get_userbyid(nspowner)::text AS owner FROM pg_namespace"
    " WHERE oid = $1 OR nspname = $2 ORDER BY oid = $1 DESC NULLS LAST LIMIT 1"
)


async def make_roles(conn: asyncpg.Connection, wanted: Wanted, roles: TenantRoles | None) -> None:
    """Its login role, and with `[tenant_roles] readers` the one that reads for it, with passwords of `roles`.

    Raises ConfigurationError when a role of that name is not this saga's.
    """
    if wanted.role is None or roles is None or roles.key is None:
        return
    for role in (wanted.role, *((reader_of(wanted.role),) if roles.readers else ())):
        async with conn.transaction():
            found = await conn.fetch(_ROLE, role)
            if found and found[0][0] != wanted.sign:
                raise _taken("role", role, "provision.role")
            await ensure_role(conn, role, password=role_password(roles.key.read_bytes(), wanted.server, role))
            await conn.execute(f"COMMENT ON ROLE {quote_identifier(role)} IS '{wanted.sign}'")


async def drop_role(conn: asyncpg.Connection, wanted: Wanted, connect: Connect) -> None:
    """Its roles, those that are this saga's, with what others granted them. What they own must be gone before.

    `conn`: of a maintenance database; `connect` opens others of that server. Each owner of a table may grant it to any
    role, and would keep that from being dropped.
    """
    for name in _roles(wanted):
        if await conn.fetchval(_ROLE, name) != wanted.sign:
            continue
        await undo_prepared_everywhere(conn, name, connect)
        role = quote_identifier(name)
        for row in await conn.fetch(_GRANTED, name):
            inside = await connect(row[0])
            try:
                await act_for(inside, [name])
                await inside.execute(f"DROP OWNED BY {role}")  # it owns nothing there: rights, and names in policies
            finally:
                await inside.close()
        await conn.execute(f"DROP ROLE {role}")


def _roles(wanted: Wanted) -> tuple[str, ...]:
    """All that may have been made for it: whether it has a reader may have been configured otherwise meanwhile."""
    if wanted.role is None:
        return ()
    try:
        return reader_of(wanted.role), wanted.role
    except ValueError:  # too long for there to be one
        return (wanted.role,)


async def _made(conn: asyncpg.Connection, wanted: Wanted) -> list[str]:
    """Those of `_roles` that are there and this saga's. Who owns a schema may take the sign of that away."""
    return [role for role in _roles(wanted) if await conn.fetchval(_ROLE, role) == wanted.sign]


async def undo_prepared_of(conn: asyncpg.Connection, wanted: Wanted, oid: int | None, connect: Connect) -> None:
    """Roll back what its role has prepared, if that is this saga's, and all that was prepared in its database `oid`.

    `conn`: of a maintenance database; `connect` opens others of that server. Raises as `undo_prepared`.
    """
    for role in await _made(conn, wanted):
        await undo_prepared_everywhere(conn, role, connect)
    if wanted.isolation is Isolation.DATABASE and oid is not None and (name := await _database(conn, oid)):
        await _undo_prepared_in(conn, name, connect)


async def _undo_prepared_in(conn: asyncpg.Connection, database: str, connect: Connect) -> None:
    """PostgreSQL drops no database that has some."""
    if await conn.fetchval("SELECT count(*) FROM pg_prepared_xacts WHERE database = $1", database):
        inside = await connect(database)
        try:
            await undo_prepared(inside, None)
        finally:
            await inside.close()


async def make_database(conn: asyncpg.Connection, temporary: str, template: str | None) -> int:
    """The identifier of the database `temporary`. `conn`: of a maintenance database."""
    await create_closed(conn, temporary, template=template)
    found = await database_named(conn, temporary)
    assert found is not None
    return found


async def database_named(conn: asyncpg.Connection, name: str) -> int | None:
    """The identifier of the database of that name."""
    found: int | None = await conn.fetchval("SELECT oid FROM pg_database WHERE datname = $1", name)
    return found


async def is_database(conn: asyncpg.Connection, oid: int, name: str) -> bool:
    """Whether the database `oid` is called so."""
    return await _database(conn, oid) == name


async def name_database(conn: asyncpg.Connection, wanted: Wanted, oid: int) -> None:
    """Give the database `oid` its name. Raises ConfigurationError when there is one of that name, or it is gone."""
    if (name := await _database(conn, oid)) is None:
        problem, fix = "is gone: it was dropped by hand", f"tenantproxy tenants abandon {wanted.id}"
        raise ConfigurationError([Problem(key=f"database {wanted.database}", problem=problem, fix=fix)])
    if name == wanted.database:
        return
    try:
        await conn.execute(f"ALTER DATABASE {quote_identifier(name)} RENAME TO {quote_identifier(wanted.database)}")
    except asyncpg.DuplicateDatabaseError:
        raise _taken("database", wanted.database, "provision.database") from None


async def drop_database(
    conn: asyncpg.Connection, temporary: str, oid: int | None, *, connect: Connect, final: str | None = None
) -> None:
    """The database `oid`, when it has one of its two names; without an `oid` the one called `temporary`.

    `connect` opens another one of the server of `conn`.
    """
    name = temporary if oid is None else await _database(conn, oid)
    if name is not None and name in (temporary, final):
        if await conn.fetchval("SELECT datistemplate FROM pg_database WHERE datname = $1", name):  # by its owner
            await conn.execute(f"ALTER DATABASE {quote_identifier(name)} IS_TEMPLATE false")
        await _undo_prepared_in(conn, name, connect)
        await conn.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")


async def make_schema(conn: asyncpg.Connection, wanted: Wanted, schema: str, oid: int | None) -> int:
    """The identifier of its `schema`. Raises ConfigurationError when a schema of that name is not this saga's."""
    name = quote_identifier(schema)
    async with conn.transaction():
        found = await conn.fetchrow(_SCHEMA, oid, schema)
        if found is None:
            await conn.execute(f"CREATE SCHEMA {name}")
            await conn.execute(f"COMMENT ON SCHEMA {name} IS '{wanted.sign}'")
            found = await conn.fetchrow(_SCHEMA, oid, schema)
        elif found["oid"] != oid and found["sign"] != wanted.sign:
            raise _taken("schema", schema, "provision.schema")
        assert found is not None
        made: int = found["oid"]
        return made


async def drop_schemas(conn: asyncpg.Connection, wanted: Wanted, oid: int | None) -> None:
    """Its schemas with all that is in them, and what its role was granted on the shared database.

    Raises TenantProxyError that names who holds something in them for too long.
    """
    made = await _made(conn, wanted)
    for role in made:
        await undo_prepared(conn, role)
    try:
        await _drop_schemas(conn, wanted, oid, made)
    except asyncpg.LockNotAvailableError as exc:
        names = [wanted.schema, *(schema for _, schema in wanted.systems)]
        holding = [row["who"] for row in await conn.fetch(_HOLDING, names)]
        raise TenantProxyError(
            f"something in the schema {wanted.schema} is held: {', '.join(holding) or 'no longer'}",
            hint="end them (pg_terminate_backend, ROLLBACK PREPARED), and call it again",
        ) from exc


async def _drop_schemas(conn: asyncpg.Connection, wanted: Wanted, oid: int | None, made: Sequence[str]) -> None:
    role = wanted.role if wanted.role in made else None
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        for name, known in ((wanted.schema, oid), *((schema, None) for _, schema in wanted.systems)):
            found = await conn.fetchrow(_SCHEMA, known, name)
            if found is not None and (
                found["oid"] == known or found["sign"] == wanted.sign or found["owner"] == role
            ):  # fmt: skip
                await conn.execute(f"DROP SCHEMA {quote_identifier(found['name'])} CASCADE")
        for each in made:
            await _release(conn, each, wanted.database)


async def _release(conn: asyncpg.Connection, role: str, database: str) -> None:
    """Nothing in the database of `conn` keeps `role` from being dropped: it may have default privileges of its own
    making, or large objects.
    """
    revoke = f"REVOKE ALL ON DATABASE {quote_identifier(database)} FROM {quote_identifier(role)}"
    await change_grants(conn, revoke)
    await act_for(conn, [role])
    await conn.execute(f"DROP OWNED BY {quote_identifier(role)}")


async def _database(conn: asyncpg.Connection, oid: int) -> str | None:
    name: str | None = await conn.fetchval("SELECT datname::text FROM pg_database WHERE oid = $1", oid)
    return name


def _taken(what: str, name: str, key: str) -> ConfigurationError:
    problem = f"there is a {what} {name} that was not made for this tenant; it is left as it is"
    return ConfigurationError([Problem(key=key, problem=problem, fix="choose another identifier or pattern")])
