"""What is the next proof of a raw session made for, where row tenants are of the trusted form? Its server is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.isolation.turn import HELLO
from tenantproxy.model import Proof
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import READY_IDLE, SYNC_NOW, Exchange, answer_of, statement, values_of
from tenantproxy.wire.frames import DATA_ROW

__all__ = ["greet", "hello"]

_MAX_DIGITS: Final = 20


def greet(backend: RawBackend, done: Callable[[Exception | None], None]) -> None:
    """After a reset, which took the nonce along: ask for another one where the session's last tenant needed one."""
    if backend.binding is not None and backend.binding.proof is Proof.TRUSTED:
        hello(backend, done)
    else:
        done(None)


def hello(
    backend: RawBackend,
    done: Callable[[Exception | None], None],
    *,
    name: bytes = b"",
    timeout: float | None = None,
    heard: list[bytes] | None = None,
) -> None:
    """Ask for a nonce, which voids the former one, and tell `done`; with an error the connection must be ended.

    In a client's session: with a fresh and secret `name` of the statement, and `heard` for its notifications.
    """
    rows: list[bytes] = []
    is_named = bool(name)
    messages = b"".join(statement(sql, name=name) for sql in ("BEGIN READ WRITE", HELLO, "COMMIT"))
    expected = b"".join(answer_of(tag, is_named=is_named) for tag in ("BEGIN", "SELECT 1", "COMMIT"))

    def answered(error: Exception | None) -> None:
        if error is None:
            (value, *_) = [*values_of(rows[0]), None] if len(rows) == 1 else [None]
            digits = (value or b"").removeprefix(b"-")
            if digits.isdigit() and len(digits) < _MAX_DIGITS:
                backend.nonce = int(value or b"")
            else:
                error = Unconfirmed(DATA_ROW)
        done(error)

    Exchange(backend, expected + READY_IDLE, answered, rows=rows, heard=heard).begin(
        messages + SYNC_NOW, timeout=timeout
    )
