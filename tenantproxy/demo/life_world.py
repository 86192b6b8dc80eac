"""Where does the tour of a tenant's life begin? At a deployment without a tenant, with the files that make one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tenantproxy.demo.files import APP_ROLE, LOGIN_ROLE, SERVER, toml_of, write_secrets
from tenantproxy.demo.people import LOGIN, OWN_USERS
from tenantproxy.demo.world import World
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_maintenance,
    ensure_database,
    ensure_role,
    provision_shared,
)

__all__ = ["SHARED_BY_ALL", "add_migration", "build_life_world"]

_MAIN: Final = "life_main"
SHARED_BY_ALL: Final = "life_shared"
"""The database of row and schema tenants."""

_PROJECTS: Final = "id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL, budget numeric NOT NULL DEFAULT 0"
# The application does not name its tenant: its statements are the same in each kind of place.
_WHOSE: Final = "tenant_id text NOT NULL DEFAULT current_setting('app.current_tenant_id', true)"
_SHARED_TABLES: Final = (
    f"CREATE TABLE projects ({_WHOSE}, {_PROJECTS}, PRIMARY KEY (tenant_id, id))",
    f"CREATE TABLE users ({_WHOSE}, id text NOT NULL, email text NOT NULL, password_hash text NOT NULL,"
    " role text NOT NULL, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, email))",
)
_FILES: Final = {
    "schema.sql": f"CREATE TABLE projects ({_PROJECTS}, PRIMARY KEY (id));\n{OWN_USERS};\n",
    "migrations/1_notes.sql": "ALTER TABLE projects ADD COLUMN note text;\n",
}
_LATER: Final = {"migrations/2_due.sql": "ALTER TABLE projects ADD COLUMN due date;\n"}
_ADMIN_QUERY: Final = (
    "insert into users (id, email, password_hash, role) values (gen_random_uuid()::text, $1, $2, 'admin')"
    " returning id as user_id"
)


async def build_life_world(
    server: EmbeddedPostgres, folder: Path, *, listen: str, admin_listen: str, pg_listen: str = "127.0.0.1:0"
) -> World:
    """What `tenantproxy install` makes on the running `server`; the TOML, secrets and SQL files in `folder`."""
    write_secrets(folder, server)
    _write(folder, _FILES)
    world = World(server=server, config=folder / "tenantproxy.toml", tenants=())
    text = toml_of(server, _own_tables(), main=_MAIN, listen=listen, admin_listen=admin_listen, pg_listen=pg_listen)
    world.config.write_text(text)
    await _install(world, (folder / "row_key").read_bytes())
    return world


def add_migration(folder: Path) -> None:
    """The file that the application's next version brings."""
    _write(folder, _LATER)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def _own_tables() -> dict[str, dict[str, Any]]:
    return {
        "pools": {"max_size": 5, "acquire_timeout": 30.0},  # callers wait as long for the end of a pause
        "registry": {"source": "postgres"},
        "provision": {"shared_database": SHARED_BY_ALL, "sql_files": ["schema.sql"], "admin_query": _ADMIN_QUERY},
        "migrations": {"folder": "migrations"},
        "backup": {"folder": "backups"},
    }


async def _install(world: World, secret: bytes) -> None:
    conn = await world.connect()
    try:
        for role in (APP_ROLE, LOGIN_ROLE):
            await ensure_role(conn, role, password=world.password(role))
        await ensure_database(conn, _MAIN)
        await close_database(conn, _MAIN, roles=[APP_ROLE])
        await close_maintenance(conn)
    finally:
        await conn.close()
    conn = await world.connect(_MAIN)
    try:
        await install_registry(conn, app_role=APP_ROLE)
        await install_auth(conn, app_role=APP_ROLE)
    finally:
        await conn.close()
    await provision_shared(
        world.connect,
        database=SHARED_BY_ALL,
        role=APP_ROLE,
        keys={1: derive_key(secret, server=SERVER, database=SHARED_BY_ALL, kid=1)},
        tables=["projects", "users"],
        statements=_SHARED_TABLES,
    )
    conn = await world.connect(SHARED_BY_ALL)
    try:
        await install_lookup(conn, login_role=LOGIN_ROLE, app_role=APP_ROLE, query=LOGIN["lookup_query"])
    finally:
        await conn.close()
