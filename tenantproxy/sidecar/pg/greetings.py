"""What is a client told of its session when it is let in? What a server says of the very same session.

A server normalises values (`UTF8` for `'utf-8'`), and drivers read them. So the first client of a pool with some
settings has a backend entered for it, and what that reported is what it and all that are like it are told. No client
has had that backend since it was opened or reset: what one did to its session is not said of others'.

What is remembered counts as long as the pool has a connection that reports the same of its server: after an upgrade, a
promotion, or the end of the database, a server is asked again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import PoolKey, Route
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.wire.answers import parameter_status
from tenantproxy.wire.settings import NO_SETTINGS, Settings

__all__ = ["Greetings", "greeting"]

_REMEMBERED: Final = 1000
_OF_THE_SERVER: Final = (b"server_version", b"server_encoding", b"integer_datetimes", b"in_hot_standby")


class Greetings:
    """What servers reported, by pool and settings."""

    def __init__(self, lender: RawLender) -> None:
        self._lender = lender
        self._reported: OrderedDict[tuple[PoolKey, Settings], Mapping[bytes, bytes]] = OrderedDict()
        self._settings: dict[Settings, Settings] = {}  # of the keys

    def forget(self) -> None:
        """Servers may say something else now."""
        self._reported.clear()
        self._settings.clear()

    def alike(self, settings: Settings) -> Settings:
        """The same object for all clients with equal settings that were asked for: there may be thousands."""
        return self._settings.get(settings, settings)

    def known(self, pool: Pool[RawBackend], settings: Settings) -> Mapping[bytes, bytes] | None:
        """What a session like this reports, if one was looked at and its server is still what it was."""
        reported = self._reported.get((pool.key, settings))
        if reported is None:
            return None
        newest = None
        for newest in pool.connections():  # noqa: B007 - the last one is the newest
            pass
        if newest is None:
            return None if pool.is_empty and pool.is_quiet else reported  # else one is on its way, or was a moment ago
        is_as_it_was = all(newest.parameters.get(name) == reported.get(name) for name in _OF_THE_SERVER)
        return reported if is_as_it_was else None

    async def ask(self, pool: Pool[RawBackend], route: Route, settings: Settings) -> Mapping[bytes, bytes]:
        """As `known`, from a backend where it must be. Raises what a lease raises; cancellation leaves nothing."""
        known = self.known(pool, settings)
        if known is None:
            backend = await self.lend(pool, route, settings)
            known = dict(backend.parameters)
            self._lender.release(backend, route, is_dirty=False)
            self._reported[pool.key, settings] = known
            self._settings.setdefault(settings, settings)
            if len(self._reported) > _REMEMBERED:
                _, oldest = self._reported.popitem(last=False)[0]
                self._settings.pop(oldest, None)  # other pools' clients may have it still: then a later one is the same
        return known

    async def lend(self, pool: Pool[RawBackend], route: Route, settings: Settings) -> RawBackend:
        """A backend that no client has had, to be adopted at once. Raises and is cancelled as `ask`."""
        visit = _Visit(self._lender, route)
        acquire = self._lender.acquire(pool, route, settings, visit, fresh=True)
        try:
            return await visit.future
        except asyncio.CancelledError:
            acquire.cancel()
            visit.leave()
            raise

    async def baseline(self, pool: Pool[RawBackend], route: Route) -> Mapping[bytes, bytes]:
        """What a session as at startup reports."""
        return await self.ask(pool, route, NO_SETTINGS)


def greeting(reported: Mapping[bytes, bytes]) -> bytes:
    """The ParameterStatus messages for a client whose server reports this."""
    return b"".join(parameter_status(name, value) for name, value in reported.items())


class _Visit:
    """A lessee that only looks."""

    def __init__(self, lender: RawLender, route: Route) -> None:
        self.future: asyncio.Future[RawBackend] = asyncio.get_running_loop().create_future()
        self._lender = lender
        self._route = route

    def entering(self) -> None:
        """See `raw.lender.Lessee`."""

    def leased(self, backend: RawBackend) -> None:
        if self.future.done():  # who waited for it was cancelled a moment ago
            self._lender.release(backend, self._route, is_dirty=False)
        else:
            self.future.set_result(backend)

    def refused(self, error: TenantProxyError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def leave(self) -> None:
        """Stop waiting; release the backend where it has just been leased."""
        future = self.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._lender.release(future.result(), self._route, is_dirty=False)
