"""What does `tenantproxy install --roles` do? A login role for each tenant, which reaches what is that tenant's alone.

Passwords follow from the key of `[tenant_roles]`; only their verifiers leave this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy.cli import deploy
from tenantproxy.config import Secret, Settings, role_password
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.change import ChangePlan, apply
from tenantproxy.lifecycle.home import Home, plan_home
from tenantproxy.lifecycle.install import alone
from tenantproxy.lifecycle.login_roles import PasswordCheck, plan_login
from tenantproxy.lifecycle.readers import plan_reader
from tenantproxy.model import Isolation, Tenant, TenantStatus, reader_of

__all__ = ["RoleStep", "RoleWork", "password_check", "reader_steps", "role_work"]

_UNFINISHED: Final = frozenset({TenantStatus.PROVISIONING, TenantStatus.DELETING})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStep:
    """The plan of one role, or of what it reaches in one database."""

    server: str
    database: str
    role: str
    plan: ChangePlan


@dataclass(frozen=True, slots=True)
class RoleWork:
    """All steps, roles first, and what is to be said about them. `creating`: roles that do not exist yet."""

    steps: tuple[RoleStep, ...] = ()
    notes: tuple[dict[str, Any], ...] = ()
    creating: frozenset[str] = field(default=frozenset())

    def plans(self) -> list[ChangePlan]:
        """Of all steps."""
        return [step.plan for step in self.steps]

    async def run(self, settings: Settings) -> None:
        """Do it, one transaction a step."""
        for step in self.steps:
            if step.plan.changes:
                async with deploy.admin_connection(settings, step.server, step.database) as conn, alone(conn, 5.0):
                    await apply(conn, step.plan.changes)


async def role_work(settings: Settings, tenants: Sequence[Tenant]) -> RoleWork:
    """What is still to be done for the servers' own users and for the roles of `tenants`.

    Raises ConfigurationError when a tenant has a role and there is no key to derive its password from.
    """
    left_out = [tenant for tenant in tenants if tenant.status in _UNFINISHED]
    tenants = [tenant for tenant in tenants if tenant.status not in _UNFINISHED]
    with_role = [tenant for tenant in tenants if tenant.placement.role not in (None, _user(settings, tenant))]
    key = settings.tenant_roles.key if settings.tenant_roles is not None else None
    if with_role and key is None:
        problem = f"is missing: the role of the tenant {with_role[0].id!r} needs a password that follows from it"
        fix = "write a key with: openssl rand -hex 32, and name its file"
        raise ConfigurationError([Problem(key="tenant_roles.key_file", problem=problem, fix=fix)])
    _check_readers(settings, tenants)
    steps = await _logins(settings, tenants, key)
    creating = frozenset(step.role for step in steps if any(c.sql.startswith("CREATE ROLE") for c in step.plan.changes))
    homes = [await _home(settings, tenant, tenants) for tenant in tenants if _has_home(tenant)]
    return RoleWork((*steps, *homes), (*_notes(settings, tenants), *map(_left_out, left_out)), creating)


def _left_out(tenant: Tenant) -> dict[str, Any]:
    place = tenant.placement
    said = f"the tenant {tenant.id} is {tenant.status}: its role is left out"
    return {"note": said, "server": place.server, "database": place.database}


def _user(settings: Settings, tenant: Tenant) -> str:
    return settings.servers[tenant.placement.server].user


def _role(settings: Settings, tenant: Tenant) -> str:
    return tenant.placement.role or _user(settings, tenant)


def _reader(settings: Settings, tenant: Tenant) -> str:
    """The role that reads what the tenant's does. Raises ConfigurationError where no role can be called so."""
    try:
        return reader_of(_role(settings, tenant))
    except ValueError as exc:
        raise ConfigurationError(
            [Problem(key=f"tenant {tenant.id}", problem=str(exc), fix="choose a shorter name for its role")]
        ) from None


def _check_readers(settings: Settings, tenants: Sequence[Tenant]) -> None:
    """ConfigurationError when the role that reads for one tenant would be the one that another's SQL runs as."""
    if not settings.has_readers:
        return
    roles = {(tenant.placement.server, _role(settings, tenant)): tenant.id for tenant in tenants}
    for tenant in tenants:
        other = roles.get((tenant.placement.server, reader := _reader(settings, tenant)))
        if other is not None:
            problem = f"has the role {reader!r}, which would read all that the tenant {tenant.id} reads"
            raise ConfigurationError([Problem(key=f"tenant {other}", problem=problem, fix="give it another role")])


