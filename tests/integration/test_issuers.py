"""Are tokens of the issuers that people use taken as they are, and each for no more than it is? Real keys, real TLS."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tenantproxy.auth.claims import why_of
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth, Settings
from tenantproxy.errors import AuthError, ConfigurationError, TokenExpired
from tenantproxy.events import Event, KeysFetchFailed
from tests.support.issuers import MAKERS, NOW, OTHER_RSA, RSA, SECRET, entry, key_server
from tests.support.token_desk import Revoked

Made = Callable[..., Tokens]


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    """`made(cognito={...}, **auth)`: verifies tokens of all issuers, with these keys of some changed."""
    opened: list[Tokens] = []
    async with key_server(tmp_path) as (url, ca_file):

        def make(revoked: Revoked | None = None, own: bool = False, **changes: Any) -> Tokens:
            issuers = [entry(name, url, ca_file, **changes.get(name, {})) for name in MAKERS]
            auth = {"issuers": issuers, **({"key": "k" * 32} if own else {})}
            opened.append(Tokens(Auth.model_validate(auth), tenants=None, revoked=revoked, clock=lambda: float(NOW)))
            return opened[-1]

        yield make
        for tokens in opened:
            await tokens.close()


async def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(AuthError) as caught:
        await tokens.verify(token)
    assert caught.value.http_status == 401
    assert str(caught.value) == "the token is not valid. log in again"
    return why_of(caught.value)


@pytest.mark.parametrize("name", MAKERS)
async def test_an_access_token_of_each_issuer_names_its_tenant(made: Made, name: str) -> None:
    tokens = made(own=True)
    for _ in range(2):
        claims = await tokens.verify(MAKERS[name].token())
        assert (claims["tenant"], claims["sub"]) == ("acme", MAKERS[name].claims["sub"])
        assert not tokens.is_own(claims)


NO_ACCESS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "an ID token of Keycloak": ("keycloak", {"typ": "ID"}, {}),
    "a refresh token of Keycloak": ("keycloak", {"typ": "Refresh"}, {}),
    "an ID token of Cognito": ("cognito", {"token_use": "id"}, {}),
    "a nonce": ("entra", {"nonce": "n"}, {}),
    "at_hash": ("es384", {"at_hash": "x"}, {}),
    "at_hash in what says Bearer": ("keycloak", {"at_hash": "x"}, {}),
    "a logout token by its header": ("es384", {}, {"typ": "logout+jwt"}),
    "a logout token by its events": ("es384", {"events": {"http://example/backchannel-logout": {}}}, {}),
    "a security event": ("es384", {}, {"typ": "secevent+jwt"}),
    "a typ that is not required_typ": ("auth0", {}, {"typ": "JWT"}),
    "no typ where one is required": ("auth0", {}, {"typ": None}),
    "a lifetime of a year": ("es384", {"exp": NOW + 31_536_000}, {}),
    "another client": ("cognito", {"client_id": "another"}, {}),
    "no client": ("clerk", {"azp": None}, {}),
    "two clients": ("cognito", {"azp": "another"}, {}),
    "a client that is a list": ("cognito", {"client_id": ["7lhlkkfbfb4q5kpp90urffao"]}, {}),
    "another audience": ("auth0", {"aud": "https://other.example.com"}, {}),
    "no audience": ("entra", {"aud": None}, {}),
    "an audience in a list in a list": ("es384", {"aud": [["api"]]}, {}),
    "a tenant that is a list": ("keycloak", {"tenant": ["acme"]}, {}),
    "a tenant that is a number": ("cognito", {"custom:tenant": 7}, {}),
    "a tenant that is an object": ("clerk", {"o": {"slg": {"x": 1}}}, {}),
    "a tenant that is not in the map": ("entra", {"extension_tenant": "acme"}, {}),
    "no sub": ("clerk", {"sub": None}, {}),
    "no iat": ("clerk", {"iat": None}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_ACCESS)
async def test_what_is_no_access_token_for_us_is_refused(made: Made, kind: str) -> None:
    name, claims, header = NO_ACCESS[kind]
    assert await refused(made(), MAKERS[name].token(header=header, **claims))


async def test_a_kid_that_two_issuers_share_finds_each_its_own_key(made: Made) -> None:
    tokens = made()
    for name in ("cognito", "clerk"):  # both call their key k1
        assert await tokens.verify(MAKERS[name].token())
    assert "signature" in await refused(tokens, MAKERS["clerk"].token(key=RSA))
    assert "signature" in await refused(tokens, MAKERS["cognito"].token(key=OTHER_RSA))
    assert "iss" in await refused(tokens, MAKERS["clerk"].token(iss="https://nowhere.example/"))
    for wrong in (["https://clerk.example.com"], {"x": 1}, 7):
        assert await refused(tokens, with_iss(wrong))


def with_iss(iss: Any) -> str:
    """PyJWT refuses to write it."""
    body = json.dumps({**json.loads(body_of("clerk")), "iss": iss}).encode()
    return jwt.PyJWS().encode(body, OTHER_RSA, "RS256", headers={"kid": "k1"})


async def test_a_public_key_is_no_secret_and_none_is_no_signature(made: Made) -> None:
    tokens = made()
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = body_of("cognito")
    jws = jwt.PyJWS()
    for secret in (pem, pem.strip(), SECRET.encode()):
        token = _hs256(body, secret)
        assert "alg" in await refused(tokens, token)
    assert "alg" in await refused(tokens, _unsigned(body))
    assert "no key for PS256" in await refused(tokens, jws.encode(body, RSA, "PS256", headers={"kid": "k1"}))
    supabase = jws.encode(body_of("supabase"), RSA, "RS256", headers={"kid": "k1"})
    assert "alg" in await refused(tokens, supabase)


def body_of(name: str) -> bytes:
    maker = MAKERS[name]
    return json.dumps({**maker.claims, "iss": maker.issuer, "iat": NOW, "exp": NOW + 60}).encode()


def _part(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _hs256(body: bytes, secret: bytes) -> str:
    """PyJWT refuses to sign with a public key."""
    signed = _part(b'{"alg":"HS256","kid":"k1"}') + b"." + _part(body)
    return (signed + b"." + _part(hmac.digest(secret, signed, "sha256"))).decode()


def _unsigned(body: bytes) -> str:
    return (_part(b'{"alg":"none","kid":"k1"}') + b"." + _part(body) + b".c2ln").decode()


async def test_a_key_without_an_algorithm_verifies_one_padding_alone(made: Made) -> None:
    entra, body = MAKERS["entra"], body_of("entra")
    tokens = made()
    for algorithm in ("RS384", "RS512"):
        assert await tokens.verify(jwt.PyJWS().encode(body, RSA, algorithm, headers={"kid": "k4"}))
    assert "PS256" in await refused(tokens, jwt.PyJWS().encode(body, RSA, "PS256", headers={"kid": "k4"}))
    assert "alg" in await refused(made(entra={"algorithms": ["RS512"]}), entra.token())


async def test_an_issuer_names_only_the_tenants_that_it_may(made: Made) -> None:
    tokens = made(clerk={"tenants": ["globex", "initech"]}, keycloak={"tenants": ["acme"]})
    assert "may name" in await refused(tokens, MAKERS["clerk"].token())
    assert (await tokens.verify(MAKERS["clerk"].token(o={"slg": "globex"})))["tenant"] == "globex"
    assert (await tokens.verify(MAKERS["keycloak"].token()))["tenant"] == "acme"
    assert "may name" in await refused(tokens, MAKERS["keycloak"].token(tenant=None))


async def test_only_the_configured_claim_names_the_tenant(made: Made) -> None:
    tokens = made()
    for name in ("supabase", "clerk", "auth0", "entra", "cognito"):
        assert (await tokens.verify(MAKERS[name].token(tenant="globex")))["tenant"] == "acme"
    nameless = await tokens.verify(MAKERS["auth0"].token(tenant="globex", **{"https://example.com/tenant": None}))
    assert "tenant" not in nameless
    literal: dict[str, Any] = {"app_metadata": {}, "app_metadata.tenant": "globex"}
    nested = await tokens.verify(MAKERS["supabase"].token(**literal))
    assert "tenant" not in nested


@pytest.mark.parametrize("name", MAKERS)
async def test_a_token_of_any_issuer_can_be_revoked_by_itself(made: Made, name: str) -> None:
    revoked = Revoked()
    tokens = made(revoked)
    token, other = MAKERS[name].token(), MAKERS[name].token(iat=NOW - 1, jti=None)
    revoked.names.add(tokens.revocation_ids(await tokens.verify(token))[0])
    with pytest.raises(TokenExpired):
        await tokens.verify(token)
    assert await tokens.verify(other)


async def test_no_issuer_can_name_a_token_or_session_of_another(made: Made) -> None:
    tokens = made(own=True)
    shared: dict[str, Any] = {"jti": "the same", "sid": "the same"}
    ids = [tokens.revocation_ids(await tokens.verify(MAKERS[name].token(**shared))) for name in ("keycloak", "cognito")]
    assert len({each for pair in ids for each in pair} | {"the same"}) == 3


async def test_a_rewritten_signature_is_still_the_token_that_was_revoked(made: Made) -> None:
    revoked = Revoked()
    tokens = made(revoked)
    token, again = (MAKERS["es384"].token(jti=None) for _ in range(2))
    assert token != again  # ECDSA takes a new number each time
    revoked.names.add(tokens.revocation_ids(await tokens.verify(token))[0])
    with pytest.raises(TokenExpired):
        await tokens.verify(again)


async def test_a_key_server_that_is_down_is_told_with_its_address_and_cause(made: Made) -> None:
    told: list[Event] = []
    tokens = made(es384={"jwks_url": "https://127.0.0.1:1/keys?secret=1"}, auth0={"jwks_ca_file": ""})
    tokens.report_to(told.append)
    for name in ("es384", "auth0"):
        with pytest.raises(AuthError) as caught:
            await tokens.verify(MAKERS[name].token())
        assert caught.value.http_status == 503
        assert 0 < (caught.value.retry_after or 0) <= 5
    down, untrusted = told
    assert isinstance(down, KeysFetchFailed)
    assert isinstance(untrusted, KeysFetchFailed)
    assert down.url == "https://127.0.0.1:1/keys"
    assert "Connect" in down.error
    assert "certificate" in untrusted.error.lower()


WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "no audience": ({"audience": []}, "audience"),
    "no keys": ({"jwks_url": ""}, "jwks_url"),
    "plain http": ({"jwks_url": "http://keys.example/"}, "jwks_url"),
    "a secret in a key set": ({"algorithms": ["HS256"]}, "algorithms"),
    "what users write": ({"tenant_claim": "user_metadata.tenant"}, "tenant_claim"),
    "a key and a key set": ({"key": "k" * 32}, "jwks_url"),
    "an unknown key": ({"audiance": "x"}, "audiance"),
    "an unknown algorithm": ({"algorithms": ["none"]}, "algorithms"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_issuer_that_cannot_be_right_is_refused_at_the_start(kind: str) -> None:
    good: dict[str, Any] = {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"user": "app", "password": "sesame-open"}},
        "registry": {"source": "file"},
    }
    change, key = WRONG[kind]
    issuer = entry("es384", "https://keys.example", "")
    assert Settings.from_mapping(good | {"auth": {"issuers": [issuer]}}).auth.verifies
    wrong = {"auth": {"issuers": [issuer | dict(change), issuer]}, "resolve": {"agree": ["claim:x"]}}
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(good | wrong)
    told = {problem.key for problem in caught.value.problems}
    assert any(f"auth.issuers.0.{key}" in each for each in told), told
    if not kind.startswith("an unknown"):
        assert {"auth.issuers.1.issuer", "resolve.agree.0"} <= told


def test_two_issuers_with_one_secret_are_refused() -> None:
    first, second = entry("supabase", "", ""), entry("supabase", "", "", issuer="https://other.example/")
    with pytest.raises(ConfigurationError, match="could sign for the other"):
        Tokens(Auth.model_validate({"issuers": [first, second]}), tenants=None)


def test_an_issuer_that_shares_our_own_secret_is_refused() -> None:
    settings = {"key": SECRET, "issuers": [entry("supabase", "", "")]}
    with pytest.raises(ConfigurationError, match="is the key of tenantproxy too"):
        Tokens(Auth.model_validate(settings), tenants=None)
