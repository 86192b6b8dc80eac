"""Who should have how many connections of one server? Floors first, then max-min by weight over what is wanted.

Pure. `lifecycle/sql/fleet.sql` computes the same; tests compare them after every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Asker", "raises", "targets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A process that is not silent. `key` orders those that joined at the same time; `charge`: max(granted, used)."""

    key: int
    granted: int
    charge: int
    want: float
    floor: int
    weight: float
    joined: int


@dataclass(slots=True)
class _Part:
    asker: Asker
    base: int  # of its floor
    need: int  # above it
    more: int = 0


def targets(askers: Iterable[Asker], available: int) -> dict[int, int]:
    """What each should have, by key, when `available` connections are left for all of them.

    Half of what is not wanted is spread evenly; the other half stays free for processes that start. Under overload the
    connection that each gets beyond its want waits until all wants are met.
    """
    parts = list(_parts(sorted(askers, key=lambda each: (each.joined, each.key)), available))
    if not parts:
        return {}
    pot = max(0, available - sum(part.base for part in parts))
    water = _water(sorted(parts, key=lambda part: (part.need / part.asker.weight, part.asker.key)), pot)
    for part in parts:
        share = part.need if water is None else min(part.need, part.asker.weight * water)
        part.more = math.floor(share + 1e-9)
    rest, rank, found = pot - sum(part.more for part in parts), 0, {}
    for part in sorted(parts, key=lambda part: part.asker.key):
        extra = 0
        if water is None:
            extra = rest // 2 // len(parts)
        elif part.more < part.need:
            rank += 1
            extra = int(rank <= rest)
        found[part.asker.key] = part.base + part.more + extra
    return found


def _parts(askers: Iterable[Asker], available: int) -> Iterator[_Part]:
    before = 0
    for asker in askers:
        base = min(asker.floor, max(0, available - before))
        before += asker.floor
        yield _Part(asker, base, max(0, math.ceil(asker.want) + 1 - base))


def _water(parts: list[_Part], pot: int) -> float | None:
    """The level up to which each need is met, by weight; None: all needs are met."""
    before, weights, water = 0, sum(part.asker.weight for part in parts), None
    for part in parts:
        level = (pot - before) / max(weights, 1e-12)
        if part.need > part.asker.weight * level + 1e-9:
            water = level if water is None else max(water, level)
        before += part.need
        weights -= part.asker.weight
    return water


def raises(askers: Iterable[Asker], wanted: Mapping[int, int], free: int) -> dict[int, int]:
    """What is granted from now on to those that get more, by key: first those below their floor, then the neediest.

    `wanted`: what `targets` found; `free` connections are charged to no process.
    """
    found, before = {}, 0
    for asker in sorted(askers, key=lambda each: _need_order(each, wanted[each.key])):
        lacks = wanted[asker.key] - asker.charge
        if lacks > 0 and free > before:
            found[asker.key] = asker.charge + min(lacks, free - before)
        before += max(0, lacks)
    return found


def _need_order(asker: Asker, target: int) -> tuple[bool, int, int]:
    below_floor = asker.granted < min(asker.floor, target)
    return not below_floor, asker.charge - target, asker.key
