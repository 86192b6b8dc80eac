"""Which tenants does the demo have, and where do they live? Two of each kind, provisioned as an operator would.

Row tenants share tables, each session proven by a signature. Schema tenants share a database, each with a login role of
its own. Database tenants have a database that only their role may enter. Secrets are generated at each start and are
files that only this user can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenantproxy.auth.passwords import Passwords
from tenantproxy.config import role_password
from tenantproxy.demo.files import APP_ROLE, LOGIN_ROLE, PG_USER, SERVER, toml_of, write_secrets
from tenantproxy.demo.people import LOGIN, OWN_USERS, SHARED_USERS, users_of
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install_auth
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_functions,
    close_maintenance,
    close_public,
    ensure_database,
    ensure_role,
    provision_database,
    provision_schema,
    provision_shared,
)
from tenantproxy.model import Isolation

__all__ = ["APP_ROLE", "LOGIN_ROLE", "PG_USER", "SERVER", "SHARED", "DemoTenant", "World", "build_world"]

MAIN: Final = "demo_main"
SHARED: Final = "demo_shared"
SCHEMAS: Final = "demo_schemas"

_COLUMNS: Final = "name text NOT NULL, budget numeric NOT NULL DEFAULT 0"
_OWN_TABLE: Final = f"CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {_COLUMNS})"
_SHARED_TABLE: Final = (
    "CREATE TABLE projects (tenant_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,"
    f" {_COLUMNS}, PRIMARY KEY (tenant_id, id))"
)


_FILES_OF: Final = {APP_ROLE: "app_password", LOGIN_ROLE: "login_password"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTenant:
    """One tenant and what it owns."""

    id: str
    isolation: Isolation
    database: str
    schema: str | None = None
    role: str | None = None
    projects: tuple[str, ...]
    acquire_timeout: float | None = None

    def entry(self) -> dict[str, Any]:
        """Its table in the TOML."""
        values = {
            "isolation": self.isolation.value,
            "database": self.database,
            "schema": self.schema,
            "role": self.role,
            "acquire_timeout": self.acquire_timeout,
        }
        return {key: value for key, value in values.items() if value is not None}


TENANTS: Final = (
    DemoTenant(id="acme", isolation=Isolation.ROW, database=SHARED, projects=("Anvils", "Rocket skates")),
    DemoTenant(id="globex", isolation=Isolation.ROW, database=SHARED, projects=("Hammock district", "Weather dome")),
    DemoTenant(
        id="initech", isolation=Isolation.SCHEMA, database=SCHEMAS, schema="tenant_initech", role="demo_initech",
        projects=("Cover sheets", "Year 2000 switch"), acquire_timeout=1.0,  # the tour exhausts its pool and waits
    ),
    DemoTenant(
        id="hooli", isolation=Isolation.SCHEMA, database=SCHEMAS, schema="tenant_hooli", role="demo_hooli",
        projects=("Box", "Nucleus"),
    ),
    DemoTenant(
        id="umbrella", isolation=Isolation.DATABASE, database="demo_umbrella", role="demo_umbrella",
        projects=("Hive", "Red queen"),
    ),
    DemoTenant(
        id="wayne", isolation=Isolation.DATABASE, database="demo_wayne", role="demo_wayne",
        projects=("Applied sciences", "Monorail"),
    ),
)  # fmt: skip


_OWN: Final[dict[str, dict[str, Any]]] = {
    # Small on purpose: the tour meets both limits.
    "pools": {"max_pools": 4, "max_size": 2, "shared_size": 10},
    "registry": {"source": "file"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running server with the tenants in it, and the configuration of a sidecar for them. Its repr has no secrets."""

    server: EmbeddedPostgres
    config: Path
    tenants: tuple[DemoTenant, ...] = TENANTS

    def one(self, isolation: Isolation, index: int = 0) -> DemoTenant:
        """The first, or another, tenant of a kind."""
        return [tenant for tenant in self.tenants if tenant.isolation is isolation][index]

    @property
    def pg_password(self) -> str:
        """The password of PG_USER on the PostgreSQL port."""
        return self._secret("pg_password")

    @property
    def people_password(self) -> str:
        """The password of every person."""
        return self._secret("people_password")

    def password(self, role: str) -> str:
        """The password of a role of the demo."""
        if role in (APP_ROLE, LOGIN_ROLE):
            return self._secret(_FILES_OF[role])
        return role_password(self._secret("role_key").encode(), SERVER, role)

    async def connect(self, database: str = "postgres", role: str | None = None) -> asyncpg.Connection:
        """A plain connection past tenantproxy: as the superuser, or as `role`."""
        password = None if role is None else self.password(role)
        return await asyncpg.connect(**self.server.connect_args(database, role, password), timeout=60)

    def _secret(self, name: str) -> str:
        return (self.config.parent / name).read_text()


