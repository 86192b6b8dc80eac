"""How many connections does a process want? Up at once, down over seconds: others need not see each short pause."""

from __future__ import annotations

from typing import Final

__all__ = ["Want"]

_HALF_SECONDS: Final = 0.25  # in which what is not wanted any more is halved


class Want:
    """The smoothed want of one server."""

    __slots__ = ("_at", "_displaced", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._at: float | None = None
        self._displaced = 0

    def follow(self, wanted: float, now: float, *, displaced: int = 0) -> float:
        """What is wanted at `now` (seconds): `wanted`, or what is left of a greater want before.

        `displaced`: how many connections were closed so far so that another pool could open one. Each that was closed
        in the last second would have been of use: tenants with pools of their own need more than they use at once.
        """
        if self._at is not None and now > self._at:
            wanted += (displaced - self._displaced) / max(1.0, now - self._at)
        self._displaced = displaced
        if self._at is not None:
            self.value = wanted + max(0.0, self.value - wanted) * 0.5 ** ((now - self._at) / _HALF_SECONDS)
        self.value = max(self.value, wanted)
        self._at = now
        return self.value
