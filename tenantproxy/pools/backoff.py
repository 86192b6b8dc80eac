"""When may a pool connect again after a failure, and what do those hear who cannot wait for it?"""

from __future__ import annotations

import random
from typing import Final, Literal

from tenantproxy.errors import TenantProxyError

__all__ = ["Backoff", "Failure"]

Failure = Literal["refused", "busy", "full", "denied", "unfit"]
"""Why a connect failed: the server is not there (`refused`), cannot take us now (`busy`; `full`: it has no connection
left), will not (`denied`), or is a standby where a primary is needed, or the other way round (`unfit`)."""

_FIRST: Final = 0.05
_MOST: Final = 2.0
_MOST_REFUSED: Final = 0.2  # to refuse costs a server nothing, and after half a second its breaker opens
_TIMER_SLACK: Final = 0.002  # a timer may fire that much early, and must not be the last one


class Backoff:
    """The failed connects of one pool in a row. Changed by the pool, with the outcome of each connect."""

    __slots__ = ("_failures", "_is_denied", "_retry_at", "error")

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0  # no connect before
        self._is_denied = False  # the last one failed for a reason that waiting does not change
        self.error: TenantProxyError | None = None  # of the last connect, None after a success

    def succeeded(self) -> None:
        """The last connect was good."""
        self._failures, self._retry_at, self._is_denied, self.error = 0, 0.0, False, None

    def failed(self, error: TenantProxyError, failure: Failure, now: float) -> float:
        """A connect failed: seconds until the next, with jitter.

        Connects that were begun together and fail together count as one failure.
        """
        self.error = error
        self._is_denied = failure in ("denied", "unfit")
        if not self._failures or self._is_due(now):
            self._failures += 1
            most = _MOST_REFUSED if failure == "refused" else _MOST
            delay = min(most, _FIRST * 2.0 ** min(self._failures - 1, 10))
            self._retry_at = now + delay * (0.5 + random.random() / 2)
        return self._retry_at - now

    def server_up(self) -> None:
        """The server answers again, which says nothing about what it denied us."""
        if not self._is_denied:
            self.succeeded()

    def _is_due(self, now: float) -> bool:
        return now >= self._retry_at - _TIMER_SLACK

    @property
    def is_trying(self) -> bool:
        """Whether the last connect failed: then one at a time tries."""
        return self._failures > 0

    def holds_back(self, now: float) -> bool:
        """Whether no connect may begin yet."""
        return self._failures > 0 and not self._is_due(now)

    def refusal(self, now: float) -> TenantProxyError | None:
        """What new callers are told at once: the server denied us, and the next try is not due."""
        return self.error if self._is_denied and now < self._retry_at else None
