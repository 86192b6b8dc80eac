"""How are all tenants brought to one version? A few first, then the others, several at once, until too many fail.

What was done is in each place's own journal, so a run that ended in the middle is gone on with by the next: nothing is
repeated, nothing is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.failures import LOST, said
from tenantproxy.lifecycle.migrate.base import MigrationSource, Version
from tenantproxy.lifecycle.migrate.file_source import FileSource
from tenantproxy.lifecycle.migrate.plan import SchemaPlace
from tenantproxy.lifecycle.migrate.planted import refuse_their_code
from tenantproxy.lifecycle.migrate.runs import MigrationRun, being_moved, running
from tenantproxy.lifecycle.migrate.tool_source import ToolSource
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Isolation, Tenant, TenantStatus

__all__ = ["Migrated", "Migrator", "all_targets", "targets_of"]

_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_SHARED: Final = "the shared tables"
_LEFT_OUT: Final = frozenset({TenantStatus.PROVISIONING, TenantStatus.DELETING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What became of one place. `version`: where it is now, None: at none; `left`: migrations still to come.

    `is_lost`: the error is that its server was gone or full, which says nothing of the migrations.
    """

    target: SchemaPlace
    version: Version | None
    applied: tuple[Version, ...] = ()
    left: int = 0
    error: str | None = None
    is_lost: bool = False


def targets_of(settings: Settings, tenants: Iterable[Tenant]) -> list[SchemaPlace]:
    """The places that have versions: a database, a schema, each system's schema; shared rows once for a database.

    In the order of `tenants`, which are all there are; those that are being made or deleted are left out.
    """
    found: dict[tuple[str, str, str, str | None], list[Tenant]] = {}
    schemas: dict[tuple[str, str], list[str]] = {}
    rules = settings.migrations
    for tenant in tenants:
        place = tenant.placement
        if place.schema is not None:
            theirs = schemas.setdefault((place.server, place.database), [])
            theirs += [place.schema, *tenant.systems.values()]
        if tenant.status in _LEFT_OUT:
            continue
        where: list[tuple[str, str | None]] = [(place.schema or "public", None)] if rules.folder else []
        where += [(schema, name) for name, schema in tenant.systems.items() if name in rules.system_folders]
        for schema, system in where:
            found.setdefault((place.server, place.database, schema, system), []).append(tenant)
    return [
        SchemaPlace(
            tenants=tuple(each.id for each in theirs),
            isolation=theirs[0].placement.isolation,
            server=server,
            database=database,
            schema=schema,
            role=theirs[0].placement.role or settings.servers[server].user,
            system=system,
            others=tuple(schemas.get((server, database), ())),
        )
        for (server, database, schema, system), theirs in found.items()
    ]


def all_targets(settings: Settings, tenants: Iterable[Tenant]) -> list[SchemaPlace]:
    """The same, and first the tables that new row tenants will share, where no tenant has rows there yet: they have to
    be there before the first one is made.
    """
    found, rules = targets_of(settings, tenants), settings.provision
    if not (settings.migrations.folder and rules.isolation is Isolation.ROW and rules.shared_database):
        return found
    server = rules.server or settings.main.server
    if any((each.server, each.database, each.schema) == (server, rules.shared_database, "public") for each in found):
        return found
    shared = SchemaPlace(
        tenants=(_SHARED,), isolation=Isolation.ROW, server=server, database=rules.shared_database, schema="public",
        role=settings.servers[server].user,
    )  # fmt: skip
    return [shared, *found]


Work = Callable[[SchemaPlace], Awaitable[Migrated]]


def _unless_moved(work: Work, moved: frozenset[str]) -> Work:
    """What a migration does between a move's look at the tables and its end would be lost, or be half there."""

    async def guarded(target: SchemaPlace) -> Migrated:
        if found := moved.intersection(target.tenants):
            error = f"the tenant {min(found)} is being moved at this moment: run it again behind that"
            return Migrated(target=target, version=None, error=error)
        return await work(target)

    return guarded


