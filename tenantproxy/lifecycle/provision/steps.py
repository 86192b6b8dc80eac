"""What is done at each step of a tenant's making, and what undoes all of them? Each looks first and may run again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.migrate import Migrator, SchemaPlace, targets_of
from tenantproxy.lifecycle.provision import places
from tenantproxy.lifecycle.provision.filling import PlaceContent
from tenantproxy.lifecycle.provision.held import HeldSaga
from tenantproxy.lifecycle.provision.proof import Prover
from tenantproxy.lifecycle.provision.state import SagaEvent, SagaState
from tenantproxy.lifecycle.provision.template import ensure_template, template_name
from tenantproxy.lifecycle.provision.wanted import Wanted, temporary_name
from tenantproxy.lifecycle.provisioner import (
    Connect,
    ConnectTo,
    change_grants,
    close_database,
    close_functions,
    close_public,
    ensure_schema,
    grant_access,
    run_statements,
)
from tenantproxy.lifecycle.readers import grant_reading
from tenantproxy.model import Isolation, TenantStatus, quote_identifier

__all__ = ["Steps"]

_MAINTENANCE: Final = "postgres"

Work = Callable[[HeldSaga], Awaitable[None]]


class Steps:
    """The steps by `[provision]`. State: files that were read, a router that proves, idle maintenance connections."""

    def __init__(self, settings: Settings, connect: ConnectTo, content: PlaceContent | None = None) -> None:
        rules = settings.migrations
        self._settings = settings
        self._connect = connect
        self._restoring = content
        self._prover = Prover(settings)
        self._files: Sequence[str] | None = None
        self._migrator = Migrator(settings, connect) if rules.folder or rules.system_folders else None
        self._copying = asyncio.Lock()  # the template is made once
        self._idle: dict[str, list[asyncpg.Connection]] = {}
        self.forward: Mapping[SagaState, tuple[Work, SagaEvent]] = {
            SagaState.REQUESTED: (self._make_role, SagaEvent.ROLE_MADE),
            SagaState.HAS_ROLE: (self._make_place, SagaEvent.PLACE_MADE),
            SagaState.HAS_PLACE: (self._give_access, SagaEvent.ACCESS_GIVEN),
            SagaState.HAS_ACCESS: (self._fill, SagaEvent.CONTENT_RAN),
            SagaState.HAS_CONTENT: (self._prove, SagaEvent.LOOKED_AT),
            SagaState.VERIFIED: (self._add_admin, SagaEvent.ADMIN_MADE),
        }

    def read(self) -> Sequence[str]:
        """The SQL files, and those of migrations. Raises ConfigurationError that names each that cannot be read."""
        if self._files is None:
            texts, problems = [], []
            for path in self._settings.provision.sql_files:
                try:
                    texts.append(Path(path).read_text(encoding="utf-8"))
                except (OSError, UnicodeDecodeError) as exc:
                    problem = f"{path} cannot be read: {type(exc).__name__}"
                    problems.append(
                        Problem(key="provision.sql_files", problem=problem, fix="correct its name or rights")
                    )
            if problems:
                raise ConfigurationError(problems)
            if self._migrator is not None:
                self._migrator.read()
            self._files = tuple(texts)
        return self._files

    @property
    def content(self) -> str:
        """By which it is known whether a database of the stock holds what new ones are to hold."""
        files = self.read()  # the migrations too
        migrations = self._migrator.content if self._migrator is not None else ""
        return hashlib.sha256(f"1 {template_name(files)} {migrations}".encode()).hexdigest()

    async def close(self) -> None:
        """Close what is open."""
        await self._prover.close()
        if self._migrator is not None:
            await self._migrator.close()
        for conns in self._idle.values():
            for conn in conns:
                await conn.close()
        self._idle.clear()

    # --- forward -----------------------------------------------------------------------------------------------------
    async def _make_role(self, held: HeldSaga) -> None:
        if held.wanted.role is not None:
            async with self._maintenance(held.wanted.server) as conn:
                await places.make_roles(conn, held.wanted, self._settings.tenant_roles)

    async def _make_place(self, held: HeldSaga) -> None:
        wanted = held.wanted
        if wanted.isolation is Isolation.SCHEMA:
            assert wanted.schema is not None
            async with self._opened(wanted.server, wanted.database) as conn:
                oid = await places.make_schema(conn, wanted, wanted.schema, held.saga.schema)
                for _, schema in wanted.systems:
                    await places.make_schema(conn, wanted, schema, None)
            await held.note(schema=oid)
        elif wanted.isolation is Isolation.DATABASE:
            async with self._maintenance(wanted.server) as conn:
                if held.saga.database is None and wanted.restore_from is None:
                    await self._take(held, conn)
                if (made := held.saga.database) is None:
                    is_restored = wanted.restore_from is not None  # then nothing is in it that the backup puts there
                    template = "template0" if is_restored else await self._template(wanted.server, conn)
                    is_new = await places.database_named(conn, held.saga.temporary) is None
                    made = await places.make_database(conn, held.saga.temporary, template)
                    held.is_copied = is_new and not is_restored and template is not None
                    await held.note(database=made)
                await places.name_database(conn, wanted, made)

    async def _take(self, held: HeldSaga, conn: asyncpg.Connection) -> None:
        """A database of the stock, unless it is empty, or one was begun for this saga before."""
        if not self._settings.provision.stock or await places.database_named(conn, held.saga.temporary):
            return
        while await held.take(self.content):
            assert held.saga.database is not None
            if await places.is_database(conn, held.saga.database, held.saga.temporary):
                return
            await held.put_off()

    async def _template(self, server: str, conn: asyncpg.Connection) -> str | None:
        files = self.read()
        if not (files and self._settings.provision.template):
            return None
        async with self._copying:
            return await ensure_template(lambda database: self._connect(server, database), conn, files)

    async def _give_access(self, held: HeldSaga) -> None:
        wanted = held.wanted
        if wanted.isolation is Isolation.ROW:
            return
        role = wanted.role or self._settings.servers[wanted.server].user
        if wanted.isolation is Isolation.DATABASE:
            async with self._maintenance(wanted.server) as conn:
                await close_database(conn, wanted.database, roles=[role])
        async with self._opened(wanted.server, wanted.database) as conn:
            if not (held.is_whole or held.is_copied):
                await close_functions(conn)
            if wanted.schema is None:
                await close_public(conn, role=role)
            schemas = ("public",) if wanted.schema is None else (wanted.schema, *(each for _, each in wanted.systems))
            for schema in schemas:
                if wanted.schema is not None:
                    await ensure_schema(conn, schema, role=role)
                if wanted.restore_from is None:  # else the backup says who may do what
                    await grant_access(conn, schema, role=role)
            if wanted.schema is None:
                return
            database = quote_identifier(wanted.database)
            grant = f"GRANT CONNECT ON DATABASE {database} TO {quote_identifier(role)}"
            await change_grants(conn, grant)

    async def _fill(self, held: HeldSaga) -> None:
        wanted = held.wanted
        if (content := self.content_of(wanted)) is not None:
            await content.fill(wanted)
        elif wanted.isolation is not Isolation.ROW and not held.is_whole:
            await self.fill(wanted, is_copied=held.is_copied)
        if self._settings.has_readers:
            role = wanted.role or self._settings.servers[wanted.server].user
            async with self._opened(wanted.server, wanted.database) as conn:
                await grant_reading(conn, role)

    async def fill(self, wanted: Wanted, *, is_copied: bool = False) -> None:
        """Run the files and migrations in its place, each that did not run there yet. `is_copied`: the files have."""
        targets = targets_of(self._settings, [wanted.tenant(TenantStatus.ACTIVE)])
        files = () if is_copied else self.read()
        await self._bring(wanted.server, wanted.database, wanted.schema or "public", files, targets)

    def content_of(self, wanted: Wanted) -> PlaceContent | None:
        """What fills it in the place of files; None: they do. Raises ConfigurationError where it is not at hand."""
        if wanted.restore_from is None:
            return None
        if self._restoring is None:
            problem = f"is being restored from {wanted.restore_from}"
            fix = "go on with what restores it: tenantproxy tenants finish or abandon"
            raise ConfigurationError([Problem(key=f"tenant {wanted.id}", problem=problem, fix=fix)])
        return self._restoring

    async def _bring(
        self, server: str, database: str, schema: str, files: Sequence[str], targets: Sequence[SchemaPlace]
    ) -> None:
        if files:
            async with self._opened(server, database) as conn:
                await run_statements(conn, files, schema=schema)
        if self._migrator is not None:
            for target in targets:
                outcome = await self._migrator.bring(target)
                if outcome.error is not None:
                    refused = ConnectionError if outcome.is_lost else TenantProxyError
                    raise refused(f"it could not be migrated: {outcome.error}")

    async def _prove(self, held: HeldSaga) -> None:
        await self._prover.prove(held.wanted)

    async def _add_admin(self, held: HeldSaga) -> None:
        admin = held.saga.admin
        if admin is not None and admin.user is None:
            user = await self._prover.add_admin(held.wanted, admin)
            await held.note(admin=admin.with_user(user))

    # --- back --------------------------------------------------------------------------------------------------------
    async def undo(self, held: HeldSaga) -> None:
        """Remove all that was made for it, and nothing else."""
        wanted, saga = held.wanted, held.saga
        if (content := self.content_of(wanted)) is not None:
            await content.remove(wanted)
        if wanted.isolation is Isolation.SCHEMA:
            async with self._opened(wanted.server, wanted.database) as conn:
                await places.drop_schemas(conn, wanted, saga.schema)
        if wanted.isolation is not Isolation.ROW:
            connect = _connecting(self._connect, wanted.server)
            async with self._maintenance(wanted.server) as conn:
                if wanted.isolation is Isolation.DATABASE:
                    final = wanted.database
                    await places.drop_database(conn, saga.temporary, saga.database, connect=connect, final=final)
                await places.drop_role(conn, wanted, connect)

    # --- for the stock -----------------------------------------------------------------------------------------------
    async def make_stocked(self, server: str, mark: str) -> int:
        """A database with all in it, that no tenant's role can connect to; its identifier."""
        name = temporary_name(mark)
        async with self._maintenance(server) as conn:
            oid = await places.make_database(conn, name, await self._template(server, conn))
            await close_database(conn, name, roles=())
        async with self._opened(server, name) as conn:
            await close_functions(conn)
            await conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        places_of = [_as_place(self._settings, server, name)] if self._settings.migrations.folder else []
        await self._bring(server, name, "public", self.read(), places_of)
        return oid

    async def remove_stocked(self, server: str, mark: str, oid: int | None) -> None:
        """Remove it, if it has its temporary name still."""
        async with self._maintenance(server) as conn:
            await places.drop_database(conn, temporary_name(mark), oid, connect=_connecting(self._connect, server))

    # --- connections -------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _maintenance(self, server: str) -> AsyncIterator[asyncpg.Connection]:
        """One to the maintenance database, which is kept for the next step unless that one failed."""
        idle = self._idle.setdefault(server, [])
        conn = None
        while idle and (conn is None or conn.is_closed()):
            conn = idle.pop()
        if conn is None or conn.is_closed():
            conn = await self._connect(server, _MAINTENANCE)
        try:
            yield conn
        except BaseException:
            conn.terminate()
            raise
        idle.append(conn)

    @asynccontextmanager
    async def _opened(self, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
        conn = await self._connect(server, database)
        try:
            yield conn
        finally:
            await conn.close()


def _connecting(connect: ConnectTo, server: str) -> Connect:
    """What opens connections to databases of `server`."""
    return lambda database: connect(server, database)


def _as_place(settings: Settings, server: str, database: str) -> SchemaPlace:
    return SchemaPlace(
        tenants=("the stock",), isolation=Isolation.DATABASE, server=server, database=database, schema="public",
        role=settings.servers[server].user,
    )  # fmt: skip
