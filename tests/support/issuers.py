"""Tokens as well-known issuers make them, and a server that shows their keys over https."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.tls import certificate

NOW: Final = 1_800_000_000
SECRET: Final = "the-jwt-secret-that-supabase-shares-with-its-project"
RSA: Final = rsa.generate_private_key(65537, 2048)
OTHER_RSA: Final = rsa.generate_private_key(65537, 2048)
P384: Final = ec.generate_private_key(ec.SECP384R1())
_TENANT: Final = {"tenant": "acme"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """One issuer: its configuration but for the keys' address, its key as published, a header and claims of a token."""

    issuer: str
    algorithm: str
    key: Any
    claims: Mapping[str, Any]
    config: Mapping[str, Any]
    header: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] | None = None  # what its key set says of the key next to its numbers; None: no key set

    def token(self, *, header: Mapping[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """A token; a claim that is None is left out."""
        times = {"iss": self.issuer, "iat": NOW, "exp": NOW + 3600}
        body = {name: value for name, value in {**times, **self.claims, **claims}.items() if value is not None}
        return jwt.encode(body, key or self.key, self.algorithm, headers={**self.header, **(header or {})})

    def jwk(self) -> dict[str, Any]:
        """The key as it stands in the key set."""
        algorithm = jwt.PyJWS().get_algorithm_by_name(self.algorithm)
        shown: dict[str, Any] = algorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {name: shown[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in shown} | dict(
            self.published or {}
        )


MAKERS: Final[dict[str, Maker]] = {
    "cognito": Maker(
        issuer="https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Ab129faBb",
        algorithm="RS256", key=RSA, header={"kid": "k1", "typ": None},
        published={"kid": "k1", "alg": "RS256", "use": "sig"},
        claims={
            "sub": "8bb74b1c", "client_id": "7lhlkkfbfb4q5kpp90urffao", "origin_jti": "o", "token_use": "access",
            "scope": "aws.cognito.signin.user.admin", "auth_time": NOW, "jti": "c-1", "username": "ada",
            "custom:tenant": "acme",
        },
        config={"clients": "7lhlkkfbfb4q5kpp90urffao", "tenant_claim": "custom:tenant"},
    ),
    "clerk": Maker(
        issuer="https://clerk.example.com", algorithm="RS256", key=OTHER_RSA,
        header={"cat": "cl_B7d4PD111AAA", "kid": "k1"}, published={"kid": "k1", "alg": "RS256", "use": "sig"},
        claims={
            "azp": "https://app.example.com", "fva": [0, -1], "nbf": NOW - 10, "exp": NOW + 60, "sid": "sess_2",
            "sub": "user_2",
            "v": 2, "o": {"id": "org_2", "slg": "acme", "rol": "admin"},
        },
        config={"clients": ["https://app.example.com"], "tenant_claim": "o.slg"},
    ),
    "supabase": Maker(
        issuer="https://abcdefgh.supabase.co/auth/v1", algorithm="HS256", key=SECRET,
        claims={
            "aud": "authenticated", "sub": "0c2e", "email": "ada@example.org", "role": "authenticated", "aal": "aal1",
            "app_metadata": {"provider": "email", "providers": ["email"], "tenant": "acme"},
            "user_metadata": {"tenant": "globex"}, "session_id": "5b", "is_anonymous": False,
        },
        config={"key": SECRET, "audience": "authenticated", "tenant_claim": "app_metadata.tenant"},
    ),
    "keycloak": Maker(
        issuer="https://sso.example.com/realms/main", algorithm="RS384", key=RSA, header={"kid": "k2"},
        published={"kid": "k2", "use": "sig", "alg": "RS384"},
        claims={
            "jti": "onrtac:1", "aud": ["account", "api"], "sub": "f1", "typ": "Bearer", "azp": "web", "sid": "s-1",
            "nonce": "as older ones leave it", "realm_access": {"roles": ["user"]}, "scope": "openid", "tenant": "acme",
        },
        config={"audience": "api", "clients": ["web"]},
    ),
    "auth0": Maker(
        issuer="https://example.eu.auth0.com/", algorithm="PS256", key=RSA, header={"kid": "k3", "typ": "at+jwt"},
        published={"kid": "k3", "use": "sig", "alg": "PS256", "x5t": "x"},
        claims={
            "sub": "auth0|7", "aud": ["https://api.example.com", "https://example.eu.auth0.com/userinfo"], "azp": "web",
            "scope": "openid", "org_id": "org_x", "https://example.com/tenant": "acme", "jti": "a-1",
        },
        config={
            "audience": "https://api.example.com", "tenant_claim": "https://example.com/tenant",
            "required_typ": ["at+jwt"],
        },
    ),
    "entra": Maker(
        issuer="https://login.microsoftonline.com/72f9/v2.0", algorithm="RS256", key=RSA, header={"kid": "k4"},
        published={"kid": "k4", "use": "sig", "x5t": "k4", "issuer": "https://login.microsoftonline.com/72f9/v2.0"},
        claims={
            "aud": "6731de76", "aio": "x", "azp": "b2", "azpacr": "1", "oid": "o", "rh": "r", "roles": ["admin"],
            "scp": "api",
            "sub": "s", "tid": "72f9", "uti": "u", "ver": "2.0", "nbf": NOW, "extension_tenant": "acme-corp",
        },
        config={"audience": ["6731de76"], "tenant_claim": "extension_tenant", "tenant_map": {"acme-corp": "acme"}},
    ),
    "es384": Maker(
        issuer="https://es384.example/", algorithm="ES384", key=P384, header={"kid": "k1"}, published={"kid": "k1"},
        claims={"aud": "api", "sub": "7", "jti": "e-1", **_TENANT}, config={"audience": "api"},
    ),
}  # fmt: skip


@asynccontextmanager
async def key_server(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """`/NAME` is the key set of each of MAKERS, over https; its address, and the file with its certificate."""
    pem = certificate(folder, host="127.0.0.1")

    async def keys(request: web.Request) -> web.Response:
        return web.json_response({"keys": [MAKERS[request.match_info["name"]].jwk()]})

    app = web.Application()
    app.router.add_get("/{name}", keys)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", pem
    finally:
        await runner.cleanup()


def entry(name: str, url: str, ca_file: Path | str, **changes: Any) -> dict[str, Any]:
    """One of `[[auth.issuers]]`."""
    maker = MAKERS[name]
    keys = {} if maker.published is None else {"jwks_url": f"{url}/{name}", "jwks_ca_file": str(ca_file)}
    return {"issuer": maker.issuer, **keys, **maker.config, **changes}
