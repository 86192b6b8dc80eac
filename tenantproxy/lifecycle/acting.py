"""For which roles may the admin user act that is no superuser? For those that it made: as a member of them.

On managed PostgreSQL it has CREATEROLE and CREATEDB and no more. Since PostgreSQL 16 who makes a role may give it, and
has none of its rights: it sees neither its tables nor its sessions. To be a member takes nothing from the role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.model import quote_identifier

__all__ = ["KEEPER", "act_for", "acting_for", "cannot_act_for", "is_super", "let_read", "may_not_act", "may_own"]

KEEPER: Final = "tenantproxy_keeper"
"""Who owns our own tables and functions: no one stays a member of it."""


_SUPER: Final = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
_LACKING: Final = """
SELECT rolname::text FROM pg_roles
WHERE rolname = ANY ($1) AND rolname <> current_user
  AND NOT (pg_has_role(current_user, oid, 'USAGE') AND pg_has_role(current_user, oid, {become}))
ORDER BY 1
"""
_GIVEN: Final = """
SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1) AND NOT rolsuper
  AND ({all} AND (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user)
       OR pg_has_role(current_user, oid, 'MEMBER WITH ADMIN OPTION'))
"""
_KEPT: Final = """
SELECT format('GRANT SELECT ON %s TO CURRENT_USER', string_agg(c.oid::regclass::text, ', ')) FROM pg_class c
WHERE c.relowner = $1::text::regrole AND c.relkind IN ('r', 'p', 'S', 'v', 'm')
  AND NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
          ELSE has_table_privilege(c.oid, 'SELECT') END
HAVING count(*) > 0
"""
_CREATES: Final = """
SELECT r.rolname::text AS role, n.nspname::text AS schema, format('SCHEMA %I', n.nspname) AS place
FROM pg_roles r, pg_namespace n
WHERE r.rolname = ANY ($1) AND NOT has_schema_privilege(r.oid, n.oid, 'CREATE')
  AND CASE WHEN cardinality($2::text[]) > 0 THEN n.nspname = ANY ($2)
      ELSE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' END
UNION ALL
SELECT r.rolname::text, NULL, format('DATABASE %I', d.datname) FROM pg_roles r, pg_database d
WHERE r.rolname = ANY ($1) AND d.datname = current_database() AND cardinality($2::text[]) = 0
  AND NOT has_database_privilege(r.oid, d.oid, 'CREATE')
"""
_OWNS: Final = "SELECT true FROM pg_namespace WHERE nspname = $1 AND pg_get_userbyid(nspowner) = $2"
_16: Final = 160000


async def is_super(conn: asyncpg.Connection) -> bool:
    """Whether the user of `conn` is a superuser, for whom all of this holds anyway."""
    return bool(await conn.fetchval(_SUPER))


async def act_for(conn: asyncpg.Connection, roles: Iterable[str]) -> list[str]:
    """Make the user of `conn` a member of each of `roles`, as it may; those for which it may not act, sorted.

    It stays one: another process may be reading what is theirs.
    """
    return (await _joined(conn, roles))[1]


@asynccontextmanager
async def acting_for(conn: asyncpg.Connection, roles: Iterable[str]) -> AsyncIterator[None]:
    """As `act_for` in the transaction of `conn`, and a member no more behind the block. Raises ConfigurationError."""
    joined, lacking = await _joined(conn, roles)
    if lacking:
        raise may_not_act(await conn.fetchval("SELECT current_user::text"), lacking)
    yield
    for role in joined:
        await conn.execute(f"REVOKE {quote_identifier(role)} FROM CURRENT_USER")


async def let_read(conn: asyncpg.Connection, owners: Iterable[str]) -> None:
    """The user of `conn` reads what `owners` have in its database, as far as it may act for them. Not in a transaction.

    Raises ConfigurationError where it may not act for the keeper.
    """
    if await is_super(conn):
        return
    named = set(owners)
    await act_for(conn, named - {KEEPER})
    if KEEPER in named and (granting := await conn.fetchval(_KEPT, KEEPER)) is not None:
        async with conn.transaction(), acting_for(conn, [KEEPER]):
            await conn.execute(granting)


@asynccontextmanager
async def may_own(conn: asyncpg.Connection, roles: Iterable[str], schemas: Collection[str]) -> AsyncIterator[None]:
    """In the transaction of `conn`, what is in `schemas` may be given to `roles`; without any all of its database.

    Who is no superuser gives a thing to those alone who may create it where it is. Behind the block they may no more.
    """
    named = [] if await is_super(conn) else sorted(set(roles))
    given = await conn.fetch(_CREATES, named, sorted(schemas)) if named else []
    for row in given:
        await conn.execute(f"GRANT CREATE ON {row['place']} TO {quote_identifier(row['role'])}")
    yield
    for row in given:
        if not await conn.fetchval(_OWNS, row["schema"], row["role"]):
            await conn.execute(f"REVOKE CREATE ON {row['place']} FROM {quote_identifier(row['role'])}")


async def cannot_act_for(conn: asyncpg.Connection, roles: Iterable[str]) -> list[str]:
    """Those of `roles` for which `act_for` will not do; nothing is changed."""
    lacking = await _lacking(conn, roles)
    query = _GIVEN.format(all="true" if await _version(conn) < _16 else "false")
    given = {row[0] for row in await conn.fetch(query, lacking)}
    return [role for role in lacking if role not in given]


def may_not_act(user: str, roles: Iterable[str]) -> ConfigurationError:
    """That the admin user `user` must be given `roles`, and by which statement."""
    named = ", ".join(map(quote_identifier, roles))
    problem = f"the admin user {user} may not act for {named}, whose things are there"
    fix = f"as who made it, or a superuser: GRANT {named} TO {quote_identifier(user)} WITH ADMIN OPTION"
    return ConfigurationError([Problem(key="servers.NAME.admin", problem=problem, fix=fix)])


async def _joined(conn: asyncpg.Connection, roles: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those that it became a member of now, and those that it could not."""
    joined, wanted = list[str](), await _lacking(conn, roles)
    rights = " WITH INHERIT TRUE, SET TRUE" if wanted and await _version(conn) >= _16 else ""
    for role in wanted:
        try:
            async with conn.transaction():
                await conn.execute(f"GRANT {quote_identifier(role)} TO CURRENT_USER{rights}")
        except asyncpg.InsufficientPrivilegeError:
            continue
        except (asyncpg.UniqueViolationError, asyncpg.InternalServerError):
            continue  # another process did it at the same moment: it is looked at below
        joined.append(role)
    return joined, await _lacking(conn, wanted) if wanted else []


async def _lacking(conn: asyncpg.Connection, roles: Iterable[str]) -> list[str]:
    named = sorted(set(roles))
    if not named or await is_super(conn):
        return []
    become = "'MEMBER'" if await _version(conn) < _16 else "'SET'"
    return [row[0] for row in await conn.fetch(_LACKING.format(become=become), named)]


async def _version(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT pg_catalog.current_setting('server_version_num')::int"))
