"""On what is it measured? An embedded PostgreSQL with the same items for a database, a schema and row tenants."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install_auth
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_maintenance,
    ensure_database,
    ensure_role,
    grant_access,
    provision_database,
    provision_schema,
    provision_shared,
)
from tenantproxy.model import RowForm, quote_identifier

__all__ = ["ROWS", "ROW_TENANTS", "SELECT", "SIZE", "TASKS", "World", "item", "open_world", "row_tenant"]

SELECT: Final = "select id, name from items where id = $1"
ROWS: Final = 1000  # of each tenant
SIZE: Final = 10  # connections of each subject
TASKS: Final = 16  # that share them
ROW_TENANTS: Final = tuple(f"row{number:02}" for number in range(20))

_ROLE: Final = "bench_app"
_SERVER: Final = "primary"
_OWN_TABLE: Final = (
    "create table items (id int primary key, name text not null)",
    f"insert into items select id, 'item ' || id from generate_series(1, {ROWS}) id",
)
_SHARED_TABLE: Final = (
    "create table items (tenant_id text, id int, name text not null, primary key (tenant_id, id))",
    f"insert into items select format('row%s', to_char(tenant, 'FM00')), id, 'item ' || id"
    f" from generate_series(0, {len(ROW_TENANTS) - 1}) tenant, generate_series(1, {ROWS}) id",
)
_PLAIN_POLICY: Final = (
    "alter table items enable row level security, force row level security",
    "create policy by_setting on items using (tenant_id = current_setting('app.current_tenant_id', true))",
)


def item(number: int) -> int:
    """The id that the call `number` asks for: all of them, in no order."""
    return number * 389 % ROWS + 1


def row_tenant(number: int) -> str:
    """The tenants in strict turns."""
    return ROW_TENANTS[number % len(ROW_TENANTS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The running server and what opens it."""

    server: EmbeddedPostgres
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    row_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    role_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def app(self, database: str) -> dict[str, Any]:
        """Arguments of `asyncpg.connect` for the role that runs tenant SQL."""
        return dict(self.server.connect_args(database, _ROLE, self.password))

    async def admin(self, database: str = "postgres") -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        return await asyncpg.connect(**self.server.connect_args(database))

    def settings(
        self,
        tenants: Mapping[str, Mapping[str, object]],
        *,
        budget: int = 100,
        signed: bool = True,
        form: RowForm = "bound",
        **pools: object,
    ) -> Settings:
        """The configuration of a router for `tenants` on this server."""
        server = {
            "host": self.server.host,
            "port": self.server.port,
            "user": _ROLE,
            "password": self.password,
            "ssl": "disable",
            "max_connections": budget,
        }
        return Settings.from_mapping(
            {
                "main": {"server": _SERVER, "database": "bench_main"},
                "servers": {_SERVER: server},
                "pools": pools,
                "registry": {"source": "file"},
                "row": {"form": form, "key": self.row_key} if signed else {"signed": False},
                "tenant_roles": {"key": self.role_key},
                "tenants": tenants,
            }
        )

    def keys(self, database: str) -> dict[int, bytes]:
        """The signing key of `database`."""
        return {1: derive_key(self.row_key.encode(), server=_SERVER, database=database, kid=1)}

    async def add_databases(self, databases: Sequence[str]) -> None:
        """More databases with the items in them; those that exist stay. The first must have no connections."""
        conn = await self.admin()
        try:
            for database in databases:
                if not await conn.fetchval("select true from pg_database where datname = $1", database):
                    await conn.execute(f"create database {quote_identifier(database)} template bench_database")
                    await close_database(conn, database, roles=[_ROLE])
        finally:
            await conn.close()

    async def add_schemas(self, schemas: Sequence[str]) -> None:
        """More schemas with the items in them, in addition to the first; each with a role that is called like it."""
        conn = await self.admin()
        try:
            for schema in schemas:
                await ensure_role(conn, schema, password=role_password(self.role_key.encode(), _SERVER, schema))
            await close_database(conn, "bench_schemas", roles=[_ROLE, *schemas])
        finally:
            await conn.close()
        for schema in schemas:
            await provision_schema(
                self.admin, database="bench_schemas", schema=schema, role=schema, statements=_OWN_TABLE
            )

    async def add_rows(self, tenants: Sequence[str]) -> None:
        """The items of more row tenants, in the signed database."""
        conn = await self.admin("bench_signed")
        try:
            await conn.execute(
                "insert into items select tenant, id, 'item ' || id"
                " from unnest($1::text[]) tenant, generate_series(1, 10) id",
                list(tenants),
            )
            await conn.execute("analyze items")
        finally:
            await conn.close()


async def _install_auth(world: World) -> None:
    """Where revocations are kept: every verifier of tokens follows them."""
    conn = await world.admin("bench_main")
    try:
        await install_auth(conn, app_role=_ROLE)
    finally:
        await conn.close()


@asynccontextmanager
async def open_world(*, version: int | None = None, max_connections: int = 500) -> AsyncIterator[World]:
    """The server, of a major `version` when one is asked for; gone with everything on it when the block ends."""
    async with EmbeddedPostgres(version=version, max_connections=max_connections, durable=False) as server:
        world = World(server=server)
        conn = await world.admin()
        try:
            await ensure_role(conn, _ROLE, password=world.password)
            await close_maintenance(conn)
            for database in ("bench_main", "bench_schemas"):
                await ensure_database(conn, database)
                await close_database(conn, database, roles=[_ROLE])
        finally:
            await conn.close()
        await _install_auth(world)
        await provision_database(world.admin, database="bench_database", role=_ROLE, statements=_OWN_TABLE)
        await provision_schema(world.admin, database="bench_schemas", schema="first", role=_ROLE, statements=_OWN_TABLE)
        for database in ("bench_signed", "bench_trusted"):
            await provision_shared(
                world.admin,
                database=database,
                role=_ROLE,
                keys=world.keys(database),
                tables=["items"],
                statements=_SHARED_TABLE,
                trusted=database == "bench_trusted",
            )
        await _plain(world)
        await _settle(world)
        yield world


async def _plain(world: World) -> None:
    """The shared table with the policy that people write by hand."""
    await provision_database(
        world.admin, database="bench_plain", role=_ROLE, statements=(*_SHARED_TABLE, *_PLAIN_POLICY)
    )
    conn = await world.admin("bench_plain")
    try:
        await grant_access(conn, "public", role=_ROLE)
        # Without signatures the router itself asks what is prepared.
        await conn.execute(f"grant execute on function pg_prepared_statement() to {quote_identifier(_ROLE)}")
    finally:
        await conn.close()


async def _settle(world: World) -> None:
    """No vacuum or checkpoint of what was just written may fall into a measurement."""
    for database in ("bench_database", "bench_schemas", "bench_signed", "bench_trusted", "bench_plain"):
        conn = await world.admin(database)
        try:
            await conn.execute("vacuum analyze")
            await conn.execute("checkpoint")
        finally:
            await conn.close()
