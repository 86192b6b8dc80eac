"""How do SQLAlchemy's sessions follow the current tenant? An AsyncEngine whose connections the router lends.

SQLAlchemy pools nothing: the router's pools do, under a profile of their own, because the dialect reads JSON in its own
way. Derived from SQLAlchemy's dialect for asyncpg, which is no public interface: pinned to the minor that was tried.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from sqlalchemy import NullPool, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql import asyncpg as theirs
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as _create_async_engine
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.pool import base as their_pool
from sqlalchemy.util.concurrency import await_, in_greenlet

from tenantproxy.context import current
from tenantproxy.driver.connection import Description
from tenantproxy.driver.connector import Init
from tenantproxy.driver.guard import Guard
from tenantproxy.errors import AccessDenied, ConfigurationError, Problem, TenantProxyError
from tenantproxy.model import TenantId
from tenantproxy.router import Router
from tenantproxy.scope import LeaseBlock, TenantScope

__all__ = ["PROFILE", "create_async_engine"]

if TYPE_CHECKING:
    # SQLAlchemy gives no types to its dialects; this is what we use of them.
    class _TheirConnection:
        _connection: Guard

        _execute_mutex: asyncio.Lock
        _transaction: Any
        dbapi: Any
        isolation_level: Any
        readonly: bool
        deferrable: bool

        def __init__(self, dbapi: Any, connection: Guard, *, prepared_statement_cache_size: int) -> None: ...
        def _handle_exception(self, error: Exception) -> NoReturn: ...
        def _handle_exception_no_connection(self, dbapi: Any, error: Exception) -> NoReturn: ...

    class _TheirCursor:
        _adapt_connection: _DialectConnection
        _connection: Guard
        _description: Description | None
        _rows: deque[Any]
        _rowcount: int

    class _TheirStreamed:
        _adapt_connection: _DialectConnection

        def _buffer_rows(self) -> None: ...
        def fetchmany(self, size: int | None) -> Any: ...
        def fetchall(self) -> Any: ...

    class _TheirDriver:
        def __init__(self, asyncpg: Any) -> None: ...

    class _TheirExecution:
        dialect: Any
        isddl: bool
        root_connection: Connection
        _dbapi_connection: Any

    class _TheirDialect:
        def __init__(self, **options: Any) -> None: ...
        async def setup_asyncpg_json_codec(self, conn: Any) -> None: ...
        async def setup_asyncpg_jsonb_codec(self, conn: Any) -> None: ...
        async def _disable_asyncpg_inet_codecs(self, conn: Any) -> None: ...
        def initialize(self, connection: Connection) -> None: ...
        def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool: ...

    class _TheirProxy(PoolProxiedConnection):
        _pool: Any
        _connection_record: Any
        _finalizer: Any
        _echo: Any
        _counter: int
        dbapi_connection: Any

        def _checkin(self, transaction_was_reset: bool = False) -> None: ...

    _finalize: Any
    _TheirRecord: Any

else:
    _TheirConnection = theirs.AsyncAdapt_asyncpg_connection
    _TheirCursor = theirs.AsyncAdapt_asyncpg_cursor
    _TheirStreamed = theirs.AsyncAdapt_asyncpg_ss_cursor
    _TheirDriver = theirs.AsyncAdapt_asyncpg_dbapi
    _TheirExecution = theirs.PGExecutionContext_asyncpg
    _TheirDialect = theirs.PGDialect_asyncpg
    _TheirProxy, _TheirRecord, _finalize = (
        their_pool._ConnectionFairy,
        their_pool._ConnectionRecord,
        their_pool._finalize_fairy,
    )

PROFILE: Final = "sqlalchemy"
"""The profile of the pools behind an engine, unless it is given one of its own."""

_OURS: Final = (
    "async_creator", "connect_args", "creator", "max_overflow", "module", "pool", "pool_pre_ping", "pool_recycle",
    "pool_reset_on_return", "pool_size", "pool_timeout", "pool_use_lifo", "poolclass",
)  # fmt: skip
_COUNTED: Final = re.compile(r"(?:SELECT|UPDATE|DELETE|MERGE|INSERT \d+) (\d+)")  # tags that say how many rows
_FIXED: Final = "_tenantproxy_tenant"  # where sessions and connections keep whose they are


def create_async_engine(
    router: Router, *, profile: str = PROFILE, init: Init | None = None, **engine_options: Any
) -> AsyncEngine:
    """An engine whose connections are the current tenant's: `tenantproxy.current()` decides at each checkout.

    `engine_options` are SQLAlchemy's, but for those that say how to connect and to pool: that is configured in the
    router. `init` runs on each new connection, for codecs that stay. Engines of one router that read values in
    different ways (`init`, `json_deserializer`, `native_inet_types`) need different `profile`s.

    A session belongs to the tenant of its first connection. It raises AccessDenied when it goes on while another is
    current, TenantUnresolved when none is. These and all other errors of tenantproxy come out of SQLAlchemy as they
    are; PostgreSQL's are wrapped as usual, with asyncpg's in `driver_exception`. `dispose()` closes the profile's idle
    connections. A connection that SQLAlchemy invalidates goes back to be reset, or is closed, as after any lease.

    Raises ConfigurationError for an option that is not to be given here, and for a profile that is taken.
    """
    problems = [
        Problem(key=name, problem="this engine does not connect or pool by itself", fix="configure the router instead")
        for name in _OURS
        if name in engine_options
    ]
    if problems:
        raise ConfigurationError(problems)
    lend = _Lender(router, profile).lend
    engine = _create_async_engine(_URL, poolclass=_RoutersPool, async_creator=lend, **engine_options)
    dialect: Any = engine.dialect
    dialect.lend = lend
    dialect.expire = lambda: router.expire_profile(profile)
    router.add_profile(
        profile,
        _Codecs(
            json_deserializer=engine_options.get("json_deserializer"),
            native_inet_types=engine_options.get("native_inet_types"),
            init=init,
        ),
    )
    return engine


class _Lender:
    """Lends the current tenant's connections, of one profile."""

    def __init__(self, router: Router, profile: str) -> None:
        self._router = router
        self._profile = profile

    def lend(self) -> _Leased:
        """A connection, for a caller in a greenlet; one that is at hand costs no switch to another and back."""
        scope = current()
        if scope.source is not self._router:
            raise AccessDenied(
                "the current tenant is served by another router than this engine's",
                hint="make the engine with the router that the middleware, or `use(...)`, takes scopes from",
            )
        block = scope.in_profile(self._profile).connection()
        guard = block.enter_nowait() if in_greenlet() else None
        if guard is None:
            guard = await_(block.__aenter__())
        return _Leased(scope, guard, block)


