"""Who waits for the end of a tenant's pause? Callers that were served until then, for a while.

State: the tenants that are waited for, changed by those who wait and by what the registry says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

from tenantproxy.model import Tenant, TenantId, TenantStatus

__all__ = ["Pauses"]

_ASK_AGAIN: Final = 1.0  # seconds


class _Pause:
    __slots__ = ("over", "waiting")

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.waiting = 0


class Pauses:
    """`patience`: seconds that a caller waits at most."""

    def __init__(self, *, patience: float) -> None:
        self.patience = patience
        self._pauses: dict[TenantId, _Pause] = {}

    async def until_over(self, tenant: Tenant, look_up: Callable[[TenantId], Awaitable[Tenant]]) -> Tenant:
        """The tenant when it is not paused any more, or `patience` is over. Raises what `look_up` does."""
        pause = self._pauses.setdefault(tenant.id, _Pause())
        pause.waiting += 1
        until = monotonic() + self.patience
        try:
            while tenant.status is TenantStatus.PAUSED and (left := until - monotonic()) > 0:
                # Not every change is heard of: it is asked for too, which costs nothing while the answer is cached.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _ASK_AGAIN)):
                        await pause.over.wait()
                tenant = await look_up(tenant.id)
        finally:
            pause.waiting -= 1
            if not pause.waiting and self._pauses.get(tenant.id) is pause:
                del self._pauses[tenant.id]
        return tenant

    def end(self, tenant: TenantId) -> None:
        """It is not paused: who waits for that goes on."""
        if (pause := self._pauses.pop(tenant, None)) is not None:
            pause.over.set()

    def __contains__(self, tenant: TenantId) -> bool:
        """Whether callers wait for this tenant."""
        return tenant in self._pauses

    @property
    def tenants(self) -> Iterable[TenantId]:
        """Those for which callers wait."""
        return self._pauses.keys()
