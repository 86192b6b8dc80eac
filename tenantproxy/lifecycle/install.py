"""How does a database learn to tell tenants apart? Installs the signed context, its keys, and the policy of a table.

Everything here is idempotent, and all or nothing: running it again is the upgrade.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.isolation.proof import MIN_KEY_BYTES, key_pads
from tenantproxy.model import quote_identifier
from tenantproxy.registry.postgres import SCHEMA_SQL

__all__ = [
    "DEFAULT_SETTING",
    "alone",
    "check_setting",
    "ensure_keeper",
    "forget_keys",
    "install",
    "install_auth",
    "install_registry",
    "isolate_table",
    "sql_file",
]

DEFAULT_SETTING: Final = "app.current_tenant_id"
_SETTING: Final = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_AUTH_FILES: Final = ("sessions.sql", "login_directory.sql")  # of tenantproxy/auth/, in this order
_FILES: Final = ("keeper_role.sql", "keeper.sql", "signed_context.sql", "bound_lease.sql")


async def install(
    conn: asyncpg.Connection,
    *,
    app_role: str,
    keys: Mapping[int, bytes],
    setting: str = DEFAULT_SETTING,
    lock_timeout: float = 5.0,
) -> None:
    """Install or upgrade the signed context in the database of `conn`, for tenant SQL that runs as `app_role`.

    `keys`: by key id (0-9), each made by `isolation.proof.derive_key` for this very database; keys stored before under
    other ids stay (see `forget_keys`). `conn` is a superuser's, or of a database owner with CREATEROLE who created the
    keeper. Takes no longer than `lock_timeout` seconds waiting for any one lock: then asyncpg.LockNotAvailableError.
    """
    role, pads = quote_identifier(app_role), _pads(keys)
    scripts = [sql_file(name, app=role, setting=check_setting(setting)) for name in _FILES]
    async with alone(conn, lock_timeout):
        for script in scripts:
            await conn.execute(script)
        async with _as_keeper(conn):
            await conn.executemany(
                "INSERT INTO tenantproxy.context_key (kid, ipad, opad) VALUES ($1, $2, $3)"
                " ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, not_after = 'infinity'",
                pads,
            )


async def ensure_keeper(conn: asyncpg.Connection) -> None:
    """The role `tenantproxy_keeper`, which owns keys and functions: nobody can be it, and no tenant reaches it."""
    await conn.execute(sql_file("keeper_role.sql"))


async def forget_keys(conn: asyncpg.Connection, kids: Iterable[int], *, lock_timeout: float = 5.0) -> None:
    """End of a rotation: proofs signed with the keys `kids` are worth nothing from the next transaction on."""
    async with alone(conn, lock_timeout), _as_keeper(conn):
        await conn.execute("DELETE FROM tenantproxy.context_key WHERE kid = ANY($1::smallint[])", list(kids))


async def install_registry(conn: asyncpg.Connection, *, app_role: str, lock_timeout: float = 5.0) -> None:
    """Put our own registry table into the main database, or upgrade it; `app_role`, the router's, may read it.

    `conn` is as for `install`, and not in a transaction: the migration commits by itself.
    """
    reader = quote_identifier(app_role)
    async with alone(conn, lock_timeout):
        await _ensure_schema(conn)
    try:
        await conn.execute(SCHEMA_SQL)
    except asyncpg.PostgresError:
        await conn.execute("ROLLBACK")
        raise
    async with alone(conn, lock_timeout), _as_keeper(conn):
        await conn.execute(f"GRANT USAGE ON SCHEMA tenantproxy TO {reader}")
    await conn.execute(f"GRANT SELECT ON tenantproxy.tenants TO {reader}")


async def install_auth(conn: asyncpg.Connection, *, app_role: str, lock_timeout: float = 5.0) -> None:
    """Put what login keeps into the main database, or upgrade it; `app_role`, the router's, reads and writes it.

    `conn` is as for `install`.
    """
    async with alone(conn, lock_timeout):
        await _ensure_schema(conn)
        for name in _AUTH_FILES:
            text = resources.files("tenantproxy.auth").joinpath(name).read_text()
            await conn.execute(text.replace(':"app"', quote_identifier(app_role)))


async def _ensure_schema(conn: asyncpg.Connection) -> None:
    """Our schema, in which `conn` may create tables.

    Whoever installs owns them, not the keeper: what is in them is no secret.
    """
    await ensure_keeper(conn)
    await conn.execute(sql_file("keeper.sql"))
    async with _as_keeper(conn):
        user = quote_identifier(await conn.fetchval("SELECT session_user"))
        await conn.execute(f"GRANT USAGE, CREATE ON SCHEMA tenantproxy TO {user}")


def check_setting(setting: str) -> str:
    """`setting` when it can be what policies read: two lower-case names with a dot. Raises ConfigurationError."""
    if not _SETTING.fullmatch(setting):
        problem, fix = f"{setting!r} cannot name a setting", "two lower-case names with a dot, as app.current_tenant_id"
    elif setting == "app.tenant_proof":
        problem, fix = f"{setting!r} is where the proof is kept", "choose another name"
    else:
        return setting
    raise ConfigurationError([Problem(key="row.setting", problem=problem, fix=fix)])


def _pads(keys: Mapping[int, bytes]) -> list[tuple[int, bytes, bytes]]:
    if not keys:
        raise ValueError("install needs at least one key")
    for kid, key in keys.items():
        if not 0 <= kid <= 9 or not MIN_KEY_BYTES <= len(key) <= 64:
            raise ValueError(f"key {kid}: a key id is 0 to 9, a key {MIN_KEY_BYTES} to 64 bytes")
    return [(kid, *key_pads(key)) for kid, key in keys.items()]


def sql_file(name: str, *, app: str = "", setting: str = DEFAULT_SETTING) -> str:
    """One of our SQL files, with the quoted role that runs tenant SQL and the setting of `[row]` filled in."""
    text = resources.files("tenantproxy.lifecycle").joinpath("sql", name).read_text()
    return text.replace("'app.current_tenant_id'", f"'{setting}'").replace(':"app"', app)


@asynccontextmanager
async def alone(conn: asyncpg.Connection, lock_timeout: float) -> AsyncIterator[None]:
    """One transaction that waits for no lock for long, sees built-in names first, and logs no parameters if it may."""
    async with conn.transaction():
        await conn.execute(
            "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
            " pg_catalog.set_config('lock_timeout', $1, true)",
            str(round(lock_timeout * 1000)),
        )
        await conn.execute(  # the key's two halves are parameters
            "SELECT set_config(name, '0', true) FROM pg_settings"
            " WHERE name IN ('log_parameter_max_length', 'log_parameter_max_length_on_error')"
            " AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        )
        # Two installers of one database at once would fail on each other's rows of the catalog.
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('tenantproxy install', 0))")
        yield


@asynccontextmanager
async def _as_keeper(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Acts as the role that owns keys and functions; an error rolls membership back with everything else."""
    await conn.execute("GRANT tenantproxy_keeper TO CURRENT_USER; SET LOCAL ROLE tenantproxy_keeper")
    yield
    await conn.execute("RESET ROLE; REVOKE tenantproxy_keeper FROM CURRENT_USER")


