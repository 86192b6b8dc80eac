"""How does a dump come back into a database? By pg_restore in one transaction, as a role that does only that.

What needs the admin user is done by it: extensions, comments of what is there already, who owns what, and access.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import connect_as, opened
from tenantproxy.lifecycle.acting import acting_for, may_own
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.dump_sql import other_definitions
from tenantproxy.lifecycle.backup.entries import DumpEntries, defined_entries, made_entries, sort_entries
from tenantproxy.lifecycle.backup.errors import BackupDamaged, RestoreRefused
from tenantproxy.lifecycle.backup.loading import Loader, LoaderNeeds, has_besides, loading
from tenantproxy.lifecycle.backup.manifest import Content, StoredBackup
from tenantproxy.lifecycle.backup.named_roles import named_roles
from tenantproxy.lifecycle.backup.privileges import access_entries, access_statements, owner_statements
from tenantproxy.lifecycle.backup.scratch import scratch_database, scratch_mark
from tenantproxy.lifecycle.backup.streams import reading
from tenantproxy.lifecycle.backup.tools import DumpTools, child_environment, find_tools, run_tool
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import NOTHING, quote_identifier

__all__ = [
    "Dump",
    "check_version",
    "defined",
    "keeps_owners",
    "known_roles",
    "make_extensions",
    "restore_command",
]

_MAINTENANCE: Final = "postgres"
_AT_ONCE: Final = 1_000  # statements of one transaction
_PLAIN: Final = ("--no-owner", "--no-tablespaces")
_EXTENSION_TABLES: Final = """
SELECT n.nspname::text, c.relname::text FROM pg_extension e, unnest(e.extconfig) AS config (oid)
JOIN pg_class c ON c.oid = config.oid JOIN pg_namespace n ON n.oid = c.relnamespace
"""


def check_version(backup: StoredBackup, server_version: int) -> None:
    """A server may be newer than the one that was saved. Raises RestoreRefused where it is older."""
    saved, here = backup.manifest.server_version // 10000, server_version // 10000
    if here < saved:
        raise RestoreRefused(
            f"the backup is of PostgreSQL {saved}, and the server is {here}, which is older",
            hint=f"restore it to a server of PostgreSQL {saved} or newer",
        )


def keeps_owners(content: Content) -> bool:
    """Whether roles other than the one that made it own something in it: then each gets its own back."""
    return bool(set(content.owners) - {content.admin})


class Dump:
    """The dump of a stored backup, for one server. `file`: its name in the backup's folder."""

    def __init__(
        self, settings: Settings, backup: StoredBackup, *, server: str, server_version: int, identities: Identities
    ) -> None:
        self._settings = settings
        self._backup = backup
        self._server = server
        self._identities = identities
        self.file = next(each.name for each in backup.manifest.files if each.name.startswith("content.dump"))
        self.tools: DumpTools = find_tools(settings, server_version, written_by=backup.manifest.pg_dump)

    async def restore(
        self, connect: ConnectTo, database: str, content: Content, mark: str, *, schemas: Sequence[str] = (),
        roles: Mapping[str, str] | None = None, is_used: bool = True, has_rows: bool = True,
    ) -> list[str]:  # fmt: skip
        """Everything but access and owners, into `database`; of `schemas` alone only what is in them. All of it is the
        admin user's. What an operator should hear of.

        `mark`: by which the role that reads it in is found again behind a crash. `roles`: the new names of those that
        policies and user mappings name; None: it is tried, and who reads it in stands for the tenant's. `is_used`: it
        is more than tried, and what is there is compared with what the dump defines. `has_rows`: with them. Raises
        ToolFailed, OSError, BackupDamaged, RestoreRefused, what asyncpg raises: nothing of the dump is there then.
        """
        async with opened(connect, self._server, database) as conn:
            if not schemas:
                await make_extensions(conn, content)
            tables = [(row[0], row[1]) for row in await conn.fetch(_EXTENSION_TABLES)] if not schemas else []
        extensions = {name for _, name in content.extensions if name != "pg_catalog"}
        listing = await self._listing()
        entries = sort_entries(listing, extension_schemas=() if schemas else extensions, extension_tables=tables)
        of_admin, of_loader = (
            each if has_rows else defined_entries(each) for each in (entries.admin, entries.loader)
        )  # fmt: skip
        notes = [f"the event trigger {name} is left out: make it by hand" for name in entries.left_out]
        if of_admin and not schemas:
            await self._read_in(database, of_admin, self._environment(database))
        async with loading(connect, self._server, database, mark, _needs(entries, extensions, schemas)) as loader:
            await self._read_in(database, of_loader, self._environment(database, loader), schemas=schemas)
            renamed = {self._backup.manifest.role or "": loader.name} if roles is None else roles
            notes += await self._read_named(database, entries.named, loader, renamed, schemas=schemas)
            if is_used and keeps_owners(content):
                saved = await self._as_defined(connect, content, schemas, renamed)
                ours = set(schemas) or {"public", *extensions}
                await self.check_definitions(connect, database, loader, saved, schemas=schemas, ours=ours)
        return notes

    async def _as_defined(
        self, connect: ConnectTo, content: Content, schemas: Sequence[str], roles: Mapping[str, str]
    ) -> str:
        """What is there when no row has called a function. What pg_dump wrote is not the same text as what it writes of
        that again: PostgreSQL has other brackets and casts then.
        """
        async with scratch_database(connect, self._server) as scratch:
            await self.restore(
                connect, scratch, content, scratch_mark(scratch), roles=roles, is_used=False, has_rows=False
            )
            return await defined(self.tools, self._environment(scratch), schemas=schemas)

    async def check_definitions(
        self, connect: ConnectTo, database: str, loader: Loader, saved: str, *, schemas: Sequence[str], ours: set[str]
    ) -> None:
        """Whether what `loader` made is what `saved` defines: a function that ran meanwhile could change, as the
        loader, what is to be the admin user's. Raises BackupDamaged.
        """
        found = await defined(self.tools, self._environment(database), schemas=schemas)
        differing = other_definitions(saved, found, ours=ours)
        async with opened(connect, self._server, database) as conn:
            if schemas and await has_besides(conn, loader):
                differing.append("casts of its types")
        if differing:
            raise BackupDamaged(
                f"what was restored is defined otherwise than in the backup: {'; '.join(differing[:3])}",
                hint="a function may have changed it while rows were read in: restore it by hand, on another server",
            )

    async def _read_in(
        self, database: str, entries: str, environment: Mapping[str, str], *, schemas: Sequence[str] = ()
    ) -> None:
        with _listed(entries) as chosen:
            command = [
                *restore_command(self.tools, database, schemas=schemas), f"--use-list=/dev/fd/{chosen.fileno()}"
            ]  # fmt: skip
            async with reading(self._backup, self.file, self._identities) as source:
                await run_tool(command, environment, stdin=source, pass_fds=[chosen.fileno()])

    async def _read_named(
        self, database: str, entries: str, loader: Loader, roles: Mapping[str, str], *, schemas: Sequence[str]
    ) -> list[str]:
        """What names roles, with those of here. By `loader` too: to read a value in such an expression can call a
        function of the tenant's.
        """
        text = await self._printed(entries, *(f"--schema={schema}" for schema in schemas))
        if not text:
            return []
        server = self._settings.servers[self._server]
        conn = await connect_as(server, database, loader.name, loader.password, search_path="pg_catalog")
        try:
            found = named_roles(text, roles=roles, known=await known_roles(conn))
            async with conn.transaction():
                await conn.execute("SET LOCAL row_security = off; SET LOCAL xmloption = content")
                for statement in found.statements:
                    await conn.execute(statement)
        finally:
            await conn.close()
        return list(found.notes)

    async def give_owners(
        self, conn: asyncpg.Connection, *, roles: Mapping[str, str], owners: Collection[str],
        schemas: Mapping[str, str] = NOTHING,
    ) -> None:  # fmt: skip
        """All in the database of `conn` belongs to whom the dump says, with roles and schemas renamed; it may be done
        again, also when it was done in part. `owners`: who owns it then. Raises as `give_access`.
        """
        text = await self._printed(made_entries(await self._listing()), "--no-privileges", "--no-comments")
        statements = owner_statements(text, roles=roles, schemas=schemas)
        named = set(schemas.values())
        for some in _in_parts(statements):
            async with conn.transaction(), acting_for(conn, owners), may_own(conn, owners, named):
                await conn.execute(some)

    async def give_access(
        self, conn: asyncpg.Connection, *, roles: Mapping[str, str], owners: Collection[str],
        schemas: Mapping[str, str] = NOTHING,
    ) -> list[str]:  # fmt: skip
        """Grant and revoke in the database of `conn` as the dump says, with roles and schemas renamed; it may be done
        again, also when it was done in part. `owners`: who owns it now. What an operator should hear of. Raises
        BackupDamaged, ToolFailed, OSError, ConfigurationError where the admin user may not act for an owner, what
        asyncpg raises.
        """
        text = await self._printed(access_entries(await self._listing()))
        access = access_statements(text, roles=roles, known=await known_roles(conn), schemas=schemas)
        for some in _in_parts(access.statements):
            async with conn.transaction(), acting_for(conn, {*owners, *access.givers}):
                await conn.execute(some)
        return [f"the role {name} is not here: what it was granted is left out" for name in access.left_out]

    async def _listing(self) -> str:
        command = [self.tools.pg_restore, "--list"]
        async with reading(self._backup, self.file, self._identities) as source:
            listing = await run_tool(
                command, self._environment(_MAINTENANCE), stdin=source, stdout=asyncio.subprocess.PIPE
            )
        return listing.decode(errors="surrogateescape")

    async def _printed(self, entries: str, *options: str) -> str:
        """The statements of `entries`."""
        if not entries:
            return ""
        with _listed(entries) as chosen:
            only = [self.tools.pg_restore, f"--use-list=/dev/fd/{chosen.fileno()}", "--file=-", *options]
            async with reading(self._backup, self.file, self._identities) as source:
                text = await run_tool(
                    only, self._environment(_MAINTENANCE), stdin=source, stdout=asyncio.subprocess.PIPE,
                    pass_fds=[chosen.fileno()],
                )  # fmt: skip
        return text.decode()

    def _environment(self, database: str, loader: Loader | None = None) -> dict[str, str]:
        return child_environment(self._settings.servers[self._server], database, loader=loader)


