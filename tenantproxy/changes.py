"""Which tenants changed while something of theirs is open? Looks them up again, many at once, with or without callers.

State: the tenants to look up, and the task that does it while there are any.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from tenantproxy.model import TenantId

__all__ = ["Changes"]

_AT_ONCE: Final = 50
_STEP: Final = 10  # that are begun before the event loop may run something else


class Changes:
    """Follows what the registry announces, for tenants that have something open here."""

    def __init__(
        self,
        *,
        follow: Callable[[TenantId], Coroutine[Any, Any, None]],
        is_concerned: Callable[[TenantId], bool],
        concerned: Callable[[], Iterable[TenantId]],
    ) -> None:
        self._follow = follow
        self._is_concerned = is_concerned
        self._concerned = concerned
        self._changed: dict[TenantId, None] = {}
        self._task: asyncio.Task[None] | None = None

    def announce(self, tenant: str | None) -> None:
        """`tenant` changed; None: any may have. Returns at once; needs a running loop."""
        if tenant is None:
            self._changed.update(dict.fromkeys(self._concerned()))
        elif self._is_concerned(TenantId(tenant)):
            self._changed[TenantId(tenant)] = None
        if self._changed and self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="tenantproxy changes", context=contextvars.Context())

    async def _run(self) -> None:
        try:
            while self._changed:
                some = [tenant for tenant, _ in zip(self._changed, range(_AT_ONCE), strict=False)]
                for tenant in some:
                    del self._changed[tenant]
                async with asyncio.TaskGroup() as group:
                    for number, tenant in enumerate(some, start=1):
                        group.create_task(self._follow(tenant))
                        if number % _STEP == 0:
                            await asyncio.sleep(0)
        finally:
            self._task = None

    async def close(self) -> None:
        """Stop; it may be used again."""
        self._changed.clear()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def forget_loop(self) -> None:
        """The event loop has ended, and the task in it."""
        self._changed.clear()
        self._task = None
