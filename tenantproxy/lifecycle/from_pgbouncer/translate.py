"""What is each line of a pgbouncer.ini here? Servers, tenants, users, and a remark on what is not the same. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import TenantNotFound
from tenantproxy.lifecycle.from_pgbouncer.ini import Ini
from tenantproxy.lifecycle.from_pgbouncer.settings import KEYS, NEEDLESS, NONE_HERE, number
from tenantproxy.lifecycle.from_pgbouncer.users import users_of, with_reach
from tenantproxy.lifecycle.from_pgbouncer.values import Remark, ServerPart, TenantPart, UserPart
from tenantproxy.model import tenant_id

__all__ = ["Translated", "translate"]

_SSL: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ENCRYPTED: Final = _SSL[3:]
_DEFAULT_USER: Final = "tenantproxy_app"


@dataclass(frozen=True, slots=True)
class Translated:
    """All parts; `keys` holds what goes into [pg], [pools] and each server, by section."""

    source: str
    keys: Mapping[str, Mapping[str, object]]
    servers: tuple[ServerPart, ...]
    tenants: tuple[TenantPart, ...]
    users: tuple[UserPart, ...]
    remarks: tuple[Remark, ...]

    @property
    def main(self) -> str:
        """The server for the main database: that of the first tenant."""
        return self.tenants[0].server if self.tenants else self.servers[0].name


def translate(ini: Ini) -> Translated:
    """The parts of a configuration that does what this file does."""
    keys: dict[str, dict[str, object]] = {"pg": {}, "pools": {}, "servers": {}}
    remarks = [*_settings(ini, keys), *_listener(ini, keys), *_encryption(ini, keys)]
    users, of_users = users_of(ini)
    servers, tenants, of_databases = _databases(ini, keys, users)
    users, of_reach = with_reach(ini, users, tenants)
    remarks += [*of_users, *of_databases, *of_reach]
    return Translated(ini.source, keys, servers, tenants, users, tuple(remarks))


def _settings(ini: Ini, keys: dict[str, dict[str, object]]) -> Iterator[Remark]:
    for name, key in KEYS.items():
        given = ini.settings.get(name, key.default)
        if given is None:
            continue
        try:
            keys[key.section][key.name] = key.read(given)
        except ValueError as exc:
            yield Remark(name, "decide", f"{given[:40]!r} {exc}: left out")
            continue
        said = "" if name in ini.settings else " (PgBouncer's default)"
        yield Remark(name, "same", f"[{key.section}] {key.name}{said}")
    for name in ini.settings:
        if name in KEYS or not NEEDLESS.get(name, "?"):
            continue
        if name in NEEDLESS:
            yield Remark(name, "needless", NEEDLESS[name])
        else:
            yield Remark(name, "decide", NONE_HERE.get(name, "is not known here"))


def _listener(ini: Ini, keys: dict[str, dict[str, object]]) -> Iterator[Remark]:
    addresses = [part.strip() for part in ini.settings.get("listen_addr", "").split(",") if part.strip()]
    port = ini.settings.get("listen_port", "6432")
    host = addresses[0] if addresses else "127.0.0.1"
    host = "0.0.0.0" if host == "*" else host
    keys["pg"]["listen"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if len(addresses) > 1:
        yield Remark("listen_addr", "decide", f"one address is listened on here, {host}; 0.0.0.0 is all of them")
    elif not addresses:
        yield Remark("listen_addr", "other", "a unix socket alone: the port listens on 127.0.0.1 instead")


def _encryption(ini: Ini, keys: dict[str, dict[str, object]]) -> Iterator[Remark]:
    asked = ini.settings.get("client_tls_sslmode", "disable")
    listens = str(keys["pg"]["listen"])
    is_local = listens.startswith(("127.", "[::1]", "localhost"))
    if asked in _ENCRYPTED:
        keys["pg"]["ssl_required"] = "always"
        yield Remark("client_tls_sslmode", "same", '[pg] ssl_required = "always"')
    elif not is_local:
        keys["pg"]["ssl_required"] = "never"
        text = "other machines may come without TLS, as they could: remove ssl_required and give a certificate"
        yield Remark("client_tls_sslmode", "decide", text)
    if "ssl_client_ca_file" in keys["pg"] and "ssl_cert_file" not in keys["pg"]:
        del keys["pg"]["ssl_client_ca_file"]
    mode = ini.settings.get("server_tls_sslmode", "prefer")
    if mode in _SSL:
        keys["servers"]["ssl"] = mode
        yield Remark("server_tls_sslmode", "same", "[servers.NAME] ssl")
    else:
        yield Remark("server_tls_sslmode", "decide", "is none of libpq's words: left out")


def _databases(
    ini: Ini, keys: Mapping[str, Mapping[str, object]], users: tuple[UserPart, ...]
) -> tuple[tuple[ServerPart, ...], tuple[TenantPart, ...], list[Remark]]:
    remarks: list[Remark] = []
    servers: dict[tuple[str, int, str], ServerPart] = {}
    tenants: list[TenantPart] = []
    limit = ini.settings.get("max_db_connections", "0")
    databases = dict(sorted(ini.databases.items()))
    if "*" in databases:
        text = "any database of that server: name your tenants in a registry, or below as the others"
        remarks.append(Remark("database *", "decide", text))
    if set(databases) - {"*"}:
        databases.pop("*", None)
    for name, pairs in (databases or {"*": {}}).items():
        place = f"database {name}"
        key = _place(pairs, place, users, remarks)
        server = servers.setdefault(
            key, ServerPart("primary" if not servers else f"server{len(servers) + 1}", *key, _password(ini, pairs, key))
        )
        if name == "*":
            continue
        try:
            tenant_id(name)
        except TenantNotFound as exc:
            remarks.append(Remark(place, "decide", f"cannot be a tenant's identifier ({exc.detail}): left out"))
            continue
        size = _least(pairs.get("pool_size", ""), pairs.get("max_db_connections", ""), limit)
        tenants.append(TenantPart(name, server.name, pairs.get("dbname", name), size))
        remarks.append(Remark(place, "same", f"the tenant {name}, on {server.name}"))
        remarks += [
            Remark(place, "decide", f"{given}: {why}") for given, why in _OF_A_DATABASE.items() if given in pairs
        ]
    return tuple(_sized(servers, tenants, keys)), tuple(tenants), remarks


_OF_A_DATABASE: Final[Mapping[str, str]] = {
    "connect_query": "is not run here: ALTER ROLE ... IN DATABASE ... SET, or [servers.NAME] role_settings",
    "auth_query": NONE_HERE["auth_query"],
    "auth_user": NONE_HERE["auth_query"],
    "pool_mode": "is a user's here: [pg.users.NAME] pool_mode",
    "reserve_pool": NONE_HERE["reserve_pool_size"],
    "reserve_pool_size": NONE_HERE["reserve_pool_size"],
    "max_db_client_connections": NONE_HERE["max_db_client_connections"],
    "load_balance_hosts": "replicas are servers of their own here: [servers.NAME] replicas",
    "client_encoding": "clients choose their own",
    "datestyle": "clients choose their own",
    "timezone": "clients choose their own, or ALTER ROLE ... SET",
    "application_name": "clients choose their own",
}


def _place(
    pairs: Mapping[str, str], place: str, users: tuple[UserPart, ...], remarks: list[Remark]
) -> tuple[str, int, str]:
    hosts = [part.strip() for part in pairs.get("host", "").split(",") if part.strip()]
    if len(hosts) > 1:
        remarks.append(Remark(place, "decide", "names several hosts: write hosts = [...] for those of one cluster"))
    host = hosts[0] if hosts else "/var/run/postgresql"
    port = pairs.get("port", "5432")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        remarks.append(Remark(place, "decide", "port is none: 5432 was written"))
        port = "5432"
    user = pairs.get("user")
    if user is None:
        plain = [each.name for each in users if not each.console]
        user = plain[0] if len(plain) == 1 else _DEFAULT_USER
        text = f"PgBouncer logs in as the client's own user; here one role serves all: {user} was written"
        remarks.append(Remark(place, "decide", text))
    return host, int(port), user


def _password(ini: Ini, pairs: Mapping[str, str], key: tuple[str, int, str]) -> str | None:
    given = pairs.get("password") or ini.accounts.get(key[2], "")
    return given if given and not given.startswith(("SCRAM-SHA-256$", "md5")) else None


def _least(*limits: str) -> int | None:
    """The lowest of limits that are given; 0 is none."""
    given = [int(number(text)) for text in limits if text.isdigit() and int(text) > 0]
    return min(given, default=None)


def _sized(
    servers: Mapping[tuple[str, int, str], ServerPart],
    tenants: list[TenantPart],
    keys: Mapping[str, Mapping[str, object]],
) -> Iterator[ServerPart]:
    """With the connections that PgBouncer could have opened there."""
    each = int(str(keys["pools"].get("max_size", 20)))
    for part in servers.values():
        all_of_it = sum(tenant.max_size or each for tenant in tenants if tenant.server == part.name) or each
        yield ServerPart(part.name, part.host, part.port, part.user, part.password, all_of_it)
