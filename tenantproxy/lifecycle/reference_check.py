"""Is a row that says through another whose it is looked at behind its foreign key? Plans the trigger that does so."""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.lifecycle.change import Change

__all__ = ["reference_changes"]

_TRIGGER: Final = "tenantproxy_reference"  # PostgreSQL runs them by name: behind RI_ConstraintTrigger_c_...
_STATE: Final = """
WITH RECURSIVE found AS (
  SELECT g.oid, g.tgenabled, pg_get_triggerdef(g.oid) AS text FROM pg_trigger g
  WHERE g.tgrelid = to_regclass($1) AND g.tgname = $2
  UNION ALL SELECT g.oid, g.tgenabled, NULL FROM found f JOIN pg_trigger g ON g.tgparentid = f.oid)
SELECT max(text) AS text, bool_and(tgenabled = 'A') AS always FROM found
"""


async def reference_changes(
    conn: asyncpg.Connection, table: str, column: str, parent: str, key: str
) -> tuple[Change, ...]:
    """What is missing of the trigger on `table`, where its `column` (plain) refers to the `key` of `parent` (quoted).

    With search_path = pg_catalog. It is told to fire always: `session_replication_role` does not pass it.
    """
    arguments = ", ".join("'" + each.replace("'", "''") + "'" for each in (column, parent, key))
    wanted = (
        f"CREATE TRIGGER {_TRIGGER} AFTER INSERT OR UPDATE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION tenantproxy.check_reference({arguments})"
    )
    state = await conn.fetchrow(_STATE, table, _TRIGGER)
    assert state is not None  # an aggregate
    changes = []
    if state["text"] is not None and state["text"] != wanted:
        what = f"{table}: drop the trigger {_TRIGGER}, which does something else"
        changes.append(Change(what=what, sql=f"DROP TRIGGER {_TRIGGER} ON {table}"))
    if state["text"] != wanted:
        changes.append(Change(what=f"{table}: look at {column} once more behind its foreign key", sql=wanted))
    if changes or not state["always"]:
        what = f"{table}: always, also where session_replication_role is set"
        changes.append(Change(what=what, sql=f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {_TRIGGER}"))
    return tuple(changes)
