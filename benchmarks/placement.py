"""On which processors do client and server run? Left to the scheduler, this decides more than what is measured.

Measured on two processors, one task, asyncpg.Pool: p50 138 us with client and server apart, 61 us on one
processor, and a free run changes from one to the other in the middle of a round. What is done after the
answer (a reset) costs the caller nothing when they are apart and its full price when they share a processor. So both
are measured, each by itself, and a target has to be met in both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.world import World

__all__ = ["Placement", "placed", "placements"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which processors the client may use, and which the server; None: left to the scheduler."""

    name: str
    client: frozenset[int] | None = None
    server: frozenset[int] | None = None


def placements() -> tuple[Placement, ...]:
    """Apart and together where a process can be bound to processors (Linux); otherwise as the scheduler likes."""
    if sys.platform != "linux":
        return (Placement(name="free"),)
    first, *others = sorted(os.sched_getaffinity(0))
    together = Placement(name="one core", client=frozenset({first}), server=frozenset({first}))
    if not others:
        return (together,)
    return (Placement(name="apart", client=frozenset({first}), server=frozenset({others[0]})), together)


@contextmanager
def placed(world: World, where: Placement) -> Iterator[None]:
    """Client and server, its running backends too, are there during the block and free afterwards."""
    if sys.platform != "linux" or where.client is None or where.server is None:
        yield
        return
    before = os.sched_getaffinity(0)
    _bind(world, where.client, where.server)
    try:
        yield
    finally:
        _bind(world, before, before)


def _bind(world: World, client: set[int] | frozenset[int], server: set[int] | frozenset[int]) -> None:
    if sys.platform != "linux":
        return
    os.sched_setaffinity(0, client)
    postmaster = world.server.postmaster_pid  # backends are its children, and inherit from it when they are new
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        try:
            os.sched_setaffinity(pid, server)
        except ProcessLookupError:
            continue  # it ended meanwhile
