"""Do the sections agree with each other? Pure: reads no file and no variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantproxy.config.admin_checks import admin_problems
from tenantproxy.config.auth_sections import Auth, LoginSettings, Resolve
from tenantproxy.config.fleet_section import FleetSettings
from tenantproxy.config.issuers import auth_problems, issuer_problems
from tenantproxy.config.mongo_checks import mongo_problems
from tenantproxy.config.mongo_section import MongoSettings
from tenantproxy.config.own import names_a_class
from tenantproxy.config.pg_users import pg_problems, tls_problems
from tenantproxy.config.pooler_checks import pooler_problems
from tenantproxy.config.problems import nearest
from tenantproxy.config.secret import Secret
from tenantproxy.config.sections import Admin, Http, Main, Pg, Pools
from tenantproxy.config.server_sections import Server
from tenantproxy.config.sources import resolve_problems
from tenantproxy.config.sql_section import SqlSettings, region_problems, sql_problems
from tenantproxy.config.tenant_sections import RegistrySettings, RowSettings, Schema, TenantEntry, TenantRoles
from tenantproxy.config.tenants import tenant_problems
from tenantproxy.config.values import listen_address
from tenantproxy.errors import Problem
from tenantproxy.model import OWN_SETTINGS

__all__ = ["MAIN_RESERVE", "WellFormedSections", "check"]

SOURCES: Final = ("file", "postgres", "mongodb")
MAIN_RESERVE: Final = 2
"""Connections of its server's budget that are always the main database's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WellFormedSections:
    """The sections that are well formed; None stands for one that is not, and is another check's problem."""

    main: Main | None
    servers: Mapping[str, Server | None]
    pools: Pools | None
    registry: RegistrySettings | None
    tenants: Mapping[str, TenantEntry | None]
    row: RowSettings | None
    context: Mapping[str, str] | None
    signed_context: Mapping[str, str] | None
    http: Http | None
    admin: Admin | None
    pg: Pg | None
    tenant_roles: TenantRoles | None
    auth: Auth | None
    login: LoginSettings | None
    resolve: Resolve | None
    fleet: FleetSettings | None
    sql: SqlSettings | None
    mongo: MongoSettings | None
    schema_: Schema | None


def check(parts: WellFormedSections) -> list[Problem]:
    """Every disagreement between `parts`."""
    checks: tuple[Callable[[WellFormedSections], Iterator[Problem]], ...] = (
        _main,
        _passwords,
        _replicas,
        _hosts,
        _fleet,
        _sizes,
        _registry,
        _tenants,
        _roles,
        _readers,
        _row_key,
        _context,
        _auth,
        _login,
        _resolve,
        _listeners,
        _admin,
        _pg_users,
        _poolers,
        _sql,
        _mongo,
    )
    return [problem for one in checks for problem in one(parts)]


def _unknown_server(key: str, name: str, parts: WellFormedSections) -> Iterator[Problem]:
    if name in parts.servers:
        return
    close = nearest(name, parts.servers)
    known = ", ".join(sorted(parts.servers)) or "there are none"
    yield Problem(
        key=key,
        problem=f"names the server {name!r}, which is not in [servers]",
        fix=f"did you mean {close}?" if close else f"add [servers.{name}] or name one of: {known}",
    )


