"""Where does a tenant live? A table of the main database says: our own, or any other through configured queries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.errors import ConnectFailed, PoolClosed, PoolError, PoolTimeout, RegistryUnavailable, TenantNotFound
from tenantproxy.model import Tenant, TenantId, TenantStatus
from tenantproxy.registry.base import (
    Answer,
    AnyConnection,
    Ask,
    ConnectionLost,
    RegistryBusy,
    RegistryDatabase,
    TenantMisconfigured,
)
from tenantproxy.registry.memory import not_found
from tenantproxy.registry.rows import RowReader
from tenantproxy.registry.unusable import Unusable

__all__ = ["CHANNEL", "LIST_QUERY", "QUERY", "SCHEMA_SQL", "PostgresRegistry"]

CHANNEL: Final = "tenantproxy_tenants"
"""Where a change is announced; the payload is the tenant's id, empty when any may have changed."""

SCHEMA_SQL: Final = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
"""Our own table. Running it again is the upgrade; one transaction, for a superuser or the database's owner."""

_COLUMNS = (
    "id, isolation, server, database, schema, role, status, tier, region, epoch, max_size, max_waiting,"
    " acquire_timeout, settings, systems"
)
QUERY: Final = f"select {_COLUMNS} from tenantproxy.tenants where id = $1"
_QUERY_MANY: Final = f"select {_COLUMNS} from tenantproxy.tenants where id = any($1::text[])"
LIST_QUERY: Final = f"select {_COLUMNS} from tenantproxy.tenants where id > $1 order by id limit $2"
_OF_DATABASE: Final = (  # as the table's own unique index has it
    "select id from tenantproxy.tenants where isolation = 'database' and coalesce(server, '') = any($2)"
    " and pg_catalog.lower(database) = pg_catalog.lower($1) and database = $1 limit 2"
)

Rows = Sequence[asyncpg.Record]

_ASKED: Final = "tenantproxy_asked"
_PAGE: Final = 500


class _Answers(Mapping[TenantId, Answer]):
    """Each answer is made of its rows when it is looked at: to read a hundred at once would hold the event loop."""

    def __init__(
        self, tenants: Sequence[TenantId], found: Mapping[str, Rows], read: Callable[[TenantId, Rows], Answer]
    ) -> None:
        self._tenants = dict.fromkeys(tenants)
        self._found = found
        self._read = read

    def __getitem__(self, tenant: TenantId) -> Answer:
        if tenant not in self._tenants:
            raise KeyError(tenant)
        return self._read(tenant, self._found.get(tenant, ()))

    def __iter__(self) -> Iterator[TenantId]:
        return iter(self._tenants)

    def __len__(self) -> int:
        return len(self._tenants)


