"""Is everything that the configuration names as it must be? Opens one connection of every pool that there could be.

The connections are opened as for a tenant, so all that is checked at connect is checked here; no tenant's SQL runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import TenantProxyError, UnprotectedRelations
from tenantproxy.events import Event, FunctionsNotVerified, IsolationViolation
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.lifecycle.pooler_mode import what_is_between
from tenantproxy.model import Isolation, PoolKey, Proof, Route, Tenant, TenantStatus
from tenantproxy.parts import Parts
from tenantproxy.registry.base import AnyConnection
from tenantproxy.registry.factory import build
from tenantproxy.registry.unusable import TellsUnusable
from tenantproxy.routes import main_route

__all__ = ["Finding", "State", "check_live"]

State = Literal["ok", "note", "wrong"]
Progress = Callable[[int, int], None]
"""Called with how many pools were looked at, and how many there are."""

_CONCURRENCY: Final = 8
_MOST_POOLS: Final = 1000  # looked at; each costs a connection
_OTHERS: Final = """
SELECT d.datname::text FROM pg_catalog.pg_database d
WHERE d.datname = ANY ($1::text[]) AND pg_catalog.has_database_privilege(d.oid, 'CONNECT') ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the answer: where, whether it is as it must be, and what to do. `note`: worth knowing, not wrong."""

    state: State
    place: str
    what: str
    fix: str = ""


async def check_live(settings: Settings, *, progress: Progress = lambda done, total: None) -> list[Finding]:
    """Look at the main database, the registry and one connection of every pool; all findings, good ones too.

    Raises ConfigurationError where the registry cannot be made. Cancellation closes what was opened.
    """
    live = _Live(settings)
    try:
        return await live.run(progress)
    finally:
        await live.close()


class _Live:
    """The parts of a router that never opened: it must not stop at the first thing that is wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._heard: list[Event] = []
        self._parts = Parts(settings, init=None, observer=self._heard.append, clock=monotonic)
        self._plans: Mapping[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(
                signed=settings.row.signed,
                setting=settings.row.setting,
                form=settings.row.form,
                signs_context=bool(settings.signed_context),
            ),
        }
        self._of_tenants: dict[str, set[str]] = {}  # by server: the databases of database tenants

    async def close(self) -> None:
        parts = self._parts
        pools = list(parts.pools())
        parts.manager.close()
        for pool in pools:
            for backend in list(pool.connections()):
                pool.retire(backend, "shutdown")
        await parts.connector.settle(5.0)
        await parts.connector.close()

    async def run(self, progress: Progress) -> list[Finding]:
        main = main_route(self._settings)
        findings = await self._look_at(main, "main")
        routes, of_registry = await self._list()
        findings += of_registry
        done, gate = 0, asyncio.Semaphore(_CONCURRENCY)

        async def one(route: Route) -> list[Finding]:
            nonlocal done
            async with gate:
                found = await self._look_at(route, route.pool.name)
            done += 1
            progress(done, len(routes))
            return found

        progress(0, len(routes))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(route)) for route in routes]
        for task in tasks:
            findings += task.result()
        return findings + self._told()

    # --- what there is -----------------------------------------------------------------------------------------------
    async def _list(self) -> tuple[list[Route], list[Finding]]:
        """A route for each pool that active tenants could have, and what is wrong with the registry."""
        registry = build(self._settings, _Main(self))
        routes: dict[PoolKey, Route] = {}
        findings: list[Finding] = []
        count = 0
        try:
            await registry.open()
            async for tenant in registry.tenants(status=TenantStatus.ACTIVE):
                count += 1
                for route in self._routes(tenant, findings):
                    if len(routes) < _MOST_POOLS:
                        routes.setdefault(route.pool, route)
        except TenantProxyError as exc:
            findings.append(_wrong("registry", exc))
        finally:
            await registry.close()
        unusable = registry.unusable if isinstance(registry, TellsUnusable) else {}
        for tenant_id, why in unusable.items():
            findings.append(Finding(state="wrong", place=f"tenant {tenant_id}", what=why, fix="correct its row"))
        if not findings:
            findings.append(Finding(state="ok", place="registry", what=f"{count} active tenants"))
        if len(routes) == _MOST_POOLS:
            what = f"only the first {_MOST_POOLS} databases and schemas are looked at"
            findings.append(Finding(state="note", place="registry", what=what))
        for name in self._settings.servers.keys() - {key.server for key in routes} - {self._settings.main.server}:
            what = "no active tenant is there: not looked at"
            findings.append(Finding(state="note", place=f"server {name}", what=what))
        return list(routes.values()), findings

    def _routes(self, tenant: Tenant, findings: list[Finding]) -> list[Route]:
        place = tenant.placement
        server = self._settings.servers.get(place.server)
        if server is None:
            what, fix = f"its server {place.server!r} is not configured", f"add [servers.{place.server}]"
            findings.append(Finding(state="wrong", place=f"tenant {tenant.id}", what=what, fix=fix))
            return []
        if place.isolation is Isolation.DATABASE:
            self._of_tenants.setdefault(place.server, set()).add(place.database)
        plan = self._plans[place.isolation].plan
        systems = [None, *tenant.systems] if place.isolation is Isolation.SCHEMA else [None]
        return [plan(tenant, system=system, replica=name) for system in systems for name in (None, *server.replicas)]

    # --- one pool ----------------------------------------------------------------------------------------------------
    async def _look_at(self, route: Route, place: str) -> list[Finding]:
        try:
            async with self.leased(route) as backend:
                findings = await self._other_databases(route, place, backend)
        except UnprotectedRelations as exc:
            return [
                *(Finding(state="wrong", place=place, what=f"{e.what}: {e.why}", fix=e.fix) for e in exc.exposures),
                *_more(place, exc),
            ]
        except TenantProxyError as exc:
            return [_wrong(place, exc)]
        except asyncpg.PostgresError as exc:  # of the question after the checks
            return [Finding(state="wrong", place=place, what=f"PostgreSQL says {exc.sqlstate}", fix="see its log")]
        if self._settings.servers[route.pool.server].pooler:
            findings += await self._between(route, place)
        return findings or [Finding(state="ok", place=place, what=_kind(route))]

    async def _between(self, route: Route, place: str) -> list[Finding]:
        """What is between us and a server that is said to be behind a pooler; nothing to tell is fine too."""
        try:
            async with self.leased(route) as one, self.leased(route) as other:
                found, fix = await what_is_between(one, other)
        except TenantProxyError as exc:
            return [_wrong(place, exc)]
        what = f"{_kind(route, is_pooled=True)}, through {found}"
        return [Finding(state="note" if fix else "ok", place=place, what=what, fix=fix)]

    @asynccontextmanager
    async def leased(
        self, route: Route, *, keep: bool = False, timeout: float | None = None
    ) -> AsyncIterator[DriverConnection]:
        """A connection for the block, closed after it unless it is to `keep` for the next one."""
        parts, patience = self._parts, self._settings.servers[route.pool.server].connect_timeout * 2
        pool = parts.manager.pool(route)
        backend = await parts.lender.acquire(pool, route, timeout if timeout is not None else patience)
        try:
            yield backend
        finally:
            if keep:
                parts.lender.release(backend, route)
            else:
                backend.con.take_back()
                pool.retire(backend, "shutdown")

    async def _other_databases(self, route: Route, place: str, backend: DriverConnection) -> list[Finding]:
        """Whether the role of a database tenant may connect to the databases of others."""
        key = route.pool
        others = self._of_tenants.get(key.server, set()) - {key.database}
        if route.isolation is not Isolation.DATABASE or not others or place == "main":
            return []
        open_to = [row[0] for row in await backend.con.fetch(_OTHERS, sorted(others))]
        if not open_to:
            return []
        told = ", ".join(open_to[:5]) + (f" and {len(open_to) - 5} more" if len(open_to) > 5 else "")
        what = f"its role may connect to the databases of other tenants: {told}"
        if key.user is None:
            fix = "give each tenant a role (`role`, [tenant_roles]) where its own SQL must be held back too"
            return [Finding(state="note", place=place, what=what, fix=fix)]
        fix = "REVOKE CONNECT ON DATABASE ... FROM PUBLIC, and from this role"
        return [Finding(state="wrong", place=place, what=what, fix=fix)]

    def _told(self) -> list[Finding]:
        """What was heard besides: none of it stops a connection."""
        findings = []
        for event in self._heard:
            if isinstance(event, FunctionsNotVerified):
                what = f"SECURITY DEFINER functions that are not looked into: {event.functions}"
                findings.append(Finding(state="note", place=f"{event.server}/{event.database}", what=what))
            elif isinstance(event, IsolationViolation) and event.check == "role_settings":
                what = f"settings were laid on our role, and taken off again: {event.detail}"
                findings.append(Finding(state="note", place=f"{event.server}/{event.database}", what=what))
        return findings


