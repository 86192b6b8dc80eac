"""How does the login directory follow users tables? All outboxes are emptied into it, once, or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.events import LoginFollowFailed, LoginFollowing, Observer
from tenantproxy.lifecycle.access import admin_connect, admin_connection, registered
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.leader import Leadership
from tenantproxy.lifecycle.login_outbox import OutboxPlace, Synced, outbox_places, sync_place, waiting_in
from tenantproxy.model import TenantStatus
from tenantproxy.router import Router

__all__ = ["FAILURES", "LoginFollower", "check_can_sync", "places_of", "sync_all"]

FAILURES: Final = (TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_WORK: Final = "login outbox"
_SILENT_TIMES: Final = 5  # intervals after which a process that follows is thought to be gone
_LEAST_TTL: Final = 2.0
_RESIGN_SECONDS: Final = 2.0

Went = Callable[[], Awaitable[bool]]


async def sync_all(router: Router, *, dry_run: bool = False, may_go_on: Went | None = None) -> list[Synced]:
    """Empty all outboxes once; what became of each database's. With `dry_run` what waits is counted, as `left`.

    `may_go_on` is asked between databases; False ends it.
    """
    connect, done = admin_connect(router.settings), list[Synced]()
    for place in await places_of(router.settings):
        if may_go_on is not None and not await may_go_on():
            break
        try:
            done.append(await (waiting_in(place, connect) if dry_run else sync_place(router, place, connect)))
        except FAILURES as exc:
            done.append(Synced(place=place, rows=0, left=None, error=said(exc)))
    return done


async def places_of(settings: Settings) -> list[OutboxPlace]:
    """The databases of all tenants that have users."""
    tenants = await registered(settings)
    gone = (TenantStatus.PROVISIONING, TenantStatus.DELETING)
    return outbox_places([tenant for tenant in tenants if tenant.status not in gone])


def check_can_sync(settings: Settings) -> None:
    """Raises ConfigurationError where `[login]` lacks a query that this needs."""
    if settings.login.account_query is None or settings.login.list_query is None:
        fix = "add account_query and list_query to [login]: a table that was emptied is compared as a whole"
        raise ConfigurationError([Problem(key="login", problem="lacks a query", fix=fix)])


class LoginFollower:
    """Keeps the directory true while `run` runs, in one process among all that run it: that one does the work.

    What fails is told to `observer`, once for each reason, and tried again. State: what was told.
    """

    def __init__(self, router: Router, observer: Observer) -> None:
        self._router = router
        self._observer = observer
        self._told: dict[tuple[str, str], str] = {}
        self._is_leading = False

    async def run(self) -> None:
        """Until it is cancelled; another process goes on at once then, and a while after this one dies."""
        leadership = Leadership(_WORK, ttl=self._ttl)
        try:
            while True:
                leadership.ttl = self._ttl
                try:
                    await self._round(leadership)
                except Exception as exc:  # noqa: BLE001 - a boundary: whatever it is, the next round may succeed
                    self._tell("", "", said(exc))
                await asyncio.sleep(self._interval if self._is_leading else self._ttl / 4)
        finally:
            if self._is_leading:
                with suppress(*FAILURES):
                    async with asyncio.timeout(_RESIGN_SECONDS), self._main() as conn:
                        await leadership.resign(conn)

    async def _round(self, leadership: Leadership) -> None:
        loop = asyncio.get_running_loop()
        async with self._main() as conn:
            claimed, seen = await leadership.claim(conn), loop.time()

            async def goes_on() -> bool:
                """A long round says in between that it still works."""
                nonlocal seen
                if loop.time() - seen > self._interval:
                    self._lead(await leadership.claim(conn))
                    seen = loop.time()
                return self._is_leading

            self._lead(claimed)
            if claimed:
                for each in await sync_all(self._router, may_go_on=goes_on):
                    self._tell(each.place.server, each.place.database, each.error or "")
        self._tell("", "", "")

    def _lead(self, is_leading: bool) -> None:
        if is_leading and not self._is_leading:
            self._observer(LoginFollowing())
        self._is_leading = is_leading

    def _tell(self, server: str, database: str, error: str) -> None:
        if error and self._told.get((server, database)) != error:
            self._observer(LoginFollowFailed(server=server, database=database, error=error))
        self._told[server, database] = error

    @property
    def _interval(self) -> float:
        return self._router.settings.login.outbox_interval

    @property
    def _ttl(self) -> float:
        return max(_LEAST_TTL, _SILENT_TIMES * self._interval)

    def _main(self) -> Any:
        settings = self._router.settings
        return admin_connection(settings, settings.main.server, settings.main.database)
