"""What may an operator do about login? Try one, and make the directory agree with the tenants' own tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import asyncpg

from tenantproxy.accounts import TenantAccounts
from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Settings
from tenantproxy.connect.failures import describe
from tenantproxy.errors import ConfigurationError, Problem, TenantNotFound, TenantProxyError
from tenantproxy.model import Tenant, TenantStatus
from tenantproxy.router import Router

__all__ = ["log_in", "reconcile"]

Step = Callable[[], None]

_FAILURES: Final = (TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


async def log_in(settings: Settings, email: str, password: str) -> list[dict[str, Any]]:
    """The accounts whose password this is, a row each. Raises InvalidCredentials."""
    async with Router(settings) as router:
        return [
            {"tenant": account.tenant, "user": account.user, **account.claims}
            for account in await router.login(email, password)
        ]


async def reconcile(settings: Settings, *, dry_run: bool = False) -> tuple[list[dict[str, Any]], bool]:
    """Compare each active tenant's accounts with the directory: a row each, and whether all went well.

    What belongs to tenants that do not exist any more is removed; those that are not active keep their entries. With
    `dry_run` what would be removed is counted, and nothing is changed.
    """
    if settings.login.list_query is None:
        fix = "add the query that pages through a tenant's accounts: user_id and email after $1 in order, at most $2"
        raise ConfigurationError([Problem(key="login.list_query", problem="is missing", fix=fix)])
    rows: list[dict[str, Any]] = []
    async with Router(settings) as router:
        tenants = [tenant async for tenant in router.tenants()]
        with progress_bar() as progress:
            task = progress.add_task("reconciling", total=len(tenants))
            for tenant in tenants:
                rows.append(await _reconcile(router, tenant, dry_run=dry_run))
                progress.advance(task)
        rows += await _remove_unknown(router, {tenant.id for tenant in tenants}, dry_run=dry_run)
    return rows, all(row["error"] is None for row in rows)


async def _reconcile(router: Router, tenant: Tenant, *, dry_run: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"tenant": tenant.id, "accounts": None, "removed": 0, "error": None}
    if tenant.status is not TenantStatus.ACTIVE:
        return row
    accounts = TenantAccounts(router.settings, source=router, tenants=router.registry)
    try:
        row["accounts"], row["removed"] = await router.logins.directory.reconcile(
            tenant.id, accounts.pages(tenant.id), dry_run=dry_run
        )
    except _FAILURES as exc:
        row["error"] = exc.message if isinstance(exc, TenantProxyError) else describe(exc)
    return row


async def _remove_unknown(router: Router, known: set[Any], *, dry_run: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for tenant in await router.logins.directory.tenants():
        if tenant in known:
            continue
        try:
            await router.registry.get(tenant)
        except TenantNotFound:
            if not dry_run:
                await router.logins.directory.forget(tenant)
            rows.append({"tenant": tenant, "accounts": 0, "removed": "all", "error": None})
    return rows
