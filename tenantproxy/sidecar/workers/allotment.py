"""What was each worker granted of the servers' budgets, and how is that changed while they run?

State: the total that all workers together may have; each place knows what was granted to it. Lower first, then raise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from tenantproxy.config.shares import LEAST
from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.service import check_free
from tenantproxy.sidecar.workers.budgets import Grant, lowered, raised
from tenantproxy.sidecar.workers.place import WorkerPlace

__all__ = ["Allotment"]

_ASK_SECONDS: Final = 5.0
_YIELD_SECONDS, _YIELD_PAUSE = 5.0, 0.05


class Allotment:
    """The budgets of `places`, a list that others change. `total`: what all of them together may have, by server."""

    def __init__(self, places: list[WorkerPlace], total: Mapping[str, int]) -> None:
        self._places = places
        self._levelling = asyncio.Lock()
        self.total = total

    @property
    def held(self) -> Grant:
        """What all workers together hold at most."""
        return {name: sum(place.granted.get(name, 0) for place in self._places) for name in self.total}

    def can_have(self, workers: int) -> bool:
        """Whether so many can serve at once."""
        return min(self.total.values(), default=0) >= LEAST * workers

    async def level(self, *, more: int = 0) -> list[Grant]:
        """Divide the budgets equally among the workers; what is left for so many `more`."""
        async with self._levelling:
            draining = [place for place in self._places if not place.is_active]
            total = {
                name: limit - sum(place.granted.get(name, 0) for place in draining)
                for name, limit in self.total.items()
            }
            active = [place for place in self._places if place.is_active]
            parts = max(1, len(active) + more)
            for place, grant in zip(active, lowered(total, [each.granted for each in active], parts), strict=True):
                if grant != place.granted:
                    await self._resize(place, grant)
            grants = raised(total, [*(place.granted for place in active), *({} for _ in range(more))], parts)
            for place, grant in zip(active, grants, strict=False):
                if grant != place.granted:
                    await self._resize(place, grant)
            return grants[len(active) :]

    async def _resize(self, place: WorkerPlace, grant: Grant) -> None:
        """Let a worker keep to `grant`. What it still holds of what it had counts as its own."""
        if not place.is_up:
            if place.child is None:
                place.granted = grant
            return  # it is starting with what it was told
        most = {name: max(limit, place.granted.get(name, 0)) for name, limit in grant.items()}
        place.granted = most
        with suppress(TenantProxyError):
            held = await place.ask("resize", grant, timeout=_ASK_SECONDS)
            place.granted = {name: min(held.get(name, limit), limit) for name, limit in most.items()}

    async def for_one_more(self) -> Grant:
        """Its part, when those who are there have given enough back, or what there is after some seconds.

        Raises UpgradeFailed when that is too little to start with.
        """
        until = time.monotonic() + _YIELD_SECONDS
        while True:
            (grant,) = await self.level(more=1)
            parts = 1 + sum(place.is_active for place in self._places)
            is_over = time.monotonic() > until
            if all(grant[name] >= limit // parts for name, limit in self.total.items()):
                return grant
            if is_over:
                check_free(grant, self.total)
                return grant
            await asyncio.sleep(_YIELD_PAUSE)

    async def yield_half(self, whole: Mapping[str, int]) -> Grant:
        """Keep to half of the budgets, or what is in use after some seconds; what is free then of the `whole`."""
        self.total = kept = {name: limit - limit // 2 for name, limit in whole.items()}
        until = time.monotonic() + _YIELD_SECONDS
        while True:
            await self.level()
            held = self.held
            if all(held[name] <= kept[name] for name in kept) or time.monotonic() > until:
                return {name: limit - held[name] for name, limit in whole.items()}
            await asyncio.sleep(_YIELD_PAUSE)
