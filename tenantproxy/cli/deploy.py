"""What does `install` put where? The signed context where row tenants live; registry and sessions beside main's data.

Connects with each server's admin credentials; everything may be run again, which is the upgrade.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.install import install, install_auth, install_registry
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import close_functions, ensure_role
from tenantproxy.model import Isolation, Tenant
from tenantproxy.pools.asyncpg import ssl_argument
from tenantproxy.registry import FileRegistry, PostgresRegistry
from tenantproxy.registry.rows import RowReader

__all__ = ["install_all"]


class Target(NamedTuple):
    """A database, and the role that tenants' SQL runs as there."""

    server: str
    database: str
    role: str


async def install_all(settings: Settings, databases: Sequence[str], *, closing: bool = True) -> list[dict[str, Any]]:
    """Install what `settings` need, in `databases` (`server/database` or `database`) or wherever row tenants are.

    `closing`: also take from PUBLIC there the functions that reach other sessions, which only a superuser can.
    A row for each thing done, and for each that could not be. Raises ConfigurationError where admin credentials or a
    key are missing.
    """
    done: list[dict[str, Any]] = []
    if settings.registry.source == "postgres" and settings.registry.query is None:
        done.append(await _install_registry(settings))
    auth = settings.auth
    if auth.keys() or auth.public_key_file or auth.jwks_url or settings.login.account_query is not None:
        done.append(await _install_auth(settings))
    targets = [_named(settings, name) for name in databases] or await _row_targets(settings)
    if targets and not settings.row.signed:
        problem = Problem(
            key="row.signed", problem="is false", fix="set it to true: unsigned rows need nothing installed"
        )
        raise ConfigurationError([problem])
    secrets = {kid: secret.read_bytes() for kid, secret in settings.row.keys().items()}
    if targets and not secrets:
        raise ConfigurationError(
            [Problem(key="row.key_file", problem="is missing", fix="name a file with 32 bytes or more")]
        )
    for target in targets:
        done.extend(await _install_context(settings, target, secrets, closing=closing))
    return done


async def _install_context(
    settings: Settings, target: Target, secrets: Mapping[int, bytes], *, closing: bool
) -> list[dict[str, Any]]:
    keys = {
        kid: derive_key(secret, server=target.server, database=target.database, kid=kid)
        for kid, secret in secrets.items()
    }
    async with _admin(settings, target.server, target.database) as conn:
        await install(conn, app_role=target.role, keys=keys, setting=settings.row.setting)
        done = [{"installed": "signed context", **target._asdict()}]
        if closing:
            closed = await close_functions(conn)
            what = "closed functions" if closed else "functions LEFT OPEN: the admin user is no superuser"
            done.append({"installed": what, **target._asdict()})
        done += await _install_lookup(settings, target, conn)
    return done


async def _install_lookup(settings: Settings, target: Target, conn: asyncpg.Connection) -> list[dict[str, Any]]:
    server, query = settings.servers[target.server], settings.login.lookup_query
    if server.login is None or query is None:
        return []
    password = server.login.password.read() if server.login.password is not None else None
    await ensure_role(conn, server.login.user, password=password or None)
    try:
        made = await install_lookup(
            conn, login_role=server.login.user, app_role=target.role, query=query, search_path=server.search_path
        )
        what = "account lookup" if made else "account lookup LEFT OUT: the admin user is no superuser"
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        what = "account lookup LEFT OUT: what lookup_query names is not there yet"
    return [{"installed": what, "server": target.server, "database": target.database, "role": server.login.user}]


async def _install_registry(settings: Settings) -> dict[str, Any]:
    server, database = settings.main.server, settings.main.database
    role = settings.servers[server].user
    async with _admin(settings, server, database) as conn:
        await install_registry(conn, app_role=role)
    return {"installed": "registry", "server": server, "database": database, "role": role}


async def _install_auth(settings: Settings) -> dict[str, Any]:
    server, database = settings.main.server, settings.main.database
    role = settings.servers[server].user
    async with _admin(settings, server, database) as conn:
        await install_auth(conn, app_role=role)
    return {"installed": "sessions and login directory", "server": server, "database": database, "role": role}


def _named(settings: Settings, name: str) -> Target:
    server, slash, database = name.partition("/")
    if not slash:
        server, database = settings.main.server, name
    return Target(server, database, _server_user(settings, server))


async def _row_targets(settings: Settings) -> list[Target]:
    found: dict[Target, None] = {}
    async for tenant in _tenants(settings):
        place = tenant.placement
        if place.isolation is Isolation.ROW:
            found[Target(place.server, place.database, place.role or _server_user(settings, place.server))] = None
    return list(found)


async def _tenants(settings: Settings) -> AsyncIterator[Tenant]:
    if settings.registry.source == "file":
        async for tenant in FileRegistry(settings).tenants():
            yield tenant
    elif settings.registry.source == "postgres":
        reader = RowReader(default_server=settings.main.server, servers=frozenset(settings.servers), rows=True)
        async with _admin(settings, settings.main.server, settings.main.database) as conn:
            registry = PostgresRegistry(
                _One(conn), reader=reader, query=settings.registry.query, list_query=settings.registry.list_query
            )
            async for tenant in registry.tenants():
                yield tenant


class _One:
    """One connection as the registry's database."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        return await self._conn.fetch(sql, *args, timeout=timeout)

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[asyncpg.Connection]:
        yield self._conn


def _server_user(settings: Settings, server: str) -> str:
    if server not in settings.servers:
        problem = f"there is no [servers.{server}]"
        raise ConfigurationError(
            [Problem(key="--database", problem=problem, fix="say SERVER/DATABASE, or configure it")]
        )
    return settings.servers[server].user


@asynccontextmanager
async def _admin(settings: Settings, name: str, database: str) -> AsyncIterator[asyncpg.Connection]:
    server = settings.servers[name]
    if server.admin is None:
        key = f"servers.{name}.admin"
        fix = "name a user that may create functions and policies, and its password"
        raise ConfigurationError([Problem(key=key, problem="is missing, and installing needs it", fix=fix)])
    conn: asyncpg.Connection = await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.admin.user,
        password=server.admin.password.read() if server.admin.password is not None else None,
        database=database,
        ssl=ssl_argument(server),
        timeout=server.connect_timeout,
    )
    try:
        yield conn
    finally:
        await conn.close()
