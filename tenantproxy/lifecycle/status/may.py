"""May a tenant be suspended, resumed, archived, deleted or undeleted now? Each check raises what forbids it."""

from __future__ import annotations

from typing import Final, Literal

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connect, opened
from tenantproxy.lifecycle.change_store import ChangeStore, TenantChange, being_changed
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.lifecycle.status.entry import check_registry, is_ours, look_up
from tenantproxy.lifecycle.status.removal_state import RemovalState
from tenantproxy.model import Tenant, TenantStatus

__all__ = [
    "MAY_REMOVE", "MAY_RESUME", "MAY_SUSPEND", "check_has_place", "check_may", "deletion_of", "refused", "would",
]  # fmt: skip

_S = TenantStatus
MAY_SUSPEND: Final = frozenset({_S.ACTIVE, _S.PAUSED, _S.SUSPENDED})
MAY_RESUME: Final = frozenset({_S.ACTIVE, _S.PAUSED, _S.SUSPENDED, _S.INACTIVE})
MAY_REMOVE: Final = frozenset({_S.ACTIVE, _S.PAUSED, _S.SUSPENDED, _S.INACTIVE})
_ARCHIVED: Final = """
SELECT kind = 'archive' FROM tenantproxy.sagas WHERE tenant = $1 AND state IN ('active', 'cleaned')
ORDER BY id DESC LIMIT 1
"""


async def check_may(
    main: asyncpg.Connection, settings: Settings, tenant: Tenant, may: frozenset[TenantStatus], then: TenantStatus
) -> None:
    """Whether a tenant in its status may become `then`, and nothing else is done with it at this moment."""
    if is_ours(settings):
        await being_changed(main, tenant.id)
    if tenant.status not in may:
        raise refused(tenant, f"is {tenant.status}, and cannot become {then}", "see: tenantproxy tenants show")


async def check_has_place(main: asyncpg.Connection, settings: Settings, tenant: Tenant) -> None:
    """Whether what it had is there still."""
    if is_ours(settings) and await main.fetchval(_ARCHIVED, tenant.id):
        raise refused(tenant, "is archived, and what it had was removed", "restore it from its backup")


async def deletion_of(store: ChangeStore, tenant: str) -> TenantChange:
    """Its deletion, which waits for the end of its grace."""
    found = await store.open_of(tenant)
    if found is None or found.kind != "delete" or found.state != RemovalState.WAITING:
        problem = "was not deleted" if found is None else "is being removed already, or is not being deleted"
        fix = "restore it from its last backup under a new name" if found is not None else "see: tenants show"
        raise ConfigurationError([Problem(key=f"tenant {tenant}", problem=problem, fix=fix)])
    return found


def refused(tenant: Tenant, problem: str, fix: str) -> ConfigurationError:
    """What forbids it."""
    return ConfigurationError([Problem(key=f"tenant {tenant.id}", problem=problem, fix=fix)])


async def would(
    settings: Settings, tenant: str, change: Literal["suspend", "resume", "archive", "undelete"], *,
    connect: ConnectTo | None = None,
) -> TenantStatus:  # fmt: skip
    """The status of the tenant, where `change` could be made now; nothing is done. Raises as the change itself."""
    check_registry(settings)
    async with opened(connect or admin_connect(settings), settings.main.server, settings.main.database) as main:
        found = await look_up(main, settings, tenant)
        if change == "undelete":
            await deletion_of(ChangeStore(main), tenant)
        elif change == "resume":
            await check_may(main, settings, found, MAY_RESUME, TenantStatus.ACTIVE)
            await check_has_place(main, settings, found)
        else:
            then = TenantStatus.SUSPENDED if change == "suspend" else TenantStatus.INACTIVE
            await check_may(main, settings, found, MAY_SUSPEND, then)
        return found.status
