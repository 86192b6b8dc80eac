"""How does an operator's command reach the servers and the registry? With the admin credentials of each server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from tenantproxy.config import Server, Settings
from tenantproxy.connect.server_tls import ssl_argument
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Tenant
from tenantproxy.registry import FileRegistry, PostgresRegistry, Registry
from tenantproxy.registry.factory import build
from tenantproxy.registry.rows import RowReader
from tenantproxy.registry.unusable import TellsUnusable

__all__ = [
    "PINNED",
    "OneConnection",
    "admin_connect",
    "admin_connection",
    "connect_as",
    "listed",
    "opened",
    "pinned_at",
    "registered",
    "registry_of",
    "registry_on",
]


PINNED: Final = {
    "role": "none",  # else the session is a tenant's until code of that tenant says SET ROLE NONE
    "local_preload_libraries": "",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "30s",  # a tenant that holds a lock does not hold it up for longer
}
"""What an admin session in a tenant's database has, whatever its owner set for all sessions there."""

_SINCE_17: Final = {"transaction_timeout": "0"}
# Servers by their addresses. One that does not know it would refuse the session, so it is sent to those that are known.
_KNOW_TRANSACTION_TIMEOUT: Final[set[tuple[tuple[str, int], ...]]] = set()
_WHERE: Final = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path'), current_user::pg_catalog.text
"""


async def registered(settings: Settings) -> list[Tenant]:
    """All tenants that the registry lists, in order of their identifiers."""
    return (await listed(settings))[0]


async def listed(settings: Settings) -> tuple[list[Tenant], dict[str, str]]:
    """As `registered`, and the entries of the registry that cannot be used, each with the reason."""
    async with registry_of(settings) as registry:
        found = [tenant async for tenant in registry.tenants()]
        return found, dict(registry.unusable) if isinstance(registry, TellsUnusable) else {}


@asynccontextmanager
async def registry_of(settings: Settings) -> AsyncIterator[Registry]:
    """What the configuration names, open for the block, asked on a connection of its own."""
    if settings.registry.source == "file":
        yield FileRegistry(settings)
        return
    main = settings.main
    async with admin_connection(settings, main.server, main.database, reading=True) as conn:
        if settings.registry.source == "postgres":
            yield registry_on(settings, conn)
            return
        own = build(settings, OneConnection(conn))
        await own.open()
        try:
            yield own
        finally:
            await own.close()


def registry_on(settings: Settings, conn: asyncpg.Connection) -> PostgresRegistry:
    """The registry of `source = "postgres"`, asked on `conn`: in its transaction, if it is in one."""
    reader = RowReader(default_server=settings.main.server, servers=frozenset(settings.servers), rows=True)
    queries = settings.registry
    return PostgresRegistry(OneConnection(conn), reader=reader, query=queries.query, list_query=queries.list_query)


class OneConnection:
    """One connection as the database of a registry, or of a login directory."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """See `registry.base.RegistryDatabase`."""
        return await self._conn.fetch(sql, *args, timeout=timeout)

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[asyncpg.Connection]:
        """See `registry.base.RegistryDatabase`."""
        yield self._conn


@asynccontextmanager
async def admin_connection(
    settings: Settings, name: str, database: str, *, reading: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the server's admin credentials; for `reading` alone the server's own user is enough.

    Raises ConfigurationError where they are missing.
    """
    conn = await _connect(settings, name, database, reading=reading)
    try:
        yield conn
    finally:
        await conn.close()


def admin_connect(settings: Settings) -> ConnectTo:
    """Opens connections (to a server, to a database) with admin credentials. Raises as `admin_connection`."""
    return lambda server, database: _connect(settings, server, database, reading=False)


