"""Where does the tour of a reference platform begin? Its files, on a PostgreSQL of its own, without a tenant yet."""

from __future__ import annotations

import secrets
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
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
from tenantproxy.model import Isolation

__all__ = ["SystemWorld", "build_system", "system_folder", "unpack"]

_PACKAGE: Final = Path(__file__).parents[1]
_MORE_SECRETS: Final = ("platform_key", "people_password", "column_key")
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
        return self.settings_of(self.config.name)

    def settings_of(self, name: str) -> Settings:
        """Those of one of its files: a platform may have a file for each service."""
        return load(self.config.with_name(name), overrides=self.overrides)

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process."""
        texts = {key: value if isinstance(value, list) else [value] for key, value in self.overrides.items()}
        return {
            f"TENANTPROXY_{key.upper().replace('.', '__')}": ",".join(map(str, each)) for key, each in texts.items()
        }

    def secret(self, name: str) -> str:
        """The text of one of its secrets."""
        return (self.config.parent / "secrets" / name).read_text()

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        """A plain connection past tenantproxy, as the superuser."""
        return await asyncpg.connect(**self.server.connect_args(database), timeout=60)

    def module(self, name: str) -> Any:
        """The Python file `name` of the platform, as a module that finds those next to it."""
        before = {*sys.modules}
        spec = spec_from_file_location(f"tenantproxy_system_{name}", self.config.with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)  # where its own annotations are looked up
        folder = str(self.config.parent)
        sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(folder)
            for other in {*sys.modules} - before - {spec.name}:  # another platform has files of the same names
                if str(getattr(sys.modules[other], "__file__", None) or "").startswith(folder):
                    del sys.modules[other]
        return module


def system_folder(name: str) -> Path:
    """The files of a platform: inside of an installed package, or in the folder config of a checkout."""
    inside = _PACKAGE / "shipped" / "systems" / name
    return inside if inside.is_dir() else _PACKAGE.parent / "config" / "systems" / name


async def build_system(
    server: EmbeddedPostgres, folder: Path, name: str, *, also: Mapping[str, Any] | None = None
) -> SystemWorld:
    """Copy the platform's files into `folder`, make its secrets, roles and main databases on the running `server`.

    `also`: what else its files cannot know, as `SystemWorld.overrides`.
    """
    raw = unpack(name, folder, server)
    config = folder / "tenantproxy.toml"
    configs = _configs(folder)
    places = {"host": server.host, "port": server.port, "admin.user": server.superuser}
    overrides = {f"servers.{each}.{key}": value for each in raw["servers"] for key, value in places.items()}
    world = SystemWorld(server=server, config=config, overrides={**overrides, **(also or {})})
    for each in configs:
        await _install(world, each)
    return world


def unpack(name: str, folder: Path, server: EmbeddedPostgres) -> Mapping[str, Any]:
    """The platform's files in `folder`, with secrets of this run; what its configuration says."""
    shutil.copytree(
        system_folder(name), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
    )
    configs = _configs(folder)
    _write_secrets(folder, configs.values(), server)
    return configs[folder / "tenantproxy.toml"]


def _configs(folder: Path) -> dict[Path, dict[str, Any]]:
    """Its configurations: a platform may have one for each service."""
    return {each: tomllib.loads(each.read_text()) for each in sorted(folder.glob("*.toml"))}


def _write_secrets(folder: Path, configs: Iterable[Mapping[str, Any]], server: EmbeddedPostgres) -> None:
    (folder / "secrets").mkdir(mode=0o700)
    for name in {*_MORE_SECRETS, *(name for raw in configs for name in _secrets_in(raw))}:
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


async def _install(world: SystemWorld, config: Path) -> None:
    """What `tenantproxy install` makes, and the platform's own tables of the main database of one configuration."""
    settings = world.settings_of(config.name)
    main, server = settings.main.database, settings.servers[settings.main.server]
    assert server.password is not None
    conn = await world.connect()
    try:
        await ensure_role(conn, server.user, password=server.password.read())
        for database in dict.fromkeys([main, settings.provision.shared_database or main]):
            await ensure_database(conn, database)
            await close_database(conn, database, roles=[server.user])
        await close_maintenance(conn)
    finally:
        await conn.close()
    shared = settings.provision.shared_database
    if shared and settings.provision.isolation is Isolation.ROW:  # empty, closed, with what isolates row tenants
        key = derive_key(world.secret("row_key").encode(), server=settings.main.server, database=shared, kid=1)
        await provision_shared(world.connect, database=shared, role=server.user, keys={1: key}, tables=[])
    conn = await world.connect(main)
    try:
        files = sorted((config.parent / "main").glob("*.sql")) if config == world.config else []
        for file in files:
            await conn.execute(file.read_text())
        if not any(file.stem.endswith("grants") for file in files):  # a platform that grants by itself
            user = await conn.fetchval("SELECT pg_catalog.quote_ident($1)", server.user)
            await conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
        await install_registry(conn, app_role=server.user)
        await install_auth(conn, app_role=server.user)
    finally:
        await conn.close()
