"""How many connections does a server really let us have? What it reports, and which pools it refused one. Pure.

Changed by `ServerBudget` and `Pool` alone, with what each connect learns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

__all__ = ["FULL_SECONDS", "MOST", "NO_LIMIT", "LimitSource", "RefusedPools", "lowest"]

P = TypeVar("P")

FULL_SECONDS: Final = 10.0  # for so long, what was in use when a server had no connection left is the most there is
NO_LIMIT: Final = -1  # PostgreSQL's way to say so
MOST: Final = 1_000_000  # more than any server has

LimitSource = str
"""Whose limit it is: "max_connections", "role" or "database"."""


def lowest(configured: int, found: Iterable[tuple[LimitSource, int]]) -> tuple[int, LimitSource]:
    """The lowest of the limits, and whose it is ("" for the configured one). At least 1."""
    value, source = configured, ""
    for name, limit in found:
        if limit != NO_LIMIT and limit < value:
            value, source = limit, name
    return max(1, value), source


class RefusedPools(Generic[P]):
    """Which pools were refused a connection because there was none left, and how many were in use then.

    Each pool by itself: the limit that was met may be of its database or role, and then the others are not concerned.
    """

    __slots__ = ("_refused",)

    def __init__(self) -> None:
        self._refused: dict[P, tuple[float, int]] = {}  # (until, connections in use)

    def refuse(self, pool: P, in_use: int, now: float) -> None:
        """`pool` was refused one while `in_use` others were there. It may always try with none."""
        self._refused[pool] = (now + FULL_SECONDS, max(1, in_use))

    def forget(self, pool: P) -> None:
        """`pool` got a connection, or is closed."""
        self._refused.pop(pool, None)

    def may_open(self, pool: P, in_use: int, now: float) -> bool:
        """Whether one more may be there by what is known."""
        if not self._refused or pool not in self._refused:
            return True
        until, most = self._refused[pool]
        return in_use < most or now >= until
