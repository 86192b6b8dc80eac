"""How is a tenant's place closed at the server itself, whatever the processes have heard, and opened again?

A role that is the tenant's alone may not log in; its database is closed to the server's user; a row tenant is fenced
(docs/isolation.md). Each may be done again. A schema tenant without a role of its own is closed by the processes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.acting import act_for
from tenantproxy.lifecycle.install import as_keeper
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.lifecycle.readers import has_role
from tenantproxy.model import Isolation, Tenant, quote_identifier, reader_of

__all__ = ["Closed", "PlaceDoor"]

_MAINTENANCE: Final = "postgres"
_PAUSE: Final = 0.01
# Of a session that the admin user may not look into, only whose it is can be seen: it counts as any other.
_CLIENT: Final = "coalesce(backend_type, 'client backend') = 'client backend'"
_SESSIONS: Final = f"""
SELECT count(*) FROM pg_stat_activity WHERE {_CLIENT} AND pid <> pg_backend_pid()
  AND usename = ANY ($1::text[]) AND ($2::text IS NULL OR datname = $2)
"""
_END: Final = f"""
SELECT count(*) FROM (SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity
WHERE {_CLIENT} AND pid <> pg_backend_pid() AND usename = ANY ($1::text[])
  AND ($2::text IS NULL OR datname = $2)) ended
"""
_IS_SHARED: Final = """
SELECT EXISTS (SELECT FROM tenantproxy.tenants WHERE role = $1 AND coalesce(server, $2) = $3 AND id <> $4)
"""
_NOW: Final = "SELECT clock_timestamp()"
_OLDER: Final = f"""
SELECT count(*) FROM pg_stat_activity WHERE {_CLIENT} AND pid <> pg_backend_pid()
  AND usename = ANY ($1::text[]) AND datname = current_database() AND (xact_start < $2 OR state IS NULL)
