"""How is one transaction of a raw backend behind a connection pooler begun, and proven to be the tenant's?"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from tenantproxy.errors import IsolationError, TenantProxyError
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import Challenge, Rows, TransactionEntry
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.rows import Asking

__all__ = ["Beginning", "Refusal"]

Refusal = Callable[[Exception, bool], TenantProxyError]
"""The client's error for what went wrong, counted; whether a proof had been shown."""


class Beginning:
    """One such conversation. `done` comes once: with an error the connection must be ended."""

    __slots__ = ("_backend", "_done", "_entry", "_mode", "_nonce", "_refusal", "_signer", "_timeout", "_write")

    def __init__(
        self,
        backend: RawBackend,
        entry: TransactionEntry,
        *,
        mode: str,
        signer: Signer | None,
        write: Callable[[bytes], None],
        refusal: Refusal,
    ) -> None:
        self._backend = backend
        self._entry = entry
        self._mode = mode
        self._signer = signer
        self._write = write
        self._refusal = refusal
        self._nonce = secrets.token_hex(16)

    def begin(self, timeout: float, done: Callable[[TenantProxyError | None], None]) -> None:
        """Say the first message; `timeout` seconds for each of the two."""
        self._timeout, self._done = timeout, done
        self._ask(self._entry.opening(self._mode, self._nonce), self._opened)

    def _ask(self, sql: str, then: Callable[[Rows, Exception | None], None]) -> None:
        Asking(self._backend, then, write=self._write).begin(sql, self._timeout)

    def _opened(self, rows: Rows, error: Exception | None) -> None:
        challenge: Challenge | None = None
        if error is None:
            try:
                challenge = self._entry.opened(rows, self._mode, self._nonce)
            except IsolationError as exc:
                error = exc
        if error is not None:
            self._done(self._refusal(error, False))
        elif challenge is None:
            self._done(None)
        elif self._signer is None:
            self._done(IsolationError("there is no key to sign the proof of a row tenant with"))
        else:
            self._nonce = secrets.token_hex(16)
            self._ask(self._entry.proving(challenge, self._signer, self._nonce), self._proven)

    def _proven(self, rows: Rows, error: Exception | None) -> None:
        if error is None:
            try:
                self._entry.proven(rows, self._nonce)
            except IsolationError as exc:
                error = exc
        self._done(None if error is None else self._refusal(error, True))
