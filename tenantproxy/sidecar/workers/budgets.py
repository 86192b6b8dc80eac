"""How many connections of each server may each worker have? Their sum is never more than the budget. Pure.

A worker that is to have fewer says how many it still holds; only what is left is given to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tenantproxy.config.shares import divided

__all__ = ["Grant", "lowered", "raised"]

Grant: TypeAlias = dict[str, int]
"""Connections by server."""


def lowered(total: Mapping[str, int], held: Sequence[Mapping[str, int]], parts: int) -> list[Grant]:
    """What each of those who hold connections is to keep at most, where there will be `parts` equal parts."""
    targets = {server: divided(limit, parts) for server, limit in total.items()}
    return [
        {server: min(have.get(server, 0), targets[server][place]) for server in total}
        for place, have in enumerate(held)
    ]


def raised(total: Mapping[str, int], held: Sequence[Mapping[str, int]], parts: int) -> list[Grant]:
    """What each of them may have then: its equal part, as far as the others leave it."""
    left = {server: limit - sum(have.get(server, 0) for have in held) for server, limit in total.items()}
    grants: list[Grant] = []
    for place, have in enumerate(held):
        grant = {}
        for server, limit in total.items():
            more = min(max(0, left[server]), max(0, divided(limit, parts)[place] - have.get(server, 0)))
            left[server] -= more
            grant[server] = have.get(server, 0) + more
        grants.append(grant)
    return grants
