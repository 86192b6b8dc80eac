"""How does a database or schema come over as it is? Its structure by pg_dump, its rows by replication or a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tenantproxy.lifecycle.backup.named_roles import renamed_policies
from tenantproxy.lifecycle.move import replicate, structure, tables
from tenantproxy.lifecycle.move.new_place import role_of, slot_of
from tenantproxy.lifecycle.move.structure import StructurePlace
from tenantproxy.lifecycle.move.tools import MAINTENANCE, MoveFailed, MoveOptions, MoveTools
from tenantproxy.lifecycle.provision import places
from tenantproxy.lifecycle.provision.wanted import Wanted, temporary_name
from tenantproxy.model import Placement

__all__ = ["PlaceCarrier"]

_LEAST_LEVEL: Final = 5.0  # seconds for the last changes to arrive, at least


class PlaceCarrier:
    """See `carriers.Carrier`. State: what was read of the old place before the pause."""

    def __init__(
        self, tools: MoveTools, source: asyncpg.Connection, target: asyncpg.Connection, old: Placement, new: Wanted,
        options: MoveOptions,
    ) -> None:  # fmt: skip
        self.follows = False
        self._tools = tools
        self._source = source
        self._target = target
        self._old = old
        self._new = new
        self._options = options
        self._after = ""  # what comes behind the rows
        self._schemas: Sequence[str] = ()
        self._tables: Sequence[tables.MovedTable] = ()

    @property
    def _renamed(self) -> dict[str, str]:
        """What schemas of the old place are called while the rows come over."""
        new = self._new.schema
        return {} if new is None else {self._old.schema or "public": new}

    async def prepare(self) -> None:
        """See `carriers.Carrier`."""
        before, self._after = await self._structure()
        await structure.run_dump(self._target, before, schema_is_there=self._new.schema is not None)
        await tables.settle(self._source)
        self._schemas = await tables.schemas_of(self._source, self._old.schema)
        self._tables = await tables.read_tables(self._source, self._schemas)
        is_whole = self._old.schema is None and self._new.schema is None
        if self._options.replicate and is_whole:
            self.follows = await replicate.may_follow(self._source, self._target, self._tables)
        if self.follows:
            await structure.run_dump(self._target, self._after)

    async def _structure(self) -> tuple[str, str]:
        """The SQL before and behind the rows, under the names that the new place needs for them."""
        old, new = self._old, self._new
        if new.schema is None:
            return await self._both(
                self._source, StructurePlace(server=old.server, database=old.database, schema=old.schema)
            )
        schema = old.schema or "public"
        place = StructurePlace(server=old.server, database=old.database, schema=schema)
        texts = await self._both(self._source, place)
        async with self._scratch() as scratch:
            for text in texts:
                await structure.run_dump(scratch, text, schema_is_there=old.schema is None)
            if schema != new.schema:
                await structure.rename_schema(scratch, schema, new.schema)
            renamed = StructurePlace(server=new.server, database=temporary_name(new.mark), schema=new.schema)
            return await self._both(scratch, renamed)

    async def _both(self, conn: asyncpg.Connection, place: StructurePlace) -> tuple[str, str]:
        settings = self._tools.settings
        before = await structure.dump(settings, conn, place, "pre-data")
        after = await structure.dump(settings, conn, place, "post-data")
        if "CREATE POLICY" in after:  # one for the tenant's role is for that which it has at the new place
            former = self._old.role or settings.servers[self._old.server].user
            after = renamed_policies(after, {former: role_of(self._tools, self._new)})
        return before, after

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[asyncpg.Connection]:
        """An empty database on the new server, under a name that no other has."""
        server, name = self._new.server, temporary_name(self._new.mark)
        async with self._tools.opened(server, MAINTENANCE) as conn:
            await places.make_database(conn, name, None)
            try:
                async with self._tools.opened(server, name) as scratch:
                    yield scratch
            finally:
                if not conn.is_closed():
                    await places.drop_database(conn, name, None, connect=self._tools.connecting(server))

    async def catch_up(self) -> None:
        """See `carriers.Carrier`."""
        old, slot = self._old, slot_of(self._new)
        server = self._tools.settings.servers[old.server]
        await replicate.follow(self._source, self._target, server, old.database, slot, self._tables)
        await replicate.until_caught_up(self._target, slot, timeout=self._options.catch_up)

    async def bring(self) -> None:
        """See `carriers.Carrier`."""
        source, target, slot = self._source, self._target, slot_of(self._new)
        if await tables.read_tables(source, await tables.schemas_of(source, self._old.schema)) != self._tables:
            raise MoveFailed("its tables were changed while it was moved", hint="try again")
        if self.follows:
            await replicate.until_level(source, slot, timeout=max(_LEAST_LEVEL, self._options.drain))
            await replicate.end_following(source, target, slot)
        else:
            for table in self._tables:
                await tables.copy_table(source, target, table, self._renamed.get(table.schema, table.schema))
            await structure.run_dump(target, self._after, schema_is_there=self._new.schema is not None)
        await tables.settle(target)
        await tables.copy_sequences(source, target, self._schemas, self._renamed)

    async def compare(self) -> int:
        """See `carriers.Carrier`."""
        rows = await tables.compare(self._source, self._target, self._tables, self._renamed)
        await tables.refresh_views(self._target, [self._renamed.get(each, each) for each in self._schemas])
        return rows
