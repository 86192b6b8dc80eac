"""What does `fleet.sql` do with the reports of one server? The same rules in Python, to compare with.

Times are milliseconds of main's wall clock, which may step; `without` names rules that are left out, to see that the
machine finds what each of them is for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from tenantproxy.fleet.balance import Asker, raises, targets
from tenantproxy.fleet.values import Claim, FleetReport, ServerGrant

__all__ = ["STALE", "ModelMain", "Row"]

STALE = "stale"


@dataclass(slots=True)
class Row:
    """A process's part of the server, as in `tenantproxy.fleet_share`."""

    claim: Claim
    seq: int
    granted: int
    joined: int
    seen: int = 0
    used: int = 0
    target: int = 0
    silent: bool = False
    pids: frozenset[int] = frozenset()

    @property
    def charge(self) -> int:
        """What it may hold, for all that main knows."""
        return max(self.granted, self.used)

    @property
    def reserve(self) -> int:
        """What a silent one may still hold after a census that saw none of it."""
        return max(self.claim.terms.floor, self.claim.terms.burst)


@dataclass(slots=True)
class ModelMain:
    """The main database of a fleet with one server."""

    ttl: int
    without: Collection[str] = ()
    clock: int = 0
    ticked: int = 0
    settle: int = 0
    timeline: str = "1"
    ceiling: int | None = None
    ghosts: int = 0
    epoch: int = 0
    epoch_at: int = 0
    counted: int = -1
    unclaimed: int = 0
    blind: bool = False
    is_known: bool = False
    rows: dict[UUID, Row] = field(default_factory=dict)

    # --- what is -----------------------------------------------------------------------------------------------------
    @property
    def charge(self) -> int:
        """What all processes, and what is left of dead ones, may hold."""
        return sum(row.charge for row in self.rows.values()) + self.ghosts

    @property
    def granted(self) -> int:
        """The sum of what was granted."""
        return sum(row.granted for row in self.rows.values())

    @property
    def settles(self) -> bool:
        """A failover was seen not long ago."""
        return self.clock < self.settle

    def cap(self) -> int | None:
        """The most connections; None while no live process says."""
        caps = [row.claim.terms.cap for row in self.rows.values() if not row.silent]
        return min([*caps, self.ceiling] if self.ceiling is not None else caps, default=None)

    def _live(self) -> list[tuple[UUID, Row]]:
        return sorted((pair for pair in self.rows.items() if not pair[1].silent), key=lambda pair: pair[0].int)

    # --- one call ----------------------------------------------------------------------------------------------------
    def sync(self, report: FleetReport, wall: int, line: str = "1") -> list[ServerGrant] | str:
        """One call of `fleet_sync`; STALE as the SQL's state of that name."""
        leads = self._settle(line) or self.settles or wall != self.ticked
        self.is_known = True
        row = self.rows.get(report.process)
        if row is not None and row.seq >= report.seq and "seq" not in self.without:
            return STALE
        if report.leaves:
            self.rows.pop(report.process, None)
        for claim in report.claims:
            self._take(report, claim, wall)
        if "bury" not in self.without:
            self._bury(report)
        if leads:
            for census in report.census:
                if census.epoch == self.epoch or "epoch" in self.without:
                    self._count(census.epoch, census.pids)
            self._rebalance(wall)
        return [] if report.leaves else self._answer(report)

    def _settle(self, line: str) -> bool:
        """After a failover what was granted last is not known."""
        if self.timeline == line:
            return False
        self.timeline = line
        self.settle = 0 if "settle" in self.without else self.clock + self.ttl + self.ttl // 5
        if self.is_known:
            self.epoch += 1
            self.epoch_at = self.clock
        self.blind = self.settles and "blind" not in self.without
        return True

    def empty(self) -> None:
        """The table is emptied by hand, which a trigger sees."""
        self.rows.clear()
        if "emptied" not in self.without:
            self.timeline = ""

    def copy(self) -> ModelMain:
        """As it is now, for a standby."""
        twin = copy.copy(self)
        twin.rows = {process: copy.copy(row) for process, row in self.rows.items()}
        return twin

    def _take(self, report: FleetReport, claim: Claim, wall: int) -> None:
        row = self.rows.get(report.process)
        if row is None:
            granted = claim.keep if self.settles else 0
            row = self.rows[report.process] = Row(claim, report.seq, granted, joined=self.clock)
        elif self.settles:
            row.granted = claim.keep if claim.epoch == self.epoch else max(row.granted, claim.keep)
        elif "keep" in self.without:
            row.granted = min(row.granted, max(row.target, claim.used))
        elif claim.lowers or "lower" in self.without:  # a report that lowers nothing must not undo a raise in flight
            row.granted = min(row.granted, claim.keep)
        row.claim, row.seq, row.used, row.pids, row.silent = claim, report.seq, claim.used, frozenset(claim.pids), False
        row.seen = wall if "logical" in self.without else self.clock + self.ttl // 15

    def _bury(self, report: FleetReport) -> None:
        for process in report.buried:
            row = self.rows.get(process)
            if row is not None and process != report.process:
                row.seen = min(row.seen, self.clock - 9 * self.ttl - 1)

    def _count(self, epoch: int, pids: tuple[int, ...]) -> None:
        claimed: set[int] = set()
        silent = [row for row in self.rows.values() if row.silent]
        for row in self.rows.values():
            if not row.silent and (row.claim.epoch == epoch or "claim" in self.without):
                claimed |= row.pids
        unclaimed = sum(pid not in claimed for pid in pids)
        self.counted, self.unclaimed = epoch, unclaimed
        reserves = [0 if "burst" in self.without else row.reserve for row in silent]
        over = sum(max(0, row.charge - reserve) for row, reserve in zip(silent, reserves, strict=True))
        self.ghosts = unclaimed if self.blind else min(unclaimed, self.ghosts + over)
        self.blind = self.blind and self.settles
        for row, reserve in zip(silent, reserves, strict=True):
            row.granted, row.used = min(row.granted, reserve), min(row.used, reserve)

    def _answer(self, report: FleetReport) -> list[ServerGrant]:
        row = self.rows[report.process]
        counted = self.blind or self.ghosts > 0 or any(each.silent for each in self.rows.values())
        granted = row.granted
        if self.settles and "adopt" not in self.without:
            granted = min(granted, row.claim.keep)
        live = [process for process, _ in self._live()] or [report.process]
        witness = counted and live[self.clock // (self.ttl // 5) % len(live)] == report.process
        server = row.claim.server
        return [
            ServerGrant(
                server=server,
                granted=granted,
                target=row.target,
                epoch=self.epoch,
                counted=counted,
                is_witness=witness,
            )
        ]

    # --- rebalancing -------------------------------------------------------------------------------------------------
    def _rebalance(self, wall: int) -> None:
        self.clock += min(self.ttl // 15, max(0, wall - self.ticked))
        self.ticked = wall
        now = wall if "logical" in self.without else self.clock
        self._find_silent(now)
        self._forget(now)
        live, cap = self._live(), self.cap()
        if not live or cap is None:
            return
        askers = [_asker(process, row) for process, row in live]
        silent = sum(row.charge for row in self.rows.values() if row.silent)
        wanted = targets(askers, cap - self.ghosts - silent)
        for process, row in live:
            row.target = wanted[process.int]
        if self.settles:
            return
        free = (0 if self.blind else cap) - self.charge
        granted = raises(askers, wanted, free)
        for process, row in live:
            row.granted = granted.get(process.int, row.granted)

    def _find_silent(self, now: int) -> None:
        found = [row for row in self.rows.values() if not row.silent and row.seen + self.ttl < now]
        for row in found:
            row.silent = True
            if "hold" in self.without:
                row.granted, row.used = min(row.granted, row.claim.terms.floor), 0
        if found:
            self.epoch += 1
            self.epoch_at = self.clock

    def _forget(self, now: int) -> None:
        is_counted = self.counted == self.epoch
        old = [
            process
            for process, row in self.rows.items()
            if row.silent and row.seen + 10 * self.ttl < now and (is_counted or "forget" in self.without)
        ]
        charge = sum(self.rows.pop(process).charge for process in old)
        if is_counted and old:
            self.ghosts = min(self.ghosts + charge, self.unclaimed)


def _asker(process: UUID, row: Row) -> Asker:
    return Asker(
        key=process.int,
        granted=row.granted,
        charge=row.charge,
        want=row.claim.want,
        floor=row.claim.terms.floor,
        weight=row.claim.terms.weight,
        joined=row.joined,
    )
