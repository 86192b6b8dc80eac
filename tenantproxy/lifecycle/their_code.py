"""What in a place may a tenant's role have made, or make now, that would run with the rights of the next user?

Who owns a table, type or function, or may create some, decides what an insert or a call of lower(name) does there:
triggers, rules, defaults and checks are its owner's, and a function of that name which fits better is found first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.model import quote_identifier

__all__ = ["TheirCode", "their_code"]

_THEIRS: Final = """
SELECT DISTINCT pg_get_userbyid(owner)::text FROM (
  SELECT relowner FROM pg_class WHERE relnamespace = ANY ($1::text[]::regnamespace[]) AND relkind <> 't'
  UNION SELECT proowner FROM pg_proc WHERE pronamespace = ANY ($1::text[]::regnamespace[])
  UNION SELECT oprowner FROM pg_operator WHERE oprnamespace = ANY ($1::text[]::regnamespace[])
  UNION SELECT typowner FROM pg_type WHERE typnamespace = ANY ($1::text[]::regnamespace[])
  UNION SELECT nspowner FROM pg_namespace WHERE oid = ANY ($1::text[]::regnamespace[])
  UNION SELECT unnest(ARRAY[e.evtowner, p.proowner]) FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
) AS owners (owner) WHERE pg_get_userbyid(owner) <> current_user AND pg_has_role($2, owner, 'MEMBER') ORDER BY 1
"""
_MAY_CREATE: Final = """
SELECT format('SCHEMA %I', nspname) FROM pg_namespace
WHERE oid = ANY ($1::text[]::regnamespace[]) AND has_schema_privilege($2, oid, 'CREATE')
UNION ALL SELECT format('DATABASE %I', datname) FROM pg_database
WHERE $3 AND datname = current_database() AND has_database_privilege($2, oid, 'CREATE')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirCode:
    """`owners`: roles that the tenant's is, or is a member of, which own something there. `may_create`: SQL of where
    it may create.
    """

    owners: tuple[str, ...]
    may_create: tuple[str, ...]


async def their_code(conn: asyncpg.Connection, schemas: Sequence[str], role: str, *, is_whole: bool) -> TheirCode:
    """Of `schemas`, which are there, and `role`, as whom the tenant's SQL runs. `is_whole`: all of a database.

    `conn` finds nothing but PostgreSQL's own in its search_path.
    """
    quoted = [quote_identifier(each) for each in schemas]
    return TheirCode(
        owners=tuple(row[0] for row in await conn.fetch(_THEIRS, quoted, role)),
        may_create=tuple(row[0] for row in await conn.fetch(_MAY_CREATE, quoted, role, is_whole)),
    )
