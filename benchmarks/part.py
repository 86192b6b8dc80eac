"""What does each part of a benchmark hand back?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.table import Verdict

__all__ = ["Options", "Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how large; the targets are judged on the defaults."""

    rounds: int = 9
    seconds: float = 0.3
    fault_seconds: float = 300.0
    scale: float = 1.0  # of the number of tenants and requests, for a quick look


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A title, what to read, what to store, and what became of the targets."""

    title: str
    text: str
    data: Mapping[str, object]
    verdicts: tuple[Verdict, ...] = ()
