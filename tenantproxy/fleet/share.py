"""How many connections may this process have on one server, now? The limit it was granted, and how that ages.

A synchronous state machine without I/O; `Member` alone changes it. `now` is seconds of a clock that also runs while the
process is stopped or the machine sleeps. Invariant: the limit never rises but by the newest answer of main.

The age of the newest answer, by the time *before* it was asked for, decides what is allowed:

    FRESH      below ttl / 3     up to the limit
    FENCED     below 9 ttl       up to the floor, if main has known of it for a ttl; idle connections above it close
    CANCELLING from 2 ttl / 3    as FENCED, and leases above it are cancelled
    LOST       from 9 ttl        nothing: main may have forgotten this process; everything closes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tenantproxy.fleet.values import Claim, ServerGrant, Terms

__all__ = ["FENCED_TTL", "LOST_TTL", "Holding", "Lease", "Orders", "Share"]

FENCED_TTL: Final = 1 / 3
CANCELLING_TTL: Final = 2 / 3
LOST_TTL: Final = 9
_TOLD: Final = 10  # a tenth of what was granted


class Lease(StrEnum):
    """How far the newest answer may be relied on."""

    FRESH = "fresh"
    FENCED = "fenced"
    CANCELLING = "cancelling"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the process has on the server: `total` counts all that the server may count, connects under way too.

    `want`: leases + waiters + connects under way; idle connections are not wanted. `pids`: those of its connections.
    """

    total: int
    want: float = 0.0
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be closed now: so many idle connections, then so many leases, or all."""

    close_idle: int = 0
    cancel_used: int = 0
    close_all: bool = False


class Share:
    """The part of one server's budget that one process has."""

    __slots__ = (
        "_claimed",
        "_keeps",
        "epoch",
        "ghosts",
        "granted",
        "held_since",
        "is_counted",
        "is_witness",
        "limit",
        "processes",
        "renewed",
        "target",
        "terms",
    )

    def __init__(self, terms: Terms, *, keeps: bool = False) -> None:
        """`keeps`: without main it keeps its limit without end, which is unsafe in a partition."""
        self.terms = terms
        self._keeps = keeps
        self.limit = 0  # the most it may have, by its own word; <= what main charges it with
        self.granted = 0  # by the newest answer
        self.target = 0  # what it comes down to as leases end
        self.epoch = -1  # of the server's census; -1: never heard
        self._claimed = -1  # the epoch in which the process ids were said last
        self.processes = self.ghosts = 0  # as main said
        self.is_counted = False  # a census is due: say the process ids
        self.is_witness = False  # and take it
        self.renewed: float | None = None  # when the newest answer was asked for
        self.held_since: float | None = None  # from when on each answer granted at least the floor

    def __repr__(self) -> str:
        return f"Share(limit={self.limit}, granted={self.granted}, target={self.target}, epoch={self.epoch})"

    # --- what is allowed ---------------------------------------------------------------------------------------------
    def age(self, now: float) -> float:
        """Seconds since the newest answer was asked for; infinite before the first."""
        return math.inf if self.renewed is None else now - self.renewed

    def lease(self, now: float) -> Lease:
        """How far the newest answer may be relied on."""
        age, ttl = self.age(now), self.terms.ttl
        if age < ttl * FENCED_TTL or (self._keeps and self.renewed is not None):
            return Lease.FRESH
        if age < ttl * CANCELLING_TTL:
            return Lease.FENCED
        return Lease.CANCELLING if age < ttl * LOST_TTL else Lease.LOST

    def allowed(self, now: float) -> int:
        """The most connections that it may have now, connects under way included."""
        lease = self.lease(now)
        if lease is Lease.FRESH:
            return self.limit
        if lease is Lease.LOST or not self._owns_floor:
            return 0
        return min(self.limit, self.terms.floor)

    @property
    def _owns_floor(self) -> bool:
        """Main has had the floor in this process's row for a ttl: a standby that may be promoted knows it too."""
        since, renewed = self.held_since, self.renewed
        return since is not None and renewed is not None and renewed - since >= self.terms.ttl

    def may_open(self, now: float, *, total: int, opening: int) -> bool:
        """Whether one more connect may begin. Ask again in the same step as connect(2), when it has waited."""
        return total < self.allowed(now) and opening < self.terms.burst

    def is_over(self, now: float, *, total: int) -> bool:
        """Whether a connect that has finished, counted in `total`, came too late and is to be closed."""
        return total > self.allowed(now)

    def orders(self, now: float, *, total: int, closing: int) -> Orders:
        """What is to be closed so that the rest is within what is allowed, and comes down to the target."""
        lease, allowed = self.lease(now), self.allowed(now)
        left = total - closing
        top = min(allowed, self.target) if lease is Lease.FRESH else allowed
        cancelled = left - allowed if lease in (Lease.CANCELLING, Lease.LOST) else 0
        return Orders(close_idle=max(0, left - top), cancel_used=max(0, cancelled), close_all=lease is Lease.LOST)

    @property
    def has_to_tell(self) -> bool:
        """Whether enough was given up for others that they should not wait for the next report."""
        given_up = self.granted - self.limit
        return given_up >= max(1, self.granted // _TOLD) or (given_up > 0 and self.limit == self.target)

    @property
    def has_to_claim(self) -> bool:
        """Whether a census is due, and main has not heard the process ids in its epoch."""
        return self.is_counted and self._claimed != self.epoch

    # --- what is said ------------------------------------------------------------------------------------------------
    def tighten(self, total: int) -> None:
        """Bind to the target as far as what is open allows. Only lowers, so it may be called at any time."""
        if self.target < self.limit:
            self.limit = min(self.limit, max(self.target, total))

    def may_be_others(self, now: float) -> bool:
        """Whether what was granted may have been granted to another process by now."""
        return self.age(now) >= self.terms.ttl * FENCED_TTL

    def claim(self, server: str, now: float, holding: Holding) -> Claim:
        """Bind first, then tell: what is reported from this moment on holds already."""
        may_be_others = self.may_be_others(now)
        if may_be_others:  # then it vouches for what it holds, and for nothing else
            self.limit = min(self.limit, holding.total)
        else:
            self.tighten(holding.total)
        if self.is_counted:
            self._claimed = self.epoch
        return Claim(
            server=server,
            used=holding.total,
            want=holding.want,
            keep=self.limit,
            lowers=self.limit < self.granted and not may_be_others,
            terms=self.terms,
            epoch=self.epoch,
            pids=holding.pids if self.is_counted else (),
        )

    def accept(self, grant: ServerGrant, *, asked: float, now: float) -> None:
        """The answer to the newest report, which was sent after `asked` and came at `now`."""
        self.limit = self.granted = grant.granted
        self.target = grant.target
        self.epoch = grant.epoch
        self.is_counted, self.is_witness = grant.counted, grant.is_witness
        self.processes, self.ghosts = grant.processes, grant.ghosts
        if self.limit < self.terms.floor:
            self.held_since = None
        elif self.held_since is None:
            self.held_since = now
        self.renewed = asked

    def drop(self) -> None:
        """Nothing is granted any more: the process has another id from now on, or is another process."""
        self.limit = self.granted = self.target = 0
        self.epoch = -1
        self.is_counted = self.is_witness = False
        self.renewed = self.held_since = None
