"""How does a registry say another status of a tenant? In one transaction, which every process hears of at its end."""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import registry_on
from tenantproxy.model import Tenant, TenantStatus, tenant_id
from tenantproxy.registry.postgres import CHANNEL

__all__ = ["change_status", "check_registry", "is_ours", "look_up"]

_OURS: Final = "UPDATE tenantproxy.tenants SET status = $2, epoch = epoch + $3::int WHERE id = $1"


def is_ours(settings: Settings) -> bool:
    """Whether tenants are registered in our own table."""
    return settings.registry.source == "postgres" and settings.registry.query is None


def check_registry(settings: Settings) -> None:
    """Raises ConfigurationError where no status can be written into the registry."""
    registry = settings.registry
    if registry.source != "postgres":
        problem = f'is "{registry.source}", whose statuses are written elsewhere'
        fix = "change the status there; of tenants in the configuration file, and run: tenantproxy reload"
        raise ConfigurationError([Problem(key="registry.source", problem=problem, fix=fix)])
    if registry.query is not None and registry.status_update is None:
        problem = "is missing, and the tenants are in a table that is not our own"
        fix = "for example: update agencies set status = $2 where database_name = $1"
        raise ConfigurationError([Problem(key="registry.status_update", problem=problem, fix=fix)])


async def look_up(conn: asyncpg.Connection, settings: Settings, tenant: str, *, lock: bool = False) -> Tenant:
    """The tenant as the registry has it now; with `lock` no other operator changes it until the transaction ends.

    Raises TenantNotFound, RegistryUnavailable.
    """
    if lock and is_ours(settings):
        await conn.execute("SELECT FROM tenantproxy.tenants WHERE id = $1 FOR UPDATE", tenant)
    elif lock:
        # No advisory lock: a tenant that runs SQL in this database could hold it, and so keep itself from being
        # suspended. Nothing but this takes such a lock on a table that tenants may not write.
        await conn.execute("LOCK TABLE tenantproxy.tenants IN SHARE ROW EXCLUSIVE MODE")
    return await registry_on(settings, conn).get(tenant_id(tenant))


async def change_status(
    conn: asyncpg.Connection, settings: Settings, tenant: Tenant, status: TenantStatus, *, raise_epoch: bool = False
) -> Tenant:
    """The tenant in `status`, as the registry says it behind the change, in the transaction that `conn` is in.

    `raise_epoch`: its tokens are worth nothing any more; in a table of the operator's that is the table's affair.
    Raises TenantProxyError, and the transaction is to be rolled back, where the registry does not say so then.
    """
    if is_ours(settings):
        await conn.execute(_OURS, tenant.id, status, raise_epoch)
    else:
        statement = settings.registry.status_update
        assert statement is not None
        await conn.execute(statement, tenant.id, status.value)
        await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, tenant.id)
    found = await look_up(conn, settings, tenant.id)
    if found.status is not status:
        raise TenantProxyError(
            f"the registry says {found.status} of the tenant {tenant.id} behind its change to {status}",
            hint="see whether registry.status_update changes what registry.query reads; nothing was changed",
        )
    return found
