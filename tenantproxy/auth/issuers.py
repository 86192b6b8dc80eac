"""Who may issue a token, with which keys, of which kind, for which tenants? Pure, but for reading keys at the start.

Each issuer is a world of its own: its keys verify its tokens alone, its ids are never taken for those of another, and
it names only the tenants that it may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from tenantproxy.auth.claims import claim_at, invalid
from tenantproxy.auth.jwks import Jwks
from tenantproxy.auth.keys import KeyRing, KeySource, OneKey, own_keys, public_key, shared_key
from tenantproxy.config import Auth
from tenantproxy.config.auth_sections import AuthIssuer
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.events import Observer

__all__ = [
    "Issuer",
    "check_for_whom",
    "check_kind",
    "configured_issuers",
    "main_issuer",
    "named_tenant",
    "revocation_ids",
]

ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

_NOT_ACCESS: Final = frozenset({"id", "refresh", "offline", "logout", "logout+jwt", "dpop", "registrationaccesstoken"})
"""What Keycloak writes in the claim `typ` of tokens that open nothing."""
_HASHES: Final = ("at_hash", "c_hash", "s_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer. `audiences` or `clients` empty: not asked. `tenants` None: any. `is_main`: of `[auth]` itself."""

    name: str
    keys: KeySource
    algorithms: frozenset[str]
    audiences: frozenset[str]
    tenant_claim: str
    clients: frozenset[str] = frozenset()
    tenants: frozenset[str] | None = None
    tenant_map: Mapping[str, str] = field(default_factory=dict)
    required_typ: frozenset[str] = frozenset()
    max_lifetime: float = float("inf")
    is_own: bool = False
    is_main: bool = False


def main_issuer(settings: Auth, keys: KeySource | None, observer: Observer) -> Issuer | None:
    """That of `[auth]` itself; None where only `[[auth.issuers]]` are given. Raises ConfigurationError."""
    if keys is None:
        if settings.issuers and not settings.has_main:
            return None
        keys = _main_keys(settings, observer)
    is_own = isinstance(keys, KeyRing)
    return Issuer(
        name=settings.issuer,
        keys=keys,
        algorithms=frozenset({settings.algorithm}),
        audiences=frozenset({settings.audience}),
        tenant_claim=settings.tenant_claim,
        required_typ=frozenset() if is_own else _kinds(settings.required_typ),
        max_lifetime=float("inf") if is_own else settings.max_lifetime,
        is_own=is_own,
        is_main=True,
    )


def _main_keys(settings: Auth, observer: Observer) -> KeySource:
    if settings.jwks_url:
        ca_file = settings.jwks_ca_file
        return Jwks(settings.jwks_url, settings.algorithm, ca_file=ca_file, observer=observer)
    return OneKey(public_key(settings)) if settings.public_key_file else own_keys(settings)


def configured_issuers(settings: Auth, main: Issuer | None, observer: Observer) -> list[Issuer]:
    """Those of `[[auth.issuers]]`, in addition to `main`.

    Raises ConfigurationError for a key that cannot be used, or is that of another issuer or our own.
    """
    found: list[Issuer] = []
    own = main.keys if main is not None and isinstance(main.keys, KeyRing) else ()
    secrets: dict[bytes, str] = {key.verifying: settings.issuer for key in own if key.algorithm == "HS256"}
    for number, given in enumerate(settings.issuers):
        name = f"auth.issuers.{number}.key"
        keys: KeySource
        if given.key is not None:
            key = shared_key(given.key, name)
            if (other := secrets.setdefault(key.verifying, given.issuer)) != given.issuer:
                problem = f"is the key of {other} too: each could sign for the other"
                raise ConfigurationError([Problem(key=name, problem=problem, fix="give each issuer its own")])
            keys = OneKey(key)
        else:
            algorithms = given.algorithms or ASYMMETRIC
            keys = Jwks(given.jwks_url, algorithms, ca_file=given.jwks_ca_file, observer=observer)
        found.append(_issuer(given, keys))
    return found


def _issuer(given: AuthIssuer, keys: KeySource) -> Issuer:
    return Issuer(
        name=given.issuer,
        keys=keys,
        algorithms=frozenset(given.algorithms or (("HS256",) if given.key is not None else ASYMMETRIC)),
        audiences=frozenset(given.audience),
        clients=frozenset(given.clients),
        tenant_claim=given.tenant_claim,
        tenants=None if given.tenants == "*" else frozenset(given.tenants),
        tenant_map=dict(given.tenant_map),
        required_typ=_kinds(given.required_typ),
        max_lifetime=given.max_lifetime,
    )


