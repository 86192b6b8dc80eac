"""Where does the tour of a reference platform begin? Its files, on a PostgreSQL of its own, without a tenant yet."""

from __future__ import annotations

import secrets
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings, load
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_maintenance,
    ensure_database,
    ensure_role,
    provision_shared,
)

__all__ = ["SystemWorld", "build_system", "system_folder", "unpack"]

_PACKAGE: Final = Path(__file__).parents[1]
_MORE_SECRETS: Final = ("platform_key", "people_password")
"""Of the platform's own service, and of everyone whom the tour logs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemWorld:
    """A platform's files in a folder of this run, with secrets that only this user can read, and its server.

    `overrides` are what the file cannot know: where the server listens, and as whom it is administered.
    """

    server: EmbeddedPostgres
    config: Path
    overrides: Mapping[str, Any]

    @property
    def settings(self) -> Settings:
        """Those of the platform's own file."""
        return load(self.config, overrides=self.overrides)

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process."""
        return {f"TENANTPROXY_{key.upper().replace('.', '__')}": str(value) for key, value in self.overrides.items()}

    def secret(self, name: str) -> str:
        """The text of one of its secrets."""
        return (self.config.parent / "secrets" / name).read_text()

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        """A plain connection past tenantproxy, as the superuser."""
        return await asyncpg.connect(**self.server.connect_args(database), timeout=60)

    def module(self, name: str) -> Any:
        """The Python file `name` of the platform, as a module."""
        spec = spec_from_file_location(f"tenantproxy_system_{name}", self.config.with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)  # where its own annotations are looked up
        spec.loader.exec_module(module)
        return module


def system_folder(name: str) -> Path:
    """The files of a platform: inside of an installed package, or in the folder config of a checkout."""
    inside = _PACKAGE / "shipped" / "systems" / name
    return inside if inside.is_dir() else _PACKAGE.parent / "config" / "systems" / name


async def build_system(server: EmbeddedPostgres, folder: Path, name: str) -> SystemWorld:
    """Copy the platform's files into `folder`, make its secrets, roles and main database on the running `server`."""
    raw = unpack(name, folder, server)
    config = folder / "tenantproxy.toml"
    places = {"host": server.host, "port": server.port, "admin.user": server.superuser}
    overrides = {f"servers.{each}.{key}": value for each in raw["servers"] for key, value in places.items()}
    world = SystemWorld(server=server, config=config, overrides=overrides)
    await _install(world)
    return world


def unpack(name: str, folder: Path, server: EmbeddedPostgres) -> Mapping[str, Any]:
    """The platform's files in `folder`, with secrets of this run; what its configuration says."""
    shutil.copytree(
        system_folder(name), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
    )
    raw = tomllib.loads((folder / "tenantproxy.toml").read_text())
    _write_secrets(folder, raw, server)
    return raw


def _write_secrets(folder: Path, raw: Mapping[str, Any], server: EmbeddedPostgres) -> None:
    (folder / "secrets").mkdir(mode=0o700)
    for name in {*_secrets_in(raw), *_MORE_SECRETS}:
        path = folder / "secrets" / name
        path.touch(mode=0o600)
        path.write_text(server.password if name == "admin_password" else secrets.token_hex(32))


def _secrets_in(table: Mapping[str, Any]) -> Iterator[str]:
    """The names of files under secrets/ that a configuration names, at any depth."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _secrets_in(value)
        elif key.endswith("_file") and isinstance(value, str) and value.startswith("secrets/"):
            yield value.removeprefix("secrets/")


async def _install(world: SystemWorld) -> None:
    """What `tenantproxy install` makes, and the platform's own tables of the main database."""
    settings = world.settings
    main, server = settings.main.database, settings.servers[settings.main.server]
    conn = await world.connect()
    try:
        await ensure_role(conn, server.user, password=world.secret("app_password"))
        await ensure_database(conn, main)
        await close_database(conn, main, roles=[server.user])
        await close_maintenance(conn)
    finally:
        await conn.close()
    if shared := settings.provision.shared_database:  # empty, closed, with what isolates row tenants
        key = derive_key(world.secret("row_key").encode(), server=settings.main.server, database=shared, kid=1)
        await provision_shared(world.connect, database=shared, role=server.user, keys={1: key}, tables=[])
    conn = await world.connect(main)
    try:
        for file in sorted((world.config.parent / "main").glob("*.sql")):
            await conn.execute(file.read_text())
        user = await conn.fetchval("SELECT pg_catalog.quote_ident($1)", server.user)
        await conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
        await install_registry(conn, app_role=server.user)
        await install_auth(conn, app_role=server.user)
    finally:
        await conn.close()
