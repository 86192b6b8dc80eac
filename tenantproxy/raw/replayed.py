"""How far has the standby behind a backend replayed its primary's log? Asked on a lease, before its client has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from tenantproxy.errors import ProtocolError
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import READY_IDLE, SYNC_NOW, Exchange, answer_of, statement, values_of
from tenantproxy.raw.look import PIN

__all__ = ["ask_replayed"]

_SECONDS: Final = 5.0
_ASK: Final = (
    "SELECT $1, COALESCE(pg_catalog.pg_last_wal_replay_lsn()"
    " OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn, 0)::pg_catalog.text"
)


class AskingLender(Protocol):
    """What the question needs of its lender. `nonce`: a fresh one."""

    nonce: Callable[[], bytes]

    def destroy(self, backend: RawBackend) -> None:
        """There is a doubt."""
        ...


def ask_replayed(lender: AskingLender, backend: RawBackend, done: Callable[[bool], None]) -> None:
    """Learn `backend.replayed`, and tell `done`; False: there is a doubt, and the backend was destroyed.

    `done` is not called any more once the backend was destroyed by others.
    """
    nonce = lender.nonce()
    rows: list[bytes] = []
    expected = answer_of("SELECT 1") * 2 + READY_IDLE
    listening = backend.sink, backend.on_lost, backend.on_writable

    def answered(error: Exception | None) -> None:
        told = None if error is not None else _told(rows, nonce)
        if told is None:
            lender.destroy(backend)
            done(False)
            return
        backend.sink, backend.on_lost, backend.on_writable = listening
        backend.replayed = max(backend.replayed, told)
        done(True)

    messages = statement(PIN) + statement(_ASK, [nonce]) + SYNC_NOW
    Exchange(backend, expected, answered, rows=rows).begin(messages, timeout=_SECONDS)


def _told(rows: list[bytes], nonce: bytes) -> int | None:
    try:
        echo, told = values_of(rows[-1])
    except (IndexError, ProtocolError, ValueError):
        return None
    return int(told) if echo == nonce and told is not None and told.isdigit() else None
