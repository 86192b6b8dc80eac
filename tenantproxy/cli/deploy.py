"""What does `install` put where? The signed context where row tenants live; registry and sessions next to main's data.

Connects with each server's admin credentials; everything may be run again, which is the upgrade.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from tenantproxy.config import Settings, fleet_key
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.access import admin_connection, connect_as, registered
from tenantproxy.lifecycle.fleet import install_fleet
from tenantproxy.lifecycle.install import install, install_auth, install_registry
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import close_functions, ensure_role
from tenantproxy.lifecycle.trusted import GRANT
from tenantproxy.model import Isolation, Tenant

__all__ = [
    "DeployTarget",
    "admin_connection",
    "check_signed",
    "connect_as",
    "context_secrets",
    "install_all",
    "install_contexts",
    "install_main",
    "needs_auth",
    "needs_fleet",
    "needs_main",
    "needs_registry",
    "registered",
    "targets",
]


class DeployTarget(NamedTuple):
    """A database, and the role that tenants' SQL runs as there."""

    server: str
    database: str
    role: str


async def install_all(settings: Settings, databases: Sequence[str], *, closing: bool = True) -> list[dict[str, Any]]:
    """Install what `settings` need, in `databases` (`server/database` or `database`) or wherever row tenants are.

    `closing`: also take from PUBLIC there the functions that reach other sessions, which only a superuser can.
    A row for each thing done, and for each that could not be. Raises ConfigurationError where admin credentials or a
    key are missing.
    """
    done = await install_main(settings)
    found = targets(settings, databases, await registered(settings))
    check_signed(settings, found)
    return done + await install_contexts(settings, found, closing=closing)


def check_signed(settings: Settings, found: Sequence[DeployTarget]) -> None:
    """Raises ConfigurationError where the signed context is to be installed and rows are not signed."""
    if found and not settings.row.signed:
        fix = "set it to true: unsigned rows need nothing installed but their policies (--table, --all-with-column)"
        raise ConfigurationError([Problem(key="row.signed", problem="is false", fix=fix)])


def needs_registry(settings: Settings) -> bool:
    """Whether the registry is our own table."""
    return settings.registry.source == "postgres" and settings.registry.query is None


def needs_auth(settings: Settings) -> bool:
    """Whether sessions or accounts are kept in the main database."""
    auth = settings.auth
    signs = auth.keys() or auth.public_key_file or auth.jwks_url
    return bool(signs) or settings.login.account_query is not None


def needs_fleet(settings: Settings) -> bool:
    """Whether processes share their budgets: all of them know a secret, and have tenantproxy's tables or ask for it."""
    if not settings.fleet.enabled or fleet_key(settings.fleet, settings.row, settings.tenant_roles) is None:
        return False
    return needs_registry(settings) or needs_auth(settings) or settings.fleet.key is not None


def needs_main(settings: Settings) -> bool:
    """Whether any of our tables belongs into the main database."""
    return needs_registry(settings) or needs_auth(settings) or needs_fleet(settings)


async def install_main(settings: Settings) -> list[dict[str, Any]]:
    """What the main database needs: the registry, sessions and the login directory, as far as they are configured."""
    done: list[dict[str, Any]] = []
    if needs_registry(settings):
        done.append(await _install_in_main(settings, "registry", install_registry))
    if needs_auth(settings):
        done.append(await _install_in_main(settings, "sessions and login directory", install_auth))
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    if needs_fleet(settings) and key is not None:
        fleet = functools.partial(
            install_fleet,
            key=key,
            fleet=settings.fleet.id,
            ttl=settings.fleet.ttl,
            reporter=settings.fleet.user or None,
        )
        done.append(await _install_in_main(settings, f"budget of the fleet {settings.fleet.id}", fleet))
    return done


