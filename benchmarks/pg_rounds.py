"""How do several targets take their turns at pgbench, and how do their figures become a table and verdicts?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from benchmarks.measure import Spread
from benchmarks.pg_pgbench import Figures
from benchmarks.pg_targets import Target
from benchmarks.table import Verdict, at_least, at_most, figure, ratio, render, spread

__all__ = [
    "AGAIN",
    "Runs",
    "Series",
    "Subject",
    "control",
    "cpu_at_most",
    "dearer",
    "faster",
    "speed_at_least",
    "stored",
    "table",
    "take_turns",
    "unmeasured",
]

Series = dict[str, list[Figures]]  # by the subject's name, one for each round
AGAIN: Final = "the control, again"
_NO_PEER: Final = "nothing: no pgbouncer on PATH"


class Runs(Protocol):
    """What a target is measured by."""

    async def run(self, target: Target, database: str) -> Figures:
        """Once. Raises RuntimeError when something fails."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One line of the table."""

    name: str
    target: Target
    database: str
    bench: Runs


async def take_turns(subjects: Sequence[Subject], rounds: int) -> Series:
    """Each in every round, alternating forwards and backwards: what slows the machine for a while slows all."""
    series: Series = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects if number % 2 == 0 else list(reversed(subjects)):
            series[subject.name].append(await subject.bench.run(subject.target, subject.database))
    return series


def faster(one: Sequence[Figures], base: Sequence[Figures]) -> Spread:
    """Each round's own ratio of throughput."""
    return Spread.of(a.per_second / b.per_second for a, b in zip(one, base, strict=True))


def dearer(one: Sequence[Figures], base: Sequence[Figures]) -> Spread:
    """Each round's own ratio of the proxies' CPU for each transaction."""
    return Spread.of(a.cpu_us / b.cpu_us for a, b in zip(one, base, strict=True))


def table(series: Series, *, base: str, unit: str) -> str:
    """All subjects; compared with `base` where it was measured. `unit`: what a transaction is."""
    peer = series.get(base)
    rows = []
    for name, figures in series.items():
        has_cpu = all(one.cpu_us for one in figures)
        cells = [name, spread(Spread.of(one.per_second for one in figures))]
        cells.append(ratio(faster(figures, peer)) if peer else "")
        cells.append(spread(Spread.of(one.cpu_us for one in figures)) if has_cpu else "")
        cells.append(ratio(dearer(figures, peer)) if peer and has_cpu else "")
        cells.append(figure(Spread.of(one.latency_ms for one in figures).median))
        rows.append(cells)
    head = ("", f"{unit}/s", f"x {base}", f"CPU us/{unit} of the proxy", f"CPU x {base}", "ms on average")
    return render(head, rows)


def stored(series: Series) -> Mapping[str, object]:
    """For the JSON."""
    return {name: [asdict(one) for one in figures] for name, figures in series.items()}


def cpu_at_most(target: str, wanted: float, series: Series, one: str, base: str) -> Verdict:
    """Not met where the peer is missing."""
    if base not in series:
        return unmeasured(target, f"<= {wanted:g}x")
    return at_most(target, wanted, dearer(series[one], series[base]), "x", kind="ratio")


def speed_at_least(target: str, wanted: float, series: Series, one: str, base: str) -> Verdict:
    """Not met where the peer is missing."""
    if base not in series:
        return unmeasured(target, f">= {wanted:g}x")
    return at_least(target, wanted, faster(series[one], series[base]))


def unmeasured(target: str, wanted: str) -> Verdict:
    """A target that was not measured is not met."""
    return Verdict(target=target, wanted=wanted, measured=_NO_PEER, met=False)


def control(target: str, series: Series, one: str) -> Iterator[Verdict]:
    """`one` was measured AGAIN in each round, and must be as good as itself."""
    pairs = {"throughput": faster(series[AGAIN], series[one])}
    if all(figures.cpu_us for figures in series[one]):
        pairs["CPU"] = dearer(series[AGAIN], series[one])
    for what, value in pairs.items():
        yield Verdict(
            target=f"{target}: {one} compared with itself, {what}",
            wanted="0.9x..1.1x",
            measured=ratio(value),
            met=0.9 <= value.median <= 1.1,
            control=True,
        )