"""
_END_OLDER: Final = _OLDER.replace("count(*)", "count(pg_terminate_backend(pid, 2000))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """`is_closed`: nothing can reach the place as the tenant. `ended`: sessions that had to be ended by the server."""

    is_closed: bool
    ended: int = 0


class PlaceDoor:
    """Closes and opens the places of tenants. `connect` opens connections with admin credentials."""

    def __init__(self, settings: Settings, connect: ConnectTo | None = None) -> None:
        self._settings = settings
        self._connect = connect or admin_connect(settings)

    async def close(
        self, main: asyncpg.Connection, tenant: Tenant, *, reason: str, patience: float = 0.5, drains: bool = False
    ) -> Closed:
        """Close it. Sessions that are still there behind `patience` seconds are ended; processes end theirs themselves.

        `drains`: of a row tenant, wait for the transactions of its database that began before the fence too, and end
        those that outlast `patience`: which of them are its own cannot be seen. `main`: the main database's.
        """
        place = tenant.placement
        user = place.role or self._settings.servers[place.server].user
        if place.isolation is Isolation.ROW:
            return await self._fence(tenant, user, reason, patience if drains else None)
        async with self._opened(place.server, _MAINTENANCE) as conn:
            if place.role is not None and not await self._is_shared(main, tenant):
                for role in _with_reader(user):
                    await _set_login(conn, role, may=False)
                return Closed(is_closed=True, ended=await _end_sessions(conn, user, None, patience))
            if place.isolation is not Isolation.DATABASE:
                return Closed(is_closed=False)
            roles = ", ".join([quote_identifier(role) for role in _with_reader(user) if await has_role(conn, role)])
            await conn.execute(f"REVOKE CONNECT ON DATABASE {quote_identifier(place.database)} FROM {roles}")
            return Closed(is_closed=True, ended=await _end_sessions(conn, user, place.database, patience))

    async def drained(self, tenant: Tenant, *, patience: float) -> bool:
        """Whether the transactions that run now in a row tenant's database end within `patience` seconds.

        Which of them are its own cannot be seen. None is ended.
        """
        place = tenant.placement
        user = place.role or self._settings.servers[place.server].user
        async with self._opened(place.server, place.database) as conn:
            await _act_for_both(conn, user)
            return await _ended_by_themselves(conn, user, await conn.fetchval(_NOW), patience)

    async def open(self, main: asyncpg.Connection, tenant: Tenant) -> None:
        """Undo `close`."""
        place = tenant.placement
        if place.isolation is Isolation.ROW:
            async with self._opened(place.server, place.database) as conn:
                if await _has_fences(conn):
                    async with conn.transaction(), as_keeper(conn):
                        await conn.execute("DELETE FROM tenantproxy.fenced_tenant WHERE tenant_id = $1", tenant.id)
            return
        async with self._opened(place.server, _MAINTENANCE) as conn:
            user = place.role or self._settings.servers[place.server].user
            if place.role is not None and not await self._is_shared(main, tenant):
                for role in _with_reader(user):
                    await _set_login(conn, role, may=True)
            elif place.isolation is Isolation.DATABASE:
                roles = [quote_identifier(role) for role in _with_reader(user) if await has_role(conn, role)]
                await conn.execute(
                    f"GRANT CONNECT ON DATABASE {quote_identifier(place.database)} TO {', '.join(roles)}"
                )

    async def _fence(self, tenant: Tenant, user: str, reason: str, patience: float | None) -> Closed:
        async with self._opened(tenant.placement.server, tenant.placement.database) as conn:
            if not await _has_fences(conn):
                return Closed(is_closed=False)
            async with conn.transaction(), as_keeper(conn):
                await conn.execute(
                    "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ($1, $2)"
                    " ON CONFLICT (tenant_id) DO UPDATE SET reason = excluded.reason",
                    tenant.id, reason,
                )  # fmt: skip
            if patience is None:
                return Closed(is_closed=True)
            await _act_for_both(conn, user)
            since = await conn.fetchval(_NOW)
            if await _ended_by_themselves(conn, user, since, patience):
                return Closed(is_closed=True)
            return Closed(is_closed=True, ended=await _ended(conn, _END_OLDER, user, since))

    async def _is_shared(self, main: asyncpg.Connection, tenant: Tenant) -> bool:
        """Whether another tenant's SQL runs as its role: where that cannot be asked, it is taken for so."""
        place = tenant.placement
        if self._settings.registry.query is not None or self._settings.registry.source != "postgres":
            return True
        default = self._settings.main.server
        return bool(await main.fetchval(_IS_SHARED, place.role, default, place.server, tenant.id))

    @asynccontextmanager
    async def _opened(self, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
        conn = await self._connect(server, database)
        try:
            yield conn
        finally:
            await conn.close()


async def _act_for_both(conn: asyncpg.Connection, user: str) -> None:
    await act_for(conn, [role for role in _with_reader(user) if await has_role(conn, role)])


def _with_reader(user: str) -> list[str]:
    """The roles that its sessions log in as: also the one that only reads, whatever is configured by now."""
    try:
        return [user, reader_of(user)]
    except ValueError:  # too long for there to be one
        return [user]


async def _has_fences(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval("SELECT to_regclass('tenantproxy.fenced_tenant') IS NOT NULL"))


async def _ended_by_themselves(conn: asyncpg.Connection, user: str, since: datetime, patience: float) -> bool:
    """Whether the transactions of `user` that began before `since` are over within `patience` seconds."""
    until = asyncio.get_running_loop().time() + patience
    while await conn.fetchval(_OLDER, _with_reader(user), since):
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(_PAUSE)
    return True


async def _set_login(conn: asyncpg.Connection, role: str, *, may: bool) -> None:
    if await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1 AND rolcanlogin <> $2", role, may):
        await conn.execute(f"ALTER ROLE {quote_identifier(role)} {'LOGIN' if may else 'NOLOGIN'}")


async def _end_sessions(conn: asyncpg.Connection, user: str, database: str | None, patience: float) -> int:
    """Wait until there are none; end those that are left behind `patience` seconds, and say how many."""
    await _act_for_both(conn, user)
    until = asyncio.get_running_loop().time() + patience
    while await conn.fetchval(_SESSIONS, _with_reader(user), database):
        if asyncio.get_running_loop().time() >= until:
            return await _ended(conn, _END, user, database)
        await asyncio.sleep(_PAUSE)
    return 0


async def _ended(conn: asyncpg.Connection, query: str, user: str, *args: object) -> int:
    """How many sessions `query` ended. Raises ConfigurationError where the admin user may not end those of `user`."""
    try:
        return int(await conn.fetchval(query, _with_reader(user), *args))
    except asyncpg.InsufficientPrivilegeError as exc:
        admin = quote_identifier(await conn.fetchval("SELECT current_user::text"))
        problem = f"the admin user {admin} may not end the sessions of {user}, and some are there"
        fix = f"as a superuser or the provider's admin: GRANT pg_signal_backend TO {admin}, or GRANT {user} TO {admin}"
        raise ConfigurationError([Problem(key="servers.NAME.admin", problem=problem, fix=fix)]) from exc
