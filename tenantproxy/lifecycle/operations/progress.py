"""How far is long work? What it calls as it goes on: how much is done, of how much, and what is done now."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Hears of progress; returns at once. `total` None: not known; `what`: in a few words, empty as before."""

    def __call__(self, done: int, total: int | None, what: str = "", /) -> None:
        """So far it is."""
        ...


def silent(done: int, total: int | None, what: str = "", /) -> None:
    """For those who do not ask."""