class _Leased(NamedTuple):
    """A connection, whose scope was current when it was lent, and the block of its lease."""

    scope: TenantScope
    guard: Guard
    block: LeaseBlock


Whose = tuple[TenantId, str | None]
"""What a session belongs to: a tenant, and one of its systems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codecs:
    """How values are read on the connections of a profile. Equal ones may share it."""

    json_deserializer: Callable[[str], Any] | None
    native_inet_types: bool | None
    init: Init | None

    async def __call__(self, con: Any) -> None:
        dialect = TenantDialect(json_deserializer=self.json_deserializer, native_inet_types=self.native_inet_types)
        adapted = SimpleNamespace(_connection=con)
        await dialect.setup_asyncpg_json_codec(adapted)
        await dialect.setup_asyncpg_jsonb_codec(adapted)
        if self.native_inet_types is False:
            await dialect._disable_asyncpg_inet_codecs(adapted)
        if self.init is not None:
            await self.init(con)


class _RoutersPool(NullPool):
    """Keeps nothing: a connection that is closed goes back to the router.

    Where no listener hears of connections, and none is logged, SQLAlchemy's record and proxy are made without the
    steps that serve a pool which keeps them: see `_Checkout`.
    """

    def connect(self) -> PoolProxiedConnection:
        """See SQLAlchemy."""
        dialect: Any = self._dialect
        heard = self.dispatch
        if (
            not dialect.is_initialized
            or len(heard.connect) > 1  # the first one is SQLAlchemy's, and initializes the dialect
            or heard.checkout
            or heard.first_connect
            or dialect.dispatch.do_connect
            or self._should_log_debug()
        ):
            return super().connect()
        return _Checkout(self, dialect.dbapi.connect(async_creator_fn=dialect.lend))

    def dispose(self) -> None:
        """Close what lies idle in the router's pools of this profile."""
        dialect: Any = self._dialect
        dialect.expire()


