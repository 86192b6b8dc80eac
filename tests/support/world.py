"""What do the tests' tenants look like? One shared database, schemas in it, and databases: each tenant with `projects`.

Made through lifecycle/, as an operator would. Benchmarks and the demo can build the same shape on their own server.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg

from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import Signer, derive_key, key_pads
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import (
    close_database,
    ensure_database,
    ensure_role,
    provision_database,
    provision_schema,
    provision_shared,
)
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus, tenant_id
from tests.support.database import COPY, Database

APP_ROLE: Final = "app"
APP_PASSWORD: Final = "app-password-of-the-tests"
ROW_SECRET: Final = b"the secret all row keys of the tests come from"
SERVER: Final = "primary"
ROLE_SECRET: Final = b"the secret all passwords of tenants' roles come from"

SHARED_PROJECTS: Final = (
    "CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY, tenant_id text NOT NULL, name text NOT NULL,"
    " PRIMARY KEY (tenant_id, id))"
)
OWN_PROJECTS: Final = "CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A server with tenants of all three kinds; every row of `projects` is named `<tenant> 1`, `<tenant> 2`, ..."""

    server: EmbeddedPostgres
    main: Database
    shared: Database
    tenants: tuple[Tenant, ...]
    unprotected: tuple[str, ...] = ()  # what the configuration says that row tenants may share

    @property
    def databases(self) -> tuple[str, ...]:
        """The names of all of them, sorted: worlds of one kind have them in the same order."""
        return tuple(
            sorted({self.main.name, self.shared.name, *(tenant.placement.database for tenant in self.tenants)})
        )

    def of(self, isolation: Isolation) -> tuple[Tenant, ...]:
        """The tenants of one kind."""
        return tuple(tenant for tenant in self.tenants if tenant.placement.isolation is isolation)

    def database(self, tenant: Tenant) -> Database:
        """Where the tenant's rows are."""
        return Database(server=self.server, name=tenant.placement.database)

    @asynccontextmanager
    async def app(self, database: Database) -> AsyncIterator[asyncpg.Connection]:
        """A plain connection as the role that runs tenant SQL."""
        async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
            yield conn

    def settings(self, *, registry: Literal["file", "postgres"] = "file", **changes: Mapping[str, Any]) -> Settings:
        """The configuration that `mapping` makes."""
        return Settings.from_mapping(self.mapping(registry=registry, **changes))

    def mapping(
        self, *, registry: Literal["file", "postgres"] = "file", **changes: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """A configuration for this world, with the keys of sections changed: `settings(pools={"max_size": 1})`.

        `registry="file"` lists the tenants in the configuration, `"postgres"` reads them from our table in main.
        """
        host, port = self.server.host, self.server.port
        primary: dict[str, Any] = {"host": host, "port": port, "user": APP_ROLE, "password": APP_PASSWORD}
        primary |= {"ssl": "disable", "max_connections": 50}
        primary["admin"] = {"user": self.server.superuser, "password": self.server.password}
        mapping: dict[str, dict[str, Any]] = {
            "main": {"server": SERVER, "database": self.main.name},
            "servers": {SERVER: primary},
            "registry": {"source": registry},
            "row": {"key": ROW_SECRET.decode(), "unprotected": self.unprotected},
            "tenant_roles": {"key": ROLE_SECRET.decode()},
            "pools": {"acquire_timeout": 15.0},  # a busy machine is slow, and not what a test is about
        }
        if registry == "file":
            mapping["tenants"] = {tenant.id: _entry(tenant) for tenant in self.tenants}
        for section, keys in changes.items():
            if section == "servers":  # by server, so that one of its keys can be changed too
                servers = mapping["servers"]
                mapping["servers"] = servers | {name: _with(servers.get(name, {}), keys[name]) for name in keys}
            else:
                mapping[section] = mapping.get(section, {}) | dict(keys)
        return mapping

    def toml(self) -> str:
        """The least that a configuration file of this world says; the tenants are in our table in main."""
        return f"""
[main]
server = "{SERVER}"
database = "{self.main.name}"
[servers.{SERVER}]
host = "{self.server.host}"
port = {self.server.port}
user = "{APP_ROLE}"
password = "{APP_PASSWORD}"
ssl = "disable"
max_connections = 20
[registry]
source = "postgres"
[row]
key = "{ROW_SECRET.decode()}"
[tenant_roles]
key = "{ROLE_SECRET.decode()}"
"""

    @asynccontextmanager
    async def as_role_of(self, tenant: Tenant) -> AsyncIterator[asyncpg.Connection]:
        """A plain connection to the tenant's database as the role that its SQL runs as."""
        role = self.role_of(tenant)
        password = APP_PASSWORD if role == APP_ROLE else role_password(ROLE_SECRET, SERVER, role)
        async with self.database(tenant).connect(role, password) as conn:
            yield conn

    def role_of(self, tenant: Tenant) -> str:
        """The role that the tenant's SQL runs as."""
        return tenant.placement.role or APP_ROLE

    def signer(self, kid: int = 1) -> Signer:
        """Signs for the shared database."""
        return signer(self.shared.name, kid)


def _with(server: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A section of [servers] with other keys; `hosts` are in place of its host and port."""
    gone = ("host", "port") if "hosts" in given else ()
    return {key: value for key, value in server.items() if key not in gone} | dict(given)


Furnish = Callable[[World], Awaitable[None]]


def row_key(database: str, kid: int = 1) -> bytes:
    """The key of `database`, derived as the router derives it."""
    return derive_key(ROW_SECRET, server=SERVER, database=database, kid=kid)


def signer(database: str, kid: int = 1) -> Signer:
    """Signs for `database` with the tests' secret."""
    return Signer(row_key(database, kid), database=database, kid=kid)


@asynccontextmanager
async def a_world(
    server: EmbeddedPostgres,
    *,
    rows: int = 2,
    schemas: int = 2,
    databases: int = 2,
    projects: int = 3,
    furnish: Furnish | None = None,
) -> AsyncIterator[World]:
    """Build it with that many tenants of each kind and `projects` rows for each; everything is dropped afterwards.

    Tenants are called row1.., schema1.., database1..; databases get names that no other world has. `furnish` puts more
    into it, and is a function that is there once: the second world of a kind on a server, and those that follow, are
    copies of one that was furnished.
    """
    count = {Isolation.ROW: rows, Isolation.SCHEMA: schemas, Isolation.DATABASE: databases}
    kind, known = (rows, schemas, databases, projects, furnish), _KNOWN.setdefault(server, {})
    world = _planned(server, count)
    try:
        if kind not in known:
            known[kind] = None
            await _furnished(world, projects, furnish)
        else:
            template = known[kind]
            if template is None:
                template = known[kind] = await _furnished(_planned(server, count), projects, furnish)
            await _copy(template, world)
        yield world
    finally:
        if server.is_running:
            await _drop(world)


_Kind = tuple[int, int, int, int, Furnish | None]
_KNOWN: Final[weakref.WeakKeyDictionary[EmbeddedPostgres, dict[_Kind, World | None]]] = weakref.WeakKeyDictionary()


def _planned(server: EmbeddedPostgres, count: Mapping[Isolation, int]) -> World:
    mark = secrets.token_hex(4)
    shared = Database(server=server, name=f"shared_{mark}")
    tenants = (
        *(_tenant(f"row{n}", Isolation.ROW, shared.name) for n in _count(count[Isolation.ROW])),
        *(_tenant(f"schema{n}", Isolation.SCHEMA, shared.name, f"schema{n}") for n in _count(count[Isolation.SCHEMA])),
        *(
            _tenant(f"database{n}", Isolation.DATABASE, f"database{n}_{mark}")
            for n in _count(count[Isolation.DATABASE])
        ),
    )
    return World(server=server, main=Database(server=server, name=f"main_{mark}"), shared=shared, tenants=tenants)


async def _furnished(world: World, projects: int, furnish: Furnish | None) -> World:
    await _build(world, projects)
    if furnish is not None:
        await furnish(world)
    return world


# What CREATE DATABASE does not copy: who may connect, and what sessions are set to.
_ALIKE: Final = """
WITH old AS (SELECT * FROM pg_database WHERE datname = $1), new AS (SELECT oid FROM pg_database WHERE datname = $2),
  set AS (INSERT INTO pg_db_role_setting SELECT new.oid, setrole, setconfig
    FROM old, new, pg_db_role_setting WHERE setdatabase = old.oid)
UPDATE pg_database SET datacl = old.datacl FROM old WHERE pg_database.datname = $2
"""


async def _copy(template: World, world: World) -> None:
    """Everything but what follows from the names of databases: the key of row tenants, and the registry's entries."""
    async with Database(server=world.server, name="postgres").connect() as admin:
        for old, new in zip(template.databases, world.databases, strict=True):
            await admin.execute(COPY.format(new=new, old=old))
            await admin.execute(_ALIKE, old, new)
    async with world.shared.connect() as admin:
        pads = key_pads(row_key(world.shared.name))
        await admin.execute("UPDATE tenantproxy.context_key SET ipad = $1, opad = $2", *pads)
    async with world.main.connect() as admin:
        await admin.execute("SET session_replication_role = replica")  # no trigger: no tenant has moved
        await admin.executemany(
            "UPDATE tenantproxy.tenants SET database = $2 WHERE id = $1",
            [(tenant.id, tenant.placement.database) for tenant in world.tenants],
        )


def _tenant(name: str, isolation: Isolation, database: str, schema: str | None = None) -> Tenant:
    role = f"of_{schema}" if schema is not None else None  # a schema tenant must not reach another one's
    place = Placement(isolation=isolation, server=SERVER, database=database, schema=schema, role=role)
    return Tenant(id=tenant_id(name), placement=place, status=TenantStatus.ACTIVE)


def _entry(tenant: Tenant) -> dict[str, Any]:
    place = tenant.placement
    entry = {"isolation": place.isolation.value, "database": place.database, "schema": place.schema, "role": place.role}
    return {key: value for key, value in entry.items() if value is not None}


async def _register(world: World) -> None:
    async with world.main.connect() as admin:
        await install_registry(admin, app_role=APP_ROLE)
        await install_auth(admin, app_role=APP_ROLE)
        await admin.executemany(
            "INSERT INTO tenantproxy.tenants (id, isolation, server, database, schema, role)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (
                    tenant.id,
                    tenant.placement.isolation.value,
                    SERVER,
                    tenant.placement.database,
                    tenant.placement.schema,
                    tenant.placement.role,
                )
                for tenant in world.tenants
            ],
        )


