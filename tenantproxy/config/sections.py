"""Which sections and keys does the configuration have, and what are their defaults?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tenantproxy.config.secret import Conflict, Secret
from tenantproxy.config.values import (
    Count,
    Flag,
    GivenText,
    Host,
    Leeway,
    Lifetime,
    Listen,
    Name,
    NoTimeout,
    Port,
    Relations,
    Seconds,
    SelectionTime,
    SettingName,
    Size,
    Text,
    Texts,
    Window,
    relation_name,
    texts,
    told,
)
from tenantproxy.model import Isolation, Limits, Placement, Tenant, TenantStatus, tenant_id

__all__ = [
    "SECRETS",
    "Admin",
    "Audit",
    "Auth",
    "AuthIssuer",
    "Http",
    "LoginSettings",
    "Main",
    "Metrics",
    "Pg",
    "PgUser",
    "Pools",
    "RegistrySettings",
    "Resolve",
    "RowSettings",
    "Schema",
    "Server",
    "ServerAdmin",
    "ServerLogin",
    "TenantEntry",
    "TenantRoles",
]

SECRETS = ("password", "key", "token", "pepper")
"""Keys that may be given inline, as `X_file` or as `X_env`."""


class Section(BaseModel):
    """Frozen, and strict about its keys. Turns `X_file` and `X_env` into the Secret `X`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": "a table"})
        data = dict(data)
        for name in SECRETS:
            if name not in cls.model_fields:
                continue
            given = [key for key in (name, f"{name}_file", f"{name}_env") if data.get(key) not in (None, "")]
            if len(given) > 1:
                data[name] = Conflict(given)  # refused where it is validated, beside what else is wrong in this section
                continue
            for key, make in ((f"{name}_file", Secret.file), (f"{name}_env", Secret.env)):
                if key in given and isinstance(data[key], str):
                    data[name] = make(str(data[key]))
        return data


class Main(Section):
    """The shared main database: registry, login directory, shared data."""

    server: Name = Field(examples=["primary"])
    database: Name = Field(examples=["main"])
    max_size: Size = 20


