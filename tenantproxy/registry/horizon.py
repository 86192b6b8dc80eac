"""How old may an entry be that another process read? Not older than what this one knows.

State: since when each tenant may have been read, changed by `saw` and `saw_all` alone.
"""

from __future__ import annotations

__all__ = ["Horizon"]


class Horizon:
    """For each tenant the moment (a unix timestamp) of the last news of it, of at most `max_entries` tenants.

    Who is forgotten gets the newest of the forgotten moments: that refuses too much, never too little.
    """

    def __init__(self, *, keep: float, max_entries: int) -> None:
        """`keep`: seconds after which an entry is too old anyway."""
        self._keep = keep
        self._max_entries = max_entries
        self._of: dict[str, float] = {}  # in the order in which news came
        self._all = float("-inf")

    def saw(self, tenant: str, moment: float) -> None:
        """There was news of this tenant: a change was heard, or the source was asked."""
        moment = max(moment, self._of.pop(tenant, moment))
        self._of[tenant] = moment
        while self._of:
            oldest = next(iter(self._of))
            if self._of[oldest] > moment - self._keep:
                break
            del self._of[oldest]
        while len(self._of) > self._max_entries:
            self._all = max(self._all, self._of.pop(next(iter(self._of))))

    def saw_all(self, moment: float) -> None:
        """Any tenant may have changed."""
        self._all = max(self._all, moment)

    def allows(self, tenant: str, read_at: float, *, margin: float = 0.0) -> bool:
        """Whether what was read at `read_at` is newer than all news by more than `margin` seconds."""
        return read_at > max(self._all, self._of.get(tenant, self._all)) + margin
