"""Is this token good, and how is one made? Own tokens are issued and verified, those of another issuer verified.

State: the cache of verified tokens. It holds keyed hashes, never a token, and each hit is still held against the
clock, the revocations and the tenant's epoch.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol

from cachetools import LRUCache

from tenantproxy.auth.claims import REQUIRED, claim_at, invalid, no_longer_valid, parse_object, times
from tenantproxy.auth.issuers import (
    Issuer,
    check_for_whom,
    check_kind,
    configured_issuers,
    main_issuer,
    named_tenant,
    revocation_ids,
)
from tenantproxy.auth.jwks import Jwks
from tenantproxy.auth.keys import Key, KeyRing, KeySource
from tenantproxy.config import Auth
from tenantproxy.errors import ConfigurationError, Problem, TenantNotFound
from tenantproxy.events import Observer, ignore
from tenantproxy.model import Tenant, TenantId, tenant_id

__all__ = ["MAX_TOKEN_BYTES", "NothingRevoked", "Purpose", "Revoked", "TenantLookup", "Tokens"]

MAX_TOKEN_BYTES: Final = 8 * 1024
"""Nothing longer is even looked at."""

Purpose = Literal["access", "selection"]
"""What a token is for. Each has an audience of its own; refresh tokens are no JWT at all."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CACHED: Final = 10_000
_CACHED_OF_OTHERS: Final = 300.0
_REVOKED: Final = 2**20  # what a revocation, in Unix seconds, counts in `tep`: still a number that JavaScript has
_RESERVED: Final = frozenset({*REQUIRED, "nbf", "jti", "tid", "tep", "sid", "role"})


class Revoked(Protocol):
    """What was revoked, as far as this process has heard; `revocation.Revocations` is one."""

    def epoch(self, tenant: str) -> int:
        """When all tokens of the tenant were last revoked, in Unix seconds; 0: never."""
        ...

    def is_revoked(self, *, jti: str | None, session: str | None) -> bool:
        """Whether the token or its session was."""
        ...


class TenantLookup(Protocol):
    """Where tenants are looked up; the router's registry is one."""

    def peek(self, tenant: str) -> Tenant | None:
        """The tenant, if what is known is fresh; None says nothing."""
        ...

    async def get(self, tenant: TenantId, /) -> Tenant:
        """The tenant. Raises TenantNotFound, RegistryUnavailable."""
        ...

    def invalidate(self, tenant: str | None) -> None:
        """Ask again for the tenant."""
        ...


class NothingRevoked:
    """For those who never revoke a token: `Tokens(..., revoked=NothingRevoked())` needs no tables installed."""

    def epoch(self, tenant: str) -> int:
        """See `Revoked`."""
        return 0

    def is_revoked(self, *, jti: str | None, session: str | None) -> bool:
        """See `Revoked`."""
        return False


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: Mapping[str, Any]
    until: float
    generation: int
    issuer: Issuer
    token_id: str
    session_id: str | None


