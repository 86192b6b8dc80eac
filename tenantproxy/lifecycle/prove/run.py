"""Does isolation hold in this deployment, now? Every check, through every door that is open, for every kind of tenant.

TrialState: the results so far. Bounded in time; whatever ends it, the canary rows are dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final, TypeVar

import asyncpg

from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Settings
from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError, IsolationError, TenantProxyError
from tenantproxy.events import Event, IsolationViolation
from tenantproxy.lifecycle.prove import http_checks, port_checks
from tenantproxy.lifecycle.prove.addresses import http_place, pg_place
from tenantproxy.lifecycle.prove.base import CanaryRows, Door, DoorClosed, Pair, SqlRefused, Trial, WallOpen
from tenantproxy.lifecycle.prove.canary import canary
from tenantproxy.lifecycle.prove.checks import (
    BY_HTTP,
    BY_LIBRARY,
    BY_PORT,
    BY_REPLICA,
    BY_REQUEST,
    BY_SQL,
    BY_TOKEN,
    FIRST,
    READER,
    Check,
)
from tenantproxy.lifecycle.prove.doors import LibraryDoor, PortDoor, replayed
from tenantproxy.lifecycle.prove.pairs import choose, kind_of, reason, told
from tenantproxy.lifecycle.prove.reader_checks import reader_writes
from tenantproxy.lifecycle.prove.request_door import RequestDoor, request_user
from tenantproxy.lifecycle.prove.results import IsolationProof, Outcome, Result, TrialState, result_of, untried
from tenantproxy.model import Tenant, TenantStatus
from tenantproxy.router import Router

__all__ = ["DOORS", "Options", "prove"]

DOORS: Final = ("library", "port", "sql", "http")
_CHECK_TIMEOUT: Final = 20.0
_EVERY_KIND: Final = "all"

T = TypeVar("T")
Progress = Callable[[str], None]
"""Called with what is tried next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to prove. `timeout`: seconds for all; `connections`: sessions of a kind at once; `tenants`: the only pair.

    `doors`: of DOORS; `checks`: of CHECKS, none for all of them. `read_only`: no canary rows; what needs them is
    untried. `http`, `pg`: where the sidecar is, when the configuration does not say.
    """

    timeout: float = 60.0
    connections: int = 4
    tenants: tuple[str, ...] = ()
    doors: tuple[str, ...] = DOORS
    checks: tuple[str, ...] = ()
    read_only: bool = False
    call_functions: bool = False
    http: str | None = None
    pg: str | None = None


async def prove(settings: Settings, options: Options, *, progress: Progress = lambda what: None) -> IsolationProof:
    """Try everything, and say what held. A leak is a result, not an error.

    Raises ConfigurationError for options that mean nothing here. Cancellation drops the canary rows, then goes on.
    """
    run = _Run(settings, options, progress)
    started, began = time.time(), monotonic()
    try:
        async with asyncio.timeout(options.timeout):
            await run.all()
    except TimeoutError:
        why = f"the time is over ({options.timeout:g} s): --timeout"
        run.results.append(untried("all that is not named", "all", _EVERY_KIND, why))
    run.hear()
    order = [_EVERY_KIND, *run.kinds]
    run.results.sort(key=lambda result: order.index(result.kind) if result.kind in order else len(order))
    return IsolationProof(
        version=VERSION, started=started, seconds=monotonic() - began, tenants=tuple(run.tenants),
        results=tuple(run.results),
    )  # fmt: skip


class _Run:
    def __init__(self, settings: Settings, options: Options, progress: Progress) -> None:
        self.results: list[Result] = []
        self.tenants: list[str] = []
        self.kinds: list[str] = []  # in the order of the table
        self._settings = settings
        self._options = options
        self._progress = progress
        self._heard: list[Event] = []

    async def all(self) -> None:
        """Every pair, by every door."""
        # One connection of each pool: what one user leaves, the next one must meet.
        pools = self._settings.pools.model_copy(update={"max_size": 1, "shared_size": 1})
        router = Router(self._settings.model_copy(update={"pools": pools}), observer=self._heard.append)
        try:
            await router.open()
        except IsolationError as exc:
            self.results.append(result_of("own rows", "library", _EVERY_KIND, Outcome(leaks=[reason(exc)])))
            return
        except (TenantProxyError, asyncpg.PostgresError, OSError) as exc:
            self.results.append(untried("own rows", "library", _EVERY_KIND, _text(exc)))
            return
        try:
            await self._pairs(router)
        except ConfigurationError:
            raise
        except TenantProxyError as exc:
            self.results.append(untried("all", "registry", _EVERY_KIND, _text(exc)))
        finally:
            await router.close(timeout=1.0)

    async def _pairs(self, router: Router) -> None:
        active = router.tenants(status=TenantStatus.ACTIVE)
        chosen = await choose(self._settings, active, self._options.tenants)
        places = Outcome(held=chosen.seen - len(chosen.same_place))
        if chosen.same_place:
            places.leaks.append(f"tenants in one place: {told(chosen.same_place)}")
        if chosen.seen:
            self.results.append(result_of("one place each", "registry", _EVERY_KIND, places))
        else:
            self.results.append(untried("all", "registry", _EVERY_KIND, "no active tenant is registered"))
        for kind, why in chosen.alone:
            if chosen.seen == 1:  # a deployment of one: no other one could reach it
                nothing = Outcome(nothing=f"there is no other tenant: {why}")
                self.results.append(result_of("all", "all", kind, nothing))
            else:
                self.results.append(untried("all", "all", kind, f"two tenants are needed: {why}"))
        self.kinds = [pair.kind for pair in chosen.pairs]
        self.tenants = [tenant.id for pair in chosen.pairs for tenant in (pair.first, pair.second)]
        if self._settings.has_readers and "library" in self._options.doors and self._is_wanted(READER):
            for tenant in (*(pair.first for pair in chosen.pairs), *chosen.lone):
                await self._reader(router, tenant)
        async with asyncio.TaskGroup() as group:  # they have no connection and no row in common
            for pair in chosen.pairs:
                group.create_task(self._pair(router, pair))

    def _is_wanted(self, check: str) -> bool:
        return not self._options.checks or check in self._options.checks

    async def _reader(self, router: Router, tenant: Tenant) -> None:
        place, outcome = tenant.placement, Outcome()
        door = LibraryDoor(router, read_only=True)
        writer = place.role or self._settings.servers[place.server].user
        await reader_writes(door, tenant, writer, outcome)
        self.results.append(result_of(READER, door.name, kind_of(self._settings, tenant), outcome))

    def hear(self) -> None:
        """What the library reported by itself, whichever check it was in."""
        found = [event for event in self._heard if isinstance(event, IsolationViolation)]
        if found:
            leaks = sorted({f"{event.check} in {event.server}/{event.database}: {event.detail}" for event in found})
            self.results.append(result_of("violations", "library", _EVERY_KIND, Outcome(leaks=leaks)))

    # --- one pair ----------------------------------------------------------------------------------------------------
    async def _pair(self, router: Router, pair: Pair) -> None:
        async with AsyncExitStack() as made:
            rows: CanaryRows | None = None
            if not self._options.read_only:
                try:
                    rows = await made.enter_async_context(canary(router, pair))
                except (TenantProxyError, asyncpg.PostgresError, OSError, TimeoutError) as exc:
                    self.results.append(untried("canary rows", "admin", pair.kind, _text(exc)))
            if "library" in self._options.doors:
                await self._by_sql(pair, LibraryDoor(router), rows, BY_SQL + BY_LIBRARY)
                if self._settings.servers[pair.first.placement.server].replicas:
                    await self._by_replica(router, pair, rows)
            pg = self._settings.pg
            if "port" in self._options.doors and pg.listen and (pg.users or pg.jwt or pg.oauth_issuer):
                await self._by_port(router, pair, rows)
            if "sql" in self._options.doors and self._settings.sql.enabled:
                await self._by_request(pair, rows)
            if "http" in self._options.doors and self._settings.http.listen and self._settings.auth.verifies:
                await self._by_http(router, pair)

    async def _by_replica(self, router: Router, pair: Pair, rows: CanaryRows | None) -> None:
        door = LibraryDoor(router, replica=True)
        try:
            await replayed(door, pair, rows)
        except (DoorClosed, SqlRefused, TimeoutError) as exc:
            self.results.append(untried("all", door.name, pair.kind, _text(exc)))
        except WallOpen as exc:
            leaks = [f"it refuses to serve: {exc}"]
            self.results.append(result_of(FIRST[0], door.name, pair.kind, Outcome(leaks=leaks)))
        else:
            await self._by_sql(pair, door, rows, BY_REPLICA)

    async def _by_port(self, router: Router, pair: Pair, rows: CanaryRows | None) -> None:
        pg = self._settings.pg
        try:
            host, port, context = pg_place(self._settings, self._options.pg)
        except DoorClosed as exc:
            self.results.append(untried("all", "port", pair.kind, str(exc)))
            return
        door = PortDoor(host=host, port=port, user="", context=context)
        users, without = port_checks.usable_users(pg, (pair.first, pair.second))
        for why in without:
            self.results.append(untried("all", f"port, {why.partition(':')[0]}", pair.kind, why))
        if pg.users and not users and not without:
            self.results.append(untried("all", "port", pair.kind, "no user of [pg.users] may reach both tenants"))
        for mode, (user, password) in users.items():
            named = replace(door, user=user, password=password, mode="session" if mode == "session" else "transaction")
            await self._by_sql(pair, named, rows, BY_SQL + BY_PORT)
        if pg.jwt:
            try:
                tokens = await _tokens(router, pair)
            except DoorClosed as exc:
                self.results.append(untried("all", "port, jwt", pair.kind, str(exc)))
            else:
                await self._by_sql(pair, replace(door, user="jwt", tokens=tokens), rows, BY_TOKEN)
        if pg.oauth_issuer:
            why = "its tokens are another issuer's: none can be made here"
            self.results.append(untried("all", "port, oauth", pair.kind, why))

    async def _by_request(self, pair: Pair, rows: CanaryRows | None) -> None:
        try:
            host, port, context = http_place(self._settings, self._options.http)
            user, password = request_user(self._settings.pg, (pair.first, pair.second))
        except DoorClosed as exc:
            self.results.append(untried("all", "SQL over HTTP", pair.kind, str(exc)))
            return
        door = RequestDoor(host=host, port=port, user=user, password=password, context=context)
        await self._by_sql(pair, door, rows, BY_REQUEST)

    async def _by_sql(
        self, pair: Pair, door: Door, rows: CanaryRows | None, checks: tuple[tuple[str, Check], ...]
    ) -> None:
        at = Trial(
            pair=pair, door=door, canary=rows, clients=self._options.connections,
            may_call=self._options.call_functions, unprotected=self._settings.row.unprotected,
            limited=port_checks.limited(self._settings.pg, (pair.first, pair.second)),
        )  # fmt: skip
        if isinstance(door, LibraryDoor):
            at = replace(at, clients=max(2, at.clients))
        name, first = FIRST
        if await self._tried(name, door.name, pair, partial(first, at)) is not TrialState.HELD:
            self.results.append(untried("all others", door.name, pair.kind, f"{name} did not hold"))
            return
        for name, check in self._wanted(checks):
            await self._tried(name, door.name, pair, partial(check, at))

    def _wanted(self, checks: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
        wanted = self._options.checks
        return [(name, check) for name, check in checks if not wanted or name in wanted]

    async def _by_http(self, router: Router, pair: Pair) -> None:
        try:
            host, port, context = http_place(self._settings, self._options.http)
            tokens = await _tokens(router, pair)
        except DoorClosed as exc:
            self.results.append(untried("all", "HTTP", pair.kind, str(exc)))
            return
        headers = http_checks.naming_headers(self._settings)
        door = http_checks.HttpDoor(host=host, port=port, context=context, tokens=tokens, headers=headers)
        for name, check in self._wanted(BY_HTTP):
            await self._tried(name, door.name, pair, partial(check, door, pair))

    async def _tried(self, name: str, door: str, pair: Pair, check: Callable[[Outcome], Awaitable[None]]) -> TrialState:
        self._progress(f"{pair.kind}: {name} by the {door}")
        outcome = Outcome()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await check(outcome)
        except asyncio.CancelledError:
            if outcome.leaks:  # the time is over, and what was seen until now is said
                self.results.append(result_of(name, door, pair.kind, outcome))
            raise
        except WallOpen as exc:
            outcome.leaks.append(f"it refuses to serve: {exc}")
        except TimeoutError:
            outcome.untried.append(f"not all of it ended within {_CHECK_TIMEOUT:g} s")
        except (DoorClosed, SqlRefused) as exc:
            outcome.untried.append(str(exc))
        except Exception as exc:  # noqa: BLE001 - what a check did not expect shows nothing held, and ends no other check
            outcome.untried.append(f"it broke off: {_text(exc)}")
        result = result_of(name, door, pair.kind, outcome)
        self.results.append(result)
        return result.state


async def _tokens(router: Router, pair: Pair) -> dict[str, str]:
    """A token of each tenant. Raises DoorClosed where this configuration cannot sign any."""
    if not router.settings.auth.keys():
        raise DoorClosed("another issuer signs the tokens: this configuration has no key to make one with")
    try:
        await router.revocations.open()
        tokens = Tokens(router.settings.auth, tenants=router.registry, revoked=router.revocations)
    except ModuleNotFoundError as exc:
        raise DoorClosed(f'tokens need {exc.name}: pip install "tenantproxy[jwt]"') from None
    except (TenantProxyError, asyncpg.PostgresError) as exc:
        raise DoorClosed(_text(exc)) from None
    return {tenant.id: tokens.issue(tenant=tenant, user="tenantproxy-prove") for tenant in (pair.first, pair.second)}


def _text(exc: BaseException) -> str:
    if isinstance(exc, BaseExceptionGroup):
        return _text(exc.exceptions[0])
    return reason(exc) if isinstance(exc, TenantProxyError) else f"{type(exc).__name__}: {exc}"
