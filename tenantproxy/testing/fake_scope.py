"""What does code under test do with a scope of a `FakeRouter`? What it does with a real one, without PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from asyncpg import InterfaceError

from tenantproxy.model import TenantId
from tenantproxy.scope import IsolationLevel, LeaseSource, TenantScope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tenantproxy.testing.fake_router import FakeRouter

__all__ = ["MAIN", "FakeConnection", "FakeRow", "FakeScope", "FakeTransaction"]

MAIN: Final = TenantId("")  # no tenant can be called so


class FakeRow(dict[str, Any]):
    """A row by name and, as asyncpg's, by number."""

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class _Asks:
    """The calls of asyncpg that a scope and a connection share."""

    _router: FakeRouter

    def _tenant(self) -> TenantId:
        raise NotImplementedError

    async def _ask(self, method: str, sql: str, args: Sequence[Any] = ()) -> Any:
        return await self._router.ask(self._tenant(), method, sql, args)

    async def _rows(self, method: str, sql: str, args: Sequence[Any]) -> list[FakeRow]:
        return [FakeRow(row) for row in await self._ask(method, sql, args) or ()]

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        """All rows of the answer."""
        return await self._rows("fetch", query, args)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        """The first row, or None."""
        rows = await self._rows("fetchrow", query, args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """One column of the first row, or None."""
        rows = await self._rows("fetchval", query, args)
        return rows[0][column] if rows else None

    async def fetchmany(
        self, query: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None, record_class: Any = None
    ) -> Any:
        """The rows for each of `args`."""
        return [row for each in args for row in await self._rows("fetchmany", query, each)]

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """The tag that the answer gives, or `OK`."""
        said = await self._ask("execute", query, args)
        return said if isinstance(said, str) else "OK"

    async def executemany(self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """One call for each of `args`."""
        for each in args:
            await self._ask("executemany", command, each)

    async def copy_records_to_table(
        self, table_name: str, *, records: Any, timeout: float | None = None, **options: Any
    ) -> str:
        """One call: its SQL is `COPY table`, its arguments are the records."""
        kept = [record async for record in records] if hasattr(records, "__aiter__") else list(records)
        await self._ask("copy_records_to_table", f"COPY {table_name}", kept)
        return f"COPY {len(kept)}"

    async def copy_to_table(self, table_name: str, *, source: Any, timeout: float | None = None, **options: Any) -> str:
        """One call: its SQL is `COPY table`, its argument is the source."""
        await self._ask("copy_to_table", f"COPY {table_name}", (source,))
        return "COPY 0"

    async def copy_from_query(
        self, query: str, *args: Any, output: Any, timeout: float | None = None, **options: Any
    ) -> str:
        """One call; nothing is written to `output`."""
        await self._ask("copy_from_query", query, args)
        return "COPY 0"


class FakeConnection(_Asks):
    """One lease: unusable after its block, and it says what asyncpg's would."""

    def __init__(self, router: FakeRouter, tenant: TenantId) -> None:
        self._router = router
        self._whose = tenant
        self._is_over = False
        self._depth = 0

    def _tenant(self) -> TenantId:
        if self._is_over:
            raise InterfaceError("cannot use the connection: it has been released back to the pool")
        return self._whose

    def end(self) -> None:
        """The block has ended."""
        self._is_over = True

    def is_closed(self) -> bool:
        """As asyncpg's."""
        return self._is_over

    def is_in_transaction(self) -> bool:
        """As asyncpg's."""
        return self._depth > 0

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[None]:
        """BEGIN and COMMIT, or ROLLBACK, are in `FakeRouter.calls`; nothing is undone."""
        self._tenant()
        self._depth += 1
        await self._router.said(self._tenant(), "BEGIN")
        try:
            yield
        except BaseException:
            await self._router.said(self._whose, "ROLLBACK")
            raise
        else:
            await self._router.said(self._tenant(), "COMMIT")
        finally:
            self._depth -= 1

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a FakeConnection has no {name!r}: test it on a real PostgreSQL (two_tenants)")


class FakeTransaction:
    """The block of `connection` and, with `options`, of `transaction`."""

    def __init__(self, scope: FakeScope, options: Mapping[str, Any] | None) -> None:
        self._scope = scope
        self._options = options
        self._conn: FakeConnection | None = None
        self._transaction: Any = None

    async def __aenter__(self) -> Any:
        if self._conn is not None:
            raise RuntimeError("this connection() was entered already; call connection() for each block")
        router, tenant = self._scope.router, self._scope.id
        await router.check(tenant)
        conn = FakeConnection(router, tenant)
        if self._options is not None:
            self._transaction = conn.transaction(**self._options)
            await self._transaction.__aenter__()
        self._conn = conn
        router.lent += 1
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        conn = self._conn
        if conn is None or conn.is_closed():
            return
        try:
            if self._transaction is not None:
                await self._transaction.__aexit__(kind, error, traceback)
        finally:
            conn.end()
            self._scope.router.lent -= 1


class FakeScope(_Asks, TenantScope):
    """The scope of one tenant, or of the main database. `isinstance(scope, TenantScope)` holds."""

    __slots__ = ()

    def __init__(
        self,
        router: FakeRouter,
        tenant: TenantId,
        *,
        system: str | None = None,
        replica: bool = False,
        after: str | None = None,
        context: tuple[tuple[str, str], ...] = (),
        read_only: bool = False,
    ) -> None:
        source = cast("LeaseSource", router)  # its own calls take no lease
        TenantScope.__init__(
            self, source, tenant, system=system, replica=replica, after=after, context=context, read_only=read_only
        )

    @property
    def router(self) -> FakeRouter:
        """Where it is from."""
        return cast("FakeRouter", self._source)

    @property
    def _router(self) -> FakeRouter:  # type: ignore[override]
        return self.router

    def _tenant(self) -> TenantId:
        return self.id

    def in_profile(self, profile: str) -> Self:
        """See `TenantScope.in_profile`: here it is the same one."""
        return self

    async def position(self, *, timeout: float | None = None) -> str:
        """See `TenantScope.position`."""
        await self.router.check(self.id)
        return "0/0"

    def connection(self, *, timeout: float | None = None) -> Any:
        """See `Scope.connection`."""
        return FakeTransaction(self, None)

    def transaction(
        self,
        *,
        readonly: bool = False,
        isolation: IsolationLevel | None = None,
        deferrable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """See `Scope.transaction`."""
        return FakeTransaction(self, {"readonly": readonly, "isolation": isolation, "deferrable": deferrable})
