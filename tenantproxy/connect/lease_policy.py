"""What do both lenders decide alike? How often a lease is tried, when a proof is renewed, what failures mean and count.

A lease ends in one of three ways that are counted apart: its session is bound, its bind failed (`bind_failures`), or
the reset before it failed (`resets`). A failed bind is no failed reset: nothing of a former user was left behind.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

import asyncpg

from tenantproxy.connect.failures import Refused, Unconfirmed, describe
from tenantproxy.connect.refusals import (
    bound_to_another,
    entered_late,
    lost_early,
    not_entered,
    place_of,
    proof_refused,
    setting_refused,
)
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import IsolationViolation, Observer, ResetFailed
from tenantproxy.model import PoolKey, TenantId
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.pool import Pool
from tenantproxy.wire.frames import DATA_ROW

__all__ = [
    "END_TIMEOUT",
    "RENEW_TIMEOUT",
    "BindCheck",
    "BindFailure",
    "LeaseOutcomes",
    "bind_failure",
    "counts_as_attempt",
    "may_try_again",
    "note_violation",
    "renewal_margin",
    "reset_failure",
]

END_TIMEOUT: Final = 2.0  # a peer that is silent for so long is aborted
RENEW_TIMEOUT: Final = 2.0  # of what is said on a lease between two statements; the acquire timeout bounds the rest
_ATTEMPTS: Final = 3  # connections tried before a session that cannot be bound is the caller's error


class BindFailure(StrEnum):
    """Why a session could not be made a tenant's."""

    LATE = "late"  # no answer in time
    LOST = "lost"  # the connection broke, or the server shuts down
    PROOF_REFUSED = "proof_refused"  # the database takes no proof of this tenant
    SETTING_REFUSED = "setting_refused"  # a setting that the client asks for
    OTHER_TENANT = "other_tenant"  # it bound another one
    UNCONFIRMED = "unconfirmed"  # any other answer than the right one


_FINAL: Final = (BindFailure.LATE, BindFailure.PROOF_REFUSED, BindFailure.SETTING_REFUSED)
_VIOLATIONS: Final = (BindFailure.PROOF_REFUSED, BindFailure.OTHER_TENANT, BindFailure.UNCONFIRMED)
_ERRORS: Final = {
    BindFailure.LATE: entered_late,
    BindFailure.LOST: lost_early,
    BindFailure.PROOF_REFUSED: proof_refused,
    BindFailure.SETTING_REFUSED: setting_refused,
    BindFailure.OTHER_TENANT: bound_to_another,
    BindFailure.UNCONFIRMED: not_entered,
}


BindCheck = Literal["bind", "rebind"]
"""What a failed bind is told as. `bind`: of a session that was new, or reset, and so no user's doing. `rebind`: of one
in which its user had run statements, and who can make it fail. None: of one that could not be reset, told as that."""


def bind_failure(error: BaseException) -> BindFailure:
    """What `error`, of a driver or of our own conversation, means for the session that was being bound."""
    if isinstance(error, TimeoutError):
        return BindFailure.LATE
    if isinstance(error, Unconfirmed):
        return BindFailure.OTHER_TENANT if error.kind == DATA_ROW else BindFailure.UNCONFIRMED
    if not isinstance(error, asyncpg.PostgresError | Refused):
        return BindFailure.LOST
    state = error.sqlstate or ""
    if state == "42501":
        return BindFailure.PROOF_REFUSED
    return BindFailure.LOST if state[:2] in ("57", "08") else BindFailure.UNCONFIRMED


def reset_failure(error: BaseException) -> BindFailure:
    """The same for the reset between two tenants: whatever the server said, the former tenant may have chosen it."""
    failure = bind_failure(error)
    return failure if failure in (BindFailure.LATE, BindFailure.LOST) else BindFailure.UNCONFIRMED


def counts_as_attempt(bound: TenantId | None, tenant: TenantId) -> bool:
    """Whether a connection that is still `bound` counts as a try for `tenant`.

    What another tenant left can make its reset fail, in as many connections as it had: none of them counts.
    """
    return bound is None or bound == tenant


def may_try_again(attempts: int, failure: BindFailure) -> bool:
    """Whether another connection may do: nothing of the caller has run. Not when the database refuses the tenant."""
    return attempts < _ATTEMPTS and failure not in _FINAL


def renewal_margin(window: float) -> float:
    """Seconds before its end at which a proof that is good for `window` seconds is renewed."""
    return window / 3


def note_violation(violations: dict[str, int], observer: Observer, check: str, key: PoolKey, detail: str = "") -> None:
    """Count and tell that a check of isolation failed."""
    violations[check] = violations.get(check, 0) + 1
    observer(IsolationViolation(check=check, server=key.server, database=key.database, detail=detail))


class LeaseOutcomes:
    """Counts how resets and binds end, and tells of those that fail."""

    __slots__ = ("_counters", "_observer")

    def __init__(self, counters: Counters, observer: Observer) -> None:
        self._counters = counters
        self._observer = observer

    def was_reset(self) -> None:
        """A reset was confirmed."""
        self._counters.resets["ok"] += 1

    def reset_failed(self, pool: Pool[Any], error: BaseException) -> None:
        """A reset failed, or was not confirmed."""
        self._counters.resets["failed"] += 1
        self._observer(ResetFailed(server=pool.key.server, pool=pool.label, error=describe(error)))

    def bind_failed(self) -> None:
        """A session could not be bound; another connection may have been tried then."""
        self._counters.bind_failures += 1

    def refusal(
        self, pool: Pool[Any], failure: BindFailure, error: BaseException, check: BindCheck | None = "bind"
    ) -> TenantProxyError:
        """The caller's error when its session could not be bound. Texts of the server are not passed on."""
        if failure in _VIOLATIONS and check is not None:
            note_violation(self._counters.violations, self._observer, check, pool.key)
        where = place_of(pool.key)
        return _ERRORS[failure](where if failure is BindFailure.LATE else f"{where}, {describe(error)}")
