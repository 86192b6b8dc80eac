"""How does a new database follow an old one while that is written to? A publication there, a subscription here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.config import Server
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.move.tables import MovedTable
from tenantproxy.model import quote_identifier

__all__ = ["end_following", "follow", "may_follow", "until_caught_up", "until_level"]

_PAUSE: Final = 0.02
_SOURCE: Final = """
SELECT current_setting('wal_level') = 'logical' AND (r.rolsuper OR r.rolreplication)
  AND (SELECT count(*) FROM pg_replication_slots) < current_setting('max_replication_slots')::int
  AND current_setting('server_version_num')::int >= 150000 FROM pg_roles r WHERE r.rolname = current_user
"""
_IDENTIFIER: Final = "SELECT system_identifier FROM pg_control_system()"
_SILENT_LOG: Final = (  # of what follows, which has a password in it
    "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_duration_sample = -1;"
    " SET log_transaction_sample_rate = 0; SET log_min_error_statement = panic"
)
_NOT_READY: Final = """
SELECT count(*) FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
WHERE s.subname = $1 AND r.srsubstate <> 'r'
"""
_IS_LEVEL: Final = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1"


async def may_follow(source: asyncpg.Connection, target: asyncpg.Connection, tables: Sequence[MovedTable]) -> bool:
    """Whether both servers can: another cluster, `wal_level = logical`, superusers, and a key in each table."""
    try:
        if not await source.fetchval(_SOURCE) or not all(each.can_follow for each in tables):
            return False
        if not await target.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            return False
        return bool(await source.fetchval(_IDENTIFIER) != await target.fetchval(_IDENTIFIER))
    except asyncpg.InsufficientPrivilegeError:
        return False


async def follow(
    source: asyncpg.Connection, target: asyncpg.Connection, server: Server, database: str, name: str,
    tables: Sequence[MovedTable],
) -> None:  # fmt: skip
    """Begin: the rows that there are come over, then every change. `server`: the old one, as the new one reaches it."""
    listed = ", ".join(f"ONLY {each.sql_name}" for each in tables)
    quoted = quote_identifier(name)
    await source.execute(f"CREATE PUBLICATION {quoted}" + (f" FOR TABLE {listed}" if listed else ""))
    await target.execute(_SILENT_LOG)
    await target.execute(
        f"CREATE SUBSCRIPTION {quoted} CONNECTION {_literal(_conninfo(server, database))} PUBLICATION {quoted}"
        " WITH (copy_data = true, streaming = on)"
    )


async def until_caught_up(target: asyncpg.Connection, name: str, *, timeout: float) -> None:
    """Until all tables are copied and follow. Raises TenantProxyError behind `timeout` seconds."""
    until = asyncio.get_running_loop().time() + timeout
    while await target.fetchval(_NOT_READY, name):
        if asyncio.get_running_loop().time() > until:
            raise TenantProxyError(
                f"the new database has not caught up within {timeout:.0f} s",
                hint="see the new server's log; a longer time: --catch-up SECONDS",
            )
        await asyncio.sleep(_PAUSE)


async def until_level(source: asyncpg.Connection, name: str, *, timeout: float) -> None:
    """Until all that was written up to now is there. Raises TenantProxyError behind `timeout` seconds."""
    now = await source.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    await source.execute("SELECT pg_current_xact_id()")  # a record behind it, which flushes it
    until = asyncio.get_running_loop().time() + timeout
    while not await source.fetchval(_IS_LEVEL, name, now):
        if asyncio.get_running_loop().time() > until:
            raise TenantProxyError(f"the last changes have not arrived within {timeout:.1f} s")
        await asyncio.sleep(_PAUSE)


async def end_following(source: asyncpg.Connection, target: asyncpg.Connection | None, name: str) -> None:
    """Nothing of it is left on either side. May be run again; `target` None: the new database is gone."""
    quoted = quote_identifier(name)
    if target is not None and await target.fetchval("SELECT true FROM pg_subscription WHERE subname = $1", name):
        # Its slot is dropped at its server, by us: a subscription that cannot reach it could not be dropped.
        await target.execute(f"ALTER SUBSCRIPTION {quoted} DISABLE")
        await target.execute(f"ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)")
        await target.execute(f"DROP SUBSCRIPTION {quoted}")
    slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE slot_name = $1"
    while (row := await source.fetchrow(slots, name)) is not None:
        if row["active_pid"] is not None:
            await source.execute("SELECT pg_terminate_backend($1, 2000)", row["active_pid"])
        try:
            await source.execute("SELECT pg_drop_replication_slot($1)", name)
        except (asyncpg.ObjectInUseError, asyncpg.UndefinedObjectError):
            await asyncio.sleep(_PAUSE)
    await source.execute(f"DROP PUBLICATION IF EXISTS {quoted}")


def _conninfo(server: Server, database: str) -> str:
    assert server.admin is not None
    given = {
        "host": ",".join(each.host for each in server.each_host),
        "port": ",".join(str(each.port) for each in server.each_host),
        "dbname": database,
        "user": server.admin.user,
        "password": server.admin.password.read() if server.admin.password is not None else "",
        "sslmode": server.ssl,
        "sslrootcert": server.ssl_root_cert_file or "",
    }
    return " ".join(f"{key}={_quoted(value)}" for key, value in given.items() if value)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _literal(text: str) -> str:
    """As SQL: the statement takes no parameters. `E` keeps backslashes whatever the session is set to."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
