"""How is what was found put right? Runs the SQL of findings that are safe, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.doctor.audit import AuditReport
from tenantproxy.lifecycle.doctor.finding import DoctorFinding, as_mapping
from tenantproxy.lifecycle.doctor.scope import audit_servers
from tenantproxy.lifecycle.doctor.session import FAILURES, told
from tenantproxy.lifecycle.install import alone

__all__ = ["DoctorRepair", "audit_mapping", "repair"]

_ALONE: Final = "ALTER SYSTEM "  # cannot run in a transaction
_LOCK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRepair:
    """What became of one finding. `error`: why its SQL was not run, or not to its end; "": it was."""

    finding: DoctorFinding
    error: str = ""


async def repair(settings: Settings, findings: Sequence[DoctorFinding]) -> list[DoctorRepair]:
    """Run the SQL of those of `findings` that are safe to repair, in order, with each server's admin credentials.

    One transaction a finding, which waits no longer than five seconds for a lock; one that fails stops no other.
    Raises ConfigurationError, and nothing is run, where a server has no admin credentials. Cancellation rolls the
    current one back, and those before it stay.
    """
    chosen = [finding for finding in findings if finding.is_fixable]
    missing = sorted({each.server for each in chosen if settings.servers[each.server].admin is None})
    if missing:
        problem, fix = "is missing, and repairing needs it", "name a superuser, or the owner of the databases"
        raise ConfigurationError([Problem(key=f"servers.{missing[0]}.admin", problem=problem, fix=fix)])
    main = {server.name: server.database for server in audit_servers(settings, ())}
    places: dict[tuple[str, str], list[DoctorFinding]] = {}
    for finding in chosen:
        places.setdefault((finding.server, finding.database or main[finding.server]), []).append(finding)
    done: list[DoctorRepair] = []
    for (server, database), here in places.items():
        done += await _in_database(settings, server, database, here)
    return done


async def _in_database(
    settings: Settings, server: str, database: str, findings: Sequence[DoctorFinding]
) -> list[DoctorRepair]:
    done: list[DoctorRepair] = []
    async with AsyncExitStack() as stack:
        try:
            conn = await stack.enter_async_context(admin_connection(settings, server, database))
        except FAILURES as exc:
            return [DoctorRepair(finding=finding, error=told(exc)) for finding in findings]
        for finding in findings:
            try:
                await _run(conn, finding)
            except FAILURES as exc:
                done.append(DoctorRepair(finding=finding, error=told(exc)))
            else:
                done.append(DoctorRepair(finding=finding))
    return done


async def _run(conn: asyncpg.Connection, finding: DoctorFinding) -> None:
    if any(statement.startswith(_ALONE) for statement in finding.sql):
        for statement in finding.sql:
            await conn.execute(statement)
        return
    async with alone(conn, _LOCK_SECONDS):
        for statement in finding.sql:
            await conn.execute(statement)


def audit_mapping(report: AuditReport, repairs: Sequence[DoctorRepair]) -> dict[str, Any]:
    """What was found and repaired, for programs."""
    return {
        "ok": report.exit_code == 0,
        "complete": report.exit_code != 2,
        "servers": report.servers,
        "databases": report.databases,
        "findings": [as_mapping(finding) for finding in report.findings],
        "repaired": [{**as_mapping(each.finding), "error": each.error} for each in repairs],
    }
