"""What does each connection of a project's migrations run first, and what before a COMMIT? SQL text, for any driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["NOTICING", "MigrationRefused", "check", "entering", "guard", "literal", "quoted"]

NOTICING = """DO $$BEGIN
  PERFORM pg_catalog.set_config('client_connection_check_interval', '2s', false);
EXCEPTION WHEN OTHERS THEN NULL; END$$"""
"""A statement of a process that has ended does not run on for hours; not every server's system can notice that."""

Rows = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a statement without parameters; its rows."""
Run = Callable[[str], object]
"""Runs a statement without rows."""

# Tables of row tenants' databases in reach of the role that their SQL runs as, without a policy of any kind.
_BARE = """
SELECT n.nspname::text, c.relname::text, EXISTS (SELECT FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = c.oid AND a.attname = {column} AND NOT a.attisdropped)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT n.nspname::text = ANY (ARRAY[{others}]::text[])
  AND NOT n.nspname || '.' || c.relname = ANY (ARRAY[{shared}]::text[])
  AND NOT n.nspname || '.*' = ANY (ARRAY[{shared}]::text[])
  AND pg_catalog.has_schema_privilege({role}, n.oid, 'USAGE')
  AND pg_catalog.has_table_privilege({role}, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
ORDER BY 1, 2
"""


class MigrationRefused(Exception):
    """What the migrations do, or where they do it, is not allowed."""


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string, whatever standard_conforming_strings is."""
    plain = text.replace("'", "''")
    return f" E'{plain.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{plain}'"


def entering(place: dict[str, Any]) -> str:
    """What a new connection runs: its settings, and whether it is where it should be, a row with one boolean.

    The process that asked holds a lock in the tenant's database: only there, on that very server, is it to be seen.
    """
    settings = {
        "search_path": quoted(place["schema"]),
        "lock_timeout": f"{place['lock_timeout']}ms",
        "statement_timeout": f"{place['statement_timeout']}ms",
    }
    values = ", ".join(f"pg_catalog.set_config('{name}', {literal(text)}, false)" for name, text in settings.items())
    return (
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database"
        f" WHERE l.locktype = 'advisory' AND l.granted AND l.pid = {int(place['pid'])}"
        f" AND l.classid = {int(place['lock'])} AND d.datname = pg_catalog.current_database()), {values}"
    )


def check(rows: Sequence[Sequence[Any]]) -> None:
    """Raises MigrationRefused where `entering` says that the connection leads elsewhere."""
    if not rows[0][0]:
        raise MigrationRefused(
            "the project connects to a database that is not the tenant's: let it take the one it is given"
            " (alembic: the option sqlalchemy.url; Django: the database default)"
        )


def guard(place: dict[str, Any], rows: Rows, run: Run) -> None:
    """Before a COMMIT in a database of row tenants: what they reach without a policy is closed to them, or refused.

    A table with the tenants' column lets no tenant in until it has its policy, which it gets when the project is done.
    """
    if not place["is_shared"]:
        return

    def listed(texts: Iterable[str]) -> str:
        return ", ".join(map(literal, texts))

    query = _BARE.format(
        column=literal(place["column"]), role=literal(place["role"]), others=listed(place["others"]),
        shared=listed(place["shared"]),
    )  # fmt: skip
    bare = []
    for schema, table, has_column in rows(query):
        name = f"{quoted(schema)}.{quoted(table)}"
        if table in place["journals"]:
            run(f"REVOKE ALL ON {name} FROM PUBLIC, {quoted(place['role'])}")
        elif has_column:
            run(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        else:
            bare.append(f"{schema}.{table}")
    if bare:
        raise MigrationRefused(
            f"these tables would be open to every row tenant: {', '.join(bare)}; give them the column"
            f" {place['column']}, revoke them from {place['role']}, or name them in row.unprotected"
        )
