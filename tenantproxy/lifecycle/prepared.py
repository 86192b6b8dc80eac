"""What of a tenant is kept by transactions that were prepared? Those of its role, or in its database, are undone.

PREPARE TRANSACTION outlives the session that said it, with all of its locks. PostgreSQL lets its owner and superusers
end it, in its own database alone.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.acting import act_for, is_super
from tenantproxy.lifecycle.provisioner import Connect
from tenantproxy.model import quote_identifier

__all__ = ["undo_prepared", "undo_prepared_everywhere"]

_HERE: Final = """
SELECT gid, owner::text AS owner, format('ROLLBACK PREPARED %L', gid) AS undoing
FROM pg_prepared_xacts WHERE database = current_database() AND ($1::text IS NULL OR owner = $1) ORDER BY prepared
"""
_WHERE: Final = "SELECT DISTINCT database::text FROM pg_prepared_xacts WHERE owner = $1 ORDER BY 1"
_GONE: Final = (asyncpg.UndefinedObjectError, asyncpg.ObjectNotInPrerequisiteStateError)
"""It was ended meanwhile, or is being ended at this moment."""


async def undo_prepared(conn: asyncpg.Connection, owner: str | None) -> int:
    """Roll back the prepared transactions of the role `owner` in the database of `conn`, None: of all; how many.

    `conn`: the admin user's, in no transaction. Raises ConfigurationError that names one which it may not end.
    """
    found = await conn.fetch(_HERE, owner)
    acts = bool(found) and not await is_super(conn)
    for row in found:
        if acts:
            await act_for(conn, [row["owner"]])
        try:
            if acts:
                await conn.execute(f"SET ROLE {quote_identifier(row['owner'])}")
            await conn.execute(row["undoing"])
        except _GONE:
            pass
        except asyncpg.InsufficientPrivilegeError as exc:
            database = await conn.fetchval("SELECT current_database()::text")
            problem = f"the prepared transaction {row['gid']!r} of {row['owner']} is left, and may not be ended here"
            fix = f"as {row['owner']} or a superuser, in the database {database}: {row['undoing']}"
            raise ConfigurationError([Problem(key="servers.NAME.admin", problem=problem, fix=fix)]) from exc
        finally:
            if acts:
                await conn.execute("SET ROLE NONE")
    return len(found)


async def undo_prepared_everywhere(conn: asyncpg.Connection, owner: str, connect: Connect) -> int:
    """As `undo_prepared` in each database of the server of `conn`; `connect` opens others."""
    count = 0
    for row in await conn.fetch(_WHERE, owner):
        inside = await connect(row[0])
        try:
            count += await undo_prepared(inside, owner)
        finally:
            await inside.close()
    return count
