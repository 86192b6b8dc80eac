"""What runs, where and how much of it? The sections on pools, listeners and metrics, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import (
    ContextName,
    Count,
    Flag,
    GivenText,
    Listen,
    Name,
    NoTimeout,
    Seconds,
    Size,
    Text,
    Texts,
    tenant_list,
)

__all__ = [
    "ADMIN_NAME",
    "LISTENER_TLS",
    "RELOADED",
    "Admin",
    "AdminToken",
    "Audit",
    "Http",
    "ListenerSection",
    "LogSettings",
    "Main",
    "Metrics",
    "Pg",
    "PgUser",
    "Pools",
    "Traces",
]


class Main(Section):
    """The shared main database: registry, login directory, shared data."""

    server: Name = Field(examples=["primary"])
    database: Name = Field(examples=["main"])
    max_size: Size = 20


class Pools(Section):
    """What one tenant, and all of them together, may hold."""

    max_pools: Size = 100
    max_size: Size = 10
    shared_size: Size = 20
    guaranteed: Count = 1
    acquire_timeout: Seconds = 5.0
    max_waiting: Size = 100
    idle_timeout: Seconds = 300.0
    max_lifetime: Seconds = 3600.0
    max_hold: NoTimeout = 0.0  # of a lease while others wait; 0 = for as long as it likes
    reset: Literal["always", "on_tenant_change"] = "always"


class ListenerSection(Section):
    """What all listeners have: where they are, with what they speak TLS, and who must.

    Clients of `[pg]` may show a certificate of the authorities in `ssl_client_ca_file` (see `PgUser.cert`), those of
    the others must. `ssl_required`: "remote" is clients of other machines, who get no listener without a certificate.
    """

    listen: Listen = ""
    ssl_cert_file: Text = ""
    ssl_key_file: Text = ""
    ssl_client_ca_file: Text = ""
    ssl_crl_file: Text = ""  # of client certificates
    ssl_min_version: Literal["1.2", "1.3"] = "1.2"
    ssl_ciphers: Text = ""  # of TLS 1.2, as OpenSSL writes them; its own list for 1.3
    ssl_required: Literal["never", "remote", "always"] = "remote"


LISTENER_TLS: Final = tuple(key for key in ListenerSection.model_fields if key != "listen")
"""Keys that a running process takes over; the files that they name are read again in any case."""


class Http(ListenerSection):
    """The public listener. `max_clients_per_address`: by default half of `max_clients`, 0 = no limit.

    `drain_delay`: seconds for which readiness is 503 before any listener closes, after SIGTERM.
    """

    listen: Listen = "127.0.0.1:8080"
    max_clients: Size = 1000
    max_clients_per_address: Count | None = None
    trusted_proxies: Texts = ()
    drain_delay: NoTimeout = 5.0

    @property
    def per_address(self) -> int:
        """The most clients of one address; 0: no limit."""
        return (self.max_clients + 1) // 2 if self.max_clients_per_address is None else self.max_clients_per_address


ADMIN_NAME: Final = "admin"
"""What the audit log calls the token of `[admin]` itself."""


class AdminToken(Section):
    """A token of the admin listener, under the name that the audit log has, and what who sends it may do.

    "read" looks, "operate" stops and starts what is there, "admin" may do everything.
    """

    role: Literal["read", "operate", "admin"]
    token: Secret | None = None
    token_file: Text | None = None
    token_env: Text | None = None


class Admin(ListenerSection):
    """The listener for metrics, health, the operator page and the admin API.

    `token`: of the role admin. `tokens`: more of them, each with its name and role. `hosts`: names by which clients may
    address it, besides loopback and its own address. `metrics_public`: /metrics needs no token. `token_in_clear`: the
    token is taken from other machines without TLS too, where a proxy ends it.
    """

    listen: Listen = "127.0.0.1:8081"
    token: Secret | None = None
    token_file: Text | None = None
    token_env: Text | None = None
    tokens: Mapping[str, AdminToken] = Field(default_factory=dict)
    hosts: Texts = ()
    metrics_public: Flag = False
    token_in_clear: Flag = False

    @property
    def each_token(self) -> Sequence[tuple[str, AdminToken]]:
        """All tokens by name, that of the section itself as `admin`, the strongest first."""
        own = {} if self.token is None else {ADMIN_NAME: AdminToken(role="admin", token=self.token)}
        return sorted({**self.tokens, **own}.items(), key=lambda each: ("admin", "operate", "read").index(each[1].role))


def _console(value: object) -> object:
    if isinstance(value, GivenText):
        value = {"true": True, "false": False}.get(value.lower(), str(value))
    if isinstance(value, bool) or value == "read":
        return value
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": 'true, false or "read"'})


class PgUser(Section):
    """A user who may connect to the PostgreSQL port, and to which tenants.

    `console`: may use the console, with "read" its SHOW commands alone. `maintenance`: the database `postgres` is there
    for its tools, which list its tenants as databases. `max_clients`: by default the
    `max_clients_per_user` of `[pg]`, 0 = no limit. `cert`: must show a certificate with one of `cert_names` (by default
    the user's name) as its common name or an alternative name; with a verifier or a password, that in addition.
    `read_only`: its sessions log in as a role that only reads, of `[tenant_roles] readers`. `system`: of tenants that
    have several schemas, unless the client names another one.
    """

    verifier: Secret | None = None
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    tenants: Annotated[Literal["*"] | tuple[Text, ...], BeforeValidator(tenant_list)] = ()
    pool_mode: Literal["transaction", "session"] = "transaction"
    replica: Flag = False  # reads from replicas, unless the client says otherwise
    read_only: Flag = False
    system: Name | None = None
    context: Mapping[ContextName, Text] = Field(default_factory=dict)  # where settings of its sessions come from
    maintenance: Flag = False
    max_clients: Count | None = None
    cert: Flag = False
    cert_names: Texts = ()
    console: Annotated[Literal[True, False, "read"], BeforeValidator(_console)] = False


class Pg(ListenerSection):
    """The PostgreSQL listener. `jwt`: there is a user `jwt`, whose password is an access token of `[auth]`.

    Limits of clients: 0 = none. What is left out follows from `max_clients`, as the properties say.
    """

    listen: Listen = "127.0.0.1:6432"
    max_clients: Size = 10_000
    max_clients_per_tenant: Count | None = None
    max_clients_per_user: Count = 0
    max_clients_per_address: Count | None = None
    reserved_clients: Count = 3  # for the console, in addition to max_clients
    max_unauthenticated: Size | None = None
    max_memory: Count = 512 * 1024 * 1024  # bytes that clients make the port keep
    max_memory_per_tenant: Count = 0
    ssl_tenant_domain: Text = ""  # `db.example.com`: who asks for the server acme.db.example.com names the tenant acme
    idle_transaction_timeout: NoTimeout = 60.0  # whatever the client sets
    client_idle_timeout: NoTimeout = 0.0
    query_timeout: NoTimeout = 0.0
    tcp_keepalive: NoTimeout = 60.0  # of silence, after which the kernel asks whether a client's machine is there
    session_backend_at_login: Flag = True  # in session mode: its process id is the server's
    session_features: Literal["pin", "refuse", "warn"] = "pin"  # temporary tables, locks, ... in transaction mode
    max_pinned: Count | None = None  # clients of a tenant that keep a backend for them; half of its max_size
    jwt: Flag = False
    oauth_issuer: Text = ""  # the URL of an issuer of `[auth]`: there is a user `oauth`, who logs in by OAUTHBEARER
    oauth_scope: Text = "openid"  # that a client asks it for
    users: Mapping[str, PgUser] = Field(default_factory=dict)

    @property
    def per_tenant(self) -> int:
        """The most clients of one tenant: by default half of all."""
        return (self.max_clients + 1) // 2 if self.max_clients_per_tenant is None else self.max_clients_per_tenant

    @property
    def per_address(self) -> int:
        """The most clients of one address: by default half of all."""
        return (self.max_clients + 1) // 2 if self.max_clients_per_address is None else self.max_clients_per_address

    @property
    def unauthenticated(self) -> int:
        """The most connections that have not logged in: by default as many as there may be clients, 1000 at least."""
        return max(self.max_clients, 1000) if self.max_unauthenticated is None else self.max_unauthenticated

    def of_user(self, user: str) -> int:
        """The most clients of one user."""
        found = self.users.get(user)
        return self.max_clients_per_user if found is None or found.max_clients is None else found.max_clients

    def is_own(self, user: str) -> bool:
        """Whether that limit is the user's own."""
        return user in self.users and self.users[user].max_clients is not None


RELOADED: Final = (
    "users",
    "max_clients",
    "max_clients_per_tenant",
    "max_clients_per_user",
    "max_clients_per_address",
    "reserved_clients",
    "max_unauthenticated",
    "max_memory",
    "max_memory_per_tenant",
    "idle_transaction_timeout",
    "client_idle_timeout",
    "query_timeout",
    "tcp_keepalive",
    *LISTENER_TLS,
    "ssl_tenant_domain",
    "session_backend_at_login",
    "session_features",
    "max_pinned",
)
"""Keys of `[pg]` that a running process takes over: RELOAD, SIGHUP. Files that they name are read again in any case."""


class Audit(Section):
    """Where it is kept who logged in, failed to, and was logged out; the log of `tenantproxy` has it in any case.

    `table`: in `tenantproxy.audit_log` of the main database too, which `tenantproxy install` makes.
    """

    table: Flag = False


class LogSettings(Section):
    """What the log looks like, and what is told there of slow work; durations in seconds, 0: nothing.

    `format`: `json`, `console` (for people), or `auto`: JSON unless it goes to a terminal. `slow_statement` takes the
    PostgreSQL port off its compiled data path, which looks into no statement.
    """

    format: Literal["auto", "json", "console"] = "auto"
    slow_lease: NoTimeout = 0.0
    slow_statement: NoTimeout = 0.0


class Traces(Section):
    """Spans of OpenTelemetry for leases and statements; needs the extra `otel`, and an exporter for where they go.

    The PostgreSQL port leaves its compiled data path for them, which looks into no statement.
    """

    enabled: Flag = False


class Metrics(Section):
    """How much is told of single tenants."""

    max_tenants: Count = 100