def _in_parts(statements: Sequence[str]) -> Iterator[str]:
    """As many at once as a transaction can have locks: each large object takes one."""
    for start in range(0, len(statements), _AT_ONCE):
        yield "; ".join(["SET LOCAL search_path = pg_catalog", *statements[start : start + _AT_ONCE]])


def _needs(entries: DumpEntries, extensions: set[str], schemas: Sequence[str]) -> LoaderNeeds:
    return LoaderNeeds(
        is_whole=not schemas, into=schemas or sorted({"public", *extensions}),
        sees=sorted(extensions) if schemas else (), large_objects=entries.large_objects,
        foreign_servers=entries.foreign_servers,
    )  # fmt: skip


async def defined(tools: DumpTools, environment: Mapping[str, str], *, schemas: Sequence[str]) -> str:
    """What pg_dump says is in a database, or in `schemas` of it, with all rights and without rows."""
    command = [tools.pg_dump, "--schema-only", "--no-password", *_PLAIN]
    command += [f"--schema={quote_identifier(schema)}" for schema in schemas]
    return (await run_tool(command, environment, stdout=asyncio.subprocess.PIPE)).decode()


async def known_roles(conn: asyncpg.Connection) -> frozenset[str]:
    """The names of all roles of the server."""
    return frozenset(row[0] for row in await conn.fetch("SELECT rolname::text FROM pg_roles"))


