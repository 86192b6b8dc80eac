"""What may a lent asyncpg connection do, and what is left of it afterwards?

The only file that touches asyncpg's private names. Tried with the minors that pyproject.toml pins; a test checks
`PRIVATE_NAMES`, so that a new minor fails loudly.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import asyncpg
from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.pool import PoolConnectionProxy
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.transaction import Transaction

from tenantproxy.connect.checks import WrongRole
from tenantproxy.connect.keepalive import keep_alive
from tenantproxy.connect.watch import keep_socket
from tenantproxy.driver.reading import SlicedReading
from tenantproxy.errors import IsolationError, LeaseExpired

__all__ = [
    "PRIVATE_NAMES",
    "Description",
    "Guard",
    "Lent",
    "RenewingConnection",
    "ReplicaConnection",
    "TenantConnection",
    "reading_in_slices",
]

PRIVATE_NAMES: Final = {
    "asyncpg.connection.Connection": (
        "_protocol _transport _loop _top_xact _pool_release_ctr _stmt_cache _stmts_to_close _stmt_exclusive_section"
        " _listeners _log_listeners _termination_listeners _query_loggers _get_statement"
        " _execute _do_execute _executemany _prepare _copy_in _copy_out"
        " _drop_local_statement_cache _drop_local_type_cache _set_proxy _cancel_current_command _cancellations _abort"
        " _process_notification _process_log_message _call_termination_listeners _get_unique_id _time_and_log"
    ),
    "asyncpg.pool.PoolConnectionProxy": "_con _holder _detach",
    "asyncpg.prepared_stmt.PreparedStatement": "_connection _PreparedStatement__do_execute",
    "asyncpg.cursor.CursorFactory": "_connection",
    "asyncpg.cursor.Cursor": "_connection",
    "asyncpg.cursor.CursorIterator": "_connection",
    "asyncpg.transaction.Transaction": "_connection",
    "asyncpg.protocol.protocol.BaseProtocol": (
        "_wait_for_cancellation _is_cancelling is_in_transaction query bind_execute close_statement"
    ),
    "asyncpg.connection._StatementCache": "put clear _entries",
}
"""What is used of asyncpg beside its public names, by class."""

CANCEL_TIMEOUT: Final = 2.0  # a peer that ends nothing for so long, however often it is asked to, is aborted
_ASK_AGAIN_SECONDS: Final = 0.1  # then twice as long each time

# SQL that may take the driver's prepared statements, or the tenant, from under it. Looked for once per new text.
_TOUCHES_STATEMENTS: Final = re.compile(r"\b(?:prepare|deallocate|discard|reset\s+all)\b", re.IGNORECASE)

# Any simple query ends in a Sync of its own. This one takes no snapshot, so a SET TRANSACTION may follow it. (asyncpg
# has no call for a lone Sync, and fails on the answer to an empty query.)
_SYNC: Final = "SHOW server_version_num"

_DESCRIBED: Final = 200  # statements of which a connection remembers what their rows are made of

Description = tuple[tuple[str, int, None, None, None, None, None], ...]
"""Name and type of each column, as PEP 249 has it."""

Kept = tuple[list[Any], str, Description]
"""Rows, the tag of the command, and what the rows are made of."""


if TYPE_CHECKING:
    # The stubs of asyncpg leave its private names out; this is what we use of them.
    class _Connection(asyncpg.Connection[Any]):
        _protocol: Any
        _transport: asyncio.Transport
        _loop: asyncio.AbstractEventLoop
        _top_xact: Any
        _pool_release_ctr: int
        _stmt_cache: Any
        _stmt_exclusive_section: Any
        _stmts_to_close: set[Any]
        _listeners: dict[str, Any]
        _log_listeners: set[Any]
        _termination_listeners: set[Any]
        _query_loggers: set[Any]
        _cancellations: set[asyncio.Task[None]]

        def _execute(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _do_execute(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _executemany(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _copy_out(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _copy_in(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _prepare(self, query: str, **kwargs: Any) -> Any: ...
        async def _get_statement(self, *args: Any, **kwargs: Any) -> Any: ...
        def _get_unique_id(self, prefix: str) -> str: ...
        def _time_and_log(self, query: str, args: Any, timeout: float | None) -> AbstractContextManager[None]: ...
        def _drop_local_statement_cache(self) -> None: ...
        def _drop_local_type_cache(self) -> None: ...
        def _abort(self) -> None: ...
        def _cancel_current_command(self, waiter: asyncio.Future[None], cancel_waiter: Any = None) -> None: ...
        def _process_notification(self, *args: Any) -> None: ...
        def _process_log_message(self, *args: Any) -> None: ...
        def _call_termination_listeners(self) -> None: ...

    class _Proxy(asyncpg.Connection[Any]):  # so that it may be passed where users ask for a connection
        _con: TenantConnection | None

        def __init__(self, holder: Any, con: Any) -> None: ...
        def _detach(self) -> Any: ...

    class _Statement(PreparedStatement[Any]):
        _connection: Any

        async def _PreparedStatement__do_execute(self, executor: Any) -> Any: ...  # noqa: N802

    class _Factory(CursorFactory[Any]):
        _connection: Any

    class _Portal(Cursor[Any]): ...

    class _Rows(CursorIterator[Any]): ...

    class _Cache:
        __slots__: tuple[str, ...]
        _connection_tainted: Callable[[], None]

        def put(self, query: Any, statement: Any) -> None: ...

else:
    _Connection = asyncpg.Connection
    _Proxy = PoolConnectionProxy
    _Statement = PreparedStatement
    _Factory = CursorFactory
    _Portal = Cursor
    _Rows = CursorIterator
    _Cache = asyncpg.connection._StatementCache


class Lent(Protocol):
    """What a guard needs of the pool that lends: asyncpg asks its `_pool` to drop caches of all its connections."""

    def _drop_statement_cache(self) -> None: ...
    def _drop_type_cache(self) -> None: ...


class _ScreenedCache(_Cache):
    """asyncpg's statement cache, which notes a text that may change what is prepared on the server."""

    __slots__ = ("_connection_tainted",)

    def put(self, query: Any, statement: Any) -> None:
        if _TOUCHES_STATEMENTS.search(query[0]):
            self._connection_tainted()
        super().put(query, statement)


