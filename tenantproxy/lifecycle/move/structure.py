"""How do a place's tables, types, functions and indexes come to another one? By pg_dump, in two parts around the rows.

A schema gets another name on the way in a scratch database, where the server renames it: no SQL is rewritten here.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.backup.tools import child_environment, find_tools, run_tool
from tenantproxy.lifecycle.migrate.journal import ensure_journal
from tenantproxy.model import quote_identifier

__all__ = ["StructurePlace", "check_movable", "copy_journal", "dump", "rename_schema", "run_dump"]

_META: Final = re.compile(r"^\\(?:un)?restrict .*$", re.M)  # for psql alone
_OF_SCHEMA: Final = re.compile(r"^(?:CREATE SCHEMA|COMMENT ON SCHEMA) .*;$", re.M)
_OURS: Final = ("tenantproxy", "tenantproxy_migrations")
_LOCK_WAIT: Final = 30_000  # ms, as a backup waits
_PATIENCE: Final = 600.0  # seconds: pg_dump waits for locks of views and sequences for as long as they are held
_EXTENSIONS: Final = "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"
_NAMED: Final = """
SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = $1::text::regnamespace
  AND (p.prosrc ~ $2 OR p.proconfig::text ~ $2) ORDER BY 1
"""
_JOURNAL: Final = """
SELECT version, name, checksum, applied_at FROM tenantproxy_migrations.applied WHERE place = $1 ORDER BY version
"""
_LINE: Final = """
INSERT INTO tenantproxy_migrations.applied (place, version, name, checksum, applied_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructurePlace:
    """A database, or one `schema` of it."""

    server: str
    database: str
    schema: str | None


async def dump(settings: Settings, conn: asyncpg.Connection, place: StructurePlace, section: str) -> str:
    """The SQL of one section (`pre-data`, `post-data`) of a place; `conn` is to its database.

    Raises ToolFailed, TenantProxyError where it cannot be read in time.
    """
    tools = find_tools(settings, await conn.fetchval("SELECT current_setting('server_version_num')::int"))
    which = [f"--schema={quote_identifier(place.schema)}"] if place.schema is not None else []
    out = [f"--exclude-schema={name}" for name in _OURS] if place.schema is None else []
    command = [
        tools.pg_dump, f"--section={section}", "--no-owner", "--no-privileges", "--no-publications",
        "--no-subscriptions", "--no-tablespaces", "--no-security-labels", f"--lock-wait-timeout={_LOCK_WAIT}",
        *which, *out,
    ]  # fmt: skip
    environment = child_environment(settings.servers[place.server], place.database)
    try:
        async with asyncio.timeout(_PATIENCE):
            text = await run_tool(command, environment, stdout=asyncio.subprocess.PIPE)
    except TimeoutError:
        raise TenantProxyError(
            f"what is in {place.database} could not be read within {_PATIENCE:.0f} s",
            hint="a session may keep a lock on a view or a sequence: pg_locks shows it",
        ) from None
    return _META.sub("", text.decode())


async def run_dump(conn: asyncpg.Connection, text: str, *, schema_is_there: bool = False) -> None:
    """Run what `dump` gave, all or nothing. `schema_is_there`: it was made, and its comment is ours to keep."""
    if schema_is_there:
        text = _OF_SCHEMA.sub("", text)
    async with conn.transaction():
        await conn.execute(text)
    await conn.execute("RESET ALL")


async def check_movable(conn: asyncpg.Connection, place: StructurePlace, *, to_schema: bool) -> None:
    """Raises ConfigurationError with all in a place that a move does not take along. `to_schema`: from a database."""
    key, problems = f"database {place.database}", []
    if await conn.fetchval("SELECT EXISTS (SELECT FROM pg_largeobject_metadata)") and place.schema is None:
        problems.append(Problem(key=key, problem="has large objects", fix="keep them in tables (bytea), and try again"))
    if to_schema:
        schemas = [
            row[0]
            for row in await conn.fetch(
                "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> ALL ($1)",
                ["information_schema", "public", *_OURS],
            )
        ]
        if schemas:
            problem = f"has further schemas ({', '.join(schemas)}), and one schema is to hold all"
            problems.append(Problem(key=key, problem=problem, fix="move it as a database"))
        if names := [row[0] for row in await conn.fetch(_EXTENSIONS)]:
            problem = f"has extensions ({', '.join(names)}), which belong to a database"
            problems.append(Problem(key=key, problem=problem, fix="move it as a database"))
    if place.schema is not None or to_schema:
        name = place.schema or "public"
        functions = await conn.fetch(_NAMED, quote_identifier(name), rf"\m{re.escape(name)}\M")
        if functions:
            listed = ", ".join(row[0] for row in functions)
            problem = f"has functions whose text names the schema {name}, which gets another name: {listed}"
            problems.append(Problem(key=key, problem=problem, fix="let them go without it: the search_path finds it"))
    if problems:
        raise ConfigurationError(problems)


async def copy_journal(
    source: asyncpg.Connection, target: asyncpg.Connection, *, old: str, new: str, is_own: bool
) -> None:
    """What was applied to the schema `old` was applied to `new` too."""
    if await source.fetchval("SELECT to_regclass('tenantproxy_migrations.applied') IS NULL"):
        return
    rows = await source.fetch(_JOURNAL, old)
    if rows:
        await ensure_journal(target, is_own=is_own)
        await target.executemany(_LINE, [(new, *row.values()) for row in rows])


async def rename_schema(conn: asyncpg.Connection, old: str, new: str) -> None:
    """In a database of its own, where `new`, if it is there, is empty. Raises TenantProxyError where it is not."""
    async with conn.transaction():
        if await conn.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", new):
            try:
                await conn.execute(f"DROP SCHEMA {quote_identifier(new)} RESTRICT")
            except asyncpg.DependentObjectsStillExistError as exc:
                raise TenantProxyError(f"the schema {new} of a new database is not empty") from exc
        await conn.execute(f"ALTER SCHEMA {quote_identifier(old)} RENAME TO {quote_identifier(new)}")