def restore_command(tools: DumpTools, database: str, *, schemas: Sequence[str] = ()) -> list[str]:
    """pg_restore from its standard input into `database`, in one transaction."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")  # a plain name would be read as a connection string
    command = [
        tools.pg_restore,
        "--no-password",
        "--single-transaction",
        "--no-privileges",
        "--no-owner",
        "--no-tablespaces",
        f"--dbname=dbname='{escaped}'",
    ]
    return [*command, *(f"--schema={schema}" for schema in schemas)]


@contextmanager
def _listed(entries: str) -> Iterator[BinaryIO]:
    """A file of them."""
    with _unnamed() as file:
        file.write(entries.encode(errors="surrogateescape"))
        file.flush()
        yield file


def _unnamed() -> BinaryIO:
    """A file without a name, in memory where that can be had."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tenantproxy-backup"), "w+b")
    return tempfile.TemporaryFile()


async def make_extensions(conn: asyncpg.Connection, content: Content) -> None:
    """Those that the database had in which the schema was: they are not in its dump."""
    for name, schema in content.extensions:
        if schema not in ("pg_catalog", "public"):
            await conn.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)}")
        await conn.execute(
            f"CREATE EXTENSION IF NOT EXISTS {quote_identifier(name)} SCHEMA {quote_identifier(schema)} CASCADE"
        )
