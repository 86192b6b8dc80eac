"""How do the rows of a tenant leave shared tables for its own, or come into them? By COPY, without whose they are.

Which tables a tenant has of its own say the operator's files, as for a new one; each table of the one side has one of
the same name on the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.backup.manifest import BackupColumn
from tenantproxy.lifecycle.backup.row_restore import advance_sequences
from tenantproxy.lifecycle.backup.row_tables import PolicyTable, row_tables
from tenantproxy.lifecycle.move.tables import MovedTable, pipe, read_tables, schemas_of, settle
from tenantproxy.lifecycle.move.tools import MoveFailed, MoveTools
from tenantproxy.lifecycle.provision.steps import Steps
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.model import Isolation, Placement, quote_identifier

__all__ = ["RowCarrier", "has_rows", "held_back"]

_NUMBERS: Final = frozenset({"int2", "int4", "int8"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A shared table, and the tenant's own of that name with the columns that are carried."""

    shared: PolicyTable
    own: MovedTable

    @property
    def columns(self) -> str:
        return ", ".join(map(quote_identifier, self.own.columns))

    @property
    def condition(self) -> str:
        return self.shared.condition

    @property
    def tenant_column(self) -> BackupColumn:
        assert self.shared.tenant_column is not None  # refused before
        return self.shared.tenant_column


async def held_back(conn: asyncpg.Connection, own_roles: Sequence[str]) -> list[str]:
    """The shared tables of which the user of `conn` sees what policies show it, and not all."""
    active = "SELECT row_security_active($1::oid)"
    return [
        f"{each.schema}.{each.name}"
        for each in await row_tables(conn, own_roles=own_roles)
        if await conn.fetchval(active, each.oid)
    ]


async def has_rows(conn: asyncpg.Connection, tenant: str, own_roles: Sequence[str]) -> str | None:
    """A shared table in which the tenant has a row; None: none has."""
    await settle(conn)
    for table in await row_tables(conn, own_roles=own_roles):
        query = f"SELECT EXISTS (SELECT FROM {table.source} WHERE {table.condition})"
        if await conn.fetchval(query, tenant):
            return f"{table.schema}.{table.name}"
    return None


