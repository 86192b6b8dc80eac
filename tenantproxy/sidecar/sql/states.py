"""Where can a request of SQL over HTTP be, and how may it fail? Its states, and errors in words."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.config import SqlSettings
from tenantproxy.errors import NotSupported, PoolClosed, QueryTimeout, StatementTooLong
from tenantproxy.wire.states import Table

__all__ = [
    "RUN", "ServerSaid", "SqlRunEvent", "SqlRunState", "ended_itself", "left_open", "no_copy", "not_utf8", "shut",
    "too_late", "too_much",
]  # fmt: skip


class SqlRunState(StrEnum):
    """Where a request is."""

    ASKED = "asked"
    QUEUED = "queued"  # it waits in its tenant's turn, or its backend is being bound
    RUNNING = "running"  # its segment is
    ENDING = "ending"  # its transaction is being ended
    SETTLING = "settling"  # what runs is being cancelled
    OVER = "over"


class SqlRunEvent(StrEnum):
    """What changes that."""

    WANTED = "acquire"
    LENT = "lent"
    ANSWERED = "in a transaction"
    CANCELLED = "limit, timeout or client gone"
    DONE = "ReadyForQuery, idle"
    FAILED = "refused, lost or destroyed"


_S, _E = SqlRunState, SqlRunEvent
RUN: Final[Table[SqlRunState, SqlRunEvent]] = {
    (_S.ASKED, _E.WANTED): _S.QUEUED,
    (_S.ASKED, _E.LENT): _S.RUNNING,
    (_S.QUEUED, _E.LENT): _S.RUNNING,
    (_S.RUNNING, _E.ANSWERED): _S.ENDING,
    (_S.RUNNING, _E.CANCELLED): _S.SETTLING,
    (_S.RUNNING, _E.DONE): _S.OVER,
    (_S.ENDING, _E.DONE): _S.OVER,
    (_S.SETTLING, _E.DONE): _S.OVER,
} | {(state, _E.FAILED): _S.OVER for state in SqlRunState}


class ServerSaid(Exception):
    """The server answered with an error. `payload`: its ErrorResponse."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the server answered with an error")
        self.payload = payload


# --- in words --------------------------------------------------------------------------------------------------------
def shut(message: str) -> PoolClosed:
    """It is ended by us."""
    return PoolClosed(message, hint="try again")


def left_open() -> NotSupported:
    """It left a transaction open."""
    hint = 'send its statements as one batch, {"queries": [...]}, or use the WebSocket /v2'
    return NotSupported("a request cannot leave a transaction open: it was rolled back", hint=hint)


def ended_itself() -> NotSupported:
    """A batch did."""
    return NotSupported(
        "a statement of the batch ended its transaction",
        detail="what stood before it was committed or rolled back as it said, what came behind it ran by itself",
        hint="leave COMMIT, ROLLBACK and the like out: a batch is one transaction",
    )


def too_much(limits: SqlSettings) -> StatementTooLong:
    """Its results are beyond the limits."""
    return StatementTooLong(
        "the result is too large",
        detail=f"[sql] max_rows = {limits.max_rows}, max_result = {limits.max_result} bytes",
        hint="add LIMIT, read it in pages, or use the PostgreSQL port, which streams",
    )


def too_late(limits: SqlSettings) -> QueryTimeout:
    """It took longer than it may; in PostgreSQL's words."""
    return QueryTimeout(
        "canceling statement due to statement timeout",
        detail=f"[sql] statement_timeout = {limits.statement_timeout:g} s",
        hint="ask for less at once, or use the PostgreSQL port",
    )


def no_copy() -> NotSupported:
    """What COPY says is no result."""
    return NotSupported(
        "COPY is not possible in a request", hint="use the PostgreSQL port or the WebSocket /v2 for COPY"
    )


def not_utf8() -> NotSupported:
    """JSON holds nothing else."""
    hint = "convert it: convert_from(), encode(); leave client_encoding"
    return NotSupported("the answer is not UTF-8", hint=hint)
