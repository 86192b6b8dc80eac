"""How many connections does a process want? Up at once, down over seconds: others need not see each short pause."""

from __future__ import annotations

from typing import Final

__all__ = ["Want"]

_HALF_SECONDS: Final = 0.25  # in which what is not wanted any more is halved


class Want:
    """The smoothed want of one server."""

    __slots__ = ("_at", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._at: float | None = None

    def follow(self, wanted: float, now: float) -> float:
        """What is wanted at `now` (seconds): `wanted`, or what is left of a greater want before."""
        if self._at is not None:
            self.value = wanted + max(0.0, self.value - wanted) * 0.5 ** ((now - self._at) / _HALF_SECONDS)
        self.value = max(self.value, wanted)
        self._at = now
        return self.value
