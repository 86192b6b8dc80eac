"""Who may ask, and how is that found out? The sections on resolving, tokens and logins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import (
    Count,
    Flag,
    GivenText,
    Leeway,
    Lifetime,
    Name,
    NoTimeout,
    Seconds,
    SelectionTime,
    Size,
    Text,
    Texts,
    tenant_list,
    texts,
    told,
)

__all__ = ["Algorithm", "Auth", "AuthIssuer", "LoginSettings", "Resolve"]


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
    tenants: Annotated[Literal["*"] | tuple[Text, ...], BeforeValidator(tenant_list)] = "*"
    tenant_map: Mapping[Text, Text] = Field(default_factory=dict)
    required_typ: Texts = ()
    max_lifetime: Seconds = 86_400.0


_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Auth(Section):
    """Access tokens: our own (HS256, EdDSA) or those of another issuer (`public_key_file`, `jwks_url`), and `issuers`.

    Our own keys: one, or several by key id. All of them verify; `signing_kid` signs, by default the last one.
    `read_only_roles`: who has no other role in `role_claim` (a text, or a list of them) gets sessions that only read.
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
    role_claim: Name = "role"
    read_only_roles: Texts = ()
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
        """Whether there are keys other than those of `issuers`."""
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
    `watch_table`: the users table that `login watch` puts triggers on; `watch_columns`: the address, then what else
    decides whether an account counts; `watch_tenant`: whose a row is, where tenants share the table.
    `outbox`: one of the running processes does what `login sync` does, every `outbox_interval` seconds.
    """

    account_query: Name | None = None
    lookup_query: Name | None = None
    list_query: Name | None = None
    rehash_query: Name | None = None
    session_query: Name | None = None
    watch_table: Text = ""
    watch_columns: Annotated[Texts, Field(min_length=1)] = ("email",)
    watch_tenant: Name = "tenant_id"
    outbox: Flag = False
    outbox_interval: Seconds = 2.0
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
