"""How does the audit read a database? In one read-only transaction that waits for nothing long, and from SQL files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Final

import asyncpg

from tenantproxy.config import Settings, role_password
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.access import connect_as
from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.model import quote_identifier

__all__ = ["FAILURES", "as_role", "audit_session", "look", "may_act", "open_as", "reading", "rows", "told"]

FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, TenantProxyError)
"""What a server that cannot be looked at answers with."""

_STATEMENT_SECONDS: Final = 20.0
_LOCK_SECONDS: Final = 2.0
_PINS: Final = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('jit', 'off', true),"
    " pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $2, true)"
)


@asynccontextmanager
async def audit_session(settings: Settings, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the server's admin credentials, or without them as its own user. Raises FAILURES."""
    section = settings.servers[server]
    user = section.admin or section
    password = user.password.read() if user.password is not None else None
    # Who owns a tenant's database may set another role for all sessions: what that one does not see would not be told.
    is_main = (server, database) == (settings.main.server, settings.main.database)
    conn = await connect_as(section, database, user.user, password, search_path=None if is_main else "pg_catalog")
    try:
        yield conn
    finally:
        await _close(conn)


@asynccontextmanager
async def open_as(
    settings: Settings, server: str, database: str, roles: Sequence[str]
) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the first of `roles` that may connect. Raises what the last one was refused with."""
    conn = None
    for number, role in enumerate(roles, 1):
        try:
            conn = await connect_as(settings.servers[server], database, role, _password(settings, server, role))
            break
        except FAILURES:
            if number == len(roles):
                raise
    assert conn is not None
    try:
        yield conn
    finally:
        await _close(conn)


async def _close(conn: asyncpg.Connection) -> None:
    try:
        await conn.close(timeout=5.0)
    except FAILURES:
        conn.terminate()


def _password(settings: Settings, server: str, role: str) -> str | None:
    section, roles = settings.servers[server], settings.tenant_roles
    if role != section.user and roles is not None and roles.key is not None:
        return role_password(roles.key.read_bytes(), server, role)
    return section.password.read() if section.password is not None else None


@asynccontextmanager
async def reading(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """A read-only transaction with built-in names first; a statement or a lock that takes long ends it."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await conn.fetchrow(_PINS, _ms(_STATEMENT_SECONDS), _ms(_LOCK_SECONDS))
        yield


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


_MAY_ACT: Final = """
SELECT pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
FROM pg_roles WHERE rolname = $1
"""


async def may_act(conn: asyncpg.Connection, role: str) -> bool:
    """Whether the user of `conn` can become `role`."""
    return bool(await conn.fetchval(_MAY_ACT, role))


@asynccontextmanager
async def as_role(conn: asyncpg.Connection, role: str) -> AsyncIterator[None]:
    """Acts as `role`, which `may_act` said that it can, within the transaction of `conn`."""
    name = quote_identifier(role)
    async with conn.transaction():  # after an error it rolls the role back too
        await conn.execute(f"SET LOCAL ROLE {name}")
        yield
        await conn.execute("SET LOCAL ROLE NONE")


@cache
def _text(name: str) -> str:
    return resources.files("tenantproxy.lifecycle.doctor").joinpath("sql", name).read_text()


async def look(
    conn: asyncpg.Connection, name: str, argument: str, *, server: str, database: str = ""
) -> list[DoctorFinding]:
    """The findings of one SQL file, each row one."""
    return [
        found(
            row["code"],
            server=server,
            database=database,
            schema=row["schema"],
            object=row["object"],
            detail=row["detail"] or "",
            sql=tuple(row["sql"]),
        )
        for row in await conn.fetch(_text(name), argument)
    ]


async def rows(conn: asyncpg.Connection, name: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of one SQL file that is not findings."""
    found_rows: list[asyncpg.Record] = await conn.fetch(_text(name), *arguments)
    return found_rows


def told(error: BaseException) -> str:
    """What went wrong, in one line; no secret is in it."""
    if isinstance(error, TenantProxyError):
        return error.message
    text = str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror  # its first argument is a number
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__
