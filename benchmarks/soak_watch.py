"""What grows? Memory, descriptors, tasks, series and backends of a sidecar, looked at again and again."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from benchmarks.pg_process import memory_bytes
from benchmarks.soak_world import SoakWorld
from tenantproxy.demo.world import LOGIN_ROLE

__all__ = ["WARM", "Look", "Slope", "Watch", "grown", "look", "slope_of"]

WARM: Final = 0.3  # of the time, of which nothing is judged
_BLOCKS: Final = 20
_T: Final = 2.10  # Student's t at 95 % for 18 degrees of freedom: blocks less two
_EVERY: Final = 2.0
_BACKENDS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> session_user"
    " AND usename <> $1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One moment. `at`: seconds since the first; `backends`: as PostgreSQL counts them."""

    at: float
    memory: int
    descriptors: int
    tasks: int
    series: int
    backends: int
    pools: int
    tenants: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """What a second adds, and the interval that has it in 95 of 100 cases."""

    per_second: float
    low: float
    high: float


def slope_of(points: Sequence[tuple[float, float]], *, warm: float = WARM) -> Slope:
    """By least squares over means of equal spans of time behind the warm-up.

    What is next to each other in time is alike, and single looks would make the interval look narrower than it is:
    hence the means, and a factor for what is left of it (the correlation of neighbours, r: (1 + r) / (1 - r)).
    """
    end = points[-1][0]
    first = warm * end
    blocks: list[list[tuple[float, float]]] = [[] for _ in range(_BLOCKS)]
    for at, size in points:
        if at >= first:
            blocks[min(_BLOCKS - 1, int((at - first) / (end - first) * _BLOCKS))].append((at, size))
    means = [tuple(math.fsum(column) / len(block) for column in zip(*block, strict=True)) for block in blocks if block]
    if len(means) < 4:
        return Slope(per_second=0.0, low=-math.inf, high=math.inf)
    middle, mean = (math.fsum(column) / len(means) for column in zip(*means, strict=True))
    spread = math.fsum((at - middle) ** 2 for at, _ in means)
    slope = math.fsum((at - middle) * (size - mean) for at, size in means) / spread
    left = [size - mean - slope * (at - middle) for at, size in means]
    square = math.fsum(each**2 for each in left)
    alike = math.fsum(one * other for one, other in pairwise(left)) / square if square else 0.0
    alike = min(max(alike, 0.0), 0.9)
    error = math.sqrt(square / (len(means) - 2) / spread * (1 + alike) / (1 - alike))
    return Slope(per_second=slope, low=slope - _T * error, high=slope + _T * error)


async def look(world: SoakWorld, at: float) -> Look:
    """As it is now."""
    counts = await world.sidecar.ask("counts")
    status, body = await world.ask("GET", "/metrics")
    if status != 200:
        raise RuntimeError(f"/metrics answers {status}")
    lines = [line for line in body.splitlines() if line and not line.startswith(b"#")]
    pools = next((float(line.split()[1]) for line in lines if line.startswith(b"tenantproxy_pools ")), 0.0)
    backends = await world.main.fetchval(_BACKENDS, LOGIN_ROLE)
    return Look(
        at=at, memory=memory_bytes(world.sidecar.pid), descriptors=counts["descriptors"], tasks=counts["tasks"],
        series=len(lines), backends=int(backends), pools=int(pools), tenants=len(world.present),
    )  # fmt: skip


@dataclass(slots=True)
class Watch:
    """Looks until it `is_over`. `warm_types`: objects by type, at the end of the warm-up."""

    world: SoakWorld
    seconds: float
    looks: list[Look] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    warm_types: Mapping[str, int] = field(default_factory=dict)
    is_over: bool = False

    async def run(self) -> None:
        """See above."""
        began = time.monotonic()
        while not self.is_over:
            at = time.monotonic() - began
            self.memory.append((at, float(memory_bytes(self.world.sidecar.pid))))
            if not self.looks or at - self.looks[-1].at >= _EVERY:
                self.looks.append(await look(self.world, at))
            if not self.warm_types and at >= WARM * self.seconds:
                self.warm_types = await self.world.sidecar.ask("types")
            await asyncio.sleep(0.5)

    def most(self, of: str, *, from_: float = 0.0, to: float = 1.0) -> int:
        """The highest of a part of the time."""
        end = self.looks[-1].at
        return max((int(getattr(each, of)) for each in self.looks if from_ * end <= each.at <= to * end), default=0)


def grown(before: Mapping[str, int], after: Mapping[str, int], most: int = 12) -> list[tuple[str, int, int]]:
    """Types of which there are more, those of most first: name, how many there were and are."""
    more = Counter({name: count - before.get(name, 0) for name, count in after.items()})
    return [(name, before.get(name, 0), after[name]) for name, count in more.most_common(most) if count > 0]
