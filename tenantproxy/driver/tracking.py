"""What did the user of a lent connection do that outlives its lease? Noted while it runs, for the lender to undo."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

import asyncpg

from tenantproxy.driver.ending import EndableConnection
from tenantproxy.driver.handles import LeasedFactory, LeasedStatement, LeasedTransaction
from tenantproxy.driver.private import AsyncpgStatementCache
from tenantproxy.errors import LeaseExpired

__all__ = ["TrackedConnection"]

# SQL that may take the driver's prepared statements, or the tenant, from under it. Looked for once per new text.
# So may what gives texts their meaning and is not reported by the server: see `_MEANING`.
_TOUCHES_STATEMENTS: Final = re.compile(
    r"\b(?:prepare|deallocate|discard|reset\s+all|transform_null_equals|array_nulls|backslash_quote|lc_monetary"
    r"|timezone_abbreviations|xml_?option|xml\s+option)\b",
    re.IGNORECASE,
)

# What a text means is settled when it is parsed, constants of types too, and stays with its statement. PostgreSQL
# parses it again for another search_path, but not for another one of these.
_MEANING: Final = ("DateStyle", "IntervalStyle", "TimeZone", "client_encoding", "standard_conforming_strings")

# Any simple query ends in a Sync of its own. This one takes no snapshot, so a SET TRANSACTION may follow it. (asyncpg
# has no call for a lone Sync, and fails on the answer to an empty query.)
_SYNC: Final = "SHOW server_version_num"


class _ScreenedCache(AsyncpgStatementCache):
    """asyncpg's statement cache, which notes a text that may change what is prepared on the server, and new ones."""

    __slots__ = ("_connection_keeps", "_connection_tainted")

    def put(self, query: Any, statement: Any) -> None:
        if _TOUCHES_STATEMENTS.search(query[0]):
            self._connection_tainted()
        super().put(query, statement)
        self._connection_keeps(query)

    def drop(self, query: Any) -> None:
        """Keep it no longer."""
        entry = self._entries.pop(query, None)
        if entry is not None:
            self._on_remove(entry._statement)


def _screened(cache: Any, taint: Callable[[], None], keeps: Callable[[Any], None]) -> _ScreenedCache:
    screened = _ScreenedCache.__new__(_ScreenedCache)
    for name in AsyncpgStatementCache.__slots__:
        setattr(screened, name, getattr(cache, name))
    screened._connection_tainted, screened._connection_keeps = taint, keeps
    return screened


class TrackedConnection(EndableConnection):
    """Notes what its user leaves behind in the driver and on the server."""

    is_behind_pooler = False  # each of its transactions may have another session

    __slots__ = (
        "_meaning",
        "_strange",
        "expired",
        "has_foreign_codecs",
        "is_doubtful",
        "is_tainted",
        "is_unsynced",
        "runs_directly",
        "saw_read_only",
        "under_way",
    )

    async def within(self, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run `call` where it may run: see `PooledConnection.within`."""
        return await call(*args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_tainted = False  # a prepared statement of the driver may be gone or replaced
        self.has_foreign_codecs = False  # a user changed how values are read and written
        self.is_doubtful = False  # the driver lost track of what the server sends
        self.is_unsynced = False  # the server may be in an implicit transaction that no Sync has ended
        self.expired: LeaseExpired | None = None  # why its lease was ended
        self.runs_directly = False  # its user ran something that asyncpg does not note as being under way
        self.saw_read_only = False  # a write was refused: by a transaction that only reads, or by the server
        self.under_way = 0  # calls of its user, and of what it was given, that have begun and not ended
        # asyncpg's own cache with our `put`: nothing of it is repeated here.
        self._stmt_cache = _screened(self._stmt_cache, self._taint, self._keeps)
        self._meaning = self._means()  # of the session's start, to which each reset returns
        self._strange: set[Any] = set()  # kept statements whose texts were parsed when they meant something else

    def _taint(self) -> None:
        self.is_tainted = True

    def _means(self) -> list[str]:
        settings = self.get_settings()
        return [getattr(settings, name, "") for name in _MEANING]

    def _keeps(self, query: Any) -> None:
        if self._means() != self._meaning:
            self._strange.intersection_update(self._stmt_cache._entries)
            self._strange.add(query)

    def forget_strange(self) -> None:
        """Drop the statements whose texts mean what the settings of a tenant made of them. Another one comes next."""
        for query in self._strange:
            self._stmt_cache.drop(query)
        self._strange.clear()

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
        statement.__class__ = LeasedStatement
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

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        factory = super().cursor(query, *args, **options)
        factory.__class__ = LeasedFactory
        return factory

    def transaction(self, **options: Any) -> Any:
        """As asyncpg's."""
        transaction = super().transaction(**options)
        transaction.__class__ = LeasedTransaction
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
        # asyncpg counts, and who guesses the name of another tenant's statement reads its text in EXPLAIN EXECUTE.
        return f"__asyncpg_{prefix}_{secrets.token_hex(16)}__"

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

    def end_handles(self) -> None:
        """End the statements, cursors and transactions that its user was given."""
        self._pool_release_ctr += 1

    def _check_lease(self, lease: int) -> None:
        """Refuse what was begun in a lease that has ended."""
        if lease != self._pool_release_ctr:
            raise asyncpg.InterfaceError("the connection has been released back to the pool meanwhile")
