"""What may be done for one tenant? A scope: cheap, holds no connection, leases one for each call or block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from asyncpg import InterfaceError

from tenantproxy.connect.failures import LOST
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.connector import END_TIMEOUT
from tenantproxy.driver.guard import Guard
from tenantproxy.driver.state import DriverConnection
from tenantproxy.model import Route, TenantId
from tenantproxy.mongo.documents import TenantDocuments
from tenantproxy.pools.pool import Pool

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = [
    "Found",
    "IsolationLevel",
    "LaneScope",
    "Lease",
    "LeaseBlock",
    "LeaseSource",
    "Scope",
    "TenantScope",
]

IsolationLevel = Literal["read_uncommitted", "read_committed", "repeatable_read", "serializable"]


Lease = tuple[DriverConnection, Route]
Found = tuple[Pool[DriverConnection], Route]


class LeaseSource(Protocol):
    """Where a scope gets connections: the router."""

    def known(self, scope: Scope) -> Found | None:
        """Pool and route, when nothing has to be asked."""
        ...

    def lend_nowait(self, found: Found) -> DriverConnection | None:
        """A connection, when one is at hand in the session that is wanted."""
        ...

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        """A connection, and the route it serves; looks the tenant up and waits when needed.

        `found`: where `lend_nowait` had none.
        """
        ...

    def ends_with(self, backend: DriverConnection, route: Route) -> None:
        """The next statement on it is the last of its lease."""
        ...

    def release(self, backend: DriverConnection, route: Route) -> None:
        """Give it back."""
        ...

    def documents_of(self, tenant: TenantId) -> TenantDocuments:
        """The tenant's documents in MongoDB."""
        ...


class _Call:
    """One call on a connection that no caller holds: released at its end, whatever that is."""

    __slots__ = ("_backend", "_route", "_source")

    def __init__(self, source: LeaseSource, backend: DriverConnection, route: Route) -> None:
        self._source = source
        self._backend = backend
        self._route = route

    def __enter__(self) -> TenantConnection:
        self._source.ends_with(self._backend, self._route)
        return self._backend.con

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._backend.con.note_interruption(error)
        self._source.release(self._backend, self._route)
        _tell_expired(self._backend, error)


def _tell_expired(backend: DriverConnection, error: BaseException | None) -> None:
    """Raise LeaseExpired where that is why the driver failed."""
    expired = backend.con.expired
    if expired is not None and isinstance(error, LOST):
        raise expired.again() from error


