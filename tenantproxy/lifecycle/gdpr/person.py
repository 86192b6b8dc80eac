"""What do tenants hold of one person? The operator's statements in each tenant's own session, and what logins left.

A person is erased from a tenant in one transaction, before whose COMMIT its sessions end and the entry in the login
directory goes: who dies in between finds the account still there, and runs again. What is gone already is 0 rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy.auth.directory import normalised
from tenantproxy.config import GdprPart, Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.gdpr.archive import BATCH, ExportFolder
from tenantproxy.model import Tenant
from tenantproxy.router import Router
from tenantproxy.scope import TenantScope

__all__ = ["Person", "check_parts", "erase_person", "export_person"]

_ROWS: Final = "SELECT pg_catalog.to_jsonb(found)::text FROM ({}) AS found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is meant: by address in all tenants, or by the id of an account in one."""

    email: str | None = field(default=None, repr=False)
    user: str | None = None

    @property
    def address(self) -> str | None:
        """As addresses are compared. Raises ConfigurationError for what is none."""
        if self.email is None:
            return None
        if (found := normalised(self.email)) is None:
            raise ConfigurationError(
                [Problem(key="--person", problem="is no e-mail address", fix="write it as name@example.com")]
            )
        return found


def check_parts(settings: Settings, what: str) -> None:
    """Whether there is anything to do it with. Raises ConfigurationError."""
    if not any(getattr(part, what) for part in settings.gdpr.person):
        fix = f'write [[gdpr.person]] with name = "account" and {what} = "..."'
        raise ConfigurationError([Problem(key="gdpr.person", problem=f"has no {what}", fix=fix)])


async def export_person(router: Router, tenant: Tenant, person: Person, into: ExportFolder) -> dict[str, int]:
    """How many rows of each part there are, which are in `into` now. Raises what the router and PostgreSQL raise."""
    counts: dict[str, int] = {}
    settings = router.settings
    scope = router.tenant(tenant.id)
    keys = await _keys(scope, settings, person)
    async with scope.transaction(readonly=True, isolation="repeatable_read") as conn:
        for part in (each for each in settings.gdpr.person if each.export):
            query = _ROWS.format(part.export.strip().removesuffix(";"))
            counts[part.name] = 0
            for key in keys[part.by]:
                async with asyncio.timeout(settings.gdpr.timeout):  # no tenant keeps an export of all from its end
                    counts[part.name] += await into.fill(tenant.id, part.name, conn.cursor(query, key, prefetch=BATCH))
    return counts


async def erase_person(router: Router, tenant: Tenant, person: Person, *, dry_run: bool) -> dict[str, int]:
    """How many rows each part has deleted or changed; with `dry_run` all of it is rolled back, and is what would be."""
    settings, scope = router.settings, router.tenant(tenant.id)
    keys = await _keys(scope, settings, person)
    parts = [part for part in settings.gdpr.person if part.erase]
    counts: dict[str, int] = {}

    async def work(conn: Any) -> None:
        for part in parts:
            counts[part.name] = sum([await _erased(conn, part, key, settings.gdpr.timeout) for key in keys[part.by]])
        if not dry_run:
            await _forget(router, tenant, person, keys["user"])

    await _in_transaction(scope, work, is_kept=not dry_run)
    return counts


async def _erased(conn: Any, part: GdprPart, key: str, timeout: float) -> int:
    done: str = await conn.execute(part.erase, key, timeout=timeout)
    last = done.rpartition(" ")[2]
    return int(last) if last.isdigit() else 0


class _RolledBack(Exception):
    """Ends a transaction that was a trial."""


async def _in_transaction(scope: TenantScope, work: Callable[[Any], Awaitable[None]], *, is_kept: bool) -> None:
    try:
        async with scope.transaction() as conn:
            await work(conn)
            if not is_kept:
                raise _RolledBack
    except _RolledBack:
        return


async def _keys(scope: TenantScope, settings: Settings, person: Person) -> dict[str, Sequence[str]]:
    """What `$1` is, of each kind: the accounts of an address are those that `[login] account_query` finds."""
    if person.user is not None:
        return {"email": (), "user": (person.user,)}
    address, query = person.address or "", settings.login.account_query
    if query is None:
        return {"email": (address,), "user": ()}
    rows: list[asyncpg.Record] = await scope.fetch(query, address, timeout=settings.gdpr.timeout)
    return {"email": (address,), "user": tuple(str(row["user_id"]) for row in rows)}


async def _forget(router: Router, tenant: Tenant, person: Person, users: Sequence[str]) -> None:
    """No login finds the account any more, and no session of it goes on."""
    login = router.settings.login
    if person.address is not None and login.account_query is not None and login.pepper is not None:
        directory = router.logins.directory
        await directory.remove(directory.key(person.address), tenant.id)
    if router.settings.auth.keys():
        for user in users:
            await router.end_sessions(tenant.id, user)