# The column's type decides what the tenant, a text, must be cast to so that an index on it can be used.
_DESCRIBE: Final = """
SELECT c.oid, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       coalesce($3::text::regtype::text, format_type(a.atttypid, NULL)) AS type,
       EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive
               AND p.polname <> ALL ('{tenantproxy,tenantproxy_signed}')) AS has_others
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped
WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p')
"""
_OURS: Final = """
SELECT polname AS name, polpermissive AS permissive, polcmd = '*' AND polroles = '{0}' AS for_all,
       pg_get_expr(polqual, polrelid) AS reads, pg_get_expr(polwithcheck, polrelid) AS writes
FROM pg_policy WHERE polrelid = $1 AND polname IN ('tenantproxy', 'tenantproxy_signed')
"""
_PARTITIONS: Final = "SELECT relid::regclass::text FROM pg_partition_tree($1::oid) WHERE relid <> $1"


async def isolate_table(
    conn: asyncpg.Connection,
    table: str,
    column: str = "tenant_id",
    cast: str | None = None,
    *,
    schema: str = "public",
    lock_timeout: float = 5.0,
) -> None:
    """Let each tenant see and write only the rows of `table` whose `column` names it; the owner too (FORCE).

    The tenant is cast to the column's type, or to the type named `cast`. A table that has permissive policies of its
    own keeps them and gets a RESTRICTIVE one beside them, since permissive ones add up. Partitions, which can be read
    directly, get the same. Locks the table only when something is to be changed. `conn` is the owner's.
    Raises ConfigurationError when there is no such table or column, asyncpg.LockNotAvailableError.
    """
    name = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    async with alone(conn, lock_timeout):
        oid = await _isolate(conn, name, column, cast)
        for partition in await conn.fetch(_PARTITIONS, oid):
            await _isolate(conn, partition[0], column, cast)


async def _isolate(conn: asyncpg.Connection, name: str, column: str, cast: str | None) -> int:
    found = await conn.fetchrow(_DESCRIBE, name, column, cast)
    if found is None:
        problem = f"there is no table {name} with a column {quote_identifier(column)} here"
        raise ConfigurationError([Problem(key="isolate", problem=problem, fix="create it first, as its owner")])
    kind = "" if found["type"] in ("text", "character varying") else f"::{found['type']}"
    rule = f"{quote_identifier(column)} = (SELECT tenantproxy.bound_tenant()){kind}"
    wanted = ("tenantproxy_signed", False) if found["has_others"] else ("tenantproxy", True)
    ours = await conn.fetch(_OURS, found["oid"])
    if [(row["name"], row["permissive"]) for row in ours] != [wanted] or not _says(ours[0], rule):
        for row in ours:
            await conn.execute(f"DROP POLICY {row['name']} ON {name}")
        manner = "PERMISSIVE" if wanted[1] else "RESTRICTIVE"
        # Never a TO clause: any tenant may run DROP OWNED BY the app role, which drops every policy TO it.
        await conn.execute(f"CREATE POLICY {wanted[0]} ON {name} AS {manner} USING ({rule}) WITH CHECK ({rule})")
    if not (found["enabled"] and found["forced"]):
        await conn.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    oid: int = found["oid"]
    return oid


def _says(policy: asyncpg.Record, rule: str) -> bool:
    """Whether the policy stands for all roles and commands and says `rule`, as PostgreSQL prints it."""
    return policy["for_all"] and {_plain(policy["reads"]), _plain(policy["writes"])} == {_plain(rule)}


def _plain(expression: str | None) -> str:
    return re.sub(r'[\s()"]|AS bound_tenant|(?<=\))::text(?= =)', "", expression or "")
