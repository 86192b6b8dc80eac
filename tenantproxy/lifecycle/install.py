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
from tenantproxy.lifecycle.change import apply
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.table_facts import find_table, read_table
from tenantproxy.lifecycle.table_plan import isolation_changes
from tenantproxy.lifecycle.trusted import is_trusted, may_trust
from tenantproxy.lifecycle.turn_lock import take_turn
from tenantproxy.model import RowForm, quote_identifier
from tenantproxy.registry.postgres import SCHEMA_SQL

__all__ = [
    "AUTH_FILES",
    "CONTEXT_FILES",
    "DEFAULT_SETTING",
    "TRUSTED_FILE",
    "alone",
    "as_keeper",
    "check_setting",
    "ensure_keeper",
    "forget_keys",
    "install",
    "install_auth",
    "install_registry",
    "isolate_table",
    "missing_rights",
    "sql_file",
    "store_keys",
]

DEFAULT_SETTING: Final = "app.current_tenant_id"
_SETTING: Final = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
AUTH_FILES: Final = ("sessions.sql", "login_directory.sql", "audit.sql")  # of tenantproxy/auth/, in this order
TRUSTED_FILE: Final = "trusted_setting.sql"  # behind the others, in their transaction
CONTEXT_FILES: Final = (
    "keeper_role.sql",
    "keeper.sql",
    "signed_context.sql",
    "bound_lease.sql",
    "turns.sql",
    "signed_settings.sql",
    "references.sql",
)


async def install(
    conn: asyncpg.Connection,
    *,
    app_role: str,
    keys: Mapping[int, bytes],
    setting: str = DEFAULT_SETTING,
    trusted: bool = False,
    lock_timeout: float = 5.0,
) -> RowForm:
    """Install or upgrade the signed context in the database of `conn`, for tenant SQL that runs as `app_role`.

    `trusted`: the trusted form too, where the keeper may set its parameter or `conn` is a superuser's, who lets it; one
    that is there already is upgraded, and stays in any case. Returns the most that sessions can use now: sessions of
    both forms work at the same time.

    `keys`: by key id (0-9), each made by `isolation.proof.derive_key` for this very database; keys stored before under
    other ids stay (see `forget_keys`). `conn` is a superuser's, or of a database owner with CREATEROLE who created the
    keeper. Takes no longer than `lock_timeout` seconds waiting for any one lock: then asyncpg.LockNotAvailableError.
    """
    role = quote_identifier(app_role)
    _pads(keys)  # bad ones are refused before anything is done
    scripts = [sql_file(name, app=role, setting=check_setting(setting)) for name in CONTEXT_FILES]
    async with alone(conn, lock_timeout):
        for script in scripts:
            await conn.execute(script)
        form: RowForm = "bound"
        if (trusted or await is_trusted(conn)) and await may_trust(conn):
            await conn.execute(sql_file(TRUSTED_FILE, app=role, setting=setting))
            form = "trusted"
        await _store(conn, keys)
    return form


async def store_keys(conn: asyncpg.Connection, keys: Mapping[int, bytes], *, lock_timeout: float = 5.0) -> None:
    """Put `keys`, as for `install`, into a database where the signed context is installed."""
    async with alone(conn, lock_timeout):
        await _store(conn, keys)


async def _store(conn: asyncpg.Connection, keys: Mapping[int, bytes]) -> None:
    async with as_keeper(conn):
        await conn.executemany(
            "INSERT INTO tenantproxy.context_key (kid, ipad, opad) VALUES ($1, $2, $3)"
            " ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, not_after = 'infinity'",
            _pads(keys),
        )


_RIGHTS: Final = """
SELECT me.rolname::text AS user, me.rolsuper AS is_super, me.rolcreaterole AS creates_roles,
  current_database()::text AS database, has_database_privilege(current_database(), 'CREATE') AS creates,
  me.rolcreaterole AND (current_setting('server_version_num')::int < 160000 OR keeper.oid IS NULL)
    OR coalesce(pg_has_role(me.oid, keeper.oid, 'MEMBER WITH ADMIN OPTION'), false) AS grants_keeper
FROM pg_roles me LEFT JOIN pg_roles keeper ON keeper.rolname = 'tenantproxy_keeper' WHERE me.rolname = current_user
"""


async def missing_rights(conn: asyncpg.Connection) -> list[Problem]:
    """What the user of `conn` lacks to install our own things in this database; each with the grant that gives it."""
    row = await conn.fetchrow(_RIGHTS)
    assert row is not None
    if row["is_super"]:
        return []
    key, user = f"user {row['user']}", quote_identifier(row["user"])
    missing = []
    if not row["creates"]:
        database = quote_identifier(row["database"])
        fix = f"GRANT CREATE ON DATABASE {database} TO {user}, or let it own the database"
        missing.append(Problem(key=key, problem=f"may not create a schema in the database {database}", fix=fix))
    if not row["creates_roles"] and not row["grants_keeper"]:
        fix = f"ALTER ROLE {user} CREATEROLE, or name a superuser in [servers.NAME.admin]"
        missing.append(Problem(key=key, problem="may not create the role tenantproxy_keeper", fix=fix))
    elif not row["grants_keeper"]:
        fix = f"as a superuser: GRANT tenantproxy_keeper TO {user} WITH ADMIN OPTION"
        missing.append(Problem(key=key, problem="may not act for the role tenantproxy_keeper", fix=fix))
    return missing


