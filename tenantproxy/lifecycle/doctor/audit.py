"""How is everything looked at? A few databases of each server at a time; what fails is a finding, and stops nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.config import Server, Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import listed
from tenantproxy.lifecycle.doctor.database import look_at_database
from tenantproxy.lifecycle.doctor.finding import DoctorFinding, Severity, ranked
from tenantproxy.lifecycle.doctor.local import ServerFacts, budget_findings, secret_findings, server_findings
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.lifecycle.doctor.sagas import NO_SAGAS, HalfMade, half_made
from tenantproxy.lifecycle.doctor.scope import AuditPlace, AuditServer, audit_servers
from tenantproxy.lifecycle.doctor.session import FAILURES, audit_session, look, open_as, reading, told
from tenantproxy.model import Tenant

__all__ = ["AuditReport", "examine"]

AuditProgress = Callable[[int, int], None]
"""Called with how many databases were looked at, and how many there are."""

_AT_ONCE: Final = 4  # connections to one server
_OF_BUDGET: Final = 10  # and no more than a tenth of its budget
_PLACE_SECONDS: Final = 120.0
_HOME_SECONDS: Final = 0.5  # more for each schema tenant of a database
_REACHES_ALL: Final = frozenset({"TPD011", "TPD013", "TPD014", "TPD015"})  # of such roles, what they reach is no news
_NOT_THERE: Final = "TPD016"
_ABSENT: Final = "does not exist"  # how the detail of such a role begins that is not there; else it cannot log in
_NO_DATABASE: Final = "TPD056"
_ORPHANS: Final = frozenset({"TPD057", "TPD058"})
_FACTS: Final = """
SELECT current_setting('server_version_num')::int AS version, pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
  date_part('epoch', clock_timestamp()) AS now, current_setting('max_connections')::int AS max_connections,
  current_setting('superuser_reserved_connections')::int
    + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
  coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false) AS encrypted,
  CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
    THEN (SELECT system_identifier::text FROM pg_control_system()) END AS identity,
  has_function_privilege('pg_hba_file_rules()', 'EXECUTE')
    AND has_table_privilege('pg_authid', 'SELECT') AS sees_secrets
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was found, the worst first, and how much was looked at."""

    findings: tuple[DoctorFinding, ...]
    servers: int
    databases: int

    @property
    def exit_code(self) -> int:
        """2: something could not be looked at; 1: there is a finding that is more than a note; 0: neither."""
        if any(finding.rule.is_blind for finding in self.findings):
            return 2
        return int(any(finding.rule.severity is not Severity.NOTE for finding in self.findings))


async def examine(
    settings: Settings,
    *,
    servers: Collection[str] = (),
    tenants: Collection[str] = (),
    ignored: Collection[str] = (),
    progress: AuditProgress = lambda done, total: None,
    clock: Callable[[], float] = time.time,
) -> AuditReport:
    """Look at every server and database of the configuration and the registry. Changes nothing.

    `servers`: these alone; `tenants`: of databases, those of these tenants alone. `ignored`: codes, or `CODE:OBJECT`,
    that are known and left out. Never more than a tenth of a server's budget in connections, and four, at once.
    Raises ConfigurationError for names that are in neither. Cancellation closes what was opened.
    """
    audit = _Audit(settings, progress, clock)
    report = await audit.run(_known_servers(settings, servers), tenants)
    kept = [each for each in report.findings if not {each.code, f"{each.code}:{each.object}"} & set(ignored)]
    return AuditReport(findings=ranked(kept), servers=report.servers, databases=report.databases)


def _known_servers(settings: Settings, servers: Collection[str]) -> frozenset[str]:
    unknown = sorted(set(servers) - settings.servers.keys())
    if unknown:
        known = ", ".join(sorted(settings.servers))
        raise ConfigurationError(
            [Problem(key="--server", problem=f"there is no [servers.{unknown[0]}]", fix=f"name one of: {known}")]
        )
    return frozenset(servers or settings.servers)


class _Audit:
    """One run. State: what was found, and how far it is."""

    def __init__(self, settings: Settings, progress: AuditProgress, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._progress = progress
        self._clock = clock
        self._findings: list[DoctorFinding] = []
        self._facts: list[ServerFacts] = []
        self._done = 0
        self._total = 0

    async def run(self, names: frozenset[str], tenants: Collection[str]) -> AuditReport:
        registered = await self._registered()
        making = await self._half_made()
        self._findings += making.findings
        _check_tenants(registered, tenants)
        servers = [each for each in audit_servers(self._settings, registered) if each.name in names]
        chosen = {each.name: [place for place in each.places if _is_chosen(place, tenants)] for each in servers}
        self._total = sum(map(len, chosen.values()))
        self._progress(0, self._total)
        self._findings += secret_findings(self._settings)
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(self._server(server, chosen[server.name]))
        self._findings += budget_findings(sorted(self._facts, key=lambda facts: facts.name))
        self._findings = [
            each for each in self._findings if not (each.code in _ORPHANS and each.object in making.names)
        ]
        return AuditReport(findings=tuple(self._findings), servers=len(servers), databases=self._total)

    async def _registered(self) -> list[Tenant]:
        try:
            found_tenants, unusable = await listed(self._settings)
        except FAILURES as exc:
            main = self._settings.main
            self._findings.append(found("TPD004", server=main.server, database=main.database, detail=told(exc)))
            return []
        self._findings += [found("TPD005", object=name, detail=why) for name, why in sorted(unusable.items())]
        return found_tenants

    async def _half_made(self) -> HalfMade:
        main = self._settings.main
        try:
            async with audit_session(self._settings, main.server, main.database) as conn, reading(conn):
                return await half_made(conn, server=main.server, database=main.database)
        except FAILURES:
            return NO_SAGAS  # that it cannot be looked at is told where the server is

    # --- one server --------------------------------------------------------------------------------------------------
    async def _server(self, server: AuditServer, places: Sequence[AuditPlace]) -> None:
        try:
            async with asyncio.timeout(_PLACE_SECONDS), self._session(server) as conn:
                findings = await self._look_at_server(conn, server)
        except FAILURES as exc:
            self._findings.append(found("TPD001", server=server.name, detail=told(exc)))
            self._step(len(places))
            return
        self._findings += [each for each in findings if not _is_meant(each, server)]
        missing = {each.object for each in findings if each.code == _NO_DATABASE}
        unfit = {each.object for each in findings if each.code in _REACHES_ALL}
        absent = {each.object for each in findings if each.code == _NOT_THERE and each.detail.startswith(_ABSENT)}
        healthy = frozenset(server.roles) - unfit - absent
        gate = asyncio.Semaphore(max(1, min(_AT_ONCE, server.section.max_connections // _OF_BUDGET)))
        async with asyncio.TaskGroup() as group:
            for place in places:
                if place.database in missing:
                    self._step()
                else:
                    group.create_task(self._place(server, place, gate, healthy))

    @asynccontextmanager
    async def _session(self, server: AuditServer) -> AsyncIterator[asyncpg.Connection]:
        """A connection for what is asked of the whole server; where its usual database is gone, in postgres."""
        async with AsyncExitStack() as stack:
            try:
                conn = await stack.enter_async_context(audit_session(self._settings, server.name, server.database))
            except asyncpg.InvalidCatalogNameError:
                conn = await stack.enter_async_context(audit_session(self._settings, server.name, "postgres"))
            yield conn

    async def _look_at_server(self, conn: asyncpg.Connection, server: AuditServer) -> list[DoctorFinding]:
        given = server.argument()
        async with reading(conn):
            row, facts = await self._ask(conn, server)
            self._facts.append(facts)
            findings = [*server_findings(facts), *await look(conn, "server.sql", given, server=server.name)]
            if server.primary is None:  # a replica has the roles and databases of its primary
                findings += await look(conn, "roles.sql", given, server=server.name)
                findings += await look(conn, "databases.sql", given, server=server.name)
            if row["sees_secrets"]:
                findings += await look(conn, "secrets.sql", given, server=server.name)
            else:
                what = "how pg_hba.conf lets connections in, and how passwords are stored"
                findings.append(found("TPD003", server=server.name, detail=what))
        if server.section.admin is not None and server.section.user not in {
            each.object for each in findings if each.code == _NOT_THERE
        }:
            findings += await self._log_in(server)
        return findings

    async def _ask(self, conn: asyncpg.Connection, server: AuditServer) -> tuple[asyncpg.Record, ServerFacts]:
        before = self._clock()
        row = await conn.fetchrow(_FACTS)
        after = self._clock()
        assert row is not None
        offset, slack = row["now"] - (before + after) / 2, (after - before) / 2
        section = server.section
        return row, ServerFacts(
            name=server.name,
            host=section.host,
            version=row["version"],
            identity=_identity(row, section),
            max_connections=row["max_connections"],
            reserved=row["reserved"],
            budget=section.max_connections,
            encrypted=row["encrypted"],
            offset=0.0 if abs(offset) <= slack else offset,
            pid=row["pid"],
            told_pid=conn.get_server_pid(),
            is_pooled=bool(section.pooler),
        )

    async def _log_in(self, server: AuditServer) -> list[DoctorFinding]:
        """Whether the role that serves requests can log in; that it may not connect to this database is no fault."""
        try:
            async with open_as(self._settings, server.name, server.database, [server.section.user]):
                return []
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidCatalogNameError):
            return []
        except FAILURES as exc:
            return [found("TPD006", server=server.name, object=server.section.user, detail=told(exc))]

    # --- one database ------------------------------------------------------------------------------------------------
    async def _place(
        self, server: AuditServer, place: AuditPlace, gate: asyncio.Semaphore, healthy: frozenset[str]
    ) -> None:
        strangers = tuple(set(server.roles) - set(place.roles))
        try:
            seconds = _PLACE_SECONDS + _HOME_SECONDS * len(place.homes)
            async with gate, asyncio.timeout(seconds), self._opened(place) as conn, reading(conn):
                self._findings += await look_at_database(
                    conn, self._settings, place, healthy=healthy, strangers=strangers
                )
        except (*FAILURES, ValueError) as exc:  # ValueError: a name that no statement can hold
            self._findings.append(found("TPD002", server=place.server, database=place.database, detail=told(exc)))
        self._step()

    def _opened(self, place: AuditPlace) -> AbstractAsyncContextManager[asyncpg.Connection]:
        section = self._settings.servers[place.server]
        if section.admin is not None:
            return audit_session(self._settings, place.server, place.database)
        roles = list(dict.fromkeys([section.user, *place.roles]))
        return open_as(self._settings, place.server, place.database, roles)

    def _step(self, count: int = 1) -> None:
        self._done += count
        self._progress(self._done, self._total)


def _identity(row: asyncpg.Record, section: Server) -> str:
    """What sections that name one server have in common; a standby has the identifier of its primary."""
    if row["standby"] or row["identity"] is None:
        return f"{section.host}:{section.port}"
    return str(row["identity"])


def _check_tenants(registered: Sequence[Tenant], tenants: Collection[str]) -> None:
    unknown = sorted(set(tenants) - {tenant.id for tenant in registered})
    if unknown:
        fix = "see `tenantproxy tenants list`"
        raise ConfigurationError([Problem(key="--tenant", problem=f"no tenant {unknown[0]!r} is registered", fix=fix)])


def _is_chosen(place: AuditPlace, tenants: Collection[str]) -> bool:
    return not tenants or bool(set(place.tenants) & set(tenants))


def _is_meant(finding: DoctorFinding, server: AuditServer) -> bool:
    """Whether it is how suspended and archived tenants are to be: closed, and some of them without a place."""
    if finding.code == _NOT_THERE and not finding.detail.startswith(_ABSENT):
        return finding.object in server.closed
    return finding.code in {_NOT_THERE, _NO_DATABASE} and finding.object in server.left