async def reader_steps(settings: Settings, tenants: Sequence[Tenant]) -> list[RoleStep]:
    """What is still to be done until the readers of `tenants` read what their roles read. Those roles are there."""
    if not settings.has_readers:
        return []
    places = dict.fromkeys(
        (tenant.placement.server, tenant.placement.database, _role(settings, tenant))
        for tenant in tenants
        if tenant.status not in _UNFINISHED
    )
    steps = []
    for server, database, role in places:
        try:
            async with deploy.admin_connection(settings, server, database, reading=True) as conn:
                plan = await plan_reader(conn, role)
        except asyncpg.InvalidCatalogNameError:
            continue  # told where its home is looked at
        steps.append(RoleStep(server=server, database=database, role=reader_of(role), plan=plan))
    return steps


def _has_home(tenant: Tenant) -> bool:
    return tenant.placement.isolation is not Isolation.ROW


async def _logins(settings: Settings, tenants: Sequence[Tenant], key: Secret | None) -> list[RoleStep]:
    main = settings.main
    wanted: dict[tuple[str, str], str] = {(main.server, settings.servers[main.server].user): main.database}
    for tenant in tenants:
        place = tenant.placement
        for role in dict.fromkeys((_user(settings, tenant), _role(settings, tenant))):
            database = main.database if place.server == main.server else place.database
            wanted.setdefault((place.server, role), database)
        if settings.has_readers:
            wanted.setdefault((place.server, _reader(settings, tenant)), place.database)
    steps = []
    for (name, role), database in wanted.items():
        server = settings.servers[name]
        is_shared = role == server.user
        if is_shared:
            password = server.password.read() if server.password is not None else None
        else:
            assert key is not None
            password = role_password(key.read_bytes(), name, role)
        async with deploy.admin_connection(settings, name, database, reading=True) as conn:
            check = password_check(settings, name, database)
            plan = await plan_login(conn, role, password, check, keep_password=is_shared)
        steps.append(RoleStep(server=name, database=database, role=role, plan=plan))
    return steps


def password_check(settings: Settings, name: str, database: str) -> PasswordCheck:
    """Tries to log in at the server `name`; that a role may not connect to `database` is no wrong password."""

    async def check(role: str, password: str) -> bool:
        try:
            conn = await deploy.connect_as(settings.servers[name], database, role, password)
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
            return False
        except asyncpg.InsufficientPrivilegeError:
            return True  # the password was right, and it may not connect to this database
        await conn.close()
        return True

    return check


async def _home(settings: Settings, tenant: Tenant, tenants: Sequence[Tenant]) -> RoleStep:
    place, role = tenant.placement, _role(settings, tenant)
    others = [_role(settings, other) for other in tenants if other.placement.server == place.server]
    whole = place.isolation is Isolation.DATABASE
    schemas = settings.servers[place.server].search_path if whole else (place.schema or "", *tenant.systems.values())
    home = Home(
        role=role,
        schemas=tuple(dict.fromkeys(schemas)),
        whole=whole,
        strangers=tuple(dict.fromkeys(one for one in [_user(settings, tenant), *others] if one != role)),
    )
    try:
        async with deploy.admin_connection(settings, place.server, place.database, reading=True) as conn:
            plan = await plan_home(conn, home)
    except asyncpg.InvalidCatalogNameError:
        problem = f"its database {place.database} does not exist"
        fix = "create it, and its tables, as the user of [servers.NAME.admin]"
        plan = ChangePlan(problems=(Problem(key=f"tenant {tenant.id}", problem=problem, fix=fix),))
    return RoleStep(server=place.server, database=place.database, role=role, plan=plan)


def _notes(settings: Settings, tenants: Sequence[Tenant]) -> list[dict[str, Any]]:
    """Schema tenants of a database that share a role: each could name the other's tables."""
    sharing: dict[tuple[str, str, str], list[str]] = {}
    for tenant in tenants:
        place = tenant.placement
        if place.isolation is Isolation.SCHEMA:
            sharing.setdefault((place.server, place.database, _role(settings, tenant)), []).append(tenant.id)
    said = "have the role {role} in common, and read each other's tables with it: give each a role of its own"
    return [
        {"note": f"{', '.join(ids[:10])} {said.format(role=role)}", "server": server, "database": database}
        for (server, database, role), ids in sharing.items()
        if len(ids) > 1
    ]