# --- one lease, as SQLAlchemy sees it --------------------------------------------------------------------------------
class _Checkout(_TheirProxy):
    """A connection that SQLAlchemy holds, and its record, for one lease. Their usual end is shorter than SQLAlchemy's.

    SQLAlchemy watches its own by `weakref.finalize`, which costs more than all else that is done for a lease.
    """

    def __init__(self, pool: _RoutersPool, connection: _DialectConnection) -> None:
        record = _TheirRecord(pool, connect=False)
        record.dbapi_connection, record.starttime = connection, time.time()
        record.fairy_ref = _held
        self._pool, self._echo, self._counter = pool, None, 1
        self.dbapi_connection, self._connection_record, self._finalizer = connection, record, _UNWATCHED

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        record, connection, heard = self._connection_record, self.dbapi_connection, self._pool.dispatch
        if record is None or connection is None or heard.reset or heard.checkin or heard.close:
            super()._checkin(transaction_was_reset)
            return
        self.dbapi_connection = self._connection_record = record.dbapi_connection = record.fairy_ref = None
        try:
            while record.finalize_callback:
                record.finalize_callback.pop()(connection)
            connection.close()
        except Exception:  # as SQLAlchemy's: what a user waits for has been answered by now
            self._pool.logger.exception("Exception during reset or similar")

    def __del__(self) -> None:
        record = self._connection_record
        if record is not None and record.fairy_ref is _held:
            record.fairy_ref = _gone
            _finalize(None, record, self._pool, None, is_gc_cleanup=True)


def _held() -> bool:
    """In place of a weak reference: the checkout exists."""
    return True


def _gone() -> None:
    """In place of a weak reference to a checkout that was never given back."""
    return


_UNWATCHED: Final = SimpleNamespace(detach=lambda: None)  # in place of `weakref.finalize`


class _Cursor(_TheirCursor):
    """Rows that are fetched at once, with what the driver has prepared in earlier leases of the connection."""

    __slots__ = ()

    async def _prepare_and_execute(self, operation: str, parameters: Sequence[Any] | None) -> None:
        lent = self._adapt_connection
        async with lent._execute_mutex:
            if lent._transaction is None:
                lent.begin()
            try:
                rows, status, description = await self._connection.run_kept(operation, parameters or ())
            except Exception as error:  # noqa: BLE001 - a boundary: SQLAlchemy translates what it knows and raises
                lent._handle_exception(error)
        self._description = description or None
        self._rows = deque(rows)
        counted = _COUNTED.match(status)
        self._rowcount = int(counted[1]) if counted is not None else -1


class _Streamed(_TheirStreamed):
    """Rows that are fetched while they are read: each time for the tenant that asked."""

    __slots__ = ()

    def _buffer_rows(self) -> None:
        self._adapt_connection.check()
        super()._buffer_rows()

    def fetchmany(self, size: int | None = None) -> Any:
        self._adapt_connection.check()
        return super().fetchmany(size)

    def fetchall(self) -> Any:
        self._adapt_connection.check()
        return super().fetchall()