def _main(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.main is None:
        return
    yield from _unknown_server("main.server", parts.main.server, parts)
    server = parts.servers.get(parts.main.server)
    if server is not None and server.max_connections < MAIN_RESERVE + 1:
        yield Problem(
            key=f"servers.{parts.main.server}.max_connections",
            problem=f"is {server.max_connections}, but {MAIN_RESERVE} connections are always the main database's own",
            fix=f"write at least {MAIN_RESERVE + 1}",
        )


def _passwords(parts: WellFormedSections) -> Iterator[Problem]:
    for name, server in parts.servers.items():
        if server is None:
            continue
        if server.password is None and not server.ssl_cert_file:
            yield _no_password(f"servers.{name}.password_file")
        if server.admin is not None and server.admin.password is None and not server.ssl_cert_file:
            yield _no_password(f"servers.{name}.admin.password_file")
        if server.login is not None and server.login.password is None and not server.ssl_cert_file:
            yield _no_password(f"servers.{name}.login.password_file")
        if server.ssl_crl_file and not server.ssl_root_cert_file:
            yield Problem(
                key=f"servers.{name}.ssl_crl_file",
                problem="is only read with ssl_root_cert_file",
                fix="name the authority that the list is of",
            )
        if server.channel_binding == "require" and server.ssl not in ("verify-ca", "verify-full"):
            yield Problem(
                key=f"servers.{name}.channel_binding",
                problem=f'is "require", and ssl is "{server.ssl}": the library has none, and trusts what it meets',
                fix='write ssl = "verify-full"',
            )
        if bool(server.ssl_cert_file) != bool(server.ssl_key_file):
            yield Problem(
                key=f"servers.{name}.ssl_cert_file",
                problem="ssl_cert_file and ssl_key_file belong together",
                fix="give both or neither",
            )


def _no_password(key: str) -> Problem:
    return Problem(
        key=key,
        problem="the server's user has no password",
        fix='add password_file, password_env or password (password = "" for a server that asks for none)',
    )


def _replicas(parts: WellFormedSections) -> Iterator[Problem]:
    for name, server in parts.servers.items():
        for replica in server.replicas if server is not None else ():
            key = f"servers.{name}.replicas"
            if replica == name:
                yield Problem(key=key, problem="names the server itself", fix="remove it from the list")
            yield from _unknown_server(key, replica, parts)
            other = parts.servers.get(replica)
            if other is not None and other.target_session_attrs not in (None, "standby"):
                yield Problem(
                    key=f"servers.{replica}.target_session_attrs",
                    problem=f"is {other.target_session_attrs!r}, and this server is a replica of {name!r}",
                    fix='write "standby" or leave it out: reads go to the primary by themselves when no replica serves',
                )
        if server is not None and server.max_replica_lag and not server.replicas:
            yield Problem(
                key=f"servers.{name}.max_replica_lag",
                problem="is only read with replicas",
                fix="name the replicas of this server, or remove it",
            )


_PRIMARIES: Final = ("read-write", "primary")
_SERVER_NAME_BYTES: Final = 63


def _hosts(parts: WellFormedSections) -> Iterator[Problem]:
    for name, server in parts.servers.items():
        if server is None:
            continue
        for key in ("target_session_attrs", "system_identifier", "probe_database"):
            if getattr(server, key) and not server.hosts:
                yield Problem(
                    key=f"servers.{name}.{key}",
                    problem="is only read with hosts",
                    fix='write hosts = ["host:port"] instead of host and port, or remove it',
                )
        is_main = parts.main is not None and parts.main.server == name
        if is_main and server.target_session_attrs not in (None, *_PRIMARIES):
            yield Problem(
                key=f"servers.{name}.target_session_attrs",
                problem=f"is {server.target_session_attrs!r}, and the main database is on this server",
                fix='write "read-write": logins, notifications and the registry need a primary',
            )


def _fleet(parts: WellFormedSections) -> Iterator[Problem]:
    """The main database keeps budgets under the names of servers, in a column of so many bytes."""
    if parts.fleet is None or not parts.fleet.enabled:
        return
    for name in parts.servers:
        if (size := len(name.encode("utf-8", "surrogatepass"))) > _SERVER_NAME_BYTES:
            problem = f"has a name of {size} bytes, and a fleet keeps names of at most {_SERVER_NAME_BYTES}"
            yield Problem(key=f"servers.{name}", problem=problem, fix="shorten it, or write [fleet] enabled = false")


def _sizes(parts: WellFormedSections) -> Iterator[Problem]:
    # Only what the operator wrote is held against the budgets: a default that is too large is cut by the budget anyway.
    servers = [(name, server) for name, server in parts.servers.items() if server is not None]
    smallest = min(servers, key=lambda item: item[1].max_connections, default=None)
    if parts.main is not None and "max_size" in parts.main.model_fields_set:
        server = parts.servers.get(parts.main.server)
        if server is not None:
            yield from _too_large("main.max_size", parts.main.max_size, parts.main.server, server)
    if parts.pools is None:
        return
    for key in ("max_size", "shared_size"):
        if key in parts.pools.model_fields_set and smallest is not None:
            yield from _too_large(f"pools.{key}", getattr(parts.pools, key), *smallest)
    if parts.pools.guaranteed > parts.pools.max_size:
        yield Problem(
            key="pools.guaranteed",
            problem=f"is {parts.pools.guaranteed}, more than pools.max_size = {parts.pools.max_size}",
            fix="lower guaranteed or raise max_size",
        )
    for tenant, entry in parts.tenants.items():
        name = (entry.server if entry else None) or (parts.main.server if parts.main else "")
        server = parts.servers.get(name)
        if entry is not None and entry.max_size is not None and server is not None:
            yield from _too_large(f"tenants.{tenant}.max_size", entry.max_size, name, server)


def _too_large(key: str, size: int, name: str, server: Server) -> Iterator[Problem]:
    if size > server.max_connections:
        yield Problem(
            key=key,
            problem=f"is {size}, more than servers.{name}.max_connections = {server.max_connections}",
            fix=f"lower it to at most {server.max_connections}, or raise max_connections",
        )


def _registry(parts: WellFormedSections) -> Iterator[Problem]:
    registry = parts.registry
    if registry is None:
        return
    if registry.source not in SOURCES and not names_a_class(registry.source):
        close = nearest(registry.source, SOURCES)
        yield Problem(
            key="registry.source",
            problem='must be "file", "postgres", "mongodb" or "pkg.mod:Class"',
            fix=f"did you mean {close}?" if close else "write one of them",
        )
    if registry.source == "file" and registry.redis.address:
        problem = 'is of no use with source = "file", which is in the memory of each process'
        yield Problem(key="registry.redis", problem=problem, fix="remove it")
    if registry.source != "postgres":
        for key in ("query", "list_query", "status_update"):
            if getattr(registry, key) is not None:
                yield Problem(key=f"registry.{key}", problem='is only read with source = "postgres"', fix="remove it")
    elif registry.query is not None and registry.list_query is None:
        yield Problem(
            key="registry.list_query",
            problem="is missing next to query",
            fix="add the query that pages through all tenants: ids after $1 in order, at most $2",
        )
    elif registry.list_query is not None and registry.query is None:
        yield Problem(
            key="registry.query", problem="is missing next to list_query", fix="add the query that finds the tenant $1"
        )
    if registry.source == "postgres" and registry.query is None and registry.status_update is not None:
        problem, fix = "is only read next to query: our own table needs none", "remove it"
        yield Problem(key="registry.status_update", problem=problem, fix=fix)
    if registry.source == "postgres" and registry.query is not None and registry.list_query is not None:
        yield from _queries(registry)
    if registry.source != "file" and parts.tenants:
        yield Problem(
            key="tenants", problem='is only read with registry.source = "file"', fix='set source = "file" in [registry]'
        )


def _mongo(parts: WellFormedSections) -> Iterator[Problem]:
    yield from mongo_problems(parts.mongo, parts.registry)


def _queries(registry: RegistrySettings) -> Iterator[Problem]:
    wanted = {"query": ("$1", "the tenant's id"), "list_query": ("$1", "the last id of the page before")}
    for key, (parameter, meaning) in wanted.items():
        if getattr(registry, key) is not None and parameter not in getattr(registry, key):
            fix = f"compare the id with {parameter}, which is {meaning}"
            yield Problem(key=f"registry.{key}", problem=f"has no {parameter}", fix=fix)
    if registry.list_query is not None and "$2" not in registry.list_query:
        yield Problem(key="registry.list_query", problem="has no $2", fix="end it with: order by id limit $2")
    if (update := registry.status_update) is not None and not ("$1" in update and "$2" in update):
        fix = "for example: update agencies set status = $2 where database_name = $1"
        yield Problem(key="registry.status_update", problem="lacks $1, the tenant's id, or $2, its status", fix=fix)


def _tenants(parts: WellFormedSections) -> Iterator[Problem]:
    for tenant, entry in parts.tenants.items():
        if entry is not None and entry.server is not None:
            yield from _unknown_server(f"tenants.{tenant}.server", entry.server, parts)
    if parts.main is not None:
        yield from tenant_problems(parts.tenants, parts.main)


def _roles(parts: WellFormedSections) -> Iterator[Problem]:
    """A role's password follows from a key; only a certificate, or a server that asks for none, does without."""
    if parts.main is None or (parts.tenant_roles is not None and parts.tenant_roles.key is not None):
        return
    for tenant, entry in parts.tenants.items():
        if entry is None or entry.role is None:
            continue
        server = parts.servers.get(entry.server or parts.main.server)
        if server is None or entry.role == server.user or server.ssl_cert_file or server.password == Secret.inline(""):
            continue
        yield Problem(
            key=f"tenants.{tenant}.role",
            problem=f"is {entry.role}, and there is no [tenant_roles] key_file that its password follows from",
            fix="write a key with: openssl rand -hex 32, name its file in [tenant_roles] key_file, and make the role:"
            " tenantproxy install --roles",
        )


def _readers(parts: WellFormedSections) -> Iterator[Problem]:
    """Who may only read needs roles that only read: none that writes stands in for them."""
    roles = parts.tenant_roles
    if roles is not None and roles.readers:
        if roles.key is None:
            problem = "need passwords that follow from a key"
            fix = "write a key with: openssl rand -hex 32, and name its file in [tenant_roles] key_file"
            yield Problem(key="tenant_roles.readers", problem=problem, fix=fix)
        return
    fix = "write readers = true in [tenant_roles], and make them: tenantproxy install --roles"
    if parts.auth is not None and parts.auth.read_only_roles:
        problem = "needs roles that only read, and [tenant_roles] readers is not on"
        yield Problem(key="auth.read_only_roles", problem=problem, fix=fix)
    for name, user in parts.pg.users.items() if parts.pg is not None else ():
        if user.read_only:
            problem = "needs roles that only read, and [tenant_roles] readers is not on"
            yield Problem(key=f"pg.users.{name}.read_only", problem=problem, fix=fix)


def _row_key(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.row is None or not parts.row.signed or parts.row.keys():
        return
    written = bool(parts.row.model_fields_set) and parts.registry is not None and parts.registry.source != "file"
    rows = [tenant for tenant, entry in parts.tenants.items() if entry is not None and entry.isolation == "row"]
    if rows or written:
        why = f"the row tenant {rows[0]!r} needs a signed context" if rows else "[row] is signed"
        yield Problem(
            key="row.key_file",
            problem=f"is missing: {why}",
            fix="write a key with: openssl rand -hex 32, and name its file (or give the signature up: signed = false)",
        )


_CONTEXT_SOURCES: Final = ("claim", "header", "client", "tenant")
_ONLY: Final = {"client": "ip", "tenant": "id"}


def _context(parts: WellFormedSections) -> Iterator[Problem]:
    own = set(OWN_SETTINGS) | ({parts.row.setting} if parts.row else set())
    own.add("app.current_tenant_id")
    signed = {name.lower() for name in parts.signed_context or ()}
    for section, settings in (("context", parts.context), ("signed_context", parts.signed_context)):
        for setting, source in (settings or {}).items():
            key = f"{section}.{setting}"
            if setting.lower() in own:
                problem = "is set by the isolation itself; a request must not choose it"
                yield Problem(key=key, problem=problem, fix="remove it")
            elif section == "context" and setting.lower() in signed:
                problem = "is in [signed_context] too, and can have one source"
                yield Problem(key=key, problem=problem, fix="remove it here")
            elif section == "signed_context" and "." not in setting:
                problem = "is PostgreSQL's own: what it means does not come from a signature"
                yield Problem(key=key, problem=problem, fix="write it in [context]")
            kind, colon, rest = source.partition(":")
            if kind not in _CONTEXT_SOURCES or not colon or not rest or rest != _ONLY.get(kind, rest):
                yield Problem(
                    key=key,
                    problem="must say where the value comes from",
                    fix='write "claim:NAME", "header:NAME", "client:ip" or "tenant:id"',
                )
    if signed and parts.row is not None and not parts.row.signed:
        problem = "needs a signed context: what is signed is signed for a tenant that is proven"
        yield Problem(
            key="signed_context", problem=problem, fix="remove [row] signed = false, or write it in [context]"
        )


def _auth(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.auth is not None:
        yield from auth_problems(parts.auth)
        yield from issuer_problems(parts.auth, parts.resolve)


def _outbox(parts: WellFormedSections, login: LoginSettings) -> Iterator[Problem]:
    if lacking := [key for key in ("account_query", "list_query", "watch_table") if not getattr(login, key)]:
        fix = "add it, and run: tenantproxy login watch"
        yield Problem(key="login.outbox", problem=f"is read with {' and '.join(lacking)}, which is missing", fix=fix)
    main = None if parts.main is None else parts.servers.get(parts.main.server)
    if main is not None and main.admin is None:
        fix = "add [servers.NAME.admin] to each server that has tenants"
        yield Problem(key="login.outbox", problem="is read by the admin user, and the main server has none", fix=fix)


def _login(parts: WellFormedSections) -> Iterator[Problem]:
    login = parts.login
    if login is None:
        return
    if login.account_query is not None and login.pepper is None:
        fix = "write a key with: openssl rand -hex 32, and name its file"
        yield Problem(key="login.pepper_file", problem="is missing: the directory of accounts needs it", fix=fix)
    if login.outbox:
        yield from _outbox(parts, login)
    lookups = [name for name, server in parts.servers.items() if server is not None and server.login is not None]
    if login.account_query is None:
        for key in ("lookup_query", "list_query", "rehash_query", "session_query"):
            if getattr(login, key) is not None:
                yield Problem(key=f"login.{key}", problem="is only read with account_query", fix="add account_query")
    elif lookups and login.lookup_query is None:
        yield Problem(
            key="login.lookup_query",
            problem=f"is missing next to servers.{lookups[0]}.login",
            fix="add the query that finds tenant_id and user_id of the address $1 among all row tenants",
        )
    for name in lookups:
        server = parts.servers[name]
        if server is not None and server.login is not None and server.login.user == server.user:
            problem = "is the user that tenants' SQL runs as: tenants could ask who else has an account"
            yield Problem(key=f"servers.{name}.login.user", problem=problem, fix="choose another name")


def _resolve(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.resolve is not None:
        yield from resolve_problems(parts.resolve)


def _listeners(parts: WellFormedSections) -> Iterator[Problem]:
    seen: dict[tuple[str, int], str] = {}
    for key, part in (("http", parts.http), ("admin", parts.admin)):
        if part is not None:
            yield from tls_problems(key, part)
    for name, section in (("http", parts.http), ("admin", parts.admin), ("pg", parts.pg)):
        if section is None or not section.listen:
            continue
        address = listen_address(section.listen)
        first = seen.setdefault(address, name)
        if first != name and address[1]:
            yield Problem(
                key=f"{name}.listen",
                problem=f"is the same address as {first}.listen",
                fix="give it another port (port 0 takes a free one)",
            )


def _admin(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.admin is not None:
        yield from admin_problems(parts.admin)


def _pg_users(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.pg is None:
        return
    auth = parts.auth
    verifies = auth is None or auth.verifies
    is_file = parts.registry is not None and parts.registry.source == "file"
    yield from pg_problems(parts.pg, verifies=verifies, tenants=parts.tenants if is_file else None)


def _poolers(parts: WellFormedSections) -> Iterator[Problem]:
    yield from pooler_problems(
        parts.servers, main=parts.main, registry=parts.registry, row=parts.row, fleet=parts.fleet
    )


def _sql(parts: WellFormedSections) -> Iterator[Problem]:
    if parts.sql is not None:
        yield from sql_problems(parts.sql, http=parts.http, pg=parts.pg, row=parts.row, schema=parts.schema_)
        yield from region_problems(parts.sql, parts.servers)
