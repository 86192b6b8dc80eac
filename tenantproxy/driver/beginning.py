"""How does a transaction begin in one write with its first statement? Without a moment in which that could run alone.

BEGIN goes ahead of the statement with no Sync between them: when it fails, the server skips all up to the Sync.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import lru_cache
from typing import Any, Final

import asyncpg
from asyncpg.transaction import ISOLATION_LEVELS

from tenantproxy.driver.copying import CopyingConnection
from tenantproxy.wire.frames import BIND, EXECUTE, PARSE, frame

__all__ = ["BeginningConnection"]

_IN_DOUBT: Final = ""  # in place of the statement that begins: it was sent, and its answer is not known


class _Begun:
    """Stands where asyncpg keeps the outermost transaction: one that is nested in it asks for its isolation."""

    __slots__ = ("_isolation", "text")

    def __init__(self, isolation: str | None, text: str) -> None:
        self._isolation = isolation
        self.text = text  # of the statement that begins it


@lru_cache(maxsize=64)  # three options; not one of them is a text of the caller's
def _begun(isolation: str | None, readonly: bool, deferrable: bool) -> _Begun:
    """Such a transaction; its state is the connection's. Raises ValueError, as asyncpg does."""
    if isolation and isolation not in ISOLATION_LEVELS:
        raise ValueError(f"the isolation of a transaction is one of {', '.join(sorted(ISOLATION_LEVELS))}")
    level = f" ISOLATION LEVEL {isolation.replace('_', ' ').upper()}" if isolation else ""
    return _Begun(isolation, f"BEGIN{level}{' READ ONLY' if readonly else ''}{' DEFERRABLE' if deferrable else ''};")


@lru_cache(maxsize=64)
def _messages(text: str) -> bytes:
    """`text` as a request of the extended protocol, without its Sync."""
    parsed = frame(PARSE, b"\0" + text.encode() + b"\0" + bytes(2))
    return parsed + frame(BIND, bytes(2) + bytes(6)) + frame(EXECUTE, b"\0" + bytes(4))


class BeginningConnection(CopyingConnection):
    """A connection whose transaction can begin together with its first statement.

    `begin`: the statement that begins one and is still to be sent; empty when it was sent and is not answered, or was
    not answered as it should; else None. While it is not None the connection counts as in a transaction.
    """

    __slots__ = ("begin",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin: str | None = None

    def begin_with_next(
        self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False
    ) -> None:
        """Begin a transaction with the next statement; the options are those of asyncpg's `transaction`. No I/O.

        The caller ends it by `commit_begun` or `rollback_begun`.
        """
        begun = _begun(isolation, readonly, deferrable)
        self._check_open()
        if self._top_xact is not None or self._protocol.is_in_transaction():
            raise asyncpg.InterfaceError("cannot begin a transaction within another one")
        self._top_xact, self.begin = begun, begun.text

    def is_in_transaction(self) -> bool:
        """As asyncpg's; also where one is to begin with the next statement."""
        return self.begin is not None or bool(self._protocol.is_in_transaction())

    async def begin_now(self, timeout: float | None) -> None:
        """Begin before anything else runs. Raises InterfaceError where the transaction did not begin, and goes on so.

        What is in its block then must not run: each statement would be committed by itself.
        """
        text = self.begin
        if not text:
            if not self._protocol.is_in_transaction():
                raise asyncpg.InterfaceError("cannot perform operation: the transaction did not begin")
        else:
            self.begin = _IN_DOUBT
            await self.execute(text, timeout=timeout)
        self.begin = None

    def _execute(self, query: str, args: Sequence[object], limit: int, timeout: float | None, **options: Any) -> Any:
        if self.begin is None:
            return super()._execute(query, args, limit, timeout, **options)
        return self._execute_first(query, args, limit, timeout, **options)

    async def _execute_first(
        self,
        query: str,
        args: Sequence[object],
        limit: int,
        timeout: float | None,
        *,
        return_status: bool = False,
        **options: Any,
    ) -> Any:
        if not self.may_go_ahead(query, **options):
            await self.begin_now(timeout)
            return await super()._execute(query, args, limit, timeout, return_status=return_status, **options)

        def run(state: Any, left: float | None) -> Any:
            return self.begun_with(self._protocol.bind_execute(state, args, "", limit, return_status, left))

        with self._stmt_exclusive_section:
            result, _ = await self._do_execute(query, run, self._protocol._get_timeout(timeout), **options)
        return result

    def may_go_ahead(
        self, query: str, *, record_class: type[asyncpg.Record] | None = None, ignore_custom_codec: bool = False
    ) -> bool:
        """Whether BEGIN may go ahead of `query`: one that is prepared, and the only one that is asked for now."""
        if not self.begin or self._query_loggers or self.under_way > 1 or self._protocol._is_cancelling():
            return False
        key = (query, record_class or self._protocol.get_record_class(), ignore_custom_codec)
        state = self._stmt_cache.get(key)
        return state is not None and state.prepared

    async def begun_with(self, conversation: Coroutine[Any, Any, Any]) -> Any:
        """Run `conversation` of the driver, which writes at once, if at all: BEGIN goes ahead of it, if that is due."""
        text = self.begin
        if not text:
            return await conversation
        self.begin, self._wire.ahead = _IN_DOUBT, _messages(text)
        try:
            result = await conversation
        except BaseException as exc:
            if self._wire.ahead:  # the driver refused, and wrote nothing
                self.begin, self._wire.ahead = text, b""
            elif isinstance(exc, asyncpg.PostgresError) and self._protocol.is_in_transaction():
                self.begin = None
            raise
        self.begin = None
        return result

    async def commit_begun(self) -> None:
        """Commit what `begin_with_next` began. Raises InterfaceError where it never began."""
        if self.is_unsynced:
            await self.sync(None)
        self._top_xact = None
        if self.begin:  # nothing was asked of it
            self.begin = None
            return
        if self.begin is not None:
            await self.begin_now(None)
        try:
            if self._query_loggers:
                await self.execute("COMMIT;")
            else:
                self._check_open()
                await self._last(self._protocol.query("COMMIT;", None))
        except BaseException as exc:
            self.runs_directly = True
            self.note_interruption(exc)
            raise

    def _last(self, conversation: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """How a COMMIT runs, after which nothing is asked of the lease."""
        return conversation

    async def rollback_begun(self) -> None:
        """Roll back what `begin_with_next` began, if it did."""
        begin, self._top_xact, self.begin = self.begin, None, None
        if not begin:  # else nothing was asked of it
            await self.execute("ROLLBACK;")