class Scope:
    """Queries in one tenant's (or the main database's) session.

    The methods are asyncpg's; `timeout` (seconds) bounds the wait for a connection and the statement together. All of
    them raise PoolError, IsolationError, TenantError and RegistryUnavailable besides PostgreSQL's own errors. A call
    that is cancelled has its statement cancelled on the server, and leaves no connection behind.
    """

    __slots__ = ("_source",)

    def __init__(self, source: LeaseSource) -> None:
        self._source = source

    @property
    def source(self) -> LeaseSource:
        """The router that lends."""
        return self._source

    async def _take(self, timeout: float | None) -> tuple[DriverConnection, Route, float | None]:
        """A connection, its route, and what is left of `timeout`."""
        source = self._source
        found = source.known(self)
        if found is not None:
            at_hand = source.lend_nowait(found)
            if at_hand is not None:
                return at_hand, found[1], timeout
        started = monotonic()
        backend, route = await source.lend(self, found, timeout)
        return backend, route, None if timeout is None else max(0.001, timeout - (monotonic() - started))

    async def fetch(
        self, query: str, *args: object, timeout: float | None = None, record_class: type[Record] | None = None
    ) -> list[Record]:
        """All rows of `query`."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.fetch(query, *args, timeout=left, record_class=record_class)

    async def fetchrow(
        self, query: str, *args: object, timeout: float | None = None, record_class: type[Record] | None = None
    ) -> Record | None:
        """The first row of `query`, or None."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.fetchrow(query, *args, timeout=left, record_class=record_class)

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:
        """One column of the first row of `query`, or None."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.fetchval(query, *args, column=column, timeout=left)

    async def fetchmany(
        self,
        query: str,
        args: Iterable[Sequence[object]],
        *,
        timeout: float | None = None,
        record_class: type[Record] | None = None,
    ) -> list[Record]:
        """The rows of `query` for each of `args`, in one transaction."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.fetchmany(query, args, timeout=left, record_class=record_class)

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """Run `query` (several commands when there are no `args`); the tag of the last command."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.execute(query, *args, timeout=left)

    async def executemany(
        self, command: str, args: Iterable[Sequence[object]], *, timeout: float | None = None
    ) -> None:
        """Run `command` for each of `args`: all of them or none."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            await con.executemany(command, args, timeout=left)

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        records: Iterable[Sequence[object]] | AsyncIterable[Sequence[object]],
        timeout: float | None = None,
        **options: Any,
    ) -> str:
        """COPY `records` into a table; `options` as asyncpg's. Refused for tables under row-level security."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.copy_records_to_table(table_name, records=records, timeout=left, **options)

    async def copy_to_table(self, table_name: str, *, source: Any, timeout: float | None = None, **options: Any) -> str:
        """COPY `source` (path, file object, async iterable of bytes) into a table; `options` as asyncpg's."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.copy_to_table(table_name, source=source, timeout=left, **options)

    async def copy_from_query(
        self, query: str, *args: object, output: Any, timeout: float | None = None, **options: Any
    ) -> str:
        """COPY the rows of `query` to `output` (path, file object, async callable); `options` as asyncpg's."""
        backend, route, left = await self._take(timeout)
        with _Call(self._source, backend, route) as con:
            return await con.copy_from_query(query, *args, output=output, timeout=left, **options)

    def connection(self, *, timeout: float | None = None) -> LeaseBlock:
        """One connection for the block: `async with scope.connection() as conn`. Unusable after it.

        `timeout` bounds the wait only. Whatever the block leaves on the session (settings, temporary tables, locks, an
        open transaction, listeners) is gone for the next one.
        """
        return LeaseBlock(self, timeout)

    def transaction(
        self,
        *,
        readonly: bool = False,
        isolation: IsolationLevel | None = None,
        deferrable: bool = False,
        timeout: float | None = None,
    ) -> _Transaction:
        """One connection in one transaction for the block: committed at its end, rolled back when it raises."""
        return _Transaction(self, timeout, isolation=isolation, readonly=readonly, deferrable=deferrable)


class LaneScope(Scope):
    """A share of the main database's connections, with a queue of its own, for what the router itself asks there.

    `route` leads to the main pool under a name that is not a tenant's; its limits are the lane's.
    """

    __slots__ = ("route",)

    def __init__(self, source: LeaseSource, route: Route) -> None:
        super().__init__(source)
        self.route = route


class TenantScope(Scope):
    """The scope of one tenant. `system`, `replica`, `after`, `context` and `read_only` as given to `Router.tenant`.

    `profile`: of the connections, as in `PoolKey`.
    """

    __slots__ = ("after", "context", "id", "profile", "read_only", "replica", "system")

    def __init__(
        self,
        source: LeaseSource,
        tenant: TenantId,
        *,
        system: str | None = None,
        replica: bool = False,
        after: str | None = None,
        context: tuple[tuple[str, str], ...] = (),
        profile: str = "",
        read_only: bool = False,
    ) -> None:
        super().__init__(source)
        self.read_only = read_only
        self.after = after
        self.id = tenant
        self.system = system
        self.replica = replica
        self.context = context
        self.profile = profile

    def in_profile(self, profile: str) -> TenantScope:
        """The same scope on connections that no other profile uses; `Router.add_profile` says what is on them."""
        return TenantScope(
            self._source,
            self.id,
            system=self.system,
            replica=self.replica,
            after=self.after,
            context=self.context,
            profile=profile,
            read_only=self.read_only,
        )

    def mongo(self) -> TenantDocuments:
        """The tenant's documents: its own database, and its part of the collections that all tenants share.

        Cheap; `[mongo.clusters]` says where, and their clients are the router's. An unknown tenant fails at first use.
        """
        return self._source.documents_of(self.id)

    async def position(self, *, timeout: float | None = None) -> str:
        """Up to where the server's log is written, for `Router.tenant(id, replica=True, after=...)`; as `16/B374D848`.

        Asks the primary: a replica that has come so far shows all that was committed before this call, also what was
        with `synchronous_commit = off`, which may not be written yet.
        """
        primary = TenantScope(self._source, self.id, system=self.system, profile=self.profile, read_only=self.read_only)
        found: str = await primary.fetchval("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", timeout=timeout)
        return found

    def __repr__(self) -> str:
        return f"<TenantScope {self.id}{'/' + self.system if self.system else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a TenantScope belongs to the router of its process and cannot be pickled:"
            " pass its id, and call router.tenant(id) where it is needed"
        )


