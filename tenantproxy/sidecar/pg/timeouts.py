"""Which client of the port has taken too long? One sweep over all of them asks; no client has a timer of its own.

A sweep sees whether anything has happened since the last one. So whatever begins between two of them is measured from
the second: no client is ended too early, and each at most a sweep too late.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.config import Pg
from tenantproxy.errors import IdleSession, QueryTimeout, TenantProxyError
from tenantproxy.pools.exhaustion import idle_in_transaction, idle_pinned
from tenantproxy.sidecar.pg.checkout import CheckoutState
from tenantproxy.sidecar.pg.forwarder import Forwarder
from tenantproxy.wire.answers import error_response
from tenantproxy.wire.frames import IDLE
from tenantproxy.wire.pipeline import Copy

__all__ = ["ClientClock"]

_UNANSWERED_SECONDS: Final = 10.0  # after the first request to cancel; then the client and its backend are ended
_IS_ASKED, _RETRYING = (CheckoutState.RENEWING, CheckoutState.LOOKING), CheckoutState.RETRYING


class ClientClock:
    """What the last sweep saw of one client. Times are monotonic."""

    __slots__ = ("_answered", "_cancelled_at", "_had_backend", "_heard", "_progress_at", "_silent_since")

    def __init__(self) -> None:
        self._heard = -1  # `Forwarder.heard`
        self._silent_since = 0.0  # since when that has not changed
        self._had_backend = False
        self._answered = -1  # segments
        self._progress_at = 0.0  # when that changed, or when the server had to wait for the client
        self._cancelled_at = 0.0  # when the server was first asked to cancel what runs; 0: it was not

    def overdue(self, forwarder: Forwarder, now: float, pg: Pg) -> TenantProxyError | None:
        """Why the client is to be ended now, if it is. The server may be asked to cancel what runs for it."""
        backend = forwarder.checkout.backend
        if forwarder.heard != self._heard or (backend is not None and not self._had_backend):
            self._heard, self._silent_since = forwarder.heard, now
        self._had_backend = backend is not None
        if backend is None:
            return self._idle(forwarder, now, pg.client_idle_timeout)
        return (
            self._keeps_backend(forwarder, now, pg.idle_transaction_timeout)
            or self._runs(forwarder, now, pg.query_timeout)
            or self._idle(forwarder, now, pg.client_idle_timeout)
        )

    def overdue_at_rest(self, now: float, pg: Pg) -> TenantProxyError | None:
        """The same of a client that rests."""
        if self._heard < 0:  # it has said nothing since its login
            self._heard, self._silent_since = 0, now
        limit = pg.client_idle_timeout
        return idle_session(limit) if limit and now - self._silent_since > limit else None

    def woke(self) -> None:
        """It rests no longer."""
        self._heard = -1

    def _keeps_backend(self, forwarder: Forwarder, now: float, limit: float) -> TenantProxyError | None:
        """It keeps a transaction open without anything to do for the server, or stops in what only it can end, or keeps
        its backend in transaction mode for what it left there.

        The last two count only while others wait: a statement that runs behind a Flush looks the same from here.
        PostgreSQL has such a timeout too, but a client may set it to 0, or begin a segment that it does not end.
        """
        pipeline, backend = forwarder.pipeline, forwarder.checkout.backend
        if not limit or backend is None:
            return None
        is_idle = pipeline.status != IDLE and not pipeline.outstanding and now - forwarder.answered_at > limit
        if is_idle:
            return idle_in_transaction(limit)
        is_keeping = forwarder.is_amid or forwarder.is_idly_pinned
        if is_keeping and now - self._silent_since > limit and backend.pool.has_waiting:
            return idle_pinned(limit) if forwarder.is_idly_pinned else idle_in_transaction(limit)
        return None

    def _idle(self, forwarder: Forwarder, now: float, limit: float) -> TenantProxyError | None:
        """Nothing is under way for it, and nothing comes from it."""
        if not limit or now - self._silent_since <= limit:
            return None
        pipeline, checkout = forwarder.pipeline, forwarder.checkout
        if not pipeline.is_quiet or pipeline.status != IDLE or checkout.is_waiting or checkout.state in _IS_ASKED:
            return None
        if forwarder.client_is_slow or forwarder.is_unread:
            return None  # it is still reading its answer
        return idle_session(limit)

    def _runs(self, forwarder: Forwarder, now: float, limit: float) -> TenantProxyError | None:
        """What runs for it is cancelled at the server, which answers; its client is ended where it does not."""
        pipeline, responses, backend = forwarder.pipeline, forwarder.responses, forwarder.checkout.backend
        answered = pipeline.answered_segments
        is_ours = pipeline.copy is Copy.IN or forwarder.client_is_slow or forwarder.checkout.state is _RETRYING
        if answered != self._answered or is_ours or pipeline.is_quiet:
            self._answered, self._progress_at, self._cancelled_at = answered, now, 0.0
            responses.timed_out = b""
            return None
        began = max(forwarder.asked_at, self._progress_at)
        if not pipeline.outstanding:  # behind a Flush: the server or the client may be the one to go on
            began = max(began, self._silent_since)
        if not limit or backend is None or now - began <= limit:
            return None
        error = QueryTimeout(
            "canceling statement due to query timeout",
            detail=f"[pg] query_timeout = {limit:g} s",
            hint="let it do less, or raise [pg] query_timeout",
        )
        if not self._cancelled_at:
            self._cancelled_at = now
            responses.timed_out = error_response(error)
        elif pipeline.outstanding and now - self._cancelled_at > _UNANSWERED_SECONDS:
            return error
        if not backend.cancels:  # again: PostgreSQL forgets a request that comes between two statements
            forwarder.cancel()
        return None


def idle_session(limit: float) -> IdleSession:
    """A client has asked for nothing for `limit` seconds."""
    return IdleSession(
        "terminating connection due to idle-session timeout",
        detail=f"[pg] client_idle_timeout = {limit:g} s",
        hint="close connections that are not used, or raise [pg] client_idle_timeout",
    )