async def ensure_keeper(conn: asyncpg.Connection) -> None:
    """The role `tenantproxy_keeper`, which owns keys and functions: it has no members, and no tenant reaches it."""
    await conn.execute(sql_file("keeper_role.sql"))


async def forget_keys(conn: asyncpg.Connection, kids: Iterable[int], *, lock_timeout: float = 5.0) -> None:
    """End of a rotation: proofs signed with the keys `kids` are worth nothing from the next transaction on."""
    async with alone(conn, lock_timeout), as_keeper(conn):
        await conn.execute("DELETE FROM tenantproxy.context_key WHERE kid = ANY($1::smallint[])", list(kids))


async def install_registry(conn: asyncpg.Connection, *, app_role: str, lock_timeout: float = 5.0) -> None:
    """Put our own registry table into the main database, or upgrade it; `app_role`, the router's, may read it.

    And what making and migrating tenants is written into, which it may not. `conn` is as for `install`, and not in a
    transaction: the migration commits by itself.
    """
    reader = quote_identifier(app_role)
    async with alone(conn, lock_timeout):
        await _ensure_schema(conn)
    try:
        await conn.execute(SCHEMA_SQL)
    except asyncpg.PostgresError:
        await conn.execute("ROLLBACK")
        raise
    async with alone(conn, lock_timeout):
        await conn.execute(sql_file("sagas.sql"))
        await conn.execute(sql_file("migration_runs.sql"))
        await conn.execute(sql_file("operations.sql"))
        await conn.execute(sql_file("leaders.sql"))
        async with as_keeper(conn):
            await conn.execute(f"GRANT USAGE ON SCHEMA tenantproxy TO {reader}")
    await conn.execute(f"GRANT SELECT ON tenantproxy.tenants TO {reader}")


async def install_auth(conn: asyncpg.Connection, *, app_role: str, lock_timeout: float = 5.0) -> None:
    """Put what login keeps into the main database, or upgrade it; `app_role`, the router's, reads and writes it.

    `conn` is as for `install`.
    """
    async with alone(conn, lock_timeout):
        await _ensure_schema(conn)
        for name in AUTH_FILES:
            text = resources.files("tenantproxy.auth").joinpath(name).read_text()
            await conn.execute(text.replace(':"app"', quote_identifier(app_role)))


async def _ensure_schema(conn: asyncpg.Connection) -> None:
    """Our schema, in which `conn` may create tables.

    The role that installs owns them, not the keeper: what is in them is no secret.
    """
    await ensure_keeper(conn)
    await conn.execute(sql_file("keeper.sql"))
    async with as_keeper(conn):
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
    """One transaction that waits for no lock for long, sees built-in names first, and logs no parameters if it may.

    Plans are generic: auto_explain and `debug_print_plan` would show the key as a constant of another one.
    """
    async with conn.transaction():
        await conn.execute(
            "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
            " pg_catalog.set_config('lock_timeout', $1, true),"
            " pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true)",
            str(round(lock_timeout * 1000)),
        )
        await conn.execute(  # the key's two halves are parameters
            "SELECT set_config(name, '0', true) FROM pg_settings"
            " WHERE name IN ('log_parameter_max_length', 'log_parameter_max_length_on_error',"
            " 'auto_explain.log_parameter_max_length')"
            " AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        )
        # Two installers of one database at once would fail on each other's rows of the catalog.
        await take_turn(conn, "tenantproxy install", patience=lock_timeout)
        yield


@asynccontextmanager
async def as_keeper(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Acts as the role that owns keys and functions; an error rolls membership back with everything else."""
    await conn.execute("GRANT tenantproxy_keeper TO CURRENT_USER; SET LOCAL ROLE tenantproxy_keeper")
    yield
    await conn.execute("RESET ROLE; REVOKE tenantproxy_keeper FROM CURRENT_USER")


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
    own keeps them and gets a RESTRICTIVE one in addition, since permissive ones add up. Partitions, which can be read
    directly, get the same. Locks the table only when something is to be changed. `conn` is the owner's.
    Raises ConfigurationError when there is no such table or column, asyncpg.LockNotAvailableError.
    """
    name = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    async with alone(conn, lock_timeout):
        found = await find_table(conn, name, column, "pg_catalog")
        if isinstance(found, str) or not found["has_column"] or found["kind"] not in ("r", "p"):
            problem = f"there is no table {name} with a column {quote_identifier(column)} here"
            raise ConfigurationError([Problem(key="isolate", problem=problem, fix="create it first, as its owner")])
        facts = await read_table(conn, found["oid"], column, ())
        wanted = facts.kind.cast if cast is None else await conn.fetchval("SELECT $1::text::regtype::text", cast)
        if wanted is None:
            key, problem = f"isolate {name}", f"{quote_identifier(column)} {facts.kind.objection()}"
            raise ConfigurationError([Problem(key=key, problem=problem, fix="name another column")])
        comparison = Comparison(signed=True, setting=DEFAULT_SETTING)
        for relation in facts.relations:
            if relation.kind != "f":
                await apply(conn, isolation_changes(relation, quote_identifier(column), wanted, comparison))