async def _build(world: World, projects: int) -> None:
    def connect(name: str) -> Awaitable[asyncpg.Connection]:
        return Database(server=world.server, name=name).open()

    async with Database(server=world.server, name="postgres").connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        for role in (tenant.placement.role for tenant in world.tenants):
            if role is not None:
                await ensure_role(admin, role, password=role_password(ROLE_SECRET, SERVER, role))
        await ensure_database(admin, world.main.name)
        await close_database(admin, world.main.name, roles=[APP_ROLE])
    await _register(world)
    rows = [f"('{tenant.id}', '{tenant.id} {n}')" for tenant in world.of(Isolation.ROW) for n in _count(projects)]
    filling = [f"INSERT INTO projects (tenant_id, name) VALUES {', '.join(rows)}"] if rows else []
    await provision_shared(
        connect, database=world.shared.name, role=APP_ROLE, keys={1: row_key(world.shared.name)},
        tables=["projects"], statements=[SHARED_PROJECTS, *filling],
    )  # fmt: skip
    for tenant in world.of(Isolation.SCHEMA):
        assert tenant.placement.schema is not None
        await provision_schema(
            connect, database=world.shared.name, schema=tenant.placement.schema, role=world.role_of(tenant),
            statements=_own(tenant, projects),
        )  # fmt: skip
    async with Database(server=world.server, name="postgres").connect() as admin:
        roles = {world.role_of(tenant) for tenant in world.of(Isolation.SCHEMA)}
        await close_database(admin, world.shared.name, roles=sorted(roles | {APP_ROLE}))
    for tenant in world.of(Isolation.DATABASE):
        await provision_database(
            connect, database=tenant.placement.database, role=APP_ROLE, statements=_own(tenant, projects)
        )


def _own(tenant: Tenant, projects: int) -> Sequence[str]:
    rows = ", ".join(f"('{tenant.id} {n}')" for n in _count(projects))
    return [OWN_PROJECTS, f"INSERT INTO projects (name) VALUES {rows}"]


def _count(projects: int) -> range:
    return range(1, projects + 1)


async def _drop(world: World) -> None:
    async with Database(server=world.server, name="postgres").connect() as admin:
        for name in world.databases:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