class RowCarrier:
    """See `carriers.Carrier`. State: the pairs of tables, known behind `prepare`."""

    follows = False

    def __init__(
        self, tools: MoveTools, source: asyncpg.Connection, target: asyncpg.Connection, old: Placement, new: Wanted
    ) -> None:
        self._tools = tools
        self._source = source
        self._target = target
        self._old = old
        self._new = new
        self._is_leaving = old.isolation is Isolation.ROW
        self._pairs: Sequence[_Pair] = ()

    async def prepare(self) -> None:
        """See `carriers.Carrier`."""
        if self._is_leaving:
            steps = Steps(self._tools.settings, self._tools.connect)
            try:
                await steps.fill(self._new)
            finally:
                await steps.close()
        for conn in (self._source, self._target):
            await settle(conn)
        self._pairs = await self._read()

    async def catch_up(self) -> None:
        """Rows of shared tables do not follow."""

    async def _read(self) -> list[_Pair]:
        """The pairs, in an order in which they can be filled. Raises MoveFailed with all that has no place."""
        shared, own = (self._source, self._target) if self._is_leaving else (self._target, self._source)
        schema = (self._new.schema if self._is_leaving else self._old.schema) or "public"
        if not self._is_leaving and self._old.schema is None and await schemas_of(own, None) != ["public"]:
            raise MoveFailed("its database has further schemas, which shared tables have no place for")
        theirs = {table.name: table for table in await read_tables(own, [schema])}
        pairs, lacking = [], []
        place = self._old if self._is_leaving else self._new
        own_roles = await self._tools.roles_of_tenants(shared, place.server)
        tables = await row_tables(shared, own_roles=own_roles)
        if through := [table.name for table in tables if table.through is not None]:
            raise MoveFailed(
                f"rows of {', '.join(sorted(through))} say through another table whose they are, and are not moved",
                hint="save the tenant, and restore it elsewhere",
            )
        for table in tables:
            mine = theirs.pop(table.name, None)
            if mine is not None:
                columns = self._carried(table, mine)
                lacking += [f"{table.name}.{name}" for name in self._homeless(table, mine)]
                pairs.append(_Pair(shared=table, own=columns))
            elif self._is_leaving and await self._is_used(table):
                lacking.append(table.name)
        if not self._is_leaving:
            lacking += [each.name for each in theirs.values() if await self._has_any(each)]
        if lacking:
            raise MoveFailed(
                f"the new place has none of: {', '.join(sorted(lacking))}",
                hint="[provision] sql_files and [migrations] say which tables a tenant has to itself; "
                "shared ones need the same names and columns",
            )
        return pairs

    def _carried(self, shared: PolicyTable, own: MovedTable) -> MovedTable:
        """`own` with the columns that come over: those of the old place."""
        names = {each.name for each in shared.columns} if self._is_leaving else set(own.columns)
        kept = [(name, kind) for name, kind in zip(own.columns, own.types, strict=True) if name in names]
        return replace(own, columns=tuple(name for name, _ in kept), types=tuple(kind for _, kind in kept))

    def _homeless(self, shared: PolicyTable, own: MovedTable) -> list[str]:
        mine, theirs = [each.name for each in shared.columns], own.columns
        return [name for name in mine if name not in theirs] if self._is_leaving else [
            name for name in theirs if name not in mine
        ]  # fmt: skip

    async def _is_used(self, table: PolicyTable) -> bool:
        query = f"SELECT EXISTS (SELECT FROM {table.source} WHERE {table.condition})"
        return bool(await self._source.fetchval(query, self._new.id))

    async def _has_any(self, table: MovedTable) -> bool:
        return bool(await self._source.fetchval(f"SELECT EXISTS (SELECT FROM {table.sql_name})"))

    async def bring(self) -> None:
        """See `carriers.Carrier`."""
        if self._is_leaving and self._pairs:
            if await self._target.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
                await self._target.execute("SET session_replication_role = replica")  # its triggers ran already
            # What the files put there is what the rows that come had at their beginning.
            await self._target.execute(f"TRUNCATE {', '.join(pair.own.sql_name for pair in self._pairs)}")
        for pair in self._pairs:
            await self._copy(pair)
        if self._is_leaving:
            await self._target.execute("RESET session_replication_role")
            for pair in self._pairs:
                await self._advance(pair.own)
        else:
            await advance_sequences(self._target, self._target, [pair.shared for pair in self._pairs])

    async def _copy(self, pair: _Pair) -> None:
        tenant, columns = self._new.id, pair.own.columns
        async with pipe() as (written, chunks), asyncio.TaskGroup() as group:
            if self._is_leaving:
                query = f"SELECT {pair.columns} FROM {pair.shared.source} WHERE {pair.condition}"
                schema, name = pair.own.schema, pair.own.name
            else:
                whose = f"$1::text::{pair.tenant_column.type}"
                query = f"SELECT {', '.join(filter(None, (pair.columns, whose)))} FROM ONLY {pair.own.sql_name}"
                schema, name = pair.shared.schema, pair.shared.name
                columns = (*columns, pair.tenant_column.name)
            group.create_task(written(self._source.copy_from_query, query, tenant))
            group.create_task(_put(self._target, chunks, schema, name, columns))

    async def _advance(self, table: MovedTable) -> None:
        """The sequences of its columns go on behind what came."""
        for name, kind in zip(table.columns, table.types, strict=True):
            if kind not in _NUMBERS:
                continue
            sequence = await self._target.fetchval("SELECT pg_get_serial_sequence($1, $2)", table.sql_name, name)
            if sequence is not None:
                most = f"(SELECT max({quote_identifier(name)}) FROM {table.sql_name})"
                await self._target.execute(
                    f"SELECT setval($1::text::regclass, {most}) WHERE {most} IS NOT NULL", sequence
                )

    async def compare(self) -> int:
        """See `carriers.Carrier`."""
        shared, own = (self._source, self._target) if self._is_leaving else (self._target, self._source)

        async def sums(conn: asyncpg.Connection, *, is_shared: bool) -> list[tuple[object, ...]]:
            found = []
            for pair in self._pairs:
                relation = f"{pair.shared.source} WHERE {pair.condition}" if is_shared else None
                args = (self._new.id,) if is_shared else ()
                row = await conn.fetchrow(pair.own.checksum(relation), *args)
                assert row is not None
                found.append(tuple(row))
            return found

        here, there = await asyncio.gather(sums(shared, is_shared=True), sums(own, is_shared=False))
        if wrong := [pair.own.name for pair, a, b in zip(self._pairs, here, there, strict=True) if a != b]:
            raise TenantProxyError(f"rows differ between the old and the new place: {', '.join(wrong)}")
        return sum(int(str(row[0])) for row in here)


async def _put(
    conn: asyncpg.Connection, chunks: AsyncIterator[bytes], schema: str, name: str, columns: Sequence[str]
) -> None:
    await conn.copy_to_table(name, schema_name=schema, columns=columns, source=chunks, format="binary")
