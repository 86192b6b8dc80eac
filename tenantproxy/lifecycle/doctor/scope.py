"""What is there to look at? Each server with its databases, and what is configured and registered there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tenantproxy.config import Server, Settings
from tenantproxy.isolation.base import Pins, startup_pins
from tenantproxy.model import Isolation, PoolKey, Tenant, TenantStatus, reader_of

__all__ = ["AuditPlace", "AuditServer", "SchemaHome", "audit_servers"]

_UNFINISHED: Final = frozenset({TenantStatus.PROVISIONING, TenantStatus.DELETING})
_CLOSED: Final = frozenset({TenantStatus.SUSPENDED, TenantStatus.INACTIVE})
_TELLING: Final = 4  # letters of a pattern, without which it could be the name of anything
_OWN_ROLES: Final = ("tenantproxy_keeper", "tenantproxy_lookup")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaHome:
    """The schemas of one schema tenant, and the role that its SQL runs as."""

    tenant: str
    role: str
    schemas: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlace:
    """One database. `whole`: the roles of database tenants that are registered in it; `need`: its largest pool.

    `readers`: of `[tenant_roles] readers`, for each role of tenants the one that only reads.
    """

    server: str
    database: str
    is_main: bool
    tenants: tuple[str, ...]
    row_roles: tuple[str, ...]
    homes: tuple[SchemaHome, ...]
    whole: tuple[str, ...]
    need: int
    readers: tuple[tuple[str, str], ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """All that tenants' SQL runs as here."""
        readers = (reader for _, reader in self.readers)
        return tuple(dict.fromkeys([*self.row_roles, *(home.role for home in self.homes), *self.whole, *readers]))

    @property
    def is_shared(self) -> bool:
        """Whether several tenants may live here."""
        return bool(self.row_roles or self.homes)

    def argument(self, *, columns: Sequence[str] = (), healthy: Iterable[str], strangers: Iterable[str] = ()) -> str:
        """The parameter of the SQL files that are about one database. Roles that are not `healthy` reach everything."""
        good = frozenset(healthy)
        readers = dict(self.readers)
        tenants = [
            {"schema": schema, "role": role, "reads": role != home.role}
            for home in self.homes
            for schema in home.schemas
            for role in (home.role, readers.get(home.role))
            if role in good
        ]
        whole = [role for role in self.whole if role in good]
        return json.dumps(
            {
                "roles": [role for role in self.roles if role in good],
                "row_roles": [role for role in self.row_roles if role in good],
                "tenants": tenants,
                "whole": whole[0] if len(whole) == 1 and not self.is_shared else None,
                "strangers": sorted(set(strangers) & good - set(self.roles)),
                "shared": self.is_shared,
                "columns": list(columns),
                "outside": [schema for home in self.homes for schema in home.schemas],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditServer:
    """One server of the configuration. `primary`: whose replica it is.

    `others`, `leaving`: databases and roles of tenants that are being made or deleted, or of other sections.
    `patterns`: regular expressions of what databases and roles of tenants are called.
    `closed`: roles of suspended and archived tenants alone, which may not log in; `left`: databases and roles of
    archived tenants alone, which may be removed.
    """

    name: str
    section: Server
    primary: str | None
    places: tuple[AuditPlace, ...]
    roles: tuple[str, ...]
    others: tuple[str, ...]
    leaving: tuple[str, ...]
    patterns: tuple[str, str]
    known: tuple[str, ...]
    needs: tuple[tuple[str, int], ...]
    pinned: tuple[str, ...]
    database: str
    closed: frozenset[str]
    left: frozenset[str]

    def argument(self) -> str:
        """The parameter of the SQL files that are about a server."""
        databases = {
            place.database: {
                "roles": place.roles,
                "row_roles": place.row_roles,
                "tenant": place.tenants[0] if place.tenants else None,
                "need": place.need,
                "is_main": place.is_main,
            }
            for place in self.places
        }
        return json.dumps(
            {
                "roles": self.roles,
                "protected": [*self.known, *_OWN_ROLES],
                "known": self.known,
                "marked": [*self.roles, *self.leaving, self.section.user, *_OWN_ROLES],
                "databases": databases,
                "names": list(databases),
                "others": self.others,
                "app": self.section.user,
                "database_names": self.patterns[0],
                "role_names": self.patterns[1],
                "pinned": self.pinned,
                "allowed": [f"{name}={value}" for name, value in self.section.role_settings.items()],
                "needs": dict(self.needs),
            }
        )


def audit_servers(settings: Settings, tenants: Sequence[Tenant]) -> tuple[AuditServer, ...]:
    """Every server of `settings`, with the databases that it has for the main database and for `tenants`."""
    primaries = {replica: name for name, server in settings.servers.items() for replica in server.replicas}
    return tuple(_server(settings, name, tenants, primaries.get(name)) for name in settings.servers)


def _server(settings: Settings, name: str, tenants: Sequence[Tenant], primary: str | None) -> AuditServer:
    section = settings.servers[name]
    here = [tenant for tenant in tenants if tenant.placement.server == name]
    living = [tenant for tenant in here if tenant.status not in _UNFINISHED]
    databases = dict.fromkeys(tenant.placement.database for tenant in living)
    if name == settings.main.server:
        databases = {settings.main.database: None} | databases
    places = tuple(_place(settings, name, database, living) for database in databases)
    needs: dict[str, int] = {}
    for tenant in living:
        for role in _roles_of(settings, tenant):
            needs[role] = max(needs.get(role, 0), _need(settings, tenant))
    if name == settings.main.server:
        needs[section.user] = max(needs.get(section.user, 0), settings.main.max_size)
    elsewhere = _elsewhere(settings, name, tenants)
    users = [section.admin, section.login]
    known = [user.user for user in users if user is not None]
    if settings.fleet.user and name == settings.main.server:
        known.append(settings.fleet.user)
    of_primary = settings.main.database if primary == settings.main.server else ""
    served = [tenant for tenant in living if tenant.status not in _CLOSED]
    kept = [tenant for tenant in living if tenant.status is not TenantStatus.INACTIVE]
    pins = startup_pins(PoolKey(server=name, database="", schema=None, user=None), Pins(), setting=settings.row.setting)
    return AuditServer(
        name=name,
        section=section,
        primary=primary,
        places=places,
        roles=tuple(needs),
        others=tuple(({tenant.placement.database for tenant in here} | elsewhere[0]) - databases.keys()),
        leaving=tuple(({tenant.placement.role or "" for tenant in here} | elsewhere[1]) - needs.keys() - {""}),
        patterns=(
            rf"{_called(settings.provision.database)}|^tenantproxy_new_[0-9a-f]{{32}}$",
            _called(settings.provision.role),
        ),
        known=tuple(dict.fromkeys(known)),
        needs=tuple((role, min(need, section.max_connections)) for role, need in needs.items()),
        pinned=(*pins, "transaction_timeout"),
        database=(places[0].database if places else of_primary or section.probe_database or "postgres"),
        closed=frozenset(needs) - _roles(settings, served, section.user),
        left=(frozenset(needs) | databases.keys())
        - _roles(settings, kept, section.user)
        - _databases(settings, name, kept),
    )


def _roles(settings: Settings, tenants: Iterable[Tenant], user: str) -> frozenset[str]:
    """What the SQL of `tenants` runs as, and that of the main database."""
    return frozenset(role for tenant in tenants for role in _roles_of(settings, tenant)) | {user}


def _roles_of(settings: Settings, tenant: Tenant) -> tuple[str, ...]:
    """The tenant's role, and the one that reads for it where there are such."""
    role = tenant.placement.role or settings.servers[tenant.placement.server].user
    if settings.has_readers:
        with suppress(ValueError):  # too long a name, which is told when it is to be used
            return role, reader_of(role)
    return (role,)


def _databases(settings: Settings, name: str, tenants: Iterable[Tenant]) -> frozenset[str]:
    main = {settings.main.database} if name == settings.main.server else frozenset[str]()
    return frozenset(tenant.placement.database for tenant in tenants) | main


def _place(settings: Settings, server: str, database: str, tenants: Sequence[Tenant]) -> AuditPlace:
    user = settings.servers[server].user
    here = [tenant for tenant in tenants if tenant.placement.database == database]
    is_main = (server, database) == (settings.main.server, settings.main.database)

    def roles(isolation: Isolation) -> tuple[str, ...]:
        found = (tenant.placement for tenant in here if tenant.placement.isolation is isolation)
        return tuple(dict.fromkeys(place.role or user for place in found))

    homes = tuple(
        SchemaHome(
            tenant=tenant.id,
            role=tenant.placement.role or user,
            schemas=tuple(dict.fromkeys(s for s in (tenant.placement.schema, *tenant.systems.values()) if s)),
        )
        for tenant in here
        if tenant.placement.isolation is Isolation.SCHEMA
    )
    pairs = [_roles_of(settings, tenant) for tenant in here]
    needs = [_need(settings, tenant) for tenant in here]
    need = max([*needs, settings.main.max_size] if is_main else needs, default=1)
    return AuditPlace(
        server=server,
        database=database,
        is_main=is_main,
        tenants=tuple(tenant.id for tenant in here),
        row_roles=roles(Isolation.ROW),
        homes=homes,
        whole=roles(Isolation.DATABASE),
        need=min(need, settings.servers[server].max_connections),
        readers=tuple(dict.fromkeys((role, reader[0]) for role, *reader in pairs if reader)),
    )


def _elsewhere(settings: Settings, name: str, tenants: Sequence[Tenant]) -> tuple[set[str], set[str]]:
    """Databases and roles that other sections have on the same server, which are no orphans of this one."""
    hosts = {(each.host, each.port) for each in settings.servers[name].each_host}
    same = {
        other
        for other, section in settings.servers.items()
        if other != name and hosts & {(each.host, each.port) for each in section.each_host}
    }
    there = [tenant.placement for tenant in tenants if tenant.placement.server in same]
    main = {settings.main.database} if settings.main.server in same else set()
    roles = {place.role or "" for place in there} | {settings.servers[other].user for other in same}
    return {place.database for place in there} | main, roles


def _called(pattern: str) -> str:
    """What `[provision]` calls a database or role, and what older releases did. All of it must say that it is ours."""
    default = "^(tenant|agency)_"
    if len(re.sub(r"\{[a-z0-9]+\}", "", pattern)) < _TELLING:
        return default
    name = re.sub(r"\{(id|domain)\}", "[a-z0-9_]+", pattern).replace("{uuid8}", "[0-9a-f]{8}")
    return f"{default}|^{name}$"


def _need(settings: Settings, tenant: Tenant) -> int:
    """The most connections of the pool that serves it."""
    if tenant.placement.isolation is Isolation.ROW:
        return settings.pools.shared_size
    return tenant.limits.max_size or settings.pools.max_size
