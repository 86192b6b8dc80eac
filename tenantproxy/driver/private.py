"""Which private names of asyncpg are used? They and their types, so that a new minor of it fails loudly.

Tried with the minors that pyproject.toml pins; a test checks `PRIVATE_NAMES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.pool import PoolConnectionProxy
from asyncpg.prepared_stmt import PreparedStatement

if TYPE_CHECKING:
    from tenantproxy.driver.connection import TenantConnection

__all__ = [
    "PRIVATE_NAMES",
    "AsyncpgConnection",
    "AsyncpgCursorFactory",
    "AsyncpgPortal",
    "AsyncpgProxy",
    "AsyncpgRows",
    "AsyncpgStatement",
    "AsyncpgStatementCache",
]

PRIVATE_NAMES: Final = {
    "asyncpg.connection.Connection": (
        "_protocol _transport _loop _top_xact _pool_release_ctr _stmt_cache _stmts_to_close _stmt_exclusive_section"
        " _listeners _log_listeners _termination_listeners _query_loggers _get_statement"
        " _execute _do_execute _executemany _prepare _copy_in _copy_out _check_open"
        " _drop_local_statement_cache _drop_local_type_cache _set_proxy _cancel_current_command _cancellations _abort"
        " _process_notification _process_log_message _call_termination_listeners _get_unique_id _time_and_log"
    ),
    "asyncpg.pool.PoolConnectionProxy": "_con _holder _detach",
    "asyncpg.prepared_stmt.PreparedStatement": "_connection _PreparedStatement__do_execute",
    "asyncpg.cursor.CursorFactory": "_connection",
    "asyncpg.cursor.Cursor": "_connection",
    "asyncpg.cursor.CursorIterator": "_connection",
    "asyncpg.connresource.ConnectionResource": "_check_conn_validity",
    "asyncpg.transaction.Transaction": "_connection _isolation _readonly _deferrable _state",
    "asyncpg.protocol.protocol.BaseProtocol": (
        "_wait_for_cancellation _is_cancelling is_in_transaction query bind_execute close_statement"
    ),
    "asyncpg.connection._StatementCache": "put clear _entries _on_remove",
}
"""What is used of asyncpg in addition to its public names, by class."""


if TYPE_CHECKING:
    # The stubs of asyncpg leave its private names out; this is what we use of them.
    class AsyncpgConnection(asyncpg.Connection[Any]):
        """`asyncpg.Connection`."""

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

        def _check_open(self) -> None: ...
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

    class AsyncpgProxy(asyncpg.Connection[Any]):
        """What a pool hands out: `isinstance(proxy, asyncpg.Connection)` holds, so users may pass it on."""

        _con: TenantConnection | None

        def __init__(self, holder: Any, con: Any) -> None: ...
        def _detach(self) -> Any: ...

    class AsyncpgStatement(PreparedStatement[Any]):
        """A prepared statement."""

        _connection: Any

        async def _PreparedStatement__do_execute(self, executor: Any) -> Any: ...  # noqa: N802

    class AsyncpgCursorFactory(CursorFactory[Any]):
        """What `cursor()` returns."""

        _connection: Any

    class AsyncpgPortal(Cursor[Any]):
        """A cursor that was awaited."""

    class AsyncpgRows(CursorIterator[Any]):
        """A cursor that is iterated over."""

    class AsyncpgStatementCache:
        """The driver's statements by text."""

        __slots__: tuple[str, ...]
        _entries: dict[Any, Any]
        _on_remove: Callable[[Any], None]
        _connection_keeps: Callable[[Any], None]
        _connection_tainted: Callable[[], None]

        def put(self, query: Any, statement: Any) -> None:
            """Keep it."""
            ...

else:
    AsyncpgConnection = asyncpg.Connection
    AsyncpgProxy = PoolConnectionProxy
    AsyncpgStatement = PreparedStatement
    AsyncpgCursorFactory = CursorFactory
    AsyncpgPortal = Cursor
    AsyncpgRows = CursorIterator
    AsyncpgStatementCache = asyncpg.connection._StatementCache
