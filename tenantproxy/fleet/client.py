"""How does this process take part in its fleet? It joins, reports to main, follows its answers, and leaves.

State: its phase, and while it shares the books and the link to main. Changed in the event loop of `open` alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID

from tenantproxy.config import Settings, fleet_key
from tenantproxy.connect.failures import LOST, describe
from tenantproxy.connect.hosts import Hosts
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.events import FleetAlone, FleetFenced, FleetJoined, FleetSkipped, Observer
from tenantproxy.fleet.books import Books, Connections
from tenantproxy.fleet.host import HostSlot
from tenantproxy.fleet.ledger import HostLedger
from tenantproxy.fleet.link import FleetLink, Stale, addressed, keeps_budgets
from tenantproxy.fleet.listening import SharedConnection
from tenantproxy.fleet.ration import FixedQuota
from tenantproxy.fleet.stats import FleetProcess, FleetStats
from tenantproxy.fleet.values import FleetReport, ServerGrant
from tenantproxy.pools.budget import ServerBudget

__all__ = ["SIZE_VARIABLE", "Fleet", "Phase", "boot_clock"]

SIZE_VARIABLE: Final = "TENANTPROXY_FLEET_SIZE"
_SOON: Final = 0.05  # seconds between two reports, at least
_PENDING: Final = 0.1  # and how often main balances, at most
_HOST_INTERVAL: Final = 0.25  # seconds between two reports to the file of a host, which announces nothing
_COUNT_AGAIN: Final = 0.5  # seconds between two censuses by one witness
_AGE_SECONDS: Final = 0.5  # between two looks at what has grown old
_CALL_SECONDS: Final = 2.0
_FLOOR_SECONDS: Final = 5.0  # for which a process that starts waits until others have given up its floor

_all: weakref.WeakSet[Fleet] = weakref.WeakSet()


class Phase(StrEnum):
    """How a process's part of each server is found."""

    OFF = "off"  # the configuration or the main database has no fleet: the whole budget is this process's
    JOINING = "joining"  # main is being asked
    SHARED = "shared"  # main says
    ALONE = "alone"  # main could not be asked: a fixed part


