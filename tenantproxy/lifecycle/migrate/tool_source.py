"""How do the migrations of a project of alembic or Django run in one place? By the tool itself, one process at a time.

The process that asks holds a lock in the tenant's database meanwhile, which the project's connections look for: so they
are where they should be, and what the tool does there is not done twice at once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings, names
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.migrate.base import PlaceStanding, Version
from tenantproxy.lifecycle.migrate.plan import MigrationsDiffer, SchemaPlace
from tenantproxy.lifecycle.migrate.retries import again
from tenantproxy.lifecycle.migrate.rows import guard_rows
from tenantproxy.lifecycle.migrate.tool_graph import ToolGraph
from tenantproxy.lifecycle.migrate.tool_worker import ToolProject, ToolWorkers
from tenantproxy.lifecycle.turn_lock import leave_turn, take_turn
from tenantproxy.model import Isolation, quote_identifier

__all__ = ["ToolSource"]

_LOCK: Final = 1_414_418_768  # the first half of the lock's key; the second one is a random number
_JOURNALS: Final = {"alembic": "alembic_version", "django": "django_migrations"}
_APPLIED: Final = {
    "alembic": "SELECT version_num AS id FROM {} ORDER BY 1",
    "django": "SELECT app || '.' || name AS id FROM {} ORDER BY id",
}
_PASSING: Final = {
    "55P03": asyncpg.LockNotAvailableError,
    "40P01": asyncpg.DeadlockDetectedError,
    "40001": asyncpg.SerializationError,
}
_GONE: Final = ("08", "57P01", "57P02", "57P03", "53300")  # as `failures.LOST`: a server that is gone or full


class ToolSource:
    """See `base.MigrationSource`. `content` is of the ids of migrations: a tool does not notice a changed one either.

    Raises ConfigurationError where the project cannot be loaded.
    """

    def __init__(self, settings: Settings, tool: str, folder: str) -> None:
        rules = settings.migrations
        self._settings = settings
        self._rules = rules
        self._tool = tool
        project = ToolProject(tool=tool, folder=folder, python=rules.python, settings=rules.django_settings)
        self._graph = ToolGraph.of(project.describe())
        self._workers = ToolWorkers(project)

    @property
    def content(self) -> str:
        """See `MigrationSource`."""
        return hashlib.sha256(" ".join((self._tool, *self._graph.order)).encode()).hexdigest()

    def checked(self, to: str) -> None:
        """See `MigrationSource`. Relative ones, as `-1`, would be others in each place."""
        known = {*self._graph.order}
        known |= {"base"} if self._tool == "alembic" else {f"{each.partition('.')[0]}.zero" for each in known}
        if to not in known:
            fix = (
                "write a whole revision" if self._tool == "alembic" else "write app.name, as 0002_due is shop.0002_due"
            )
            raise ConfigurationError([Problem(key="--to", problem="is none of the project's migrations", fix=fix)])

    async def standing(self, conn: asyncpg.Connection, place: SchemaPlace) -> PlaceStanding:
        """See `MigrationSource`."""
        found = await self._found(conn, place)
        left = self._graph.lacking(self._applied(found))
        version = ", ".join(found) if self._tool == "alembic" else found[-1] if found else None
        return PlaceStanding(version=version or None, left=len(left))

    async def bring(
        self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str | None, applied: list[Version]
    ) -> None:
        """See `MigrationSource`."""
        async with self._alone(conn, place):
            before = self._applied(await self._found(conn, place))
            if not self._graph.lacking(before) or to in before:  # Django would go back to it
                return
            try:
                await again(self._rules.retries, partial(self._run, conn, place, to=to or "", is_undo=False))
            finally:
                if not conn.is_closed():
                    await self._closed(conn, place)
                    after = {*self._applied(await self._found(conn, place))} - {*before}
                    applied += [each for each in self._graph.order if each in after]

    async def undo(self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str, applied: list[Version]) -> None:
        """See `MigrationSource`."""
        async with self._alone(conn, place):
            before = self._applied(await self._found(conn, place))
            if to not in before and to != "base" and not to.endswith(".zero"):  # Django would go on to it
                raise MigrationsDiffer(f"{to} was not applied here", hint="name one that was, or what is before all")
            try:
                await again(self._rules.retries, partial(self._run, conn, place, to=to, is_undo=True))
            finally:
                if not conn.is_closed():
                    await self._closed(conn, place)
                    gone = {*before} - {*self._applied(await self._found(conn, place))}
                    applied += [each for each in reversed(self._graph.order) if each in gone]

    async def close(self) -> None:
        """See `MigrationSource`."""
        await self._workers.close()

    # --- the tool's own journal --------------------------------------------------------------------------------------
    def _table(self, place: SchemaPlace) -> str:
        return f"{quote_identifier(place.schema)}.{_JOURNALS[self._tool]}"

    async def _found(self, conn: asyncpg.Connection, place: SchemaPlace) -> list[str]:
        """Its lines: of alembic the heads, of Django all migrations, the newest last."""
        if await conn.fetchval("SELECT to_regclass($1) IS NULL", self._table(place)):
            return []
        return [row["id"] for row in await conn.fetch(_APPLIED[self._tool].format(self._table(place)))]

    def _applied(self, found: list[str]) -> frozenset[str]:
        return self._graph.behind(found) if self._tool == "alembic" else frozenset(found)

    async def _closed(self, conn: asyncpg.Connection, place: SchemaPlace) -> None:
        """Tenants do not write the journal; one with a place of its own may read it, as pg_dump does."""
        table, role = self._table(place), quote_identifier(place.role)
        if await conn.fetchval("SELECT to_regclass($1) IS NULL", table):
            return
        async with conn.transaction():
            await conn.execute(f"REVOKE ALL ON {table} FROM PUBLIC, {role}")
            if place.isolation is not Isolation.ROW:
                await conn.execute(f"GRANT SELECT ON {table} TO {role}")

    # --- the tool ----------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _alone(self, conn: asyncpg.Connection, place: SchemaPlace) -> AsyncIterator[None]:
        wait = f"{round(self._rules.lock_timeout * 1000)}ms"
        await conn.execute("SELECT pg_catalog.set_config('lock_timeout', $1, false)", wait)

        name, taken, known = f"tenantproxy migrates {place.schema}", list[bool](), secrets.randbelow(2**31)

        async def lock() -> None:
            taken.append(await take_turn(conn, name, patience=self._rules.lock_timeout, in_session=True))

        await again(self._rules.retries, lock)
        await conn.execute("SELECT pg_advisory_lock($1, $2)", _LOCK, known)  # by which the tool knows where it is
        try:
            yield
        finally:
            if not conn.is_closed():
                await conn.execute("SELECT pg_advisory_unlock($1, $2)", _LOCK, known)
                if taken[-1]:
                    await leave_turn(conn, name)

    async def _run(self, conn: asyncpg.Connection, place: SchemaPlace, *, to: str, is_undo: bool) -> None:
        answer = await self._workers.ask(self._order(conn, place) | {"to": to, "is_undo": is_undo})
        error = self._error(answer)
        if place.isolation is Isolation.ROW:
            try:
                async with conn.transaction():
                    await guard_rows(conn, self._settings, role=place.role, own_schemas=place.others)
            except TenantProxyError:
                if error is None:
                    raise
        if error is not None:
            raise error

    def _error(self, answer: Mapping[str, Any]) -> Exception | None:
        if answer["is_done"]:
            return None
        if (passing := _PASSING.get(answer["sqlstate"] or "")) is not None:
            return passing(answer["error"])
        if answer["is_refused"]:
            return MigrationsDiffer(answer["error"])
        if (answer["sqlstate"] or "").startswith(_GONE):
            return ConnectionError(f"{self._tool} says {answer['error']}")
        return TenantProxyError(f"{self._tool} says {answer['error']}")

    def _order(self, conn: asyncpg.Connection, place: SchemaPlace) -> dict[str, Any]:
        """What the other process is told. It holds a password: it goes through a pipe alone."""
        server, rules = self._settings.servers[place.server], self._rules
        admin = server.admin
        if admin is None:
            fix = "name the user that owns the tables, and its password"
            raise ConfigurationError(
                [Problem(key=f"servers.{place.server}.admin", problem="is missing, and this needs it", fix=fix)]
            )
        files = {"PGSSLROOTCERT": server.ssl_root_cert_file, "PGSSLCERT": server.ssl_cert_file,
                 "PGSSLKEY": server.ssl_key_file, "PGSSLCRL": server.ssl_crl_file}  # fmt: skip
        return {
            "hosts": [(each.host, each.port) for each in server.each_host],
            "user": admin.user,
            "password": admin.password.read() if admin.password is not None else None,
            "database": place.database,
            "schema": place.schema,
            "environment": {"PGSSLMODE": server.ssl} | {name: path for name, path in files.items() if path},
            "lock_timeout": round(rules.lock_timeout * 1000),
            "statement_timeout": round(rules.statement_timeout * 1000),
            "pid": conn.get_server_pid(),
            "lock": _LOCK,
            "is_shared": place.isolation is Isolation.ROW,
            "role": place.role,
            "column": rules.column,
            "others": list(place.others),
            "shared": [f"{schema}.{name or '*'}" for schema, name in names(self._settings.row.unprotected)],
            "journals": [_JOURNALS[self._tool]],
        }
