"""Which files does a deployment of the demo have? Secrets that only this user can read, and the configuration."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tenantproxy.demo.people import LOGIN
from tenantproxy.embedded import EmbeddedPostgres

__all__ = ["APP_ROLE", "LOGIN_ROLE", "PG_USER", "SERVER", "toml_of", "write_secrets"]

SERVER: Final = "primary"
APP_ROLE: Final = "tenantproxy_app"
LOGIN_ROLE: Final = "tenantproxy_login"
PG_USER: Final = "demo"
"""Who may reach every tenant on the PostgreSQL port."""


def write_secrets(folder: Path, server: EmbeddedPostgres) -> None:
    """New ones, each in a file of its own."""
    for name in ("app_password", "login_password", "role_key", "row_key", "jwt_key", "pepper"):
        _write_secret(folder / name, secrets.token_hex(32))
    for name in ("people_password", "pg_password"):
        _write_secret(folder / name, secrets.token_urlsafe(9))
    _write_secret(folder / "admin_password", server.password)


def toml_of(
    server: EmbeddedPostgres, own: Mapping[str, Mapping[str, Any]], *, main: str, listen: str, admin_listen: str,
    pg_listen: str, tenants: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:  # fmt: skip
    """The text of a configuration file: what every deployment of the demo has, `own` tables, and last its `tenants`."""
    tables: dict[str, Mapping[str, Any]] = {
        "main": {"server": SERVER, "database": main},
        f"servers.{SERVER}": {
            "host": server.host,
            "port": server.port,
            "user": APP_ROLE,
            "password_file": "app_password",
            "ssl": "disable",
            "max_connections": 40,
        },
        f"servers.{SERVER}.admin": {"user": server.superuser, "password_file": "admin_password"},
        f"servers.{SERVER}.login": {"user": LOGIN_ROLE, "password_file": "login_password"},
        **own,
        "row": {"key_file": "row_key"},
        "tenant_roles": {"key_file": "role_key"},
        "auth": {"key_file": "jwt_key", "access_ttl": 86400},  # what is printed can be tried for a day
        "login": LOGIN,
        "http": {"listen": listen},
        "admin": {"listen": admin_listen},
        "pg": {"listen": pg_listen, "jwt": True},
        "sql": {"enabled": True},
        f"pg.users.{PG_USER}": {"password_file": "pg_password", "tenants": "*"},
        **{f"tenants.{name}": entry for name, entry in (tenants or {}).items()},
    }
    return "\n".join(_table(name, values) for name, values in tables.items())


def _write_secret(path: Path, value: str) -> None:
    path.touch(mode=0o600)
    path.write_text(value)


def _table(name: str, values: Mapping[str, Any]) -> str:
    # JSON's strings and numbers are TOML's, as long as nothing is beyond ASCII.
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])
