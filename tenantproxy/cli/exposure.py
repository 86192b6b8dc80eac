"""What can tenants still reach after `tenantproxy install` that is not theirs? Asked as the roles that they run as."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg

from tenantproxy.cli import deploy
from tenantproxy.config import Settings, names, role_password
from tenantproxy.connect.reach import PIN_PATH, REACH, argument, exposures, parse
from tenantproxy.isolation.policies import tenant_form

__all__ = ["exposure_notes"]


async def exposure_notes(settings: Settings, targets: Iterable[deploy.DeployTarget]) -> list[dict[str, Any]]:
    """A note for each relation that would make the first connection of its row tenants be refused, with what closes it.

    One look at the catalogue for each database and role, the very one that connections take. A role that cannot log in
    yet is left out.
    """
    form = tenant_form(None if settings.row.signed else settings.row.setting)
    notes = []
    for target in targets:
        where = {"server": target.server, "database": target.database}
        try:
            conn = await _as_tenants(settings, target)
        except asyncpg.PostgresError:
            continue
        try:
            async with conn.transaction(readonly=True):
                await conn.execute(PIN_PATH)
                path = settings.servers[target.server].search_path
                given = argument(names(settings.row.unprotected), path=path, common=names(settings.schema_.common))
                found = parse(await conn.fetchval(REACH, given))
        finally:
            await conn.close()
        notes += [
            {"note": f"open to every row tenant: {each.what}: {each.why}; {each.fix}", **where}
            for each in exposures(found, form=form)
        ]
    return notes


async def _as_tenants(settings: Settings, target: deploy.DeployTarget) -> asyncpg.Connection:
    server, roles = settings.servers[target.server], settings.tenant_roles
    if target.role != server.user and roles is not None and roles.key is not None:
        password: str | None = role_password(roles.key.read_bytes(), target.server, target.role)
    else:
        password = server.password.read() if server.password is not None else None
    return await deploy.connect_as(server, target.database, target.role, password)