class PostgresRegistry:
    """Asks `database` with `query` ($1: the id) and pages with `list_query` ($1: the last id, $2: how many).

    Without queries: our own table (`SCHEMA_SQL`).
    """

    def __init__(
        self,
        database: RegistryDatabase,
        *,
        reader: RowReader,
        query: str | None = None,
        list_query: str | None = None,
        timeout: float | None = None,
        page: int = _PAGE,
    ) -> None:
        self._database = database
        self._reader = reader
        self._query = query or QUERY
        self._list_query = list_query or (LIST_QUERY if query is None else None)
        self._timeout = timeout
        self._page = page
        self._can_pipeline = True  # until it turns out that the query cannot be a subquery
        self._unusable = Unusable()

    @property
    def source(self) -> str:
        """See `base.Registry`."""
        return "postgres"

    def adopt(self, reader: RowReader) -> None:
        """Read rows by `reader` from now on."""
        self._reader = reader

    @property
    def unusable(self) -> Mapping[str, str]:
        """See `unusable.TellsUnusable`."""
        return self._unusable.reasons

    def tell_unusable(self, told: Callable[[str, str], None], /) -> None:
        """See `unusable.TellsUnusable`."""
        self._unusable.told = told

    async def get(self, tenant: TenantId) -> Tenant:
        """See `base.Registry`. The row's id must be the asked one byte for byte: a collation may fold case."""
        async with self.asking(self._timeout) as ask:
            answer = (await ask([tenant]))[tenant]
        if isinstance(answer, Tenant):
            return answer
        raise answer

    @asynccontextmanager
    async def asking(self, timeout: float | None, /) -> AsyncIterator[Ask]:
        """See `base.AsksMany`: one connection for the block."""
        with _translated():
            async with self._database.connection(timeout=timeout) as conn:
                yield partial(self._ask, conn)

    async def _ask(self, conn: AnyConnection, tenants: Sequence[TenantId]) -> Mapping[TenantId, Answer]:
        with _translated():
            if self._query == QUERY:
                rows = await conn.fetch(_QUERY_MANY, tenants, timeout=self._timeout)
                found: dict[str, list[asyncpg.Record]] = {}
                for row in rows:
                    found.setdefault(row["id"], []).append(row)
            else:
                return await self._run_each(conn, tenants)
        return _Answers(tenants, found, self._answer)

    async def _run_each(self, conn: AnyConnection, tenants: Sequence[TenantId]) -> Mapping[TenantId, Answer]:
        """The configured query, run for each of `tenants`: all in one pipeline where it can be a subquery."""
        if len(tenants) > 1:
            try:
                found = await self._pipeline(conn, tenants)
            except asyncpg.DataError:  # of one of them, which must not be the error of the others
                half = len(tenants) // 2
                return {**await self._run_each(conn, tenants[:half]), **await self._run_each(conn, tenants[half:])}
            except (asyncpg.PostgresSyntaxError, asyncpg.FeatureNotSupportedError):
                self._can_pipeline = False
                found = {}
            if self._can_pipeline:
                return _Answers(tenants, found, self._answer)
        return {tenant: await self._run_one(conn, tenant) for tenant in tenants}

    async def _pipeline(
        self, conn: AnyConnection, tenants: Sequence[TenantId]
    ) -> Mapping[str, Sequence[asyncpg.Record]]:
        """The rows of the query by the id that was asked for, added to its own columns in each row."""
        found: dict[str, list[asyncpg.Record]] = {}
        if self._can_pipeline:
            # $1 stays as it is in the query, so that it keeps the type that PostgreSQL finds for it.
            query = self._query.rstrip().rstrip(";")
            sql = f"select $2::text as {_ASKED}, tenantproxy_found.* from (\n{query}\n) tenantproxy_found"
            pairs = [(tenant, tenant) for tenant in tenants]
            for row in await conn.fetchmany(sql, pairs, timeout=self._timeout):
                found.setdefault(row[_ASKED], []).append(row)
        return found

    async def _run_one(self, conn: AnyConnection, tenant: TenantId) -> Answer:
        try:
            return self._answer(tenant, await conn.fetch(self._query, tenant, timeout=self._timeout))
        except asyncpg.DataError as exc:
            # An id that is not of the column's type (a uuid, say) cannot be there; the driver finds out before asking.
            if exc.sqlstate == asyncpg.DataError.sqlstate and isinstance(exc.__cause__, ValueError):
                return not_found()
            failed = _query_failed(exc)
            failed.__cause__ = exc
            return failed

    def _answer(self, tenant: TenantId, rows: Sequence[asyncpg.Record]) -> Answer:
        if len(rows) > 1:
            problem = TenantMisconfigured(
                "the registry has several entries for one tenant",
                detail=f"registry.query returned {len(rows)} rows",
                hint="make the query find one: its column should be unique",
            )
            self._unusable.bad(tenant, str(problem))
            return problem
        try:
            found = self._reader.read(rows[0]) if rows else None
        except TenantMisconfigured as exc:
            self._unusable.bad(tenant, str(exc))
            return exc
        self._unusable.good(tenant)
        return found if found is not None and found.id == tenant else not_found()

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        """See `by_database.FindsDatabases`. Finds nothing where the queries are not our own."""
        if self._query != QUERY:
            return ()
        servers = ["", *(self._reader.servers or (self._reader.default_server,))]
        try:
            rows = await self._fetch(_OF_DATABASE, database, servers)
        except asyncpg.DataError as exc:
            raise _query_failed(exc) from exc
        return tuple(TenantId(row["id"]) for row in rows)

    async def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `base.Registry`. A tenant whose row cannot be used is left out and told in `unusable`."""
        async for tenant in self.tenants_after(""):
            if status in (None, tenant.status):
                yield tenant

    async def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        """See `base.ListsFrom`."""
        if self._list_query is None:
            raise RegistryUnavailable("tenants cannot be listed", hint="configure registry.list_query")
        last, bad = after, set[str]()
        while True:
            try:
                rows = await self._fetch(self._list_query, last, self._page, query="registry.list_query")
            except asyncpg.DataError as exc:
                raise _query_failed(exc) from exc
            for row in rows:
                tenant = self._read_listed(row, bad)
                if tenant is not None:
                    yield tenant
            if len(rows) < self._page:
                if not after:
                    self._unusable.keep(bad)  # what was not seen is not bad any more
                return
            previous, last = last, str(rows[-1].get("id"))
            if last == previous:
                raise RegistryUnavailable(
                    "tenants cannot be listed", detail="registry.list_query returns the same page again",
                    hint="it must return the ids after $1 in order",
                )  # fmt: skip

    def _read_listed(self, row: asyncpg.Record, bad: set[str]) -> Tenant | None:
        try:
            found = self._reader.read(row)
        except TenantMisconfigured as exc:
            bad.add(self._unusable.bad(row.get("id"), str(exc)))
            return None
        self._unusable.good(found.id)
        return found

    async def _fetch(self, sql: str, *args: object, query: str = "registry.query") -> list[asyncpg.Record]:
        """The rows; a failure that says something of the source, not of the arguments, becomes RegistryUnavailable."""
        with _translated(query):
            return await self._database.fetch(sql, *args, timeout=self._timeout)

    async def open(self) -> None:
        """See `base.Registry`. Asks nothing: the main database may come up later."""

    async def close(self) -> None:
        """See `base.Registry`."""


_MESSAGE: Final = "the tenant could not be looked up"
_LOST: Final = (  # of a connection that was open; a query that was cut off changed nothing
    asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, ConnectionError,
    asyncpg.ConnectionDoesNotExistError,
)  # fmt: skip
_HINTS: Final = {
    "42P01": "create the table (tenantproxy install makes our own), or correct {query}",
    "42703": "a column that {query} names does not exist: correct its name",
    "42501": "grant the main database's user SELECT on the registry",
    "3F000": "run tenantproxy install on the main database, or correct {query}",
    "42601": "correct {query}: it is no SQL statement that can be run",
}


@contextmanager
def _translated(query: str = "registry.query") -> Iterator[None]:
    """What says something of the source, not of what was asked, becomes RegistryUnavailable."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except _LOST as exc:
        raise ConnectionLost(_MESSAGE, detail=f"the registry: {type(exc).__name__}", retry_after=1.0) from exc
    except asyncpg.PostgresError as exc:
        hint = _HINTS.get(exc.sqlstate or "", "see {query}").format(query=query)
        raise _unavailable(f"{query}, {type(exc).__name__} {exc.sqlstate}", hint) from exc
    except PoolError as exc:
        raise _of_pool(exc) from exc
    except TenantNotFound as exc:
        raise _unavailable(exc.code, None) from exc
    except TimeoutError as exc:
        raise _unavailable("no answer in time", "see whether the main database is slow or silent") from exc
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        raise _unavailable(type(exc).__name__, None) from exc


def _of_pool(exc: PoolError) -> RegistryUnavailable:
    if isinstance(exc, ConnectFailed | PoolClosed) or (isinstance(exc, PoolTimeout) and exc.is_server_slow):
        return _unavailable(exc.code, None)
    return RegistryBusy(
        "the tenant could not be looked up: no connection to the main database was free",
        detail=exc.detail,
        hint="raise main.max_size, or hold connections of the main database for less time",
        retry_after=1.0,
    )


def _unavailable(error: str, hint: str | None) -> RegistryUnavailable:
    return RegistryUnavailable(_MESSAGE, detail=f"the registry: {error}", hint=hint, retry_after=1.0)


def _query_failed(exc: asyncpg.DataError) -> TenantMisconfigured:
    return TenantMisconfigured(
        "the tenant's entry in the registry cannot be used",
        detail=f"registry.query: {type(exc).__name__} {exc.sqlstate}",
        hint="cast in the query so that $1 is text and every column is of a plain type",
    )