class Tokens:
    """Issues and verifies. One for each configuration; safe to share between tasks, does no I/O of its own.

    `tenants` (the router's registry) says which epoch a tenant is in; None: a tenant's end does not end its tokens.
    `revoked` (`router.revocations`, once that is open) is asked at every verification; without it, what `follow` is
    told: the middlewares tell it `router.revocations`, and open that. NothingRevoked() is for those who never revoke.
    """

    def __init__(
        self,
        settings: Auth,
        *,
        tenants: TenantLookup | None,
        revoked: Revoked | None = None,
        keys: KeySource | None = None,
        clock: Callable[[], float] = time.time,
        cached: int = _CACHED,
        observer: Observer = ignore,
    ) -> None:
        import jwt

        self.settings = settings
        main = main_issuer(settings, keys, observer)
        issuers = [*([main] if main is not None else []), *configured_issuers(settings, main, observer)]
        self._issuers = {issuer.name: issuer for issuer in issuers}
        algorithms = frozenset().union(*(issuer.algorithms for issuer in issuers))
        self._jws = jwt.PyJWS(sorted(algorithms), {"enforce_minimum_key_length": True})
        self._broken = (jwt.PyJWTError, ValueError, TypeError)
        self._keys = main.keys if main is not None else None
        self._signer = self._keys.signer if isinstance(self._keys, KeyRing) else None
        self._tenants = tenants
        self._revoked: Revoked = revoked if revoked is not None else NothingRevoked()
        self._may_follow = revoked is None
        self._clock = clock
        self._audiences: dict[Purpose, str] = {
            "access": settings.audience,
            "selection": f"{settings.audience}:selection",
        }
        self._salt = secrets.token_bytes(32)  # so that no client can aim at the hash of another's token
        self._cache: LRUCache[bytes, _Verified] = LRUCache(cached)
        self._asked: LRUCache[str, float] = LRUCache(1000)  # tenant -> when it was last asked for out of turn

    @property
    def are_own(self) -> bool:
        """Whether we sign tokens ourselves; with `[[auth.issuers]]`, others do as well."""
        return self._signer is not None

    def is_own(self, claims: Mapping[str, Any]) -> bool:
        """Whether a verified token, with these claims, is our own."""
        return self._issuers[claims["iss"]].is_own

    def revocation_ids(self, claims: Mapping[str, Any]) -> tuple[str, str | None]:
        """Under which names a verified token and its session are revoked: see `issuers.revocation_ids`."""
        return revocation_ids(self._issuers[claims["iss"]], claims)

    def report_to(self, observer: Observer) -> None:
        """From now on `observer` hears of keys that cannot be fetched."""
        for issuer in self._issuers.values():
            if isinstance(issuer.keys, Jwks):
                issuer.keys.observer = observer

    def follow(self, revoked: Revoked) -> bool:
        """Ask `revoked` from now on, unless it has one already; whether this is the one that it asks."""
        if self._may_follow:
            self._revoked, self._may_follow = revoked, False
        return self._revoked is revoked

    async def close(self) -> None:
        """End fetches of issuers' keys; there is nothing else to end."""
        for issuer in self._issuers.values():
            await issuer.keys.close()

    # --- issuing -----------------------------------------------------------------------------------------------------
    def issue(
        self,
        *,
        tenant: Tenant,
        user: str,
        role: str | None = None,
        session: str | None = None,
        claims: Mapping[str, object] | None = None,
    ) -> str:
        """An access token for `user` of `tenant`, good for `access_ttl` seconds.

        `session` is what a logout ends (`Session.id`); `claims` are further ones, of plain JSON. Raises
        ConfigurationError when we have no key, ValueError for claims that are ours to set or too long.
        """
        taken = (_RESERVED | {self.settings.tenant_claim}) & (claims or {}).keys()
        if taken:
            raise ValueError(f"these claims are not the caller's to set: {', '.join(sorted(taken))}")
        body: dict[str, object] = {**(claims or {}), **self._common("access", user, self.settings.access_ttl)}
        body |= {"tid": tenant.id, "tep": self.epoch(tenant), self.settings.tenant_claim: tenant.id}
        if role is not None:
            body["role"] = role
        if session is not None:
            body["sid"] = session
        return self._signed(body)

    def issue_selection(self, *, subject: str, claims: Mapping[str, object]) -> str:
        """A selection token: says which tenants a person may choose from, opens none of them."""
        if _RESERVED & claims.keys():
            raise ValueError("these claims are not the caller's to set")
        return self._signed({**claims, **self._common("selection", subject, self.settings.selection_ttl)})

    async def look_up(self, tenant: str) -> Tenant:
        """The tenant, for `issue`. Raises TenantNotFound, RegistryUnavailable."""
        if self._tenants is None:
            raise TenantNotFound("there is no such tenant")
        return await self._tenants.get(tenant_id(tenant))

    def epoch(self, tenant: Tenant) -> int:
        """What `tep` must be now: another number after a move, a suspension, a deletion or `revoke_tenant`."""
        # Not their sum: a tenant that began again at 0 and was revoked a second later would be what it was at 1.
        return tenant.epoch + self._revoked.epoch(tenant.id) * _REVOKED

    def _common(self, purpose: Purpose, subject: str, ttl: float) -> dict[str, object]:
        now = int(self._clock())
        return {
            "iss": self.settings.issuer,
            "aud": self._audiences[purpose],
            "sub": subject,
            "iat": now,
            "exp": now + max(1, int(ttl)),
            "jti": secrets.token_urlsafe(16),
        }

    def _signed(self, body: Mapping[str, object]) -> str:
        key = self._signer
        if key is None:
            raise self._cannot_sign()
        payload = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        token = self._jws.encode(payload, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})
        if len(token) > MAX_TOKEN_BYTES:
            raise ValueError(f"a token of {len(token)} bytes would not be read again, {MAX_TOKEN_BYTES} are allowed")
        return token

    # --- verifying ---------------------------------------------------------------------------------------------------
    async def verify(self, token: str, *, purpose: Purpose = "access") -> Mapping[str, Any]:
        """The claims of a good token, read only; waits only where a key or a tenant has to be asked for.

        Raises TokenExpired for a genuine token that is expired or revoked, KeysUnavailable (503) when the issuer's keys
        cannot be had, another AuthError for everything else, RegistryUnavailable when the tenant's epoch cannot be
        looked up. No error says which check failed.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise invalid(f"it is longer than {MAX_TOKEN_BYTES} bytes")
        if not _COMPACT.fullmatch(token):
            raise invalid("it is no JWT: three parts of base64url with dots between (a refresh token is none)")
        name = blake2b(token.encode(), digest_size=32, key=self._salt, person=purpose.encode()).digest()
        found = self._cache.get(name)
        if found is None or found.until <= self._clock() or found.generation != found.issuer.keys.generation:
            self._cache.pop(name, None)
            found = await self._verify(token, purpose)
            self._cache[name] = found
        if self._revoked.is_revoked(jti=found.token_id, session=found.session_id):
            raise no_longer_valid("it, or its session, was revoked")
        if purpose == "access":
            await self._check_epoch(found)
        return found.claims

    async def _verify(self, token: str, purpose: Purpose) -> _Verified:
        encoded, payload, _ = token.split(".")
        header = parse_object(_decoded(encoded))
        issuer = self._issuer_of(parse_object(_decoded(payload)), purpose)
        # jku, x5u, jwk and x5c are not looked at; kid goes into a dict and nowhere else.
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
            raise invalid(f"its alg is {algorithm!r}, wanted is {' or '.join(sorted(issuer.algorithms))}")
        if "crit" in header or not isinstance(kid, str | None):
            raise invalid("its header has crit, or a kid that is no text")
        generation = issuer.keys.generation
        key = issuer.keys.known(kid)
        if key is None:
            key = await issuer.keys.find(kid)
            generation = issuer.keys.generation
        if key is None or algorithm not in (key.family or {key.algorithm}):
            raise invalid(f"no key for {algorithm} is called {kid!r}")
        claims = parse_object(self._payload(token, key, algorithm))
        until = times(claims, self._clock(), self.settings.leeway)
        if not issuer.is_own:
            until = min(until, self._clock() + _CACHED_OF_OTHERS)  # so that a key that they withdrew is noticed
            check_kind(issuer, header, claims)
        claims = self._checked(issuer, claims, purpose)
        return _Verified(claims, until, generation, issuer, *revocation_ids(issuer, claims))

    def _issuer_of(self, unverified: Mapping[str, Any], purpose: Purpose) -> Issuer:
        """Whose keys are to verify it. The name that it gives is looked up in a dict and believed for nothing else."""
        name = unverified.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            wanted = " or ".join(map(repr, self._issuers))
            raise invalid(f"its iss is {name!r}, wanted is {wanted}")
        if purpose != "access" and not issuer.is_main:
            raise invalid("that issuer gives no such tokens")
        return issuer

    def _payload(self, token: str, key: Key, algorithm: str) -> bytes:
        try:
            payload: bytes = self._jws.decode(token, key.verifying, algorithms=[algorithm])
        except self._broken:
            raise invalid("its signature is not by the key that it names") from None
        return payload

    def _checked(self, issuer: Issuer, claims: Mapping[str, Any], purpose: Purpose) -> Mapping[str, Any]:
        """`claims`, with the tenant where `[auth] tenant_claim` says, of a token that is for us. Raises AuthError."""
        subject = claims.get("sub")
        if claims.get("iss") != issuer.name:
            raise invalid("its iss is read in two ways")
        if not isinstance(subject, str) or not subject:
            raise invalid("sub is missing or no text")
        if not all(isinstance(claims.get(name), str | None) for name in ("jti", "sid")):
            raise invalid("jti or sid is no text")
        if not issuer.is_own:
            check_for_whom(issuer, claims)
            return named_tenant(issuer, claims, self.settings.tenant_claim)
        self._check_own(claims, purpose)
        return claims

    def _check_own(self, claims: Mapping[str, Any], purpose: Purpose) -> None:
        if claims.get("aud") != self._audiences[purpose]:
            raise invalid(f"its aud is {claims.get('aud')!r}, wanted is {self._audiences[purpose]!r}")
        if not all(isinstance(claims.get(name), str | None) for name in ("role", "tid")):
            raise invalid("role or tid is no text")
        if not claims.get("jti"):
            raise invalid("jti is missing")
        if purpose == "access":
            tid, tep = claims.get("tid"), claims.get("tep")
            if not tid or claims.get(self.settings.tenant_claim) != tid or type(tep) is not int:
                raise invalid(f"tid, tep or {self.settings.tenant_claim} is missing, or they do not agree")

    async def _check_epoch(self, found: _Verified) -> None:
        """Refuse what is older than the tenant's move, suspension, deletion, or another tenant of its name."""
        claims = found.claims
        if not found.issuer.is_own:
            # Another issuer knows no epochs: what it issued before the revocation is refused.
            tenant = claim_at(claims, self.settings.tenant_claim)
            if isinstance(tenant, str) and claims["iat"] <= self._revoked.epoch(tenant):
                raise no_longer_valid("all tokens of its tenant were revoked since")
            return
        tenant = claims.get("tid")
        if self._tenants is None or tenant is None:
            return
        known = self._tenants.peek(tenant)
        if known is not None and claims["tep"] == self.epoch(known):
            return
        if known is not None and self._may_ask(tenant):
            self._tenants.invalidate(tenant)  # the token may be newer than what we know
        try:
            known = await self._tenants.get(tenant_id(tenant))
        except TenantNotFound:
            raise no_longer_valid("its tenant does not exist any more") from None
        if claims["tep"] != self.epoch(known):
            raise no_longer_valid(
                f"tep is {claims['tep']}, the tenant's epoch is {self.epoch(known)}: it moved, was suspended or revoked"
            )

    def _may_ask(self, tenant: str) -> bool:
        """Once a second and tenant: a token that stays wrong must not cost the registry a query each time."""
        now = self._clock()
        if now - self._asked.get(tenant, float("-inf")) < 1.0:
            return False
        self._asked[tenant] = now
        return True

    # --- sealing -----------------------------------------------------------------------------------------------------
    def seal(self, message: bytes, kid: str | None = None) -> tuple[str, bytes]:
        """A MAC of 32 bytes that only holders of our signing keys can make, and the id of the key: the one that signs.

        Raises KeyError for a key that is no longer there, ConfigurationError where nothing is signed.
        """
        if not isinstance(self._keys, KeyRing):
            raise self._cannot_sign()
        key = self._keys.signer if kid is None else self._keys[kid]
        return key.kid, hmac.digest(key.sealing, message, "sha256")

    # --- for others to verify ----------------------------------------------------------------------------------------
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Our public keys as a JSON Web Key Set (RFC 7517); none where a shared secret signs."""
        if not isinstance(self._keys, KeyRing) or self.settings.algorithm != "EdDSA":
            return {"keys": []}
        return {"keys": [_jwk(key) for key in self._keys]}

    @staticmethod
    def _cannot_sign() -> ConfigurationError:
        fix = "give a key_file, or leave issuing to the owner of jwks_url or public_key_file"
        return ConfigurationError([Problem(key="auth", problem="has no key to sign with", fix=fix)])

    def __repr__(self) -> str:
        return f"Tokens({self.settings.algorithm}, issuer={self.settings.issuer!r})"


def _decoded(segment: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise invalid("a part of it is no base64url") from None


def _jwk(key: Key) -> dict[str, str]:
    raw = base64.urlsafe_b64encode(key.verifying.public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": raw, "use": "sig", "alg": key.algorithm, "kid": key.kid}