class Migrator:
    """Applies the migrations of `[migrations]`. `connect` opens connections with a server's admin credentials.

    `told` is called with each outcome as it comes. Cancelled, what runs is rolled back and what was applied stays.
    """

    def __init__(
        self, settings: Settings, connect: ConnectTo | None = None, *, told: Callable[[Migrated], None] | None = None
    ) -> None:
        self._settings = settings
        self._rules = settings.migrations
        self._connect = connect or admin_connect(settings)
        self._told = told or (lambda outcome: None)
        self._sources: dict[str | None, MigrationSource] = {}

    def read(self) -> None:
        """Read all folders. Raises ConfigurationError with everything that is wrong with them.

        A project of alembic or Django is asked in a process of its own, for which this waits.
        """
        own: list[tuple[str | None, str]] = [(None, self._rules.folder)] if self._rules.folder else []
        folders = [*own, *self._rules.system_folders.items()]
        if not folders:
            fix = 'name the folder of your files: [migrations] folder = "migrations"'
            raise ConfigurationError([Problem(key="migrations.folder", problem="is missing", fix=fix)])
        problems: list[Problem] = []
        for system, folder in folders:
            try:
                self._sources[system] = self._source(folder)
            except ConfigurationError as exc:
                problems += exc.problems
        if problems:
            raise ConfigurationError(problems)

    def _source(self, folder: str) -> MigrationSource:
        if self._rules.source == "files":
            return FileSource(self._settings, folder)
        return ToolSource(self._settings, self._rules.source, folder)

    async def close(self) -> None:
        """End the processes in which projects run."""
        for source in self._sources.values():
            await source.close()

    @property
    def content(self) -> str:
        """By which it is known whether tenants' migrations are the same as before; those of systems are left out."""
        return self._sources[None].content if None in self._sources else ""

    async def look(self, targets: Sequence[SchemaPlace]) -> list[Migrated]:
        """Where each of them is and how much it lacks, without a change; one that cannot be asked has its error."""
        return await self._all(targets, self._look)

    async def run(self, targets: Sequence[SchemaPlace], *, to: str | None = None) -> list[Migrated]:
        """Bring `targets` up to the newest version, or to `to`: the canaries first, the others when they succeeded.

        Raises MigrationsRunning, and ConfigurationError where the main database is not installed.
        """
        self.check(to)
        return await self._waves(targets, lambda target: self.bring(target, to=to))

    async def roll_back(self, targets: Sequence[SchemaPlace], *, to: str) -> list[Migrated]:
        """Take back what is above the version `to`, the last first, by what undoes it. Raises as `run`."""
        self.check(to)
        return await self._waves(targets, lambda target: self._undo(target, to))

    def check(self, to: str | None) -> None:
        """Whether each source has a version `to`. Raises ConfigurationError."""
        for source in self._sources.values() if to is not None else ():
            source.checked(to or "")

    async def _waves(self, targets: Sequence[SchemaPlace], work: Work) -> list[Migrated]:
        main, first = self._settings.main, self._rules.canary
        conn = await self._connect(main.server, main.database)
        try:
            async with running(conn, len(targets)) as run:
                work = _unless_moved(work, await being_moved(conn))
                outcomes = await self._all(targets[:first], work, run, most=0)
                if not run.failed:
                    outcomes += await self._all(targets[first:], work, run, most=self._rules.max_failures)
                return outcomes
        finally:
            await conn.close()

    async def _all(
        self,
        targets: Sequence[SchemaPlace],
        work: Work,
        run: MigrationRun | None = None,
        *,
        most: int = 0,
    ) -> list[Migrated]:
        """`work` on all, as many at once as a server may have; none is begun behind more than `most` failures."""
        run = run or MigrationRun(total=len(targets))
        places = {target.server: asyncio.Semaphore(self._rules.parallel) for target in targets}
        outcomes: list[Migrated] = []

        async def one(target: SchemaPlace) -> None:
            async with places[target.server]:
                if run.is_lost or run.failed > most:
                    return
                outcome = await work(target)
                run.failed += outcome.error is not None
                run.done += outcome.error is None
                outcomes.append(outcome)
                self._told(outcome)

        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(one(target))
        return outcomes

    # --- one place ---------------------------------------------------------------------------------------------------
    async def _look(self, target: SchemaPlace) -> Migrated:
        async def nothing(conn: asyncpg.Connection, applied: list[Version]) -> None:
            return None

        return await self._on(target, nothing)

    async def bring(self, target: SchemaPlace, *, to: str | None = None) -> Migrated:
        """Bring one place to the newest version, or to `to`, whatever any run does: its own journal decides."""

        async def work(conn: asyncpg.Connection, applied: list[Version]) -> None:
            await refuse_their_code(conn, target)
            await self._sources[target.system].bring(conn, target, to=to, applied=applied)

        return await self._on(target, work)

    async def _undo(self, target: SchemaPlace, to: str) -> Migrated:
        async def work(conn: asyncpg.Connection, applied: list[Version]) -> None:
            await refuse_their_code(conn, target)
            await self._sources[target.system].undo(conn, target, to=to, applied=applied)

        return await self._on(target, work)

    async def _on(
        self, target: SchemaPlace, work: Callable[[asyncpg.Connection, list[Version]], Awaitable[None]]
    ) -> Migrated:
        applied: list[Version] = []
        version: Version | None = None
        left, error, is_lost = 0, None, False
        try:
            async with self._opened(target) as conn:
                try:
                    await work(conn, applied)
                except (TenantProxyError, *_FAILURES) as exc:
                    error, is_lost = said(exc), isinstance(exc, LOST)
                standing = await self._sources[target.system].standing(conn, target)
                version, left = standing.version, standing.left
        except (TenantProxyError, *_FAILURES) as exc:
            error, is_lost = error or said(exc), is_lost or isinstance(exc, LOST)
        return Migrated(target=target, version=version, applied=tuple(applied), left=left, error=error, is_lost=is_lost)

    @asynccontextmanager
    async def _opened(self, target: SchemaPlace) -> AsyncIterator[asyncpg.Connection]:
        conn = await self._connect(target.server, target.database)
        try:
            yield conn
        finally:
            await conn.close()