class LeaseBlock:
    """The block of `Scope.connection`."""

    __slots__ = ("_backend", "_guard", "_route", "_scope", "_timeout")

    def __init__(self, scope: Scope, timeout: float | None) -> None:
        self._scope = scope
        self._timeout = timeout
        self._guard: Guard | None = None

    async def __aenter__(self) -> Guard:
        if self._guard is not None:
            raise RuntimeError("this connection() was entered already; call connection() for each block")
        self._backend, self._route, _ = await self._scope._take(self._timeout)
        self._guard = Guard(self._backend, self._backend.con)
        return self._guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        _tell_expired(self._backend, error)

    def enter_nowait(self) -> Guard | None:
        """Enter a new block without an await, when a connection is at hand; None: enter it as usual. `end` it."""
        source = self._scope._source
        found = source.known(self._scope)
        backend = source.lend_nowait(found) if found is not None else None
        if found is None or backend is None:
            return None
        self._backend, self._route = backend, found[1]
        self._guard = Guard(backend, backend.con)
        return self._guard

    async def commit(self) -> None:
        """Commit what the guard's `begin_with_next` began, and give the connection back, whatever happens.

        A reset that is due goes out with the COMMIT. Nothing else can be asked of the connection from now on.
        """
        guard, con, source = self._guard, self._backend.con, self._scope._source
        if guard is None or guard.detach() is None:
            raise InterfaceError("the connection has been released back to the pool")
        try:
            con.end_handles()
            source.ends_with(self._backend, self._route)
            await con.commit_begun()
        except LOST as exc:
            _tell_expired(self._backend, exc)
            raise
        finally:
            source.release(self._backend, self._route)

    def end(self) -> None:
        """Give the connection back, for callers that cannot use a block. A second call does nothing."""
        if self._guard is not None and self._guard.detach() is not None:
            self._scope._source.release(self._backend, self._route)


class _Transaction(LeaseBlock):
    """The block of `Scope.transaction`."""

    __slots__ = ("_options",)

    def __init__(self, scope: Scope, timeout: float | None, **options: Any) -> None:
        super().__init__(scope, timeout)
        self._options = options

    async def __aenter__(self) -> Guard:
        guard = await super().__aenter__()
        try:
            guard.begin_with_next(**self._options)
        except BaseException:
            self.end()
            raise
        return guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.commit()
            elif self._backend.con.expired is None:  # else its end rolls back
                await self._roll_back()
        finally:
            self.end()
        _tell_expired(self._backend, error)

    async def _roll_back(self) -> None:
        """A caller that leaves with an error does not wait for a silent server, and hears that error and no other.

        The end of the connection rolls back as well.
        """
        guard, backend = self._guard, self._backend
        if guard is None or guard._con is None:
            return
        if backend.con.is_doubtful:  # the driver would wait for the end of rows that are not read
            return
        timer = asyncio.get_running_loop().call_later(END_TIMEOUT, backend.abort)
        try:
            await guard.rollback_begun()
        except LOST:
            if not backend.con.is_closed():
                raise
        finally:
            timer.cancel()