class _Unread(asyncio.Protocol):
    """Takes what a server still sends to a connection that nobody uses any more, and tells its end."""

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class TenantConnection(_Connection):
    """An asyncpg connection that can be taken back: `take_back` ends what its last user left in our process."""

    __slots__ = (
        "_described",
        "_entry",
        "expired",
        "has_foreign_codecs",
        "is_doubtful",
        "is_tainted",
        "is_unsynced",
        "left",
        "runs_directly",
        "saw_read_only",
        "under_way",
        "was_terminated",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_tainted = False  # a prepared statement of the driver may be gone or replaced
        self.has_foreign_codecs = False  # a user changed how values are read and written
        self.is_doubtful = False  # the driver lost track of what the server sends
        self.is_unsynced = False  # the server may be in an implicit transaction that no Sync has ended
        self.was_terminated = False  # ended from this side, so the other one may live on
        self.expired: LeaseExpired | None = None  # why its lease was ended
        self.left: socket.socket | None = (
            None  # then: where its end can be heard; to be closed by the code that takes it
        )
        self.runs_directly = False  # its user ran something that asyncpg does not note as being under way
        self.saw_read_only = False  # a write was refused: by a transaction that only reads, or by the server
        self.under_way = 0  # calls of its user, and of what it was given, that have begun and not ended
        self._described: dict[str, tuple[Any, Description]] = {}  # by text, with the statement
        self._entry: Any = None  # the statement that enters a session, outside of the driver's cache
        # asyncpg's own cache with our `put`: nothing of it is repeated here.
        self._stmt_cache = _screened(self._stmt_cache, self._taint)

    def _taint(self) -> None:
        self.is_tainted = True

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if args:
            return await super().execute(query, *args, timeout=timeout)
        if _TOUCHES_STATEMENTS.search(query):
            self.is_tainted = True
        try:
            return await super().execute(query, timeout=timeout)
        except BaseException as exc:
            self.runs_directly = True  # whether it has ended is for the driver to say
            self.saw_read_only |= isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
            raise

    async def _do_execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._do_execute(*args, **kwargs)
        except asyncpg.ReadOnlySQLTransactionError:
            self.saw_read_only = True
            raise

    async def _prepare(self, query: str, **kwargs: Any) -> Any:
        if _TOUCHES_STATEMENTS.search(query) or isinstance(kwargs.get("name"), str):
            self.is_tainted = True  # a name of the user's choice stays behind, and may be the driver's
        self.runs_directly = True
        timeout, started = kwargs.get("timeout"), monotonic()
        statement = await super()._prepare(query, **kwargs)
        statement.__class__ = _LeasedStatement
        if not kwargs.get("use_cache"):  # the caller decides when it runs, which may be much later
            await self.sync(None if timeout is None else max(0.001, timeout - (monotonic() - started)))
        return statement

    async def sync(self, timeout: float | None) -> None:
        """End the implicit transaction that a Parse without a Sync begins; one round trip.

        asyncpg ends a prepare with Flush. The server then stays in a transaction that no ReadyForQuery tells of: its
        start is what a proof is checked against later, and `statement_timeout` runs on and fails the next statement.
        Source: PostgreSQL documentation, "Extended Query" (55.2.3), `exec_parse_message` in tcop/postgres.c.
        """
        self.is_unsynced = False
        if self.is_closed():
            return  # the call that follows has the better error
        try:
            await self._protocol.query(_SYNC, timeout)
        except asyncpg.InFailedSQLTransactionError:
            pass  # answered, so synchronised; the caller's statement hears of the failed transaction by itself
        except asyncpg.QueryCanceledError:  # its statement_timeout ran out before: that ended it too
            if self._protocol.is_in_transaction():
                raise

    async def prepare_kept(self, query: str) -> PreparedStatement[asyncpg.Record]:
        """As `prepare`, but from the driver's own cache, so that what it prepares serves later leases too."""
        statement: PreparedStatement[asyncpg.Record] = await self._prepare(query, use_cache=True)
        return statement

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        factory = super().cursor(query, *args, **options)
        factory.__class__ = _LeasedFactory
        return factory

    def transaction(self, **options: Any) -> Any:
        """As asyncpg's."""
        transaction = super().transaction(**options)
        transaction.__class__ = _LeasedTransaction
        return transaction

    async def set_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        self.has_foreign_codecs = True
        await super().set_type_codec(*args, **kwargs)

    async def reset_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        self.has_foreign_codecs = True
        await super().reset_type_codec(*args, **kwargs)

    async def set_builtin_type_codec(self, *args: Any, **kwargs: Any) -> None:
        """As asyncpg's; a connection that was lent is not reused afterwards."""
        self.has_foreign_codecs = True
        await super().set_builtin_type_codec(*args, **kwargs)

    def _get_unique_id(self, prefix: str) -> str:
        # asyncpg counts, and whoever guesses the name of another tenant's statement reads its text in EXPLAIN EXECUTE.
        return f"__asyncpg_{prefix}_{secrets.token_hex(16)}__"

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's, but `timeout` bounds the source of the records too, and ends the connection."""
        self.runs_directly = True
        timeout = options.pop("timeout", None)
        with self._noting_read_only():
            async with self._in_time(timeout):
                tag: str = await super().copy_records_to_table(table_name, **options)
                return tag

    @asynccontextmanager
    async def _in_time(self, timeout: float | None) -> AsyncIterator[None]:
        """Raise TimeoutError after `timeout` seconds, and end the connection: the server still waits for data.

        asyncpg asks for its own timeout only between two writes, so a slow source outlives it, and then it fails on
        the answer that comes to a COPY that has no waiter any more.
        """
        late = None if timeout is None else self._loop.call_later(timeout + CANCEL_TIMEOUT, self.terminate)
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError:
            self.terminate()
            raise
        finally:
            if late is not None:
                late.cancel()

    async def _copy_in(self, copy_stmt: Any, source: Any, timeout: float | None) -> Any:
        self.runs_directly = True
        with self._noting_read_only():
            async with self._opened(source, "rb") as data, self._in_time(timeout):
                return await super()._copy_in(copy_stmt, data, None)

    @contextmanager
    def _noting_read_only(self) -> Iterator[None]:
        try:
            yield
        except asyncpg.ReadOnlySQLTransactionError:
            self.saw_read_only = True
            raise

    async def _copy_out(self, copy_stmt: Any, output: Any, timeout: float | None) -> Any:
        self.runs_directly = True
        async with self._opened(output, "wb") as file:
            try:
                async with self._in_time(timeout):
                    return await super()._copy_out(copy_stmt, file, None)
            except asyncpg.PostgresError:
                raise
            except BaseException:
                self.is_doubtful = (
                    True  # asyncpg leaves rows unread that nobody waits for, and then waits for their end
                )
                if not self.is_closed():
                    self._transport.pause_reading()  # or it fails on those that come
                raise

    @asynccontextmanager
    async def _opened(self, file: Any, mode: str) -> AsyncIterator[Any]:
        """`file`, opened here when it is a path: that may take long, and nothing runs on the connection meanwhile.

        asyncpg would then copy from whatever session is there by now, which may be another tenant's.
        """
        try:
            path = os.fspath(file)
        except TypeError:
            yield file
            return
        lease = self._pool_release_ctr
        opened = await self._loop.run_in_executor(None, open, path, mode)
        try:
            self._check_lease(lease)
            yield opened
        finally:
            await self._loop.run_in_executor(None, opened.close)

    def _check_lease(self, lease: int) -> None:
        """Refuse what was begun in a lease that has ended."""
        if lease != self._pool_release_ctr:
            raise asyncpg.InterfaceError("the connection has been released back to the pool meanwhile")

    def note_failure(self, exc: BaseException, lease: int) -> None:
        """A call of `lease` failed. Raises InterfaceError for it when that lease has ended, for that is why."""
        self.runs_directly = True  # whether it has ended is for the driver to say
        self.note_interruption(exc)
        self.saw_read_only |= isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
        if isinstance(exc, Exception) and not isinstance(exc, asyncpg.InterfaceError):
            try:
                self._check_lease(lease)
            except asyncpg.InterfaceError as ended:
                raise ended from exc

    def note_interruption(self, exc: BaseException) -> None:
        """A call failed with `exc`: unless it is an answer of the server, a Parse may be without its Sync."""
        if not (isinstance(exc, asyncpg.PostgresError) and exc.severity):  # asyncpg's own DataError has no severity
            self.is_unsynced = True

    async def hang_up(self, timeout: float) -> None:
        """Cancel what runs and say goodbye without the driver, until the server has closed. Raises TimeoutError."""
        ended = self._loop.create_future()
        self._transport.set_protocol(_Unread(ended))
        if not self._transport.is_reading():
            self._transport.resume_reading()
        async with asyncio.timeout(timeout):
            self._transport.write(b"X\0\0\0\4")  # Terminate: read when what runs has ended
            await self._cancel_until(ended)
        super().terminate()  # asyncpg does not know yet

    def shut_socket(self) -> None:
        """End the connection without its event loop, which has ended: the server sees the end of the stream."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # it is closed by now
                sock.shutdown(socket.SHUT_RDWR)

    def terminate(self) -> None:
        """As asyncpg's, which also does it itself when the end of a cancelled statement does not come."""
        self.was_terminated = self.was_terminated or not self.is_closed()
        super().terminate()

    def _abort(self) -> None:
        if self.left is None:
            self.left = keep_socket(self._transport)
        super()._abort()

    def drop_left(self) -> None:
        """Nothing waits for the end of its server side."""
        if self.left is not None:
            self.left.close()
            self.left = None

    async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
        """The rows of `query`, the tag of its command and what its rows are made of; prepared as `prepare_kept`."""

        # As asyncpg's `_execute`, which does not tell which statement it ran.
        def run(state: Any, timeout: float | None) -> Any:
            return self._protocol.bind_execute(state, args, "", 0, True, timeout)

        with self._stmt_exclusive_section:
            if self._query_loggers:
                with self._time_and_log(query, args, None):
                    (rows, tag, _), state = await self._do_execute(query, run, None)
            else:
                (rows, tag, _), state = await self._do_execute(query, run, None)
        return rows, tag.decode() if tag else "", self._describe(query, state)

    def _describe(self, query: str, state: Any) -> Description:
        """What the rows of a statement are made of; that never changes, and asyncpg makes it anew each time."""
        known = self._described.get(query)
        if known is not None and known[0] is state:
            return known[1]
        columns = state._get_attributes()
        description = tuple((each.name, each.type.oid, None, None, None, None, None) for each in columns)
        if len(self._described) >= _DESCRIBED:
            self._described.clear()
        self._described[query] = state, description
        return description

    # --- listeners ---------------------------------------------------------------------------------------------------
    # In an empty context: asyncio reads in the context of whoever resumed reading last (each COPY to the client does),
    # and a listener would then answer with the tenant of that request.
    def _process_notification(self, *args: Any) -> None:
        Context().run(super()._process_notification, *args)

    def _process_log_message(self, *args: Any) -> None:
        Context().run(super()._process_log_message, *args)

    def _call_termination_listeners(self) -> None:
        Context().run(super()._call_termination_listeners)

    # --- taking it back ----------------------------------------------------------------------------------------------
    def take_back(self) -> None:
        """End what the last user can still reach: statements, cursors, transactions, listeners and loggers. No I/O."""
        self._pool_release_ctr += 1
        self._top_xact = None
        self.forget_listeners()

    def forget_listeners(self) -> None:
        """Call nobody any more. Again after the reset: one that was being added as its lease ended is there by then."""
        if self._listeners:
            self._listeners.clear()
        if self._log_listeners:
            self._log_listeners.clear()
        if self._query_loggers:
            self._query_loggers.clear()
        if self._termination_listeners:
            self._termination_listeners.clear()

    async def settle(self, timeout: float) -> None:
        """Wait for a cancelled command to end, then roll back an open transaction. Raises on any doubt."""
        protocol = self._protocol
        if protocol._is_cancelling():
            await protocol._wait_for_cancellation(timeout)
        if self.is_unsynced:
            await self.sync(timeout)
        if protocol.is_in_transaction():
            await protocol.query("ROLLBACK", timeout)
            if protocol.is_in_transaction():
                raise IsolationError("a transaction could not be rolled back")

    async def simple(self, sql: str, timeout: float | None) -> str:
        """Run `sql` in one simple query that no logger sees; the tag of its last command."""
        answer: str = await self._protocol.query(sql, timeout)
        if self._protocol.is_in_transaction():
            raise IsolationError("a transaction was left open by a reset")
        return answer

    async def prepare_entry(self, sql: str, timeout: float) -> None:
        """Prepare the statement that `enter` runs. Its codecs stay as they are now, whatever users set later."""
        self._entry = await self._get_statement(sql, timeout, named=True, use_cache=False)
        self._entry.attach()
        await self.simple("SELECT 1", timeout)  # Parse alone leaves a transaction, in which BEGIN could set no options

    async def enter(self, args: tuple[str, ...]) -> object:
        """Run the entry statement; the first column of its one row. Has no timer: whoever calls has one."""
        rows = await self._protocol.bind_execute(self._entry, args, "", 1, False, None)
        return rows[0][0] if rows else None

    async def enter_writing(self, args: tuple[str, ...]) -> object:
        """As `enter`, where transactions are read only by default: a binding writes, in the backend's own memory."""
        await self._protocol.query("BEGIN READ WRITE", None)
        answer = await self.enter(args)
        await self.simple("COMMIT", None)
        return answer

    @property
    def prepared(self) -> int:
        """How many statements are prepared that will be used again: the driver's, and the one that enters a session."""
        return len(self._stmt_cache) + (self._entry is not None)

    def forget_statements(self) -> None:
        """Drop the driver's idea of what is prepared."""
        self._drop_local_statement_cache()

    async def discarded_all(self, timeout: float) -> None:
        """The session went through DISCARD ALL: nothing is prepared any more, so nothing is left to close either.

        The entry statement is prepared again, under a new name.
        """
        self._drop_local_statement_cache()
        self._stmts_to_close.clear()
        if self._entry is not None:
            await self.prepare_entry(self._entry.query, timeout)
        self.is_tainted = False

    def forget_types(self) -> None:
        """Drop the driver's idea of the server's types."""
        self._drop_local_type_cache()

    @property
    def is_busy(self) -> bool:
        """Whether a statement is still under way, in a task that its user left behind.

        asyncpg notes it for queries; for the rest it tells only by refusing: asked to close the entry statement, it
        does not, and says why.
        """
        if not self.runs_directly:
            return bool(self._stmt_exclusive_section._acquired)
        self.runs_directly = False
        try:
            self._protocol.close_statement(self._entry, None).send(None)
        except asyncpg.InternalClientError:
            return False
        except asyncpg.InterfaceError:
            return True
        raise AssertionError("asyncpg closed a statement that is in use")

    @property
    def must_settle(self) -> bool:
        """Whether something still runs, is open or is listened to: it must end before the session can be reset."""
        protocol = self._protocol
        return bool(protocol.is_in_transaction() or protocol._is_cancelling() or self._listeners or self.is_unsynced)

    def set_user_timeout(self, seconds: float) -> None:
        """Let the kernel give up a peer that acknowledges nothing for so long, idle or not."""
        keep_alive(self._transport, seconds)

    # --- cancelling --------------------------------------------------------------------------------------------------
    def _cancel_current_command(self, waiter: asyncio.Future[None], cancel_waiter: Any = None) -> None:
        """As asyncpg's, but bounded: it asks once, and then waits for the end of the command as long as that takes."""
        if cancel_waiter is None:
            super()._cancel_current_command(waiter)
            return
        cancelling = self._cancel_in_time(waiter, cancel_waiter)
        self._cancellations.add(self._loop.create_task(cancelling, context=Context()))

    async def _cancel_in_time(self, sent: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        """Cancel a command until it has `ended`; the next one waits for `sent`, or a late request might end that."""
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await self._cancel_until(ended)
        except TimeoutError:
            self.terminate()
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._cancellations.discard(task)
            if not sent.done():
                sent.set_result(None)

    async def _cancel_until(self, ended: asyncio.Future[None]) -> None:
        """Ask again and again: PostgreSQL forgets a request that arrives before it has begun with the command."""
        pause = _ASK_AGAIN_SECONDS
        while not ended.done():
            await self.request_cancel()
            await asyncio.wait([ended], timeout=pause)
            pause *= 2

    def request_cancel(self) -> Awaitable[None]:
        """Ask the server to cancel what runs; the answer is when the request was sent."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._cancel_current_command(waiter)
        return waiter


def _screened(cache: Any, taint: Callable[[], None]) -> _ScreenedCache:
    screened = _ScreenedCache.__new__(_ScreenedCache)
    for name in _Cache.__slots__:
        setattr(screened, name, getattr(cache, name))
    screened._connection_tainted = taint
    return screened


class RenewingConnection(TenantConnection):
    """A connection whose binding to a tenant has an end: it is renewed before a statement, never within a transaction.

    `renew_at` is a moment of `time.monotonic()`, `renew` what to await then. A transaction is not cut: PostgreSQL
    counts the window at its start.
    """

    __slots__ = ("renew", "renew_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renew_at = float("inf")
        self.renew: Callable[[], Awaitable[None]] | None = None

    async def renew_if_due(self) -> None:
        """Renew the binding when its time has come. Raises IsolationError, and the connection is then closed."""
        if monotonic() >= self.renew_at and self.renew is not None and not self.is_in_transaction():
            self.renew_at = float("inf")  # the renewal itself runs statements
            lease = self._pool_release_ctr
            await self.renew()
            self._check_lease(lease)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super().execute(query, *args, timeout=timeout)

    def _execute(self, *args: Any, **kwargs: Any) -> Any:  # no coroutine of its own: every statement goes through here
        if monotonic() < self.renew_at:
            return super()._execute(*args, **kwargs)
        return self._execute_renewed(*args, **kwargs)

    async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
        """As any connection's."""
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super().run_kept(query, args)

    async def _execute_renewed(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._execute(*args, **kwargs)

    async def _executemany(self, *args: Any, **kwargs: Any) -> Any:
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super()._executemany(*args, **kwargs)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As any connection's."""
        await self.renew_if_due()
        return await super().copy_records_to_table(table_name, **options)

    async def _copy_out(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._copy_out(*args, **kwargs)

    async def _copy_in(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._copy_in(*args, **kwargs)

    async def _prepare(self, query: str, **kwargs: Any) -> Any:
        await self.renew_if_due()
        statement = await super()._prepare(query, **kwargs)
        statement.__class__ = _RenewingStatement
        return statement


class ReplicaConnection(RenewingConnection):
    """A connection to a replica: it takes no statement more once its server says that it was promoted.

    PostgreSQL (14 and later) says so with its answer to the first statement after the promotion. Transactions are read
    only by default; but a user who makes one write would write to what its former primary never sees.
    """

    __slots__ = ("_due_at",)

    @property
    def renew_at(self) -> float:
        """Always due: it looks before each statement."""
        return 0.0

    @renew_at.setter
    def renew_at(self, moment: float) -> None:
        self._due_at = moment

    async def renew_if_due(self) -> None:
        """As any connection's. Raises WrongRole after a promotion, and the connection ends with its lease."""
        if getattr(self.get_settings(), "in_hot_standby", "on") != "on":
            self.is_doubtful = True
            raise WrongRole("the replica was promoted", hint="try again: it is read elsewhere then", retry_after=0.1)
        if monotonic() >= self._due_at and self.renew is not None and not self.is_in_transaction():
            self._due_at = float("inf")  # the renewal itself runs statements
            lease = self._pool_release_ctr
            await self.renew()
            self._check_lease(lease)


# --- what a lease hands out ------------------------------------------------------------------------------------------
# asyncpg asks whether the lease goes on when a method is called. Its coroutine may run when it likes, in a task that
# starts after the block, say, and would then run for whoever has the connection by then. So each of them is a coroutine
# of ours around asyncpg's, which is called in the first step. One that has begun is counted until it has ended: a
# connection that comes back with one under way, be it between two answers of the server, is not lent again.
def _leased(method: Callable[..., Any]) -> Any:
    """`method` of a statement, cursor or transaction; it asks itself whether its lease goes on."""

    async def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        con: TenantConnection = resource._connection
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            if con.is_unsynced:
                await con.sync(kwargs.get("timeout"))
            return await method(resource, *args, **kwargs)
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1

    return functools.update_wrapper(call, method)


_Class = TypeVar("_Class", bound=type)


def _all_leased(cls: _Class) -> _Class:
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if inspect.iscoroutinefunction(inspect.unwrap(method)) and (name[0] != "_" or name.endswith("__")):
            setattr(cls, name, _leased(method))
    return cls


@_all_leased
class _LeasedTransaction(Transaction):
    __slots__ = ()


@_all_leased
class _LeasedPortal(_Portal):
    __slots__ = ()


@_all_leased
class _LeasedRows(_Rows):
    __slots__ = ()


class _LeasedFactory(_Factory):
    __slots__ = ()

    def __aiter__(self) -> Any:
        rows = super().__aiter__()
        rows.__class__ = _LeasedRows
        return rows

    def __await__(self) -> Generator[Any, Any, Any]:  # asyncpg's is called in the first step of this one
        con: TenantConnection = self._connection
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            portal = yield from super().__await__()
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1
        portal.__class__ = _LeasedPortal
        return portal


@_all_leased
class _LeasedStatement(_Statement):
    __slots__ = ()

    def cursor(self, *args: Any, **options: Any) -> Any:
        factory = super().cursor(*args, **options)
        factory.__class__ = _LeasedFactory
        return factory


class _RenewingStatement(_LeasedStatement):
    """A prepared statement that renews the binding of its connection as the connection itself does."""

    __slots__ = ()

    async def _PreparedStatement__do_execute(self, executor: Any) -> Any:  # noqa: N802 - overrides asyncpg's private method
        await self._connection.renew_if_due()
        return await super()._PreparedStatement__do_execute(executor)


class Guard(_Proxy):
    """One lease of an asyncpg connection: everything that `asyncpg.Connection` can do, until the block ends.

    Afterwards each call raises asyncpg's InterfaceError when it is awaited, even if it was made in the block, and so do
    statements, cursors and transactions kept from it. `isinstance(guard, asyncpg.Connection)` holds.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # What a lease has beside asyncpg's own methods. All its coroutine methods are set below.
        async def prepare_kept(self, query: str) -> PreparedStatement[asyncpg.Record]:
            """See `TenantConnection.prepare_kept`."""
            ...

        async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
            """See `TenantConnection.run_kept`."""
            ...
    else:

        def __getattr__(self, name: str) -> Any:
            if name[0] != "_":  # asyncpg would give what `TenantConnection` has for the lender
                raise AttributeError(f"a lent connection has no {name!r}")
            return super().__getattr__(name)

    @contextmanager
    def query_logger(self, callback: Any) -> Iterator[None]:
        """As asyncpg's, of the lease in which the block is entered."""
        self.add_query_logger(callback)
        try:
            yield
        finally:
            if self._con is not None:
                self.remove_query_logger(callback)

    def detach(self) -> TenantConnection | None:
        """End the lease on this side; the connection, or None when it ended before."""
        con: TenantConnection | None = self._detach()
        return con


@contextmanager
def reading_in_slices(guard: Guard) -> Iterator[None]:
    """For the block, thousands of announcements on the lent connection do not hold the event loop. Not for COPY."""
    con = guard._con
    if con is None or con.is_closed():
        yield
        return
    reading = SlicedReading(con._transport)
    try:
        yield
    finally:
        reading.stop()


def _guarded(name: str) -> Any:
    """The coroutine method `name` of the lent connection; see "what a lease hands out"."""

    async def call(guard: Guard, *args: Any, **kwargs: Any) -> Any:
        con = guard._con
        if con is None:
            raise asyncpg.InterfaceError(
                f"cannot call Connection.{name}(): connection has been released back to the pool"
            )
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            if con.is_unsynced and name != "close":
                await con.sync(kwargs.get("timeout"))
            return await getattr(con, name)(*args, **kwargs)
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1

    return functools.update_wrapper(call, getattr(TenantConnection, name))


for _name, _ in inspect.getmembers(asyncpg.Connection, inspect.iscoroutinefunction):
    if _name[0] != "_":
        setattr(Guard, _name, _guarded(_name))
for _name in ("prepare_kept", "run_kept"):
    setattr(Guard, _name, _guarded(_name))