async def install_contexts(settings: Settings, found: Sequence[DeployTarget], *, closing: bool) -> list[dict[str, Any]]:
    """The signed context of each database of row tenants, with its keys. Raises as `install_all`."""
    secrets = context_secrets(settings) if found else {}
    done: list[dict[str, Any]] = []
    for target in found:
        done.extend(await _install_context(settings, target, secrets, closing=closing))
    return done


def context_secrets(settings: Settings) -> dict[int, bytes]:
    """What the keys of all databases are derived from, by key id. Raises ConfigurationError where it is not set."""
    secrets = {kid: secret.read_bytes() for kid, secret in settings.row.keys().items()}
    if not secrets:
        raise ConfigurationError(
            [Problem(key="row.key_file", problem="is missing", fix="name a file with 32 bytes or more")]
        )
    return secrets


async def _install_context(
    settings: Settings, target: DeployTarget, secrets: Mapping[int, bytes], *, closing: bool
) -> list[dict[str, Any]]:
    keys = {
        kid: derive_key(secret, server=target.server, database=target.database, kid=kid)
        for kid, secret in secrets.items()
    }
    async with admin_connection(settings, target.server, target.database) as conn:
        wanted = settings.row.form == "trusted"
        form = await install(conn, app_role=target.role, keys=keys, setting=settings.row.setting, trusted=wanted)
        done = [{"installed": "signed context", **target._asdict()}]
        if wanted or form == "trusted":
            what = f"trusted form LEFT OUT: as a superuser: {GRANT}" if form != "trusted" else "trusted form"
            done.append({"installed": what, **target._asdict()})
        if closing:
            closed = await close_functions(conn)
            what = "closed functions" if closed else "functions LEFT OPEN: the admin user is no superuser"
            done.append({"installed": what, **target._asdict()})
        done += await _install_lookup(settings, target, conn)
    return done


async def _install_lookup(settings: Settings, target: DeployTarget, conn: asyncpg.Connection) -> list[dict[str, Any]]:
    server, query = settings.servers[target.server], settings.login.lookup_query
    if server.login is None or query is None:
        return []
    password = server.login.password.read() if server.login.password is not None else None
    await ensure_role(conn, server.login.user, password=password or None)
    try:
        made = await install_lookup(
            conn, login_role=server.login.user, app_role=target.role, query=query, search_path=server.search_path
        )
        what = "account lookup" if made else "account lookup LEFT OUT: the admin user is no superuser"
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        what = "account lookup LEFT OUT: what lookup_query names is not there yet"
    return [{"installed": what, "server": target.server, "database": target.database, "role": server.login.user}]


async def _install_in_main(settings: Settings, what: str, install: Callable[..., Awaitable[None]]) -> dict[str, Any]:
    """Run `install(conn, app_role=...)` in the main database: a row that tells of `what`."""
    server, database = settings.main.server, settings.main.database
    role = settings.servers[server].user
    async with admin_connection(settings, server, database) as conn:
        await install(conn, app_role=role)
    return {"installed": what, "server": server, "database": database, "role": role}


def _named(settings: Settings, name: str) -> DeployTarget:
    server, slash, database = name.partition("/")
    if not slash:
        server, database = settings.main.server, name
    return DeployTarget(server, database, _server_user(settings, server))


def targets(settings: Settings, databases: Sequence[str], tenants: Sequence[Tenant]) -> list[DeployTarget]:
    """The named databases, or those of the row tenants among `tenants`."""
    found = dict.fromkeys(_named(settings, name) for name in databases)
    for tenant in tenants if not databases else ():
        place = tenant.placement
        if place.isolation is Isolation.ROW:
            found[DeployTarget(place.server, place.database, place.role or _server_user(settings, place.server))] = None
    return list(found)


def _server_user(settings: Settings, server: str) -> str:
    if server not in settings.servers:
        problem = f"there is no [servers.{server}]"
        raise ConfigurationError(
            [Problem(key="--database", problem=problem, fix="say SERVER/DATABASE, or configure it")]
        )
    return settings.servers[server].user