class ServerAdmin(Section):
    """The user that installs, provisions, migrates and inspects; no request is served with it."""

    user: Name = Field(examples=["tenantproxy_admin"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None


class ServerLogin(Section):
    """The user that looks accounts up in databases of row tenants, through one installed function and nothing else."""

    user: Name = Field(examples=["tenantproxy_login"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None


AuthMethod = Literal["scram-sha-256", "md5", "password", "none"]
"""How we show a server who we are, in libpq's words for `require_auth`; "none" is trust, or a certificate."""

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class Server(Section):
    """One PostgreSQL server. Timeouts in seconds, 0 = none."""

    host: Host = "127.0.0.1"
    port: Port = 5432
    user: Name = Field(examples=["tenantproxy_app"])
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    ssl: SslMode = "prefer"
    ssl_root_cert_file: Text = ""
    ssl_cert_file: Text = ""
    ssl_key_file: Text = ""
    require_auth: Annotated[tuple[AuthMethod, ...], BeforeValidator(texts)] = ("scram-sha-256",)  # of the [pg] port
    max_connections: Size = 200
    connect_timeout: Seconds = 5.0
    statement_timeout: NoTimeout = 30.0
    idle_in_transaction_timeout: NoTimeout = 60.0
    lock_timeout: NoTimeout = 0.0
    search_path: Texts = ("public",)
    role_settings: Mapping[Text, Text] = Field(default_factory=dict)  # ALTER ROLE ... SET that are the operator's own
    replicas: Texts = ()
    admin: ServerAdmin | None = None
    login: ServerLogin | None = None


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


class RegistrySettings(Section):
    """Where tenants are looked up, and for how long an answer is good."""

    source: Name = "postgres"
    query: Name | None = None
    list_query: Name | None = None
    cache_ttl: Seconds = 30.0
    negative_ttl: Seconds = 5.0
    max_entries: Size = 20_000
    stale_for: NoTimeout = 3600.0
    lookup_timeout: Seconds = 5.0
    listen: Flag = True


def _tenant_settings(value: object) -> object:
    if isinstance(value, Mapping) and all(isinstance(item, str | int | float | bool) for item in value.values()):
        return {key: item if isinstance(item, str) else str(item).lower() for key, item in value.items()}
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": "a table of text, numbers and booleans"})


class TenantEntry(Section):
    """One tenant of the file registry."""

    isolation: Isolation = Field(examples=["row"])
    database: Name = Field(examples=["shared"])
    server: Name | None = None
    schema_: Name | None = Field(default=None, alias="schema")
    role: Name | None = None
    status: TenantStatus = TenantStatus.ACTIVE
    tier: Name = "standard"
    region: Name | None = None
    epoch: Count = 0
    max_size: Size | None = None
    max_waiting: Size | None = None
    acquire_timeout: Seconds | None = None
    settings: Annotated[Mapping[str, str], BeforeValidator(_tenant_settings)] = Field(default_factory=dict)
    systems: Mapping[str, Name] = Field(default_factory=dict)

    def to_tenant(self, tenant: str, default_server: str) -> Tenant:
        """On `default_server` unless it names another. Raises TenantNotFound or ValueError for bad names."""
        return Tenant(
            id=tenant_id(tenant),
            placement=Placement(
                isolation=self.isolation,
                server=self.server or default_server,
                database=self.database,
                schema=self.schema_,
                role=self.role,
            ),
            status=self.status,
            tier=self.tier,
            region=self.region,
            limits=Limits(max_size=self.max_size, max_waiting=self.max_waiting, acquire_timeout=self.acquire_timeout),
            epoch=self.epoch,
            settings=self.settings,
            systems=self.systems,
        )


class RowSettings(Section):
    """Row isolation: the setting that policies read, and the key that signs it.

    `unprotected`: relations (`schema.table`, `schema.*`) that all row tenants of a database may share.
    """

    setting: SettingName = "app.current_tenant_id"
    signed: Flag = True
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None
    key_files: Mapping[str, Text] = Field(default_factory=dict)
    proof_window: Window = 60.0
    unprotected: Relations = ()

    @model_validator(mode="after")
    def _check_key_ids(self) -> Self:
        if self.key is not None and self.key_files:
            raise told("key and key_files exclude each other", "keep one of them")
        if any(len(kid) != 1 or kid not in "0123456789" for kid in self.key_files):
            raise told("a key id is one digit", 'write for example key_files = { 1 = "/run/secrets/row_key" }')
        return self

    def keys(self) -> dict[int, Secret]:
        """The signing keys by their id; a single key has the id 1. Empty: none is configured."""
        if self.key is not None:
            return {1: self.key}
        return {int(kid): Secret.file(path) for kid, path in self.key_files.items()}


class Schema(Section):
    """Schema isolation. `shared_role`: tenants share a role, so only search_path keeps them apart, and that is known.

    `common`: relations outside of its schema (`schema.table`, `schema.*`) that a tenant may reach all the same.
    """

    shared_role: Flag = False
    common: Relations = ()


def names(relations: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    """Relations of the configuration as (schema, relation), with None for all of a schema."""
    return tuple(relation_name(each) for each in relations)


class TenantRoles(Section):
    """A login role per tenant: its password follows from this key (`role_password`)."""

    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None


class Resolve(Section):
    """Where a request names its tenant; all sources that are present must agree.

    A header without a token is refused, unless `trust_header_from_proxies` and one of `[http] trusted_proxies` sent it:
    then that proxy must set the header itself, or remove the client's. `anonymous`: /auth/check answers 200 without a
    token where the sources alone name a tenant.
    """

    agree: Texts = ("claim:tenant", "header:X-Tenant-ID")
    trust_header_from_proxies: Flag = False
    anonymous: Flag = False
    mismatch_text: Name = "tenant mismatch"


def _tenants(value: object) -> object:
    if isinstance(value, GivenText):
        return "*" if value == "*" else tuple(part.strip() for part in value.split(",") if part.strip())
    if value == "*" or isinstance(value, list | tuple):
        return value
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": 'a list of tenants, or "*"'})


Algorithm = Literal["HS256", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


def _one_or_more(value: object) -> Any:
    return texts([value] if isinstance(value, str) and not isinstance(value, GivenText) else value)


class AuthIssuer(Section):
    """One of several issuers of access tokens: its keys (`jwks_url`, or the secret that it shares), for whom its tokens
    are (`audience`, `clients`: azp or client_id), where they name the tenant, and which tenants they may name.

    A `tenant_claim` with dots is a path (`app_metadata.tenant`); one with `://` is a name as it is. `tenant_map` gives
    our tenant for what stands there. `max_lifetime`: seconds from iat to exp.
    """

    issuer: Name
    jwks_url: Text = ""
    jwks_ca_file: Text = ""
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(texts)] = ()
    audience: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)] = ()
    clients: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)] = ()
    tenant_claim: Name = "tenant"
    tenants: Annotated[Literal["*"] | tuple[Text, ...], BeforeValidator(_tenants)] = "*"
    tenant_map: Mapping[Text, Text] = Field(default_factory=dict)
    required_typ: Texts = ()
    max_lifetime: Seconds = 86_400.0


_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Auth(Section):
    """Access tokens: our own (HS256, EdDSA) or those of another issuer (`public_key_file`, `jwks_url`), and `issuers`.

    Our own keys: one, or several by key id. All of them verify; `signing_kid` signs, by default the last one.
    """

    algorithm: Algorithm = "HS256"
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None
    key_files: Mapping[str, Text] = Field(default_factory=dict)
    signing_kid: Text = ""
    public_key_file: Text = ""
    jwks_url: Text = ""
    jwks_ca_file: Text = ""
    issuer: Name = "tenantproxy"
    audience: Name = "tenantproxy"
    tenant_claim: Name = "tenant"
    leeway: Leeway = 5.0
    access_ttl: Seconds = 900.0
    selection_ttl: SelectionTime = 300.0
    refresh_ttl: Lifetime = 1_209_600.0  # 14 days without use
    session_ttl: Lifetime = 7_776_000.0  # 90 days, however often it is used
    required_typ: Texts = ()  # of another issuer's tokens, such as "at+jwt"
    max_lifetime: Seconds = 86_400.0  # of another issuer's tokens, from iat to exp
    issuers: tuple[AuthIssuer, ...] = ()

    @model_validator(mode="after")
    def _check_key_ids(self) -> Self:
        if self.key is not None and self.key_files:
            raise told("key and key_files exclude each other", "keep one of them")
        if any(not _KEY_ID.fullmatch(kid) for kid in self.key_files):
            raise told(
                "a key id is 1 to 64 of A-Z a-z 0-9 _ . -", 'write for example key_files = { "2025-01" = "..." }'
            )
        return self

    @property
    def has_main(self) -> bool:
        """Whether there are keys beside those of `issuers`."""
        return bool(self.keys() or self.public_key_file or self.jwks_url)

    @property
    def verifies(self) -> bool:
        """Whether any token can be verified."""
        return self.has_main or bool(self.issuers)

    def keys(self) -> dict[str, Secret]:
        """Our own keys by their id, in order; a single key has the id "1". Empty: tokens come from elsewhere."""
        if self.key is not None:
            return {"1": self.key}
        return {kid: Secret.file(path) for kid, path in self.key_files.items()}


_ANSWERED = frozenset(
    {"access_token", "expires_in", "refresh_token", "selection_token", "tenants", "token_type", "user"}
)


class LoginSettings(Section):
    """Finding the account behind an e-mail address. The queries are about any table of users.

    `account_query` (an e-mail address in lower case as $1; user_id, password_hash and further claims) and
    `rehash_query` (a user_id, a new hash, and the former one if there is a $3) run in the tenant's own session,
    `session_query` too (a user_id as $1, as text; the columns of `account_query` but the hash), at each refresh,
    and `list_query` (accounts after the user_id $1 in order, at most $2; user_id, email), for `login reconcile`.
    `lookup_query` (an address; tenant_id, user_id) is asked of all row tenants of a database at once, inside a function
    that `install` makes of it.
    """

    account_query: Name | None = None
    lookup_query: Name | None = None
    list_query: Name | None = None
    rehash_query: Name | None = None
    session_query: Name | None = None
    fan_out: Flag = True
    fan_out_concurrency: Size = 8
    fan_out_timeout: Seconds = 2.0
    fan_out_limit: Size = 500  # with more databases and schemas than this only the directory is asked
    fan_outs_per_second: Size = 10
    negative_ttl: Seconds = 30.0
    pad_to: NoTimeout = 0.25
    attempts_per_account: Count = 10  # a minute; 0 = no limit
    attempts_per_address: Count = 100  # a minute
    attempts_per_second: Count = 100  # of all
    response_names: Texts = ()  # further names under which an answer gives the tenant
    pepper: Secret | None = None
    pepper_file: Text | None = None
    pepper_env: Text | None = None

    @model_validator(mode="after")
    def _check_response_names(self) -> Self:
        if taken := sorted(_ANSWERED & set(self.response_names)):
            raise told(f"response_names has {taken[0]!r}, which an answer says already", "take it out, or rename it")
        return self


class Http(Section):
    """The public listener. `max_clients_per_address`: by default half of `max_clients`, 0 = no limit."""

    listen: Listen = "127.0.0.1:8080"
    max_clients: Size = 1000
    max_clients_per_address: Count | None = None
    trusted_proxies: Texts = ()

    @property
    def per_address(self) -> int:
        """The most clients of one address; 0: no limit."""
        return (self.max_clients + 1) // 2 if self.max_clients_per_address is None else self.max_clients_per_address


class Admin(Section):
    """The listener for metrics, health, the operator page and the admin API.

    `hosts`: names by which clients may address it, besides loopback and its own address. `metrics_public`: /metrics
    needs no token.
    """

    listen: Listen = "127.0.0.1:8081"
    token: Secret | None = None
    token_file: Text | None = None
    token_env: Text | None = None
    hosts: Texts = ()
    metrics_public: Flag = False


def _console(value: object) -> object:
    if isinstance(value, GivenText):
        value = {"true": True, "false": False}.get(value.lower(), str(value))
    if isinstance(value, bool) or value == "read":
        return value
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": 'true, false or "read"'})


class PgUser(Section):
    """Somebody who may connect to the PostgreSQL port, and to which tenants.

    `console`: may use the console, with "read" its SHOW commands alone.
    """

    verifier: Secret | None = None
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    tenants: Annotated[Literal["*"] | tuple[Text, ...], BeforeValidator(_tenants)] = ()
    pool_mode: Literal["transaction", "session"] = "transaction"
    console: Annotated[Literal[True, False, "read"], BeforeValidator(_console)] = False


class Pg(Section):
    """The PostgreSQL listener. `jwt`: there is a user `jwt`, whose password is an access token of `[auth]`."""

    listen: Listen = "127.0.0.1:6432"
    max_clients: Size = 10_000
    ssl_cert_file: Text = ""
    ssl_key_file: Text = ""
    idle_transaction_timeout: NoTimeout = 60.0  # whatever the client sets
    jwt: Flag = False
    users: Mapping[str, PgUser] = Field(default_factory=dict)


class Audit(Section):
    """Where it is kept who logged in, failed to, and was logged out; the log of `tenantproxy` has it in any case.

    `table`: in `tenantproxy.audit_log` of the main database too, which `tenantproxy install` makes.
    """

    table: Flag = False


class Metrics(Section):
    """How much is told of single tenants."""

    max_tenants: Count = 100
