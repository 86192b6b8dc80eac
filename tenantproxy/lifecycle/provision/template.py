"""What are new databases copied from? A sealed template, made once for the SQL files as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.provisioner import Connect, close_functions, create_closed, run_statements
from tenantproxy.lifecycle.turn_lock import leave_turn, take_turn
from tenantproxy.model import quote_identifier

__all__ = ["ensure_template", "template_name"]

_LOCK: Final = "tenantproxy template"
_PATIENCE: Final = 3600.0  # seconds for another process to make it: your files run in it
_PREFIX: Final = "tenantproxy_template_"
_BUILDING: Final = "tenantproxy_template_being_made"
_FOUND: Final = """
SELECT datistemplate AND NOT datallowconn AS is_sealed, shobj_description(d.oid, 'pg_database') AS sign,
  r.rolname = current_user OR r.rolsuper AS is_ours
FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE datname = $1
"""


def template_name(files: Sequence[str]) -> str:
    """By the content of `files`: other files are another template."""
    digest = hashlib.sha256("\0".join(files).encode()).hexdigest()
    return f"{_PREFIX}{digest[:16]}"


async def ensure_template(connect: Connect, conn: asyncpg.Connection, files: Sequence[str]) -> str:
    """The name of the database in which `files` ran, which no one can connect to. `conn`: of a maintenance database.

    It gets its name last, so one that is there is whole; what a crash left is made again. Those of former files go. One
    without our sign is made again where it is the admin user's and sealed. Raises ConfigurationError for any other
    database of that name: what is in it would be in each new tenant.
    """
    name = template_name(files)
    if await _is_ours(conn, name, files):
        return name
    is_held = await take_turn(conn, _LOCK, patience=_PATIENCE, in_session=True)
    try:
        if not await _is_ours(conn, name, files):
            await _drop(conn, name)
            await _drop(conn, _BUILDING)
            await create_closed(conn, _BUILDING)
            inside = await connect(_BUILDING)
            try:
                await close_functions(inside)
                await run_statements(inside, files)
            finally:
                await inside.close()
            await conn.execute(f"COMMENT ON DATABASE {_BUILDING} IS '{_sign(files)}'")
            await conn.execute(f"ALTER DATABASE {_BUILDING} WITH ALLOW_CONNECTIONS false IS_TEMPLATE true")
            await conn.execute(f"ALTER DATABASE {_BUILDING} RENAME TO {quote_identifier(name)}")
            await _drop_former(conn, name)
    finally:
        if is_held:
            await leave_turn(conn, _LOCK)
    return name


def _sign(files: Sequence[str]) -> str:
    """The comment of the template in which `files` ran: only its owner can give it one, and a copy has none."""
    return f"tenantproxy: template of {hashlib.sha256(chr(0).join(files).encode()).hexdigest()}"


async def _is_ours(conn: asyncpg.Connection, name: str, files: Sequence[str]) -> bool:
    """Whether the template `name` is there, as we made it for `files`."""
    found = await conn.fetchrow(_FOUND, name)
    if found is not None and not (found["is_ours"] and found["is_sealed"]):
        raise _not_ours(name)
    return found is not None and found["sign"] == _sign(files)


def _not_ours(name: str) -> ConfigurationError:
    problem = f"there is a database {name} that tenantproxy did not make, or that can be changed; it is left as it is"
    fix = "look whose it is; when it is dropped or renamed, the template is made again"
    return ConfigurationError([Problem(key="provision.template", problem=problem, fix=fix)])


async def _drop_former(conn: asyncpg.Connection, name: str) -> None:
    rows = await conn.fetch(
        "SELECT datname::text FROM pg_database WHERE datistemplate AND NOT datallowconn AND datname <> $1"
        " AND datname ~ $2 AND pg_has_role(datdba, 'USAGE')",
        name, f"^{_PREFIX}[0-9a-f]{{16}}$",
    )  # fmt: skip
    for row in rows:
        await _drop(conn, row["datname"])


async def _drop(conn: asyncpg.Connection, name: str) -> None:
    if (found := await conn.fetchrow(_FOUND, name)) is not None:
        if not found["is_ours"]:
            raise _not_ours(name)
        await conn.execute(f"ALTER DATABASE {quote_identifier(name)} WITH IS_TEMPLATE false")
        await conn.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")
