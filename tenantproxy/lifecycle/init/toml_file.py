"""What configuration does the server get? A commented file that `tenantproxy config check` accepts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from tenantproxy.lifecycle.init.dsn import GivenServer
from tenantproxy.lifecycle.init.registry import RegistryQueries
from tenantproxy.lifecycle.init.shape import Shape, TableState
from tenantproxy.model import Isolation

__all__ = ["SERVER", "budget", "toml_text"]

SERVER: Final = "primary"
_MAIN: Final = 20  # the defaults of the sections, where there is room for them
_POOL: Final = 10
_SHARED: Final = 20


def budget(shape: Shape) -> int:
    """Connections for tenantproxy: half of what the server has, for the application goes on with the others."""
    server = shape.found.server
    return max(4, (server.max_connections - server.reserved) // 2)


def toml_text(
    shape: Shape,
    given: GivenServer,
    registry: RegistryQueries | None,
    *,
    has_admin_password: bool,
    ids: tuple[str, ...] = (),
) -> str:
    """The whole file. `ids`: the tenants, where no table lists them."""
    return "".join(f"{line}\n" for line in _lines(shape, given, registry, has_admin_password, ids))


def _lines(
    shape: Shape, given: GivenServer, registry: RegistryQueries | None, has_admin_password: bool, ids: tuple[str, ...]
) -> Iterator[str]:
    names, size = shape.names, budget(shape)
    room = shape.found.server.max_connections - shape.found.server.reserved
    yield "# Written by `tenantproxy init` from what it found: read it, and change what you will."
    yield "# A relative path starts at the folder of this file."
    yield "# Check it: tenantproxy config check --config FILE. All keys: tenantproxy config example"
    yield from ("", "[main]                                   # the database with the registry")
    yield from (f'server = "{SERVER}"', f"database = {_string(given.database)}", f"max_size = {min(_MAIN, size)}")
    yield from ("", f"[servers.{SERVER}]", f"host = {_string(given.host)}", f"port = {given.port}")
    what = (
        "reads the registry"
        if shape.layout.isolation is Isolation.ROW
        else "reads the registry; tenants have roles of their own"
    )
    yield f"user = {_string(names.router)}  # {what}"
    yield 'password_file = "secrets/router_password"'
    secure = "" if given.ssl == "verify-full" else '  # "verify-full" with ssl_root_cert_file in production'
    yield f"ssl = {_string(given.ssl)}{secure}"
    if given.ssl_root_cert_file:
        yield f"ssl_root_cert_file = {_string(given.ssl_root_cert_file)}"
    yield f"max_connections = {size}  # all that tenantproxy may open; the server has {room}, and others need some"
    schemas = _search_path(shape)
    if schemas != ["public"]:
        yield f"search_path = {json.dumps(schemas, ensure_ascii=False)}"
    yield from (
        "",
        f"[servers.{SERVER}.admin]                  # install, doctor, prove, migrations; serves no request",
    )
    yield f"user = {_string(given.user)}"
    yield 'password_file = "secrets/admin_password"' if has_admin_password else "# password_file = ..."
    yield from ("", "[pools]", f"max_size = {min(_POOL, size)}", f"shared_size = {min(_SHARED, size)}")
    yield from _tenancy(shape)
    yield from _registry(shape, registry, ids)
    yield from (
        "",
        "[auth]                                   # signs access tokens; of another issuer: docs/tokens.md",
        'key_file = "secrets/jwt"',
        "",
    )
    yield from (
        "# [pg.users.app]                         # users of the PostgreSQL port: docs/pg.md",
        '# password_file = "secrets/app_password"',
        '# tenants = "*"',
    )


def _search_path(shape: Shape) -> list[str]:
    """Schemas with tables that row tenants reach; `public` first."""
    reached = {table.label for table in shape.of(TableState.TENANTS, TableState.SHARED, TableState.LATER)}
    schemas = sorted({each.schema for each in shape.found.relations if each.label in reached})
    return sorted(schemas, key=lambda name: name != "public") or ["public"]


def _tenancy(shape: Shape) -> Iterator[str]:
    isolation = shape.layout.isolation
    yield from ("", "[tenant_roles]                           # passwords of tenants' roles are derived from this key")
    yield 'key_file = "secrets/role_key"'
    if isolation is Isolation.ROW:
        yield from ("", "[row]                                    # signs whose a session is")
        yield 'key_file = "secrets/row_key"'
        shared = [table.label for table in shape.of(TableState.SHARED)]
        yield f"unprotected = {json.dumps(shared, ensure_ascii=False)}  # what all tenants may read"
        yield from ("", "[migrations]", f"column = {_string(shape.layout.column or 'tenant_id')}")
    if isolation is Isolation.SCHEMA:
        yield from (
            "",
            "[schema]",
            'common = []                              # what tenants may share: "shared.countries"',
        )
    yield from ("", "[provision]", f"isolation = {_string(isolation)}")
    if isolation is not Isolation.DATABASE:
        yield f"shared_database = {_string(shape.found.server.database)}"


def _registry(shape: Shape, registry: RegistryQueries | None, ids: tuple[str, ...]) -> Iterator[str]:
    yield ""
    if registry is not None:
        yield from (
            "[registry]                               # your own table; an id is asked for as it is",
            'source = "postgres"',
        )
        yield f"query = {_text(registry.query)}"
        yield f"list_query = {_text(registry.list_query)}"
        return
    yield from (
        "[registry]                               # no table lists the tenants: they are listed here",
        'source = "file"',
    )
    for tenant in ids:
        yield from ("", f"[tenants.{json.dumps(tenant)}]", 'isolation = "row"')
        yield f"database = {_string(shape.found.server.database)}"
        yield f"role = {_string(shape.names.tenants)}"


def _string(text: str) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _text(sql: str) -> str:
    """A query over several lines; TOML's literal string takes it as it is, unless it holds three quotes."""
    return _string(sql) if "'''" in sql or "\\" in sql else f"'''\n{sql}'''"
