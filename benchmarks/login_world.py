"""Who can log in, and where? Databases with users in them, and main databases that register these and more tenants."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy import Router
from tenantproxy.auth.passwords import Passwords
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.install import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_maintenance,
    ensure_database,
    ensure_role,
    provision_database,
)

__all__ = ["ACCOUNT_QUERY", "PASSWORD", "LoginWorld", "User", "database_name", "known", "open_login_world", "searched"]

PASSWORD: Final = "the password of all users"
ACCOUNT_QUERY: Final = "select id as user_id, password_hash, role from users where lower(email) = $1 and is_active"
SEARCHED: Final = 200  # people of each database whom no directory knows

_ROLE: Final = "bench_app"
_SERVER: Final = "primary"
_BUDGET: Final = 300  # connections of a router: no pool has to be evicted for another
_NO_LIMIT: Final = 1_000_000  # of the throttle, which counts all the same
_USERS: Final = (
    "create table users (id text primary key, email text not null, password_hash text not null,"
    " role text not null default 'member', is_active boolean not null default true)",
    "create unique index on users (lower(email))",
)
_FILL: Final = (
    "insert into users (id, email, password_hash)"
    " select id, email, $3 from unnest($1::text[], $2::text[]) given (id, email)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One account, and its tenant."""

    tenant: str
    id: str
    email: str


def database_name(number: int) -> str:
    """The database of the tenant `number`, which has the same name."""
    return f"login_{number:05}"


def known(tenant: str, number: int) -> User:
    """One of those whom the directory knows; any number for tenants that are only registered."""
    return User(tenant=tenant, id=f"known-{number}", email=f"known-{number}@{tenant}.example")


def searched(tenant: str, number: int) -> User:
    """One of the SEARCHED whom no directory knows before they log in."""
    return User(tenant=tenant, id=f"searched-{number}", email=f"searched-{number}@{tenant}.example")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginWorld:
    """The running server. Tenants of `databases` have a database with `people` users that a directory may know."""

    server: EmbeddedPostgres
    databases: tuple[str, ...]
    people: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    pepper: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def app(self, database: str) -> dict[str, Any]:
        """Arguments of `asyncpg.connect` for the role that the router uses."""
        return dict(self.server.connect_args(database, _ROLE, self.password))

    async def admin(self, database: str = "postgres") -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        return await asyncpg.connect(**self.server.connect_args(database))

    def router(self, main: str, **login: object) -> Router:
        """A router for the tenants of `main`: no padding, and limits out of reach, unless `login` says so."""
        given = {
            "account_query": ACCOUNT_QUERY,
            "pepper": self.pepper,
            "pad_to": 0,
            "fan_outs_per_second": _NO_LIMIT,
            "attempts_per_account": _NO_LIMIT,
            "attempts_per_address": _NO_LIMIT,
            "attempts_per_second": _NO_LIMIT,
        }
        server = {
            "host": self.server.host,
            "port": self.server.port,
            "user": _ROLE,
            "password": self.password,
            "ssl": "disable",
            "max_connections": _BUDGET,
        }
        mapping = {
            "main": {"server": _SERVER, "database": main},
            "servers": {_SERVER: server},
            "registry": {"source": "postgres"},
            "login": given | login,
        }
        return Router(Settings.from_mapping(mapping))

    async def add_main(self, main: str, tenants: Sequence[str]) -> None:
        """A main database that registers `tenants`, with `people` of each in its directory."""
        conn = await self.admin()
        try:
            await ensure_database(conn, main)
            await close_database(conn, main, roles=[_ROLE])
        finally:
            await conn.close()
        conn = await self.admin(main)
        try:
            await install_registry(conn, app_role=_ROLE)
            await install_auth(conn, app_role=_ROLE)
            await conn.execute(
                "insert into tenantproxy.tenants (id, isolation, database)"
                " select id, 'database', id from unnest($1::text[]) id",
                list(tenants),
            )
            async with self.router(main) as router:
                key = router.logins.directory.key
                users = (known(tenant, number) for tenant in tenants for number in range(self.people))
                await conn.copy_records_to_table(
                    "login_directory",
                    schema_name="tenantproxy",
                    columns=["email_key", "tenant_id", "user_id"],
                    records=((key(user.email), user.tenant, user.id) for user in users),
                )
            await settle(conn)
        finally:
            await conn.close()


async def settle(conn: asyncpg.Connection) -> None:
    """No vacuum or checkpoint of what was just written may fall into a measurement."""
    await conn.execute("vacuum analyze")
    await conn.execute("checkpoint")


@asynccontextmanager
async def open_login_world(
    databases: Iterable[str], *, people: int, version: int | None = None
) -> AsyncIterator[LoginWorld]:
    """The server with these databases; gone with everything on it when the block ends."""
    async with EmbeddedPostgres(version=version, max_connections=2 * _BUDGET, durable=False) as server:
        world = LoginWorld(server=server, databases=tuple(databases), people=people)
        conn = await world.admin()
        try:
            await ensure_role(conn, _ROLE, password=world.password)
            await close_maintenance(conn)
        finally:
            await conn.close()
        # One hash for all: a salt of its own would change nothing in the time that a verification takes.
        passwords = Passwords(threads=1)
        stored = await passwords.hash(PASSWORD)
        passwords.close()
        for database in world.databases:
            await _add_database(world, database, stored)
        yield world


async def _add_database(world: LoginWorld, database: str, stored: str) -> None:
    await provision_database(world.admin, database=database, role=_ROLE, statements=_USERS)
    users = [known(database, number) for number in range(world.people)]
    users += [searched(database, number) for number in range(SEARCHED)]
    conn = await world.admin(database)
    try:
        await conn.execute(_FILL, [user.id for user in users], [user.email for user in users], stored)
        await settle(conn)
    finally:
        await conn.close()