def _kinds(given: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_kind, given))


def _kind(value: object) -> str:
    """A `typ`: its case and the prefix `application/` do not count (RFC 7515 4.1.9)."""
    return value.lower().removeprefix("application/") if isinstance(value, str) else ""


# --- what a genuine token is -----------------------------------------------------------------------------------------
def check_kind(issuer: Issuer, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """Refuse what is no access token: ID, refresh and logout tokens carry the same signature. Raises AuthError."""
    given = header.get("typ")
    if given is not None and not isinstance(given, str):
        raise invalid("its typ is no text")
    kind, said, use = _kind(given), _kind(claims.get("typ")), claims.get("token_use")
    is_declared = kind.endswith("at+jwt")  # RFC 9068; Okta writes okta-internal-at+jwt
    if issuer.required_typ:
        if kind not in issuer.required_typ:
            raise invalid(f"its typ is {given!r}, required_typ asks for {', '.join(sorted(issuer.required_typ))}")
    elif kind not in ("", "jwt") and not is_declared:
        raise invalid(f"its typ is {given!r}: that is no access token (required_typ could name it)")
    if said in _NOT_ACCESS or (use is not None and use != "access"):
        raise invalid(f"it says that it is a token of the kind {said or use!r}, not an access token")
    if "events" in claims or any(name in claims for name in _HASHES):
        raise invalid("it has events, at_hash, c_hash or s_hash: it is an ID or a logout token")
    if "nonce" in claims and not is_declared and said != "bearer":  # older Keycloaks leave it in access tokens
        raise invalid("it has a nonce: it is an ID token")


def check_for_whom(issuer: Issuer, claims: Mapping[str, Any]) -> None:
    """Whether it is for us, and lasts no longer than it may. Raises AuthError."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, tuple) else (audience,)
    if issuer.audiences and not issuer.audiences & {each for each in named if isinstance(each, str)}:
        raise invalid(f"its aud is {audience!r}, wanted is {' or '.join(sorted(issuer.audiences))}")
    if issuer.clients:
        given = [claims[name] for name in ("azp", "client_id") if name in claims]
        if not given or any(not isinstance(each, str) or each not in issuer.clients for each in given):
            raise invalid(f"its azp or client_id is {given!r}, wanted is {' or '.join(sorted(issuer.clients))}")
    if claims["exp"] - claims["iat"] > issuer.max_lifetime:
        raise invalid(f"it lasts {claims['exp'] - claims['iat']:.0f} s, max_lifetime is {issuer.max_lifetime:.0f} s")


def named_tenant(issuer: Issuer, claims: Mapping[str, Any], claim: str) -> Mapping[str, Any]:
    """`claims` with the tenant that the issuer names under `claim`, and under that alone. Raises AuthError.

    What stands there otherwise is the issuer's own affair, or its user's, and no tenant.
    """
    value = claim_at(claims, issuer.tenant_claim)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{issuer.tenant_claim} is no text")
    if value is not None and issuer.tenant_map:
        value = issuer.tenant_map.get(value)
        if value is None:
            raise invalid(f"{issuer.tenant_claim} is not in tenant_map")
    if issuer.tenants is not None and value not in issuer.tenants:
        raise invalid(f"{issuer.tenant_claim} names none of the tenants that {issuer.name} may name")
    if issuer.tenant_claim == claim and not issuer.tenant_map:
        return claims
    others = {name: each for name, each in claims.items() if name != claim}
    return MappingProxyType(others if value is None else others | {claim: value})


def revocation_ids(issuer: Issuer, claims: Mapping[str, Any]) -> tuple[str, str | None]:
    """Under which names the token and its session are revoked.

    Those of `[auth]` itself are as they are. Of another issuer they are hashed with its name: it must not be able to
    name one of our tokens or sessions. A token without a jti is known by its claims: a signature can be rewritten.
    """
    token, session = claims.get("jti"), claims.get("sid")
    if not isinstance(token, str) or not token:
        token = "sha256:" + _digest(issuer.name, json.dumps(claims, sort_keys=True, default=dict))
    elif not issuer.is_main:
        token = "sha256:" + _digest(issuer.name, token)
    if not isinstance(session, str):
        return token, None
    return token, session if issuer.is_main else "sha256:" + _digest(issuer.name, session)


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()
