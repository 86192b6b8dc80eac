"""On what is the PostgreSQL port measured? pgbench's table: a tenant's own, in a schema, and shared by row tenants."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_maintenance,
    ensure_database,
    ensure_role,
    provision_database,
    provision_schema,
    provision_shared,
)
from tenantproxy.model import RowForm, quote_identifier

__all__ = [
    "DATABASE",
    "MAIN",
    "NEIGHBOURS",
    "NEIGHBOUR_ACCOUNTS",
    "POLICY_TABLE",
    "ROLE",
    "ROW",
    "ROW_TABLE",
    "SCHEMA",
    "SCHEMAS",
    "SERVER",
    "SHARED",
    "PgWorld",
    "neighbour_databases",
    "neighbour_rows",
    "open_pg_world",
]

SERVER: Final = "primary"
ROLE: Final = "bench_app"
MAIN: Final = "bench_main"
# A tenant of a database of its own has that database's name: a client says the same to the server, to PgBouncer and us.
DATABASE: Final = "bench_accounts"
SCHEMAS: Final = "bench_schemas"
SCHEMA: Final = "schema_accounts"
SHARED: Final = "bench_shared"
ROW: Final = "row_accounts"
# In the tenant's own database: the shared table with its rows and index, and that with a policy on a plain setting.
ROW_TABLE: Final = "shared_accounts"
POLICY_TABLE: Final = "policy_accounts"
NEIGHBOURS: Final = 20
NEIGHBOUR_ACCOUNTS: Final = 1000

_PER_SCALE: Final = 100_000  # accounts of each branch, as pgbench has it
_COLUMNS: Final = "bid int, abalance int, filler char(84)"
_FILLED: Final = "1, 0, ''"


def neighbour_databases() -> tuple[str, ...]:
    """Tenants with a small database each."""
    return tuple(f"near_{number:02}" for number in range(NEIGHBOURS))


def neighbour_rows() -> tuple[str, ...]:
    """Tenants with a few rows each of the shared table."""
    return tuple(f"row_{number:02}" for number in range(NEIGHBOURS))


@dataclass(frozen=True, slots=True, kw_only=True)
class PgWorld:
    """The running server, what opens it, and `pool`: how many server connections a proxy may have for one tenant."""

    server: EmbeddedPostgres
    scale: int
    pool: int
    form: RowForm = "bound"  # of row tenants
    user: str = "bench"  # as clients of both proxies are called
    client_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    row_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    @property
    def accounts(self) -> int:
        """Rows of each tenant that pgbench asks."""
        return self.scale * _PER_SCALE

    async def admin(self, database: str = "postgres") -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        return await asyncpg.connect(**self.server.connect_args(database))


@asynccontextmanager
async def open_pg_world(
    *, scale: int, pool: int, version: int | None = None, form: RowForm = "bound"
) -> AsyncIterator[PgWorld]:
    """The server with everything in it; gone when the block ends."""
    settings = {"shared_buffers": "256MB"}
    async with EmbeddedPostgres(version=version, max_connections=500, durable=False, settings=settings) as server:
        world = PgWorld(server=server, scale=scale, pool=pool, form=form)
        conn = await world.admin()
        try:
            await ensure_role(conn, ROLE, password=world.password)
            await close_maintenance(conn)
            for database in (MAIN, SCHEMAS):
                await ensure_database(conn, database)
                await close_database(conn, database, roles=[ROLE])
        finally:
            await conn.close()
        statements = tuple(_own(world.accounts, scale))
        floors = (*_shared_table(ROW_TABLE, world.accounts), *_shared_table(POLICY_TABLE, world.accounts), *_POLICY)
        await provision_database(world.admin, database=DATABASE, role=ROLE, statements=(*statements, *floors))
        await provision_schema(world.admin, database=SCHEMAS, schema=SCHEMA, role=ROLE, statements=statements)
        await _shared(world)
        await _neighbours(world)
        for database in (DATABASE, SCHEMAS, SHARED):
            await _settle(world, database)
        yield world


def _own(accounts: int, branches: int) -> Iterator[str]:
    """What `pgbench -S` asks for: the accounts, and the branches by which it finds out how many there are."""
    yield f"create table pgbench_accounts (aid int primary key, {_COLUMNS})"
    yield f"insert into pgbench_accounts select aid, {_FILLED} from generate_series(1, {accounts}) aid"
    yield "create table pgbench_branches (bid int primary key)"
    yield f"insert into pgbench_branches select generate_series(1, {branches})"


def _shared_table(name: str, accounts: int) -> Iterator[str]:
    """What row tenants share: the accounts of one, and a few of its neighbours."""
    small = ", ".join(f"('{tenant}')" for tenant in neighbour_rows())
    yield f"create table {name} (tenant_id text, aid int, {_COLUMNS}, primary key (tenant_id, aid))"
    yield f"insert into {name} select '{ROW}', aid, {_FILLED} from generate_series(1, {accounts}) aid"
    yield (
        f"insert into {name} select tenant, aid, {_FILLED}"
        f" from (values {small}) one (tenant), generate_series(1, {NEIGHBOUR_ACCOUNTS}) aid"
    )


_SETTING: Final = "bench.tenant"
_POLICY: Final = (
    f"alter database {DATABASE} set {_SETTING} = '{ROW}'",
    f"create policy floor on {POLICY_TABLE} using (tenant_id = (select current_setting('{_SETTING}', true)))",
    f"alter table {POLICY_TABLE} enable row level security, force row level security",
)


async def _shared(world: PgWorld) -> None:
    await provision_shared(
        world.admin,
        database=SHARED,
        role=ROLE,
        keys={1: derive_key(world.row_key.encode(), server=SERVER, database=SHARED, kid=1)},
        tables=["pgbench_accounts"],
        trusted=world.form == "trusted",
        statements=tuple(_shared_table("pgbench_accounts", world.accounts)),
    )


async def _neighbours(world: PgWorld) -> None:
    first, *others = neighbour_databases()
    statements = tuple(_own(NEIGHBOUR_ACCOUNTS, 1))
    await provision_database(world.admin, database=first, role=ROLE, statements=statements)
    await _settle(world, first)
    conn = await world.admin()
    try:
        for database in others:
            await conn.execute(f"create database {quote_identifier(database)} template {quote_identifier(first)}")
            await close_database(conn, database, roles=[ROLE])
    finally:
        await conn.close()


async def _settle(world: PgWorld, database: str) -> None:
    """No vacuum or checkpoint of what was just written may fall into a measurement."""
    conn = await world.admin(database)
    try:
        await conn.execute("vacuum analyze")
        await conn.execute("checkpoint")
    finally:
        await conn.close()
