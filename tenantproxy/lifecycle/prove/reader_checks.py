"""Can a session that is to read only write? Tried in the tenant's own tables; nothing that works stays done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenantproxy.lifecycle.prove.base import DoorClosed, Rows, SqlRefused, Talk, WallOpen
from tenantproxy.lifecycle.prove.doors import LibraryDoor
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.model import Tenant, quote_identifier

__all__ = ["reader_writes"]

_DENIED: Final = "42501"
_UNDONE: Final = "P0099"  # raised behind a statement that worked
_TABLES: Final = """
SELECT c.oid::regclass::text, c.relkind::text, quote_ident(min(a.attname::text)) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a
  ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy')
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
GROUP BY c.oid, c.relkind ORDER BY c.relkind, 1 LIMIT 20
"""


async def reader_writes(door: LibraryDoor, tenant: Tenant, writer: str, outcome: Outcome) -> None:
    """By `door`, which gives sessions that are to read only; `writer`: the role of those that write."""
    try:
        async with door.session(tenant) as talk:
            await talk.ask("SET default_transaction_read_only = off")
            for case, statement in _attempts(await talk.ask(_TABLES), writer):
                outcome.judge(case, await _attempt(talk, statement))
    except WallOpen as exc:
        outcome.leaks.append(f"it refuses to serve: {exc}")
    except (DoorClosed, SqlRefused) as exc:
        outcome.untried.append(str(exc))


def _attempts(found: Rows, writer: str) -> Iterator[tuple[str, str]]:
    for name, kind, column in found:
        if kind == "S":
            yield f"nextval {name}", f"PERFORM pg_catalog.nextval('{str(name).replace(chr(39), chr(39) * 2)}')"
            continue
        yield f"insert into {name}", f"INSERT INTO {name} SELECT * FROM {name} WHERE false"
        yield f"delete from {name}", f"DELETE FROM {name} WHERE false"
        yield f"truncate {name}", f"TRUNCATE {name}"
        if column is not None:
            yield f"update {name}", f"UPDATE {name} SET {column} = {column} WHERE false"
    yield "create a table", "CREATE TABLE tenantproxy_written ()"
    yield "create a schema", "CREATE SCHEMA tenantproxy_written"
    yield "create a large object", "PERFORM pg_catalog.lo_create(0)"
    yield f"become {writer}", f"SET LOCAL ROLE {quote_identifier(writer)}"


async def _attempt(talk: Talk, statement: str) -> str | None:
    """None: it was refused. Whatever it did is undone."""
    code = f"BEGIN SET TRANSACTION READ WRITE; {statement}; RAISE EXCEPTION 'undone' USING ERRCODE = '{_UNDONE}'; END"
    try:
        await talk.ask(f"DO $tenantproxy${code}$tenantproxy$")
    except SqlRefused as exc:
        return None if exc.sqlstate == _DENIED else "it could" if exc.sqlstate == _UNDONE else f"{exc.sqlstate}"
    return "it could"
