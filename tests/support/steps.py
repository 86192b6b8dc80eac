"""What work that is done in small steps has found at the end, and in how many steps."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

__all__ = ["steps_of"]

T = TypeVar("T")


def steps_of(work: Generator[None, None, T]) -> tuple[T, int]:
    """Do all of it."""
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found, steps
        steps += 1
