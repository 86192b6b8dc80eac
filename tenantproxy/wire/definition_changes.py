"""Which changes of tables, types and functions has a client made, and from when on do they hold?

A server tells of them by the tags of its commands, and by ReadyForQuery of the end of their transaction. To count one
too many is harmless: texts are prepared once more. What a DO, a CALL or a function changes has no tag.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.wire.commands import changes_meanings, is_temporary
from tenantproxy.wire.frames import IDLE
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.statements import Statements

__all__ = ["MAY_CHANGE", "DefinitionChanges"]

MAY_CHANGE: Final = frozenset((b"AL", b"CO", b"CR", b"DR", b"IM", b"PR"))
"""How the tags begin that `DefinitionChanges.tagged` looks at."""

_IDLE: Final = bytes((IDLE,))


class DefinitionChanges:
    """One client's. `is_pending`: some are not known to hold for others yet, and each ReadyForQuery must be told until
    then. `is_heard`: it may mean something here.

    While they are pending `prepared` shares no statement: what others prepared is of the tables as they were, and what
    this client prepares is of tables that may never be.
    """

    __slots__ = ("_is_temporary", "_prepared", "_statements", "is_heard", "is_pending")

    def __init__(self, statements: Statements, prepared: Prepared) -> None:
        self.is_heard = self.is_pending = False
        self._statements = statements
        self._prepared = prepared
        self._is_temporary = False  # what the next tag says was created is seen by this session alone

    def asked(self, sql: bytes) -> None:
        """A simple query that may change something is sent, with nothing unanswered."""
        self._is_temporary = is_temporary(sql)
        self.is_heard = self.is_pending or self._is_temporary

    def tagged(self, tag: bytes) -> None:
        """A command was completed."""
        definitions = self._statements.definitions
        if tag == b"COMMIT":  # AND CHAIN: it is not idle then
            if self.is_pending:
                self._hold()
        elif changes_meanings(tag):
            if not (self._is_temporary and tag.startswith(b"CREATE")):
                self.is_heard = self.is_pending = True
                self._prepared.use(Statements())
            self._is_temporary = False
        elif tag == b"COMMIT PREPARED" and definitions.is_delayed:
            self.is_heard = self.is_pending = True
        elif tag == b"PREPARE TRANSACTION" and self.is_pending:
            definitions.is_delayed = True

    def ready(self, status: bytes) -> None:
        """ReadyForQuery came."""
        self._is_temporary = False
        if self.is_pending and status == _IDLE:
            self._hold()
        self.is_heard = self.is_pending

    def lost(self) -> None:
        """The backend is gone: whether they hold is not known."""
        self._is_temporary = False
        if self.is_pending:
            self._hold()

    def _hold(self) -> None:
        self.is_heard = self.is_pending = False
        self._statements.definitions.generation += 1
        self._prepared.use(self._statements)
