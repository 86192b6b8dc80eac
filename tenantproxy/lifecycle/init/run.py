"""How is it done? Looks at the server and plans; then runs the files of a folder, as they are after the review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.config import Settings, load
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.init.dsn import GivenServer
from tenantproxy.lifecycle.init.folder import CONFIG, SecretFiles, sql_files
from tenantproxy.lifecycle.init.found import InitFound
from tenantproxy.lifecycle.init.look import connect, look, look_at_rows, look_at_server, read_ids, read_words, reading
from tenantproxy.lifecycle.init.plan import InitPlan, InitRequest, check_server, plan_of
from tenantproxy.lifecycle.init.recognise import Layout, recognise
from tenantproxy.lifecycle.init.registry import queries, status_column
from tenantproxy.lifecycle.init.shape import Names, shape_of
from tenantproxy.lifecycle.init.sql_file import LATER, runs
from tenantproxy.lifecycle.install import missing_rights, store_keys
from tenantproxy.lifecycle.provisioner import functions_closing
from tenantproxy.model import Isolation

__all__ = ["AppliedFile", "apply_folder", "prepare"]

_CONTEXT: Final = 30
_SUPERUSERS: Final = 60
_MOST_IDS: Final = 200
_SMALL: Final = 200_000  # rows of a table that is read in whole


async def prepare(given: GivenServer, request: InitRequest, known: SecretFiles) -> InitPlan:
    """Look at the server, in a transaction that only reads, and plan.

    Raises ConfigurationError for what cannot be reached, recognised or written; PostgreSQL's errors.
    """
    async with connect(given) as conn, reading(conn):
        server = await look_at_server(conn)
        check_server(server)
        found = await look(conn, server)
        layout = recognise(found, wanted=request.isolation, column=request.column)
        names = Names.of(request.prefix, found)
        status = status_column(layout.registry) if layout.registry is not None else None
        words = await read_words(conn, layout.registry, status.name) if layout.registry and status else ()
        registry = queries(layout, database=given.database, role=names.tenants, words=words)
        is_rows = layout.isolation is Isolation.ROW
        ids: tuple[str, ...] = ()
        if is_rows:
            if registry is not None and layout.registry is not None:
                ids = await read_ids(conn, layout.registry, registry.list_query)
            else:
                ids = await _named_in_rows(conn, found, layout)
        tables = [table for table in found.tables if layout.column and table.column(layout.column)]
        rows = await look_at_rows(conn, tables, layout.column or "", role=names.tenants, tenants=ids)
        closing = await functions_closing(conn)
        missing = await missing_rights(conn)
    shape = shape_of(found, layout, names, rows=rows, shared=request.shared)
    if registry is None and layout.isolation is not Isolation.ROW:
        problem, fix = f"has no table that lists its {layout.isolation} tenants", "name the database in which it is"
        raise ConfigurationError([Problem(key="DSN", problem=problem, fix=fix)], source="init")
    secrets = known.for_roles(names.tenants)
    return plan_of(shape, given, registry, secrets, closing=closing, missing=missing, ids=ids)


async def _named_in_rows(conn: asyncpg.Connection, found: InitFound, layout: Layout) -> tuple[str, ...]:
    """Where no table lists the tenants: those that a small table names."""
    column = layout.column or ""
    small = (table for table in found.tables if table.column(column) and table.rows < _SMALL)
    ids: dict[str, None] = {}
    for table in sorted(small, key=lambda table: table.rows)[:20]:
        ids |= dict.fromkeys(await read_words(conn, table, column))
    return tuple(ids)[:_MOST_IDS]


# --- apply -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFile:
    """A file, and what became of it: `done`, or why it was left out."""

    file: str
    state: str


async def apply_folder(
    given: GivenServer, folder: Path, *, progress: Callable[[str, int, int], None] = lambda file, done, total: None
) -> list[AppliedFile]:
    """Run the files below 70, in their order, each in the transactions that it has. May be run again after a failure.

    Raises TenantProxyError that names the file that failed: it has changed nothing, and what is before it is done.
    """
    settings = load(folder / CONFIG)
    if settings.main.database != given.database:
        problem = f"leads to the database {given.database}, and the folder is of {settings.main.database}"
        raise ConfigurationError([Problem(key="DSN", problem=problem, fix="correct it, or --into")], source="init")
    files = [(number, path) for number, path in sql_files(folder) if number < LATER]
    if not files:
        problem, fix = "has no files of init", "run init without --apply first, and review what it writes"
        raise ConfigurationError([Problem(key=str(folder), problem=problem, fix=fix)], source="init")
    done = []
    async with connect(given) as conn:
        if await conn.fetchval("SELECT pg_backend_pid()") != conn.get_server_pid():
            problem, fix = "leads to a connection pooler", "name PostgreSQL itself"
            raise ConfigurationError([Problem(key="DSN", problem=problem, fix=fix)], source="init")
        is_super = await conn.fetchval("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
        for at, (number, path) in enumerate(files):
            progress(path.name, at, len(files))
            if number == _SUPERUSERS and not is_super:
                done.append(AppliedFile(file=path.name, state="left out: let a superuser, or the provider, run it"))
                continue
            await _run(conn, path, runs(path.read_text()))
            if number == _CONTEXT:
                await store_keys(conn, _keys(settings, given.database))
            done.append(AppliedFile(file=path.name, state="done"))
    return done


async def _run(conn: asyncpg.Connection, path: Path, parts: Sequence[str]) -> None:
    try:
        for part in parts:
            await conn.execute(part)
    except asyncpg.PostgresError as exc:
        if conn.is_in_transaction():
            await conn.execute("ROLLBACK")
        busy = isinstance(exc, asyncpg.LockNotAvailableError)
        hint = "a transaction holds a lock (pg_stat_activity, the oldest xact_start): run it again" if busy else (
            "correct the cause, and run it again: what is done is not done twice")  # fmt: skip
        what = exc.args[0] if exc.args else type(exc).__name__
        kept = ", and has changed nothing" if len(parts) == 1 else ""
        raise TenantProxyError(f"{path.name} failed{kept}: {what}", hint=hint) from exc


def _keys(settings: Settings, database: str) -> dict[int, bytes]:
    server = settings.main.server
    return {
        kid: derive_key(secret.read_bytes(), server=server, database=database, kid=kid)
        for kid, secret in settings.row.keys().items()
    }