class _Main:
    """The main database, as registries ask it."""

    def __init__(self, live: _Live) -> None:
        self._live = live
        self._route = main_route(live._settings)

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """See `registry.base.RegistryDatabase`."""
        async with self._live.leased(self._route, keep=True) as backend:
            rows: list[asyncpg.Record] = await backend.con.fetch(sql, *args, timeout=timeout)
            return rows

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[AnyConnection]:
        """See `registry.base.RegistryDatabase`."""
        async with self._live.leased(self._route, keep=True, timeout=timeout) as backend:
            yield backend.con


def _kind(route: Route, *, is_pooled: bool = False) -> str:
    """How the tenants of a pool are kept apart; for rows, also how a session proves whose it is."""
    binding = route.session.binding
    if binding is None:
        return route.isolation.value
    proof = Proof.EXACT if is_pooled and binding.proof is not Proof.PLAIN else binding.proof
    return f"{route.isolation.value}, {proof.value}"


def _wrong(place: str, error: TenantProxyError) -> Finding:
    what = ". ".join(part for part in (error.message, error.detail) if part)
    return Finding(state="wrong", place=place, what=what, fix=error.hint or "")


def _more(place: str, error: UnprotectedRelations) -> list[Finding]:
    missing = error.count - len(error.exposures)
    if not missing:
        return []
    return [Finding(state="wrong", place=place, what=f"{missing} more relations without row-level security")]
