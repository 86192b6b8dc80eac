"""Which keys of very many weigh the most? A space-saving summary: bounded memory, whatever comes. Pure, no clock.

Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams (ICDT 2005).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from operator import attrgetter
from typing import Final, NamedTuple

__all__ = ["Estimate", "Heaviest"]

_LIGHT: Final = 0.01  # what faded below it is forgotten


class Estimate(NamedTuple):
    """A key's `weight` is never too low, and too high by `error` at most."""

    key: str
    weight: float
    error: float

    @property
    def certain(self) -> float:
        """What the key has at least."""
        return self.weight - self.error


class Heaviest:
    """The `capacity` keys that weigh the most, nearly.

    Of all weight that was added, each key with more than 1/capacity is among them. To add to a key that is there is one
    change of a dictionary; else it takes the place of the lightest, in amortised logarithmic time of `capacity`.
    """

    __slots__ = ("_errors", "_heap", "_weights", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = max(1, capacity)
        self._weights: dict[str, float] = {}
        self._errors: dict[str, float] = {}  # of the same keys
        self._heap: list[tuple[float, str]] = []  # one entry for each key, with its weight of some former time

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, key: str, weight: float) -> None:
        """`key` weighs `weight` more, which is not negative."""
        weights = self._weights
        if key in weights:
            weights[key] += weight
            return
        error = self._evict() if len(weights) >= self.capacity else 0.0
        weights[key] = error + weight
        self._errors[key] = error
        heappush(self._heap, (error + weight, key))

    def _evict(self) -> float:
        """Forget the lightest; what it weighed."""
        heap, weights = self._heap, self._weights
        while (weight := weights[(lightest := heap[0])[1]]) > lightest[0]:  # it grew since: paid for by those adds
            heapreplace(heap, (weight, lightest[1]))
        _, key = heappop(heap)
        del self._errors[key]
        return weights.pop(key)

    def of(self, key: str) -> Estimate:
        """What `key` weighs; nothing where it is not among them."""
        return Estimate(key, self._weights.get(key, 0.0), self._errors.get(key, 0.0))

    def ranked(self) -> list[Estimate]:
        """All of them, by what is certain, the heaviest first."""
        return sorted(map(self.of, self._weights), key=attrgetter("certain"), reverse=True)

    def fade(self, factor: float) -> None:
        """Everything weighs `factor` times as much, so that what comes later counts for more."""
        kept = {key: weight * factor for key, weight in self._weights.items() if weight * factor >= _LIGHT}
        self._take({key: self._errors[key] * factor for key in kept}, kept)

    def forget(self, key: str) -> None:
        """`key` will not come again."""
        if key in self._weights:
            kept = {other: weight for other, weight in self._weights.items() if other != key}
            self._take({other: self._errors[other] for other in kept}, kept)

    def _take(self, errors: dict[str, float], weights: dict[str, float]) -> None:
        self._errors, self._weights = errors, weights
        self._heap = [(weight, key) for key, weight in weights.items()]
        heapify(self._heap)
