"""How are a tenant's role, database and schema made and removed, so that what is others' is never taken for ours?

What was made in one transaction bears the saga's sign as its comment. A database, which cannot be, is made under a
name that cannot be guessed and renamed when its identifier is known: a name of others is never adopted, never dropped.
Every function looks first and may be run again after a crash at any point.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.config import TenantRoles, role_password
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.acting import act_for
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.lifecycle.provisioner import Connect, change_grants, create_closed, ensure_role
from tenantproxy.model import quote_identifier, reader_of

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
]

_PATIENCE: Final = "30s"
_ROLE: Final = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1"
_GRANTED: Final = """
SELECT coalesce(d.datname::text, current_database()) FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
  AND (s.dbid = 0 OR d.datallowconn)
GROUP BY 1 HAVING bool_and(s.deptype <> 'o')
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


async def drop_database(conn: asyncpg.Connection, temporary: str, oid: int | None, *, final: str | None = None) -> None:
    """The database `oid`, when it has one of its two names; without an `oid` the one called `temporary`."""
    name = temporary if oid is None else await _database(conn, oid)
    if name is not None and name in (temporary, final):
        if await conn.fetchval("SELECT datistemplate FROM pg_database WHERE datname = $1", name):  # by its owner
            await conn.execute(f"ALTER DATABASE {quote_identifier(name)} IS_TEMPLATE false")
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
    """Its schemas with all that is in them, and what its role was granted on the shared database."""
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")  # a prepared transaction may hold its tables
        # Who owns a schema may take its sign away.
        made = [role for role in _roles(wanted) if await conn.fetchval(_ROLE, role) == wanted.sign]
        role = wanted.role if wanted.role in made else None
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