@asynccontextmanager
async def opened(connect: ConnectTo, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that `connect` opens, closed behind the block."""
    conn = await connect(server, database)
    try:
        yield conn
    finally:
        await conn.close()


async def _connect(settings: Settings, name: str, database: str, *, reading: bool) -> asyncpg.Connection:
    server = settings.servers[name]
    if server.admin is None and not reading:
        key = f"servers.{name}.admin"
        fix = "name a user that may create databases, roles, functions and policies, and its password"
        raise ConfigurationError([Problem(key=key, problem="is missing, and this needs it", fix=fix)])
    user = server if server.admin is None else server.admin
    password = user.password.read() if user.password is not None else None
    # In a tenant's database a function or operator of its own must not be found in the place of PostgreSQL's, and who
    # owns a database may set another path for all sessions. The main one has the operator's tables and queries.
    is_main = (name, database) == (settings.main.server, settings.main.database)
    return await connect_as(server, database, user.user, password, search_path=None if is_main else "pg_catalog")


async def connect_as(
    server: Server, database: str, user: str, password: str | None, *, search_path: str | None = None
) -> asyncpg.Connection:
    """A plain connection to a configured server, to the host that takes writes; the caller closes it. `search_path`,
    and then `PINNED` too: whatever database and role set.

    Raises ConfigurationError where a pooler answers that is between us and the server, which may drop what is pinned.
    """
    try:
        conn = await _opened(server, database, user, password, search_path)
    except asyncpg.ProtocolViolationError:
        if server.pooler:  # PgBouncer takes no parameter that it does not know
            raise _in_between() from None
        raise
    if search_path is None and not server.pooler:
        return conn
    try:
        ((pid, path, acts_as),) = await conn.fetch(_WHERE)
        is_pinned = search_path is None or (path, acts_as) == (search_path, user)
        if pid != conn.get_server_pid() or not is_pinned:
            raise _in_between()
    except BaseException:
        await conn.close()
        raise
    return conn


async def _opened(
    server: Server, database: str, user: str, password: str | None, search_path: str | None
) -> asyncpg.Connection:
    """Raises what asyncpg raises."""

    async def connected(pinned: dict[str, str] | None) -> asyncpg.Connection:
        conn: asyncpg.Connection = await asyncpg.connect(
            host=[each.host for each in server.each_host],
            port=[each.port for each in server.each_host],
            target_session_attrs=SessionAttribute.primary if len(server.each_host) > 1 else SessionAttribute.any,
            user=user,
            password=password,
            database=database,
            ssl=ssl_argument(server),
            timeout=server.connect_timeout,
            server_settings=pinned,
        )
        return conn

    if search_path is None:
        return await connected(None)
    try:
        conn = await connected({"search_path": search_path, **pinned_at(server)})
    except asyncpg.UndefinedObjectError:
        if _hosts(server) not in _KNOW_TRANSACTION_TIMEOUT:
            raise
        _KNOW_TRANSACTION_TIMEOUT.discard(_hosts(server))  # an older one has taken its place
        conn = await connected({"search_path": search_path, **pinned_at(server)})
    if conn.get_server_version() < (17, 0) or _hosts(server) in _KNOW_TRANSACTION_TIMEOUT:
        return conn
    _KNOW_TRANSACTION_TIMEOUT.add(_hosts(server))
    await conn.close()
    return await connected({"search_path": search_path, **pinned_at(server)})


def pinned_at(server: Server) -> dict[str, str]:
    """`PINNED`, and what newer servers know in addition, once one of `connect_as` has met such a `server`."""
    return PINNED | _SINCE_17 if _hosts(server) in _KNOW_TRANSACTION_TIMEOUT else dict(PINNED)


def _hosts(server: Server) -> tuple[tuple[str, int], ...]:
    return tuple((each.host, each.port) for each in server.each_host)


def _in_between() -> ConfigurationError:
    fix = "give it the server's own: TENANTPROXY_SERVERS__NAME__HOST and TENANTPROXY_SERVERS__NAME__PORT"
    problem = "is in between, and this needs a session of its own"
    return ConfigurationError([Problem(key="servers.NAME.pooler", problem=problem, fix=fix)])
