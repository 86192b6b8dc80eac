"""How does a caller wait for a connection? In the queue of a pool, with a future that the pool or a timer ends."""

from __future__ import annotations

import asyncio

from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import TenantProxyError
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.queue import Ticket

__all__ = ["Waiting", "expire"]


class Waiting:
    """A caller in the queue of a pool."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[DriverConnection]) -> None:
        self.future = future

    def offer(self, conn: DriverConnection, /) -> bool:
        """See `pools.base.Waiter`."""
        if self.future.done():
            return False
        self.future.set_result(conn)
        return True

    def fail(self, error: TenantProxyError, /) -> None:
        """See `pools.base.Waiter`."""
        if not self.future.done():
            self.future.set_exception(error)


def expire(
    pool: Pool[DriverConnection],
    ticket: Ticket[DriverConnection],
    future: asyncio.Future[DriverConnection],
    timeout: float,
) -> None:
    """The time of a caller is over."""
    if not future.done() and pool.cancel(ticket, "timeout"):
        future.set_exception(pool.timed_out(ticket, timeout))
