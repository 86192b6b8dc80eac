"""What becomes of a backend from which its client's own reset has taken its tenant, and all else that was set?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tenantproxy.connect.lease_policy import LeaseOutcomes
from tenantproxy.events import CloseReason
from tenantproxy.model import Route
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.bind import BackendEntry, Binder

__all__ = ["enter_again"]


class _AgainLender(Binder, Protocol):
    """What this needs of `lender.RawLender`."""

    outcomes: LeaseOutcomes

    def with_pool(self, act: Callable[[], None]) -> None: ...

    def begin_reset(self, backend: RawBackend) -> None: ...

    def destroy(self, backend: RawBackend, reason: CloseReason = "error") -> None: ...


def enter_again(lender: _AgainLender, backend: RawBackend, route: Route) -> None:
    """Take it back: it is entered once more for its tenant, of `route`, off the client's path.

    It is reset first, as any other, where it is the turn of another tenant. An entry that fails ends it.
    """
    pool = backend.pool
    if backend.is_closed or backend.is_doubtful:
        lender.destroy(backend, "error")
        return
    is_anothers = pool.next_tenant(backend, route.tenant) not in (None, route.tenant)
    lender.with_pool(lambda: pool.resetting(backend))
    if is_anothers:
        lender.begin_reset(backend)
        return

    def entered(error: Exception | None) -> None:
        if error is None:
            lender.with_pool(lambda: pool.ready(backend, backend.bound))
            return
        if not pool.is_closed:
            lender.outcomes.bind_failed()
        lender.destroy(backend, "shutdown" if pool.is_closed else "error")

    backend.bound = None
    # Has no timer: the pool ends what takes too long, as it does a reset.
    BackendEntry(lender, backend, route, backend.session, entered).begin()
