"""Is every table of row tenants theirs behind a migration? New ones are isolated as `install` does, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.config import Settings, names
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.change import SEARCH_PATH, apply
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.table_plan import POLICIES
from tenantproxy.lifecycle.tables import TableRequest, plan_within

__all__ = ["guard_rows"]

# Tables in reach of the role that tenants' SQL runs as, without a policy of any kind.
_BARE: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND n.nspname <> ALL ($2) AND has_schema_privilege($1, n.oid, 'USAGE')
  AND has_table_privilege($1, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
ORDER BY 1, 2
"""


# Tables that are not isolated by us, or that this transaction changed, or a part of theirs: a row of a catalogue that
# it wrote, also in a subtransaction, is not older than the transaction. A policy that is gone leaves its table bare.
_CHANGED: Final = """
WITH RECURSIVE changed (oid) AS (
  SELECT c.oid FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace NOT IN (
      SELECT n.oid FROM pg_namespace n WHERE n.nspname ~ '^pg_' OR n.nspname IN ('information_schema', 'tenantproxy'))
    AND (NOT (c.relrowsecurity AND c.relforcerowsecurity) OR age(c.xmin) <= 0
      OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = ANY ($1))
      OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND age(p.xmin) <= 0)
      OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND age(a.xmin) <= 0)
      OR EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND age(g.xmin) <= 0)
      OR EXISTS (SELECT FROM pg_attrdef f WHERE f.adrelid = c.oid AND age(f.xmin) <= 0)
      OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND age(k.xmin) <= 0))
  UNION SELECT i.inhparent FROM changed c JOIN pg_inherits i ON i.inhrelid = c.oid
)
SELECT format('%I.%I', n.nspname, c.relname) FROM changed h JOIN pg_class c ON c.oid = h.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
"""


async def guard_rows(
    conn: asyncpg.Connection, settings: Settings, *, role: str, own_schemas: Sequence[str], changed_alone: bool = False
) -> None:
    """Isolate each table with the tenants' column that is not yet, in the transaction that `conn` is in.

    `own_schemas`: those of schema tenants. `changed_alone`: what this transaction left as it was, and has our policy,
    is looked at behind another file: to look at each table behind each file is quadratic. Raises TenantProxyError for a
    table in reach of `role` that stays bare: the transaction is to be rolled back. Indexes that are built without a
    lock are left to `tenantproxy install`.
    """
    former = await conn.fetchval("SELECT pg_catalog.current_setting('search_path')")
    await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
    request = TableRequest(
        all_with=(settings.migrations.column,),
        through=tuple(settings.migrations.through.items()),
        parent_column=settings.migrations.column,
        roles=(role,),
        comparison=Comparison(signed=settings.row.signed, setting=settings.row.setting),
        own_schemas=tuple(own_schemas),
        only=frozenset(row[0] for row in await conn.fetch(_CHANGED, list(POLICIES))) if changed_alone else None,
    )
    plan = await plan_within(conn, request)
    if problems := [*plan.problems, *plan.missing]:
        raise TenantProxyError("a table cannot be isolated: " + "; ".join(map(str, problems)))
    try:
        await apply(conn, (change for change in plan.changes if not change.concurrently))
    except asyncpg.UndefinedFunctionError as exc:
        raise TenantProxyError(
            f"what was installed in this database is older than this release: {exc}", hint="run: tenantproxy install"
        ) from exc
    shared = names(settings.row.unprotected)
    bare = [
        f"{row['schema']}.{row['name']}"
        for row in await conn.fetch(_BARE, role, list(own_schemas))
        if (row["schema"], row["name"]) not in shared and (row["schema"], None) not in shared
    ]
    if bare:
        column = settings.migrations.column
        raise TenantProxyError(
            f"these tables would be open to every row tenant: {', '.join(bare)}",
            hint=f"give them the column {column}, revoke them from {role}, or name them in row.unprotected",
        )
    await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", former)