async def build_world(
    server: EmbeddedPostgres, folder: Path, *, listen: str, admin_listen: str, pg_listen: str = "127.0.0.1:0"
) -> World:
    """Provision everything on the running `server`; write the TOML and its secrets into `folder`. About two seconds."""
    write_secrets(folder, server)
    world = World(server=server, config=folder / "tenantproxy.toml")
    text = toml_of(
        server, _OWN, main=MAIN, listen=listen, admin_listen=admin_listen, pg_listen=pg_listen,
        tenants={tenant.id: tenant.entry() for tenant in TENANTS},
    )  # fmt: skip
    world.config.write_text(text)
    passwords = Passwords(threads=1)
    stored = await passwords.hash(world.people_password)
    passwords.close()
    await _roles(world)
    await _row_tenants(world, (folder / "row_key").read_bytes(), stored)
    await _schema_tenants(world, stored)
    await _database_tenants(world, stored)
    await _login(world)
    return world


async def _roles(world: World) -> None:
    conn = await world.connect()
    try:
        for role in [APP_ROLE, LOGIN_ROLE, *(tenant.role for tenant in world.tenants if tenant.role)]:
            await ensure_role(conn, role, password=world.password(role))
        for database, roles in ((MAIN, [APP_ROLE]), (SCHEMAS, [t.role for t in TENANTS if t.schema and t.role])):
            await ensure_database(conn, database)
            await close_database(conn, database, roles=roles)
        await close_maintenance(conn)
    finally:
        await conn.close()


async def _row_tenants(world: World, secret: bytes, stored: str) -> None:
    rows = [
        (tenant.id, name) for tenant in world.tenants if tenant.isolation is Isolation.ROW for name in tenant.projects
    ]
    values = ", ".join(f"('{tenant}', '{name}')" for tenant, name in rows)  # our own constants, without quotes
    await provision_shared(
        world.connect,
        database=SHARED,
        role=APP_ROLE,
        keys={1: derive_key(secret, server=SERVER, database=SHARED, kid=1)},
        tables=["projects", "users"],
        statements=[
            _SHARED_TABLE,
            f"INSERT INTO projects (tenant_id, name) VALUES {values}",
            SHARED_USERS,
            *(each for tenant in {row[0] for row in rows} for each in users_of(tenant, stored, shared=True)),
        ],
    )


async def _login(world: World) -> None:
    """What `tenantproxy install` would make for login."""
    conn = await world.connect(MAIN)
    try:
        await install_auth(conn, app_role=APP_ROLE)
    finally:
        await conn.close()
    conn = await world.connect(SHARED)
    try:
        await install_lookup(conn, login_role=LOGIN_ROLE, app_role=APP_ROLE, query=LOGIN["lookup_query"])
    finally:
        await conn.close()


async def _schema_tenants(world: World, stored: str) -> None:
    conn = await world.connect(SCHEMAS)
    try:
        await close_functions(conn)
        await close_public(conn, role=APP_ROLE)
    finally:
        await conn.close()
    for tenant in world.tenants:
        if tenant.schema is not None and tenant.role is not None:
            await provision_schema(
                world.connect,
                database=SCHEMAS,
                schema=tenant.schema,
                role=tenant.role,
                statements=_own_rows(tenant, stored),
            )


async def _database_tenants(world: World, stored: str) -> None:
    for tenant in world.tenants:
        if tenant.isolation is Isolation.DATABASE and tenant.role is not None:
            await provision_database(
                world.connect, database=tenant.database, role=tenant.role, statements=_own_rows(tenant, stored)
            )


def _own_rows(tenant: DemoTenant, stored: str) -> Sequence[str]:
    values = ", ".join(f"('{name}')" for name in tenant.projects)
    people = users_of(tenant.id, stored, shared=False)
    return [_OWN_TABLE, f"INSERT INTO projects (name) VALUES {values}", OWN_USERS, *people]
