"""How do we ask a simple query whose rows only the server knows? They are collected, up to ReadyForQuery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tenantproxy.connect.expected_answer import MAX_ANSWER
from tenantproxy.connect.failures import Refused, Unconfirmed
from tenantproxy.errors import ProtocolError
from tenantproxy.isolation.transaction import Rows
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import query, sqlstate_of
from tenantproxy.wire.frames import (
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR,
    HEADER,
    IN_TRANSACTION,
    NOTICE,
    PARAMETER_STATUS,
    READY,
    ROW_DESCRIPTION,
    length_of,
)
from tenantproxy.wire.rows import values_of

__all__ = ["Asking", "StatementPooling"]

_MOST: Final = 1000  # rows: nothing that is asked so has more
_PASSED_OVER: Final = frozenset((COMMAND_COMPLETE, NOTICE, ROW_DESCRIPTION))


class StatementPooling(Refused):
    """A pooler said that it has no transactions. Nothing else in a text is looked at."""


class Asking:
    """One such query, after which the session must be in a transaction. `done` gets its rows, or the error.

    With an error the connection must be ended: Refused, Unconfirmed, OSError (TimeoutError, lost).
    """

    __slots__ = ("_backend", "_done", "_partial", "_rows", "_timer", "_write")

    def __init__(
        self,
        backend: RawBackend,
        done: Callable[[Rows, Exception | None], None],
        *,
        write: Callable[[bytes], None],
    ) -> None:
        self._backend = backend
        self._write = write  # past what holds back its client's bytes
        self._done: Callable[[Rows, Exception | None], None] | None = done
        self._partial = b""
        self._rows: list[list[str | None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, sql: str, timeout: float) -> None:
        """Send it, and read the answer."""
        backend = self._backend
        backend.conversation, backend.sink, backend.on_lost = self, self._feed, self._lost
        self._timer = asyncio.get_running_loop().call_later(timeout, self._late)
        if backend.is_closed:
            asyncio.get_running_loop().call_soon(self._lost, backend.lost_by)
        else:
            self._write(query(sql))

    def _feed(self, data: bytes) -> None:
        try:
            self._read(self._partial + data)
        except ProtocolError:
            self._end(Unconfirmed())

    def _read(self, data: bytes) -> None:
        at, size = 0, len(data)
        while size - at >= HEADER:
            length, kind = length_of(data, at), data[at]
            if length > MAX_ANSWER or len(self._rows) > _MOST:
                self._end(Unconfirmed(kind))
                return
            end = at + length
            if end > size:
                break
            payload = data[at + HEADER : end]
            if kind == DATA_ROW:
                self._rows.append(
                    [None if each is None else each.decode("utf-8", "replace") for each in values_of(payload)]
                )
            elif kind == PARAMETER_STATUS:
                self._backend.report(payload)
            elif kind == ERROR:
                state, is_pooling = sqlstate_of(payload), b"statement pooling" in payload
                self._end(StatementPooling(state) if is_pooling else Refused(state))
                return
            elif kind == READY:
                is_right = payload == bytes([IN_TRANSACTION]) and end == size
                self._end(None if is_right else Unconfirmed(kind))
                return
            elif kind not in _PASSED_OVER:
                self._end(Unconfirmed(kind))
                return
            at = end
        self._partial = data[at:]

    def _lost(self, exc: Exception | None) -> None:
        self._end(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    def _late(self) -> None:
        self._timer = None
        self._end(TimeoutError("the server did not answer in time"))

    def _end(self, error: Exception | None) -> None:
        done = self._done
        if done is None:
            return
        self.drop()
        backend = self._backend
        if backend.conversation is self:  # else it is being ended already
            if error is None:
                backend.conversation = None
                backend.sink, backend.on_lost = backend.resting_sink, backend.resting_lost
            else:
                backend.detach()
        elif error is None:
            error = ConnectionResetError("the connection is being closed")  # nothing more may be said on it
        done(self._rows, error)

    def drop(self) -> None:
        """Stop: the result is no longer wanted."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