class _DialectConnection(_TheirConnection):
    """One lease. Its tenant never changes, and nothing runs on it while another one is current."""

    __slots__ = ("_lease", "_loop", "_refusal", "ends_with_commit", "was_lost")

    _cursor_cls = _Cursor
    _ss_cursor_cls = _Streamed

    def __init__(self, dbapi: Any, lease: _Leased) -> None:
        # Statements stay prepared in the driver's cache, which lives longer than this.
        super().__init__(dbapi, lease.guard, prepared_statement_cache_size=0)
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._refusal: TenantProxyError | None = None
        self.ends_with_commit = False  # who has it gives it back then, with nothing more to ask
        self.was_lost: bool | None = None  # whether it had ended when it was given back; None: it was not

    @property
    def whose(self) -> Whose:
        return self._lease.scope.id, self._lease.scope.system

    def refuse(self, belongs: Whose) -> TenantProxyError:
        """The error for a session that belongs to another tenant; nothing runs on this connection any more."""
        self._refusal = AccessDenied(
            "a session stays with the tenant of its first connection",
            detail=f"it is {_name(belongs)}'s, and {_name(self.whose)} is current",
            hint="make a session for each request or job",
        )
        return self._refusal

    def check(self) -> None:
        """Raise unless the scope that is current is the one that this was lent to."""
        if self._refusal is not None:
            raise self._refusal.again()
        now, then = current(), self._lease.scope
        if now is not then and _identity(now) != _identity(then):
            raise AccessDenied(
                "this connection was opened for another tenant, or in another context",
                detail=f"it is {_name(self.whose)}'s, and {_name((now.id, now.system))} is current",
                hint="make a session for each request or job, and close it there",
            )

    async def _prepare(self, operation: str, invalidate_timestamp: float) -> Any:
        statement = await self._connection.prepare_kept(operation)
        return statement, statement.get_attributes()

    def forget_schema(self) -> None:
        """Types and statements may not be what they were, on none of the connections to this very schema."""
        await_(self._connection.reload_schema_state())

    async def _start_transaction(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a transaction with the next statement, where one is wanted."""
        if self.isolation_level == "autocommit":
            return
        try:
            self._connection.begin_with_next(
                isolation=self.isolation_level, readonly=self.readonly, deferrable=self.deferrable
            )
            self._transaction = True
        except Exception as error:  # noqa: BLE001 - a boundary: SQLAlchemy translates what it knows and raises
            self._handle_exception_no_connection(self.dbapi, error)

    def commit(self) -> None:
        self.check()
        if self._transaction is None:
            return
        self._transaction = None
        try:
            if self.ends_with_commit:
                self._commit_and_end()
            else:
                await_(self._connection.commit_begun())
        except Exception as error:  # noqa: BLE001 - a boundary: SQLAlchemy translates what it knows and raises
            self._handle_exception_no_connection(self.dbapi, error)

    def _commit_and_end(self) -> None:
        con = self._connection._con
        try:
            await_(self._lease.block.commit())
        finally:
            self.was_lost = con is None or con.is_closed()

    def rollback(self) -> None:
        if self._transaction is None:
            return
        self._transaction = None
        try:
            await_(self._connection.rollback_begun())
        except Exception as error:  # noqa: BLE001 - a boundary: SQLAlchemy translates what it knows and raises
            self._handle_exception(error)

    def close(self) -> None:
        try:
            if self._transaction is not None:
                self.rollback()
        finally:
            self._lease.block.end()

    def terminate(self) -> None:
        """Give it back: the router resets what it can, and closes the rest."""
        if in_greenlet():
            self._lease.block.end()
        else:  # called by the garbage collector, in whatever thread and in the midst of anything
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self._lease.block.end, context=Context())


def _name(whose: Whose) -> str:
    tenant, system = whose
    return tenant if system is None else f"{tenant}/{system}"


def _identity(scope: TenantScope) -> tuple[object, ...]:
    return scope.source, scope.id, scope.system, scope.replica, scope.context, scope.read_only


class _Driver(_TheirDriver):
    """asyncpg, whose connect is a lease."""

    def connect(self, *, async_creator_fn: Callable[[], _Leased]) -> _DialectConnection:
        return _DialectConnection(self, async_creator_fn())


class _Execution(_TheirExecution):
    """One statement."""

    def pre_exec(self) -> None:
        lent = self._dbapi_connection.dbapi_connection
        lent.check()
        # After a disconnect a Connection gets another lease, which may be another tenant's.
        root, whose = self.root_connection, lent.whose
        belongs = getattr(root, _FIXED, None)
        if belongs is None:
            setattr(root, _FIXED, whose)
        elif belongs != whose:
            raise lent.refuse(belongs)
        if self.isddl:
            lent.forget_schema()

    def handle_dbapi_exception(self, e: BaseException) -> None:
        # SQLAlchemy's own has the connections of all tenants look their types up again.
        if isinstance(e, (self.dialect.dbapi.InvalidCachedStatementError, self.dialect.dbapi.InternalServerError)):
            self._dbapi_connection.dbapi_connection.forget_schema()


class TenantDialect(_TheirDialect):
    """SQLAlchemy's dialect for asyncpg, on leases of a router."""

    supports_statement_cache = True
    execution_ctx_cls = _Execution
    is_initialized = False
    expire: Callable[[], None]
    lend: Callable[[], _Leased]

    @classmethod
    def import_dbapi(cls) -> Any:
        """See SQLAlchemy."""
        return _Driver(__import__("asyncpg"))

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:
        """See SQLAlchemy. A connection that was given back at its commit cannot be asked any more."""
        lost = getattr(connection, "was_lost", None)
        return super().is_disconnect(e, connection, cursor) if lost is None else lost

    def initialize(self, connection: Connection) -> None:
        """See SQLAlchemy: it asks the first server that it meets for its version."""
        super().initialize(connection)
        self.is_initialized = True

    def on_connect(self) -> None:
        """Nothing: codecs are set once, when the router opens a connection."""
        return

    def _get_default_schema_name(self, connection: Connection) -> None:
        # It would be the first tenant's, and `schema_translate_map={"x": None}` would write it for all.
        return


@event.listens_for(Session, "after_begin")
def _stay(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Keep a session with the tenant of its first connection."""
    dialect: Any = connection.dialect
    if isinstance(dialect, TenantDialect):
        lent: Any = connection.connection.dbapi_connection
        belongs = session.info.setdefault(_FIXED, lent.whose)
        if belongs != lent.whose:
            raise lent.refuse(belongs)
        # One that the session was not given, but got by itself, goes back at its commit, before anything else is asked.
        _, _, _, lent.ends_with_commit = transaction._connections[connection]


registry.register("postgresql.tenantproxy", __name__, TenantDialect.__name__)
_URL: Final = "postgresql+tenantproxy://"