def boot_clock() -> float:
    """Seconds of a clock that is never set, and also runs while the process is stopped or the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class MainDatabase(Protocol):
    """Where it is asked whether there is a fleet."""

    async def fetchval(self, query: str, /) -> Any:
        """One value."""
        ...


class Fleet:
    """This process in its fleet. Constructing it does no I/O. `hosts`: of those servers that have several."""

    def __init__(
        self,
        settings: Settings,
        budgets: Mapping[str, ServerBudget],
        *,
        connections: Connections,
        observer: Observer,
        hosts: Mapping[str, Hosts] | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._settings = settings
        self._budgets = budgets
        self._connections = connections
        self._observer = observer
        self._hosts = hosts or {}
        self._clock = clock
        self._key: bytes | None = None
        self._interval = settings.fleet.interval
        self._link: FleetLink | HostLedger | None = None
        self._books: Books | None = None
        self._slot = HostSlot(settings.fleet.path, settings.fleet.id) if settings.fleet.path else None
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()  # set when there is a reason to report before the interval is over
        self._is_fenced = False
        self._error = ""  # why the last report failed
        self._last_renewal = 0.0
        self._calls = self._failures = 0
        self._dead: set[UUID] = set()  # processes that another one has seen end, for the next report
        self.phase = Phase.OFF
        _all.add(self)

    # --- life --------------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Before anything is opened: until main was asked, one connection to it and nothing else.

        Raises ConfigurationError when the key cannot be read, or the number of processes is none.
        """
        if not self._settings.fleet.enabled:
            return
        self._key = fleet_key(self._settings.fleet, self._settings.row, self._settings.tenant_roles)
        _configured_size()
        self.phase = Phase.JOINING
        if self._key is not None:
            main = self._budgets[self._settings.main.server]
            for budget in self._each():
                budget.follow(FixedQuota(int(budget is main)))

    async def open(self, main: MainDatabase | None, *, error: str = "") -> None:
        """Join the fleet of the main database if it keeps one; `main` is None where it cannot be asked now: `error`.

        A main database that is a standby cannot be asked either.
        Returns when it has its floor of each server: until then, the process that leaves for it stays.
        Raises ConfigurationError when main refuses this process.
        """
        if self.phase is not Phase.JOINING:
            return
        keeps = None if main is None else await keeps_budgets(main)
        if keeps is None:
            self._go_alone(error or "the main database is a standby")
        elif not keeps:
            if self._slot is None:
                self._share_nothing()
            else:
                fleet = self._settings.fleet
                await self._share(HostLedger(fleet.path, fleet.id, self._slot), interval=_HOST_INTERVAL)
        elif self._key is None:
            self._observer(FleetSkipped(fleet=self._settings.fleet.id))
            self._share_nothing()
        else:
            await self._join(self._key)
        if self._books is not None:
            await _has_floors(self._books)

    async def _join(self, key: bytes) -> None:
        await self._share(self._new_link(key, self._heard), interval=self._settings.fleet.interval)

    def _new_link(self, key: bytes, heard: Callable[[str], None]) -> FleetLink:
        return FleetLink(self._settings, key=key, heard=heard, hosts=self._hosts.get(self._settings.main.server))

    async def _share(self, link: FleetLink | HostLedger, *, interval: float) -> None:
        settings = self._settings
        self._interval = interval
        self._wake = asyncio.Event()  # one belongs to the loop in which it was first waited for
        self._link = link
        self._books = books = Books(
            settings,
            self._budgets,
            link=link,
            connections=self._connections,
            clock=self._clock,
            wants=self._wake.set,
            observer=self._observer,
        )
        if self._slot is not None:
            self._slot.claim(books.member.process)
        try:  # nothing may be opened before the first answer
            await self._report(books, link, settings.servers[settings.main.server].connect_timeout + _CALL_SECONDS)
        except ConfigurationError:
            if self._slot is not None:
                self._slot.release()
            self._forget()
            raise
        except (TenantProxyError, TimeoutError, *LOST) as exc:
            self._failed(exc)
        self.phase = Phase.SHARED
        books.take_over()
        self._observer(FleetJoined(fleet=settings.fleet.id, member=str(books.member.process)))
        self._spawn(self._run(books, link), "tenantproxy fleet")
        self._spawn(self._grow_old(books), "tenantproxy fleet clock")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(work, name=name, context=contextvars.Context()))

    async def close(self, *, timeout: float = 1.0) -> None:
        """Everything is closed: say so, so that others may have it at once, and end. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        link, books = self._link, self._books
        self._forget()
        for budget in self._each():
            budget.follow(None)
        if link is not None and books is not None:
            with suppress(TenantProxyError, TimeoutError, Stale, *LOST):
                for report in books.last_reports(self._clock()):
                    grants = await link.sync(report, timeout=timeout)
                    if _was_raised(report, grants):  # once: main does not balance again so soon
                        await link.sync(replace(report, seq=report.seq + 1), timeout=timeout)
            await link.close(timeout=timeout)
        if self._slot is not None:
            self._slot.release()

    def adopt(self, settings: Settings) -> None:
        """Servers that are new, and the users of those that were there; what else a fleet needs cannot change."""
        self._settings = settings
        self._connections.adopt(settings)
        if self._books is not None:
            self._books.adopt(settings, take_over=self.phase is Phase.SHARED)
            self._wake.set()

    def bury(self, dead: Iterable[UUID]) -> None:
        """These processes of the fleet have ended for sure: what they had is free after a ttl and a census."""
        self._dead.update(dead)
        self._wake.set()

    def forget_loop(self) -> None:
        """The event loop has ended, and all that was under way in it."""
        self._tasks.clear()
        self._forget()

    def forked(self) -> None:
        """In a child: what the parent holds and was granted is the parent's."""
        self._tasks.clear()
        if self._slot is not None:
            self._slot.forget()
        if self._books is not None:
            self._books.member.begin_again()

    def _forget(self) -> None:
        self._link = self._books = None
        self._is_fenced = False
        self.phase = Phase.OFF

    def _each(self) -> Iterator[ServerBudget]:
        return iter(dict.fromkeys(self._budgets.values()))

    # --- without main ------------------------------------------------------------------------------------------------
    def _share_nothing(self) -> None:
        self.phase = Phase.OFF
        for budget in self._each():
            budget.follow(None)

    def _go_alone(self, error: str) -> None:
        """A fixed part of each server until main answers, which another task waits for."""
        if self._key is None:
            self._share_nothing()
            return
        self.phase = Phase.ALONE
        given = _configured_size()
        size = given or 1
        self._observer(FleetAlone(error=error, size=size, assumed=given is None))
        for budget in self._each():
            part = max(1, budget.whole // size)
            budget.follow(None if size == 1 else FixedQuota(part, reserve=int(part > 1)))
        self._spawn(self._find_main(self._key), "tenantproxy fleet joining")

    async def _find_main(self, key: bytes) -> None:
        """Join as soon as the main database answers."""
        probe = self._new_link(key, lambda _: None)
        found = None
        while found is None:
            await asyncio.sleep(self._settings.fleet.interval * (0.75 + random.random() / 2))
            try:
                found = await probe.keeps_budgets(timeout=_CALL_SECONDS)
            except (TenantProxyError, TimeoutError, *LOST):
                pass
            finally:
                probe.drop()
        if not found:
            self._share_nothing()
            return
        try:
            await self._join(key)
        except ConfigurationError as exc:
            self._observer(FleetFenced(fleet=self._settings.fleet.id, error=str(exc), floor=0))

    # --- reports -----------------------------------------------------------------------------------------------------
    def _heard(self, payload: str) -> None:
        if self._books is not None and addressed(payload, self._books.member.process):
            self._wake.set()

    async def _run(self, books: Books, link: FleetLink | HostLedger) -> None:
        failures = 0
        while True:
            await self._pause(failures)
            try:
                await self._report(books, link, max(_CALL_SECONDS, self._settings.fleet.interval))
                failures = 0
            except Exception as exc:  # noqa: BLE001 - refused, or anything else: as good as no main
                failures += 1
                self._failed(exc)

    async def _pause(self, failures: int) -> None:
        interval = self._interval
        await asyncio.sleep(_SOON)
        if failures:
            await asyncio.sleep(min(interval, _SOON * 2**failures) * random.random())
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(interval * (0.8 + 0.4 * random.random())):
                await self._wake.wait()
        await asyncio.sleep(_SOON * random.random())  # all that heard the same announcement do not call at once

    async def _report(self, books: Books, link: FleetLink | HostLedger, timeout: float) -> None:
        census = await books.census()
        member = books.member
        self._wake.clear()
        now = self._clock()
        slot = self._slot
        dead = frozenset(self._dead)
        buried = (*dead, *(slot.dead if slot is not None else ()))
        report = member.report(now, books.holdings(now), census=census, buried=buried)
        self._calls += 1
        try:
            grants = await link.sync(report, timeout=timeout)
        except Stale:
            member.hear_stale(report.seq)
            if slot is not None:
                slot.rename(member.process)
            self._wake.set()
        else:
            self._dead -= dead
            if slot is not None:
                slot.dead.clear()
            if member.hear(report.seq, grants, now=self._clock()):
                self._last_renewal = time.time()
                if self._is_fenced:
                    self._is_fenced = False
                    self._observer(FleetJoined(fleet=self._settings.fleet.id, member=str(member.process)))
            if member.has_to_claim:  # the sooner all have said theirs, the sooner a census is right
                self._wake.set()
            elif any(grant.is_pending for grant in grants):
                self._wake_in(_PENDING)
            elif member.is_witness:
                self._wake_in(_COUNT_AGAIN)
        books.regrant()

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds * (1 + random.random() / 2), self._wake.set)

    def _failed(self, exc: BaseException) -> None:
        self._failures += 1
        self._error = str(exc) if isinstance(exc, ConfigurationError) else describe(exc)

    async def _grow_old(self, books: Books) -> None:
        """Shares grow old whether or not main answers."""
        fleet = self._settings.fleet
        while True:
            await asyncio.sleep(_AGE_SECONDS)
            if not self._is_fenced and not books.is_fresh and fleet.on_main_loss == "floor":
                self._is_fenced = True
                self._observer(FleetFenced(fleet=fleet.id, error=self._error, floor=fleet.floor))
            books.regrant()

    async def shared_connection(self) -> SharedConnection | None:
        """The connection to main, to listen on; None unless it is shared. Raises TimeoutError, or asyncpg's errors."""
        return await self._link.shared() if self._link is not None and self.phase is Phase.SHARED else None

    # --- what is -----------------------------------------------------------------------------------------------------
    async def processes(self) -> Sequence[FleetProcess]:
        """Who has what of each server; none while this process shares with no other, or main does not answer."""
        if self._link is None or self.phase is not Phase.SHARED:
            return ()
        with suppress(TenantProxyError, TimeoutError, *LOST):
            return await self._link.processes(timeout=_CALL_SECONDS)
        return ()

    def stats(self) -> FleetStats | None:
        """A snapshot; None while this process shares with no other."""
        if self._books is None or self.phase is not Phase.SHARED:
            return None
        return FleetStats(
            fleet=self._settings.fleet.id,
            process=str(self._books.member.process),
            servers=self._books.stats(),
            last_renewal=self._last_renewal,
            calls=self._calls,
            failures=self._failures,
        )


def _was_raised(report: FleetReport, grants: Iterable[ServerGrant]) -> bool:
    """Whether a last report gave something back of which main has given some to this process again, in one go."""
    keeps = {claim.server: claim.keep for claim in report.claims}
    return any(grant.granted > keeps.get(grant.server, grant.granted) for grant in grants)


async def _has_floors(books: Books) -> None:
    """Returns when it has, when main does not answer, or after some seconds: others may not be able to give any."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLOOR_SECONDS):
            while books.is_fresh and not books.has_floors:  # noqa: ASYNC110 - shares grow old, of which no event tells
                await asyncio.sleep(_SOON)


def _configured_size() -> int | None:
    """How many processes the operator runs; None: not said. Raises ConfigurationError."""
    given = os.environ.get(SIZE_VARIABLE, "")
    if not given:
        return None
    if not given.isdecimal() or int(given) < 1:
        fix = "write how many processes share the servers, for example 4"
        raise ConfigurationError([Problem(key=SIZE_VARIABLE, problem="is no positive number", fix=fix)])
    return int(given)


def _in_child() -> None:
    for fleet in list(_all):
        fleet.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
