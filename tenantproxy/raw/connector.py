"""Which raw backends are being opened, cancelled and ended? The PostgreSQL port's side of `Connector`.

Opening is a task, for it is rare. Ending is a few callbacks and needs none: any number of clients may leave at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.connect.hosts import Hosts
from tenantproxy.connect.opening import Opening
from tenantproxy.connect.tasks import ConnectorTasks
from tenantproxy.connect.watch import EndWatches
from tenantproxy.errors import ConnectFailed, LeaseExpired, PoolClosed
from tenantproxy.events import Observer
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.cancel import request_cancel
from tenantproxy.raw.close import END_TIMEOUT, End, send_terminate
from tenantproxy.raw.open import Opener

__all__ = ["APPLICATION_NAME", "RawConnector"]

APPLICATION_NAME: Final = ""  # a client's that has given none hears so, as from a server


class RawConnector:
    """Opens and ends the backends of all raw pools of one router. What it has under way ends with `close`."""

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer,
        violations: dict[str, int],
        hosts: Mapping[str, Hosts] | None = None,
    ) -> None:
        self._opening = Opening(
            settings,
            observer=observer,
            violations=violations,
            application_name=APPLICATION_NAME,
            statement_timeout=0.0,  # as a server's: a migration may take as long as it likes
            hosts=hosts,
        )
        self._opener = Opener(self._opening)
        self._tasks = ConnectorTasks()
        self._ends: dict[RawBackend, End] = {}
        self._watches = EndWatches()
        self._all_ended: asyncio.Future[None] | None = None  # None: no waiter
        self.reset: Callable[[RawBackend], None] | None = None  # set by the lender

    # --- Connector ---------------------------------------------------------------------------------------------------
    def adopt(self, settings: Settings) -> None:
        """See `Opening.adopt`."""
        self._opening.adopt(settings)

    def open(self, pool: Pool[RawBackend]) -> None:
        """See `pools.context.Connector`."""
        self._tasks.spawn(self._open(pool))

    def retire(self, pool: Pool[RawBackend], conn: RawBackend) -> None:
        """See `pools.context.Connector`."""
        conn.catch_up()
        end = self._ends[conn] = End(self, conn)
        end.begin()

    def expire(self, conn: RawBackend, error: LeaseExpired) -> None:
        """See `pools.context.Connector`."""
        conn.expired = error

    def is_usable(self, conn: RawBackend) -> bool:
        """See `pools.context.Connector`."""
        return not conn.is_closed

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pools.context.Connector`."""
        self._tasks.later(delay, call)

    async def close(self) -> None:
        """Leave what has not ended, cancel what is under way and wait for it. The pools are closed by now."""
        for end in list(self._ends.values()):
            end.give_up()
        await self._wait_for_ends()
        await self._tasks.close()
        self._watches.close()

    async def settle(self, timeout: float) -> None:
        """Wait until every connection that is being ended has ended, for `timeout` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                await self._wait_for_ends()
                await self._tasks.settle(timeout)
        except TimeoutError:
            pass

    async def _wait_for_ends(self) -> None:
        while self._ends:
            if self._all_ended is None:
                self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_ended)

    def ended(self, backend: RawBackend, *, silent: bool, sock: socket.socket | None) -> None:
        """`backend` is gone; `silent`: its server side may live on, and `sock` hears of its end."""
        del self._ends[backend]
        silent = silent and backend.wire is None  # what lives on behind a pooler is the pooler's
        self._watches.retired(backend.pool, backend, lingers=backend.process if silent else None, sock=sock)
        if not self._ends and self._all_ended is not None:
            self._all_ended.set_result(None)
            self._all_ended = None

    # --- opening -----------------------------------------------------------------------------------------------------
    async def _open(self, pool: Pool[RawBackend]) -> None:
        started = monotonic()
        opened: list[RawBackend] = []
        try:
            backend = await self._opener.connect(pool, opened)
            backend.rest()
            if backend.is_closed or backend.is_doubtful:
                raise ConnectionResetError("the server closed the connection")
        except asyncio.CancelledError:
            for each in opened:
                each.transport.abort()
            pool.open_failed(PoolClosed("the router is closing"), "denied", "cancelled")
            raise
        except Exception as exc:  # noqa: BLE001 - a rim: whatever it was, those who wait must hear of it
            await self._open_failed(pool, opened, exc)
            return
        self._opening.opened(pool, backend, started)

    async def _open_failed(self, pool: Pool[RawBackend], opened: list[RawBackend], exc: Exception) -> None:
        # A backend that does not answer may still be on the server, where it counts against the limit; not one that
        # was never connected to.
        silent = isinstance(exc, TimeoutError)
        lingers: ServerProcess | None = None
        try:
            for each in opened:
                if not await send_terminate(each, END_TIMEOUT if not silent else 0.0) or silent:
                    silent, lingers = True, each.process
        finally:
            self._opening.failed(pool, exc, silent=silent, lingers=lingers)
            if pool.budget.is_down and not self._opening.is_watched(pool.key):
                self._tasks.look_for(self._opening.server(pool.key), pool.budget)

    # --- cancelling --------------------------------------------------------------------------------------------------
    def cancel(self, backend: RawBackend, done: Callable[[], None] | None = None) -> None:
        """Ask the server to cancel what runs on `backend`; `done` when the server has done with the request."""
        self._tasks.spawn(self._cancel(backend, done))

    async def _cancel(self, backend: RawBackend, done: Callable[[], None] | None) -> None:
        try:
            await request_cancel(backend, backend.server)
        except TimeoutError:
            backend.is_doubtful = True  # the request may still arrive, and must not hit another client
            if backend.on_cancelled is not None:  # it has been released already
                backend.pool.retire(backend, "error")
        except (OSError, ConnectFailed):
            pass  # the caller does not rely on it
        finally:
            if done is not None:
                done()
