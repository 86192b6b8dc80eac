"""As whom is a dump read in? As a role that does nothing else, and whose password no one knows.

Checks, generated columns, expressions of indexes, domains and materialized views in it were made by who owned the
place, and call functions while rows are read in. They run as this role, which owns what it makes and reaches nothing
else. It logs in itself: from a role that was only SET, such a function would come back to the admin user by RESET ROLE.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.acting import act_for
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.lifecycle.verifier import scram_verifier
from tenantproxy.model import quote_identifier

__all__ = ["Loader", "LoaderNeeds", "discard", "has_besides", "loading"]

_PREFIX: Final = "tenantproxy_load_"
_SIGN: Final = "tenantproxy: reads a dump in"
_WAIT: Final = 10_000  # ms for its session to end
_IS_OURS: Final = "SELECT shobj_description(oid, 'pg_authid') = $2 FROM pg_roles WHERE rolname = $1"
_END: Final = "SELECT count(pg_terminate_backend(pid, $2)) FROM pg_stat_activity WHERE usename = $1"
_LARGE_OBJECTS: Final = ("lo_create(oid)", "lo_open(oid, integer)", "lowrite(integer, bytea)", "lo_close(integer)")
_BESIDES: Final = """
SELECT count(*) FROM pg_type t JOIN pg_roles r ON r.oid = t.typowner WHERE r.rolname = $1 AND (
  EXISTS (SELECT FROM pg_cast c WHERE t.oid IN (c.castsource, c.casttarget))
  OR EXISTS (SELECT FROM pg_transform f WHERE f.trftype = t.oid))
"""
_WRAPPERS: Final = "SELECT fdwname::text FROM pg_foreign_data_wrapper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """The role, for the time of one restore."""

    name: str
    password: str

    def __repr__(self) -> str:
        return f"Loader(name={self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderNeeds:
    """What it may do: make schemas where `is_whole`, make things in the schemas `into`, see those in `sees`."""

    is_whole: bool
    into: Sequence[str]
    sees: Sequence[str] = ()
    large_objects: bool = False
    foreign_servers: bool = False


@asynccontextmanager
async def loading(
    connect: ConnectTo, server: str, database: str, mark: str, needs: LoaderNeeds
) -> AsyncIterator[Loader]:
    """The role of `mark` in `database`. Behind the block it is gone, and what it made is the admin user's; where the
    block raises, what it made is gone too: it may not be what it should be.

    Raises what asyncpg raises.
    """
    loader = Loader(name=f"{_PREFIX}{mark}", password=secrets.token_urlsafe(32))
    try:
        async with opened(connect, server, database) as conn:
            await _make(conn, loader, database, needs)
        yield loader
    except BaseException:
        await asyncio.shield(_end(connect, server, database, mark, is_kept=False))
        raise
    await asyncio.shield(_end(connect, server, database, mark, is_kept=True))


async def _end(connect: ConnectTo, server: str, database: str, mark: str, *, is_kept: bool) -> None:
    async with opened(connect, server, database) as conn:
        await _remove(conn, mark, is_kept=is_kept)


async def discard(conn: asyncpg.Connection, mark: str) -> None:
    """The role of `mark`, of a process that died, is gone with what it made in the database of `conn`."""
    await _remove(conn, mark, is_kept=False)


async def _remove(conn: asyncpg.Connection, mark: str, *, is_kept: bool) -> None:
    name = f"{_PREFIX}{mark}"
    if not await conn.fetchval(_IS_OURS, name, _SIGN):
        return
    role = quote_identifier(name)
    await conn.execute(f"ALTER ROLE {role} NOLOGIN")
    await conn.fetchval(_END, name, _WAIT)
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = {_WAIT}")  # that session may not have ended
        if is_kept:
            await conn.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
        await conn.execute(f"DROP OWNED BY {role} CASCADE")
        await conn.execute(f"DROP ROLE {role}")


async def has_besides(conn: asyncpg.Connection, loader: Loader) -> bool:
    """Whether its types have casts or transforms, which no dump of a schema holds."""
    return bool(await conn.fetchval(_BESIDES, loader.name))


async def _make(conn: asyncpg.Connection, loader: Loader, database: str, needs: LoaderNeeds) -> None:
    await discard(conn, loader.name.removeprefix(_PREFIX))
    role, place = quote_identifier(loader.name), quote_identifier(database)
    async with conn.transaction():
        secret = scram_verifier(loader.password)
        await conn.execute(f"CREATE ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT 2 PASSWORD '{secret}'")
        await conn.execute(f"COMMENT ON ROLE {role} IS '{_SIGN}'")
        await act_for(conn, [loader.name])  # what it makes is given away by a member alone
        await conn.execute(f"GRANT {'CONNECT, CREATE' if needs.is_whole else 'CONNECT'} ON DATABASE {place} TO {role}")
        for row in await conn.fetch("SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1)", needs.sees):
            await conn.execute(f"GRANT USAGE ON SCHEMA {quote_identifier(row[0])} TO {role}")
        for schema in needs.into:
            await conn.execute(f"GRANT USAGE, CREATE ON SCHEMA {quote_identifier(schema)} TO {role}")
        for function in _LARGE_OBJECTS if needs.large_objects else ():
            await conn.execute(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role}")
        for row in await conn.fetch(_WRAPPERS) if needs.foreign_servers else ():
            await conn.execute(f"GRANT USAGE ON FOREIGN DATA WRAPPER {quote_identifier(row[0])} TO {role}")
