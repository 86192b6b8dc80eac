"""What goes wrong while a reference platform works? One thing after the other, by the number of answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Final

import asyncpg

from benchmarks.systems_ledger import Ledger
from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.embedded import EmbeddedPostgres

__all__ = ["Faults"]

_EVERY: Final = 150  # answers: a backend is ended, or what it runs is cancelled
_RESTARTS: Final = (0.3, 0.7)  # of the answers
_ENDED: Final = 0.5  # of the small faults; the others cancel
_POLL: Final = 0.01
_OTHERS: Final = "FROM pg_stat_activity WHERE usename <> session_user AND backend_type = 'client backend'"
_TERMINATE: Final = (
    f"SELECT pg_terminate_backend(pid) FROM (SELECT pid {_OTHERS} ORDER BY (state = 'active') DESC, random() LIMIT 1) a"
)
_CANCEL: Final = (
    f"SELECT pg_cancel_backend(pid) FROM (SELECT pid {_OTHERS} ORDER BY (state = 'active') DESC, random() LIMIT 1) a"
)


class Faults:
    """State: its own connection to the server, and which restarts are still to come."""

    def __init__(self, stage: SystemStage, ledger: Ledger, operations: int, seed: int) -> None:
        self._stage, self._ledger, self._rng = stage, ledger, random.Random(seed)
        self._restarts = [int(share * operations) for share in _RESTARTS]
        self._standby: EmbeddedPostgres | None = stage.kept.get("standby")
        self._standby_at = operations // 2
        self._admin: asyncpg.Connection | None = None

    async def inject(self) -> None:
        """Until it is cancelled."""
        following = _EVERY
        try:
            while True:
                await asyncio.sleep(_POLL)
                answered = self._ledger.operations
                if self._restarts and answered >= self._restarts[0]:
                    self._restarts.pop(0)
                    await self._said("immediate restarts", self._restart(self._stage.world.server))
                if self._standby is not None and answered >= self._standby_at:
                    standby, self._standby = self._standby, None
                    await self._said("restarts of the standby", self._restart(standby))
                if answered >= following:
                    following = answered + _EVERY
                    is_end = self._rng.random() < _ENDED
                    name = "backends ended" if is_end else "cancel requests"
                    await self._said(name, self._ask(_TERMINATE if is_end else _CANCEL))
        finally:
            if self._admin is not None:
                self._admin.terminate()

    async def _said(self, name: str, doing: Awaitable[object]) -> None:
        try:
            if await doing is not False:
                self._ledger.faults[name] += 1
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            self._admin = None  # the server is starting again

    async def _ask(self, sql: str) -> object:
        if self._admin is None or self._admin.is_closed():
            self._admin = await self._stage.world.connect()
        return bool(await self._admin.fetchval(sql))

    async def _restart(self, server: EmbeddedPostgres) -> None:
        """A crash, with recovery: what was acknowledged is in the log, as far as the system does not crash too."""
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
