"""What does the lender do with a connection of the driver? Bind it, take it back, and undo what its last user left."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from tenantproxy.driver.entering import EnteringConnection
from tenantproxy.errors import IsolationError

__all__ = ["Description", "Kept", "TenantConnection"]

_DESCRIBED: Final = 200  # statements of which a connection remembers what their rows are made of

Description = tuple[tuple[str, int, None, None, None, None, None], ...]
"""Name and type of each column, as PEP 249 has it."""

Kept = tuple[list[Any], str, Description]
"""Rows, the tag of the command, and what the rows are made of."""


class TenantConnection(EnteringConnection):
    """An asyncpg connection that can be taken back: `take_back` ends what its last user left in our process."""

    __slots__ = ("_described", "observed_by")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._described: dict[str, tuple[Any, Description]] = {}  # by text, with the statement
        self.observed_by: Any = None  # `timed.StatementTimes`, where statements are looked at

    async def prepare_kept(self, query: str) -> PreparedStatement[asyncpg.Record]:
        """As `prepare`, but from the driver's own cache, so that what it prepares serves later leases too."""
        statement: PreparedStatement[asyncpg.Record] = await self._prepare(query, use_cache=True)
        return statement

    async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
        """The rows of `query`, the tag of its command and what its rows are made of; prepared as `prepare_kept`."""

        # As asyncpg's `_execute`, which does not tell which statement it ran.
        def run(state: Any, timeout: float | None) -> Any:
            conversation = self._protocol.bind_execute(state, args, "", 0, True, timeout)
            return conversation if self.begin is None else self.begun_with(conversation)

        if self.begin is not None and not self.may_go_ahead(query):
            await self.begin_now(None)
        with self._stmt_exclusive_section:
            if self._query_loggers:
                with self._time_and_log(query, args, None):
                    (rows, tag, _), state = await self._do_execute(query, run, None)
            else:
                (rows, tag, _), state = await self._do_execute(query, run, None)
        return rows, tag.decode() if tag else "", self._describe(query, state)

    def _describe(self, query: str, state: Any) -> Description:
        """What the rows of a statement are made of; that never changes, and asyncpg makes it again each time."""
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
    # In an empty context: asyncio reads in the context of the task that resumed reading (each COPY to the client does),
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
        self.end_handles()
        self._top_xact = None
        self.begin = None
        self.is_last = False
        self.forget_listeners()

    def forget_listeners(self) -> None:
        """Forget all listeners. Again after the reset: one that was being added as its lease ended is there by then."""
        if self._listeners:
            self._listeners.clear()
        if self._log_listeners:
            self._log_listeners.clear()
        if self._query_loggers:
            self._query_loggers.clear()
        if self._termination_listeners:
            self._termination_listeners.clear()

    async def settle(self, timeout: float) -> None:
        """Wait for a cancelled command to end, then roll back an open transaction. Raises on any doubt.

        A reset that went out behind it is over then, and counts for nothing.
        """
        protocol = self._protocol
        if protocol._is_cancelling():
            await protocol._wait_for_cancellation(timeout)
        if self.behind is not None:
            await self.behind.wait(timeout)
            self.behind = None
        if self.is_unsynced:
            await self.sync(timeout)
        if protocol.is_in_transaction():
            await protocol.query("ROLLBACK", timeout)
            if protocol.is_in_transaction():
                raise IsolationError("a transaction could not be rolled back")

    def forget_statements(self) -> None:
        """Drop the driver's idea of what is prepared."""
        self._drop_local_statement_cache()

    async def discarded_all(self, timeout: float) -> None:
        """The session went through DISCARD ALL: nothing is prepared any more, so nothing is left to close either.

        Those that enter a session are prepared again, under new names.
        """
        self._drop_local_statement_cache()
        self._stmts_to_close.clear()
        if self._own:
            await self.prepare_entry([statement.query for statement in self._own], timeout)
        self.is_tainted = False

    def forget_types(self) -> None:
        """Drop the driver's idea of the server's types."""
        self._drop_local_type_cache()

    @property
    def is_at_rest(self) -> bool:
        """Whether it is in no transaction, and nothing is under way."""
        return not (self.must_settle or self.is_busy)

    @property
    def must_settle(self) -> bool:
        """Whether something still runs, is open or is listened to: it must end before the session can be reset."""
        protocol = self._protocol
        return bool(
            protocol.is_in_transaction()
            or protocol._is_cancelling()
            or self._listeners
            or self.is_unsynced
            or (self.behind is not None and self.behind.is_stale)
        )
