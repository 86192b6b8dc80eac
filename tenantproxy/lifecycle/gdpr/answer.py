"""How is a person answered who asks what is held of them? By exports and erasures in all tenants, and reports."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.gdpr.archive import ExportFolder
from tenantproxy.lifecycle.gdpr.person import Person, check_parts, erase_person, export_person
from tenantproxy.lifecycle.gdpr.whole import export_tenant
from tenantproxy.lifecycle.operations.progress import Progress, silent
from tenantproxy.lifecycle.signing import check_signing, signed_json, verified_json
from tenantproxy.model import Tenant
from tenantproxy.router import Router

__all__ = ["KIND", "erase", "export", "has_failed", "moment", "report_of", "verify"]

KIND: Final = "gdpr"
"""Of the reports."""

_FAILURES: Final = (TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_Work = Callable[[Router, Tenant], Awaitable[dict[str, int]]]


async def export(
    settings: Settings, tenants: Sequence[str], person: Person | None, into: Path, *, dry_run: bool = False,
    progress: Progress = silent,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each tenant and thing that was exported, into the folder `into`, which is there when all of it is.

    Without a `person` all that the tenants hold. A tenant that cannot be asked is a row with its error; the report says
    so too. With `dry_run` a row for each tenant that would be asked. Raises ConfigurationError.
    """
    check_signing(settings)
    if person is None and not tenants:
        fix = "name the tenant, or a person: --person EMAIL"
        raise ConfigurationError([Problem(key="gdpr export", problem="of whom?", fix=fix)])
    if person is not None:
        _check_person(settings, tenants, person, "export")
    folder = ExportFolder(into)
    if dry_run:
        folder.check()
        async with Router(settings) as router:
            chosen = await _chosen(router, tenants)
        return [{"tenant": tenant.id, "what": None, "rows": None, "error": None} for tenant in chosen]
    folder.begin()

    async def one(router: Router, tenant: Tenant) -> dict[str, int]:
        if person is None:
            return await export_tenant(router, tenant, folder)
        return await export_person(router, tenant, person, folder)

    try:
        rows = await _each(settings, tenants, one, progress)
        folder.finish(report_of(settings, "export", person, rows, files=folder.manifest()))
    except BaseException:
        folder.discard()
        raise
    return rows


async def erase(
    settings: Settings, tenants: Sequence[str], person: Person, *, dry_run: bool, signed: bool,
    progress: Progress = silent,
) -> tuple[list[dict[str, Any]], str]:  # fmt: skip
    """A row for each tenant and thing: how many rows were erased, or would be; and the report, if it is to be `signed`.

    Raises as `export`.
    """
    _check_person(settings, tenants, person, "erase")
    if signed:
        check_signing(settings)

    async def one(router: Router, tenant: Tenant) -> dict[str, int]:
        return await erase_person(router, tenant, person, dry_run=dry_run)

    rows = await _each(settings, tenants, one, progress)
    return rows, report_of(settings, "dry run" if dry_run else "erase", person, rows) if signed else ""


def verify(settings: Settings, path: Path) -> dict[str, Any]:
    """What a genuine report says. Raises ReportRefused, ConfigurationError."""
    return verified_json(KIND, path.read_text(encoding="utf-8"), settings)


def has_failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any tenant could not be asked."""
    return any(row["error"] for row in rows)


def _check_person(settings: Settings, tenants: Sequence[str], person: Person, what: str) -> None:
    check_parts(settings, what)
    _ = person.address
    if person.user is not None and len(tenants) != 1:
        fix = "name the one tenant whose account it is"
        raise ConfigurationError([Problem(key="--user", problem="is an id of one tenant alone", fix=fix)])


async def _each(settings: Settings, names: Sequence[str], work: _Work, progress: Progress) -> list[dict[str, Any]]:
    places, rows, done = asyncio.Semaphore(settings.gdpr.parallel), list[dict[str, Any]](), 0

    async def one(router: Router, tenant: Tenant, total: int) -> None:
        nonlocal done
        async with places:
            try:
                counts = await work(router, tenant)
            except _FAILURES as exc:
                rows.append({"tenant": tenant.id, "what": None, "rows": None, "error": said(exc)})
            else:
                rows.extend({"tenant": tenant.id, "what": what, "rows": n, "error": None} for what, n in counts.items())
            done += 1
            progress(done, total)

    async with Router(settings) as router:
        tenants = await _chosen(router, names)
        progress(0, len(tenants), "tenants")
        async with asyncio.TaskGroup() as group:
            for tenant in tenants:
                group.create_task(one(router, tenant, len(tenants)))
    return sorted(rows, key=lambda row: (row["tenant"], row["what"] or ""))


async def _chosen(router: Router, names: Sequence[str]) -> list[Tenant]:
    """All, those too that are not served now: each of these has a row that says so."""
    found = [tenant async for tenant in router.tenants()]
    if unknown := sorted(set(names) - {tenant.id for tenant in found}):
        fix = "tenantproxy tenants list shows those that are registered"
        raise ConfigurationError(
            [Problem(key=f"tenant {name}", problem="is not registered", fix=fix) for name in unknown]
        )
    return [tenant for tenant in found if not names or tenant.id in names]


def report_of(settings: Settings, what: str, person: Person | None, rows: Sequence[dict[str, Any]], **more: Any) -> str:
    """It does not hold the address: who has it sees by the keyed hash that it is about that person."""
    nonce = secrets.token_hex(16)
    whose = "" if person is None else person.address or person.user or ""
    values = {
        "what": what,
        "at": moment(),
        "nonce": nonce,
        "person": None if person is None else hmac.digest(bytes.fromhex(nonce), whose.encode(), "sha256").hex(),
        "is_complete": not has_failed(rows),
        "rows": list(rows),
        **more,
    }
    return signed_json(KIND, values, settings)


def moment() -> str:
    """Now, as reports say it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
