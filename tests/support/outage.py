"""How long is no tenant served when a server is restarted under load, beyond the time that it was down?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.waiting import until

Figure = Callable[[str, object], None]


class Outage:
    """Of some tenants. Each of their workers reports every answer, for as long as `goes_on`."""

    def __init__(self, *tenants: str) -> None:
        self._served = dict.fromkeys(tenants, 0.0)  # when each was last
        self._longest = dict.fromkeys(tenants, 0.0)  # between two answers
        self._back_at = float("inf")
        self.errors: list[object] = []  # what workers met meanwhile

    def goes_on(self, tenant: str) -> bool:
        """Until it was served after the server came back."""
        return self._served[tenant] <= self._back_at

    def served(self, tenant: str) -> None:
        """There was an answer."""
        now = time.monotonic()
        self._longest[tenant] = max(self._longest[tenant], now - (self._served[tenant] or now))
        self._served[tenant] = now

    async def measure(
        self,
        server: EmbeddedPostgres,
        mode: Literal["fast", "immediate"],
        work: Callable[[str], Coroutine[Any, Any, None]],
        figure: Figure,
        *,
        workers: int,
    ) -> float:
        """Restart `server` while that many `work` for each tenant; returns the outage beyond the server's own."""
        async with asyncio.TaskGroup() as tasks:
            for tenant in self._served:
                for _ in range(workers):
                    tasks.create_task(work(tenant))
            await until(lambda: all(self._served.values()), "every tenant is served")
            down_at = time.monotonic()
            await asyncio.to_thread(server.stop, mode)
            await asyncio.to_thread(server.start)
            self._back_at = time.monotonic()
        away = self._back_at - down_at
        beyond = max(self._longest.values()) - away
        figure("server_outage_seconds", away)
        figure("client_outage_minus_server_outage", beyond)
        figure("errors", len(self.errors))
        return beyond
