"""How do figures become something to read? Aligned Markdown tables, and verdicts that cannot be overlooked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.measure import Spread

__all__ = ["Verdict", "at_least", "at_most", "figure", "loud", "ratio", "render", "trust", "verdicts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target and what was measured.

    A `control` must hold whatever the code is worth; `trusted`: the controls of this measurement held.
    """

    target: str
    wanted: str
    measured: str
    met: bool
    control: bool = False
    trusted: bool = True

    @property
    def word(self) -> str:
        """For the table: a target is only met in a run whose controls held."""
        if self.control:
            return "holds" if self.met else "BROKEN"
        if not self.trusted:
            return "unproven" if self.met else "MISSED, unproven"
        return "met" if self.met else "MISSED"


def figure(value: float, unit: str = "") -> str:
    """`value` with as many digits as it deserves."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{text} {unit}" if unit else text


def spread(value: Spread) -> str:
    """`median [p25-p75]`."""
    return f"{figure(value.median)} [{figure(value.p25)}-{figure(value.p75)}]"


def ratio(value: Spread) -> str:
    """`median x [p25-p75]`."""
    return f"{value.median:.2f}x [{value.p25:.2f}-{value.p75:.2f}]"


def at_least(target: str, wanted: float, value: Spread) -> Verdict:
    """Met when the median ratio reaches `wanted`."""
    return Verdict(target=target, wanted=f">= {wanted:g}x", measured=ratio(value), met=value.median >= wanted)


def at_most(
    target: str, wanted: float, value: float | Spread, unit: str, *, kind: Literal["ratio", "figure"] = "figure"
) -> Verdict:
    """Met when the figure, or the median, does not exceed `wanted`."""
    middle = value.median if isinstance(value, Spread) else value
    if isinstance(value, Spread):
        told = ratio(value) if kind == "ratio" else f"{spread(value)} {unit}"
    else:
        told = figure(value, unit)
    return Verdict(target=target, wanted=f"<= {wanted:g} {unit}".strip(), measured=told, met=middle <= wanted)


def render(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [_line(row, widths) for row in table]
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def trust(found: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """`found`, measured together: a broken control among them takes the trust from the others."""
    together = tuple(found)
    sound = all(one.met for one in together if one.control)
    return tuple(replace(one, trusted=sound) for one in together)


def verdicts(found: Iterable[Verdict]) -> str:
    """The table of targets."""
    rows = [(one.target, one.wanted, one.measured, one.word) for one in found]
    return render(("target", "wanted", "measured", "verdict"), rows)


def loud(found: Iterable[Verdict]) -> str:
    """One line for each target that was not shown to be met, broken controls first; or that all are met."""
    bad = sorted((one for one in found if not (one.met and one.trusted)), key=lambda one: not one.control)
    lines = [
        f"!!! {one.word}: {one.target}: wanted {one.wanted}, measured {one.measured}"
        for one in bad
        if not (one.control and one.met)
    ]
    if any(one.control and not one.met for one in bad):
        lines.insert(0, "!!! A CONTROL IS BROKEN: something else used the machine; run again when it is quiet")
    return "\n".join(lines) or "every target is met"
