"""What did the proof find? One result for each check, door and kind of tenant, and how all of them end. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

__all__ = ["IsolationProof", "Outcome", "Result", "TrialState"]

_TOLD: Final = 5  # of a list of leaks, in a line for a reader


class TrialState(StrEnum):
    """How a check ended. Only HELD says that something held."""

    HELD = "held"
    LEAK = "leak"
    UNTRIED = "untried"  # could not be tried, or not all of it: nothing is known
    OPEN = "open"  # the configuration has no wall there: tenants share a role
    NOTHING = "nothing"  # there is nothing to try: their kind, or this database, does not have it


@dataclass(slots=True)
class Outcome:
    """What one check saw, collected while it runs: how many cases held, what leaked, what could not be tried."""

    held: int = 0
    leaks: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    open: str = ""  # why the configuration has no wall there
    nothing: str = ""  # why there is nothing to try
    note: str = ""

    def judge(self, case: str, leak: str | None) -> None:
        """Count one case: None, it held; else what leaked, which must not repeat a tenant's data."""
        if leak is None:
            self.held += 1
        else:
            self.leaks.append(f"{case}: {leak}" if leak else case)

    @property
    def state(self) -> TrialState:
        """A leak outweighs what could not be tried, and that what held."""
        if self.leaks:
            return TrialState.LEAK
        if self.untried:
            return TrialState.UNTRIED
        if self.held:
            return TrialState.HELD
        return TrialState.OPEN if self.open else TrialState.NOTHING if self.nothing else TrialState.UNTRIED

    @property
    def detail(self) -> str:
        """One line: the leaks first."""
        parts = [_few(self.leaks), *(f"not tried: {each}" for each in self.untried[:_TOLD])]
        parts += [self.open, self.nothing, self.note]
        return "; ".join(part for part in parts if part) or ("" if self.held else "no case of it could be tried")


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _TOLD
    return "; ".join(texts[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table. `cases`: how many attempts held."""

    check: str
    door: str
    kind: str
    state: TrialState
    cases: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationProof:
    """All results of one run. `started`: Unix seconds; `seconds`: how long it took; `tenants`: those that stood in."""

    version: str
    started: float
    seconds: float
    tenants: tuple[str, ...]
    results: tuple[Result, ...]

    def of(self, *states: TrialState) -> list[Result]:
        """The results in one of `states`."""
        return [result for result in self.results if result.state in states]

    @property
    def exit_code(self) -> int:
        """0: all held; 1: a leak; 2: something that is open could not be tried, or nothing was."""
        if self.of(TrialState.LEAK):
            return 1
        return 0 if self.of(TrialState.HELD) and not self.of(TrialState.UNTRIED) else 2

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.version,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "tenants": list(self.tenants),
            "verdict": {0: "held", 1: "leak", 2: "untried"}[self.exit_code],
            "results": [asdict(result) for result in self.results],
        }


def result_of(check: str, door: str, kind: str, outcome: Outcome) -> Result:
    """The line of one check."""
    return Result(check=check, door=door, kind=kind, state=outcome.state, cases=outcome.held, detail=outcome.detail)


def untried(check: str, door: str, kind: str, why: Iterable[str] | str) -> Result:
    """The line of what could not be tried."""
    reasons = [why] if isinstance(why, str) else list(why)
    return result_of(check, door, kind, Outcome(untried=reasons))
