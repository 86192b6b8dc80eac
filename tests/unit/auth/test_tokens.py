"""Is a token that is good taken, and every other one refused in the same words?"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tenantproxy.auth.tokens import MAX_TOKEN_BYTES, Tokens
from tenantproxy.config import Auth
from tenantproxy.errors import AuthError, ConfigurationError, TokenExpired
from tests.support.bad_tokens import b64, changed, parts, signed
from tests.support.token_desk import KEY, NOW, Desk, a_tenant

SECRET: Final = KEY.encode()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def issued(tokens: Tokens, **more: Any) -> str:
    return tokens.issue(tenant=a_tenant(), user="7", **more)


async def refusal(tokens: Tokens, token: str, **more: Any) -> AuthError:
    with pytest.raises(AuthError) as refused:
        await tokens.verify(token, **more)
    assert refused.value.__cause__ is None
    return refused.value


def pem(key: Any) -> bytes:
    if hasattr(key, "private_bytes"):
        text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    else:
        text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


# --- good tokens ------------------------------------------------------------------------------------------------------
async def test_a_token_says_who_of_which_tenant_until_when(desk: Desk) -> None:
    tokens = desk.tokens()
    claims = await tokens.verify(issued(tokens, role="admin", session="s1", claims={"name": "Ada", "teams": ["a"]}))
    jti = claims["jti"]
    assert dict(claims) == {
        "iss": "tenantproxy", "aud": "tenantproxy", "sub": "7", "iat": int(NOW), "exp": int(NOW) + 900, "jti": jti,
        "tid": "acme", "tep": 0, "tenant": "acme", "role": "admin", "sid": "s1", "name": "Ada", "teams": ("a",),
    }  # fmt: skip
    assert len(jti) >= 16


async def test_nobody_can_change_claims_that_others_get_from_the_cache(desk: Desk) -> None:
    tokens = desk.tokens()
    claims: Any = await tokens.verify(issued(tokens, claims={"deep": {"list": [1]}}))
    with pytest.raises(TypeError):
        claims["sub"] = "8"
    with pytest.raises(TypeError):
        claims["deep"]["list"] = ()
    assert claims["deep"]["list"] == (1,)


async def test_the_name_of_the_tenants_claim_is_the_operators(desk: Desk) -> None:
    tokens = desk.tokens(tenant_claim="workspace")
    claims = await tokens.verify(issued(tokens))
    assert claims["workspace"] == "acme"
    assert "tenant" not in claims


async def test_other_libraries_read_our_tokens(desk: Desk) -> None:
    token = issued(desk.tokens())
    claims = jwt.decode(
        token, KEY, algorithms=["HS256"], audience="tenantproxy", options={"verify_exp": False, "verify_iat": False}
    )
    assert claims["sub"] == "7"


@pytest.mark.parametrize("name", ["sub", "exp", "aud", "tid", "tep", "sid", "role", "tenant", "jti", "nbf"])
def test_claims_that_are_ours_cannot_be_given(desk: Desk, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        issued(desk.tokens(), claims={name: "x"})


def test_a_token_that_nobody_would_read_is_not_issued(desk: Desk) -> None:
    with pytest.raises(ValueError, match="8192 are allowed"):
        issued(desk.tokens(), claims={"much": "x" * 8000})


# --- keys -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Files of secrets, by name."""
    made = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, path in made.items():
        path.write_text(name * 40 + "\n")
    return {name: str(path) for name, path in made.items()}


async def test_keys_overlap_while_they_rotate(desk: Desk, keys: dict[str, str]) -> None:
    before = desk.tokens(key_files={"a": keys["a"]})
    told = desk.tokens(key_files={"a": keys["a"], "b": keys["b"]}, signing_kid="a")
    during = desk.tokens(key_files={"a": keys["a"], "b": keys["b"]})
    after = desk.tokens(key_files={"b": keys["b"]})
    old, new = issued(before), issued(during)
    assert (parts(issued(told))[0]["kid"], parts(new)[0]["kid"]) == ("a", "b")
    for tokens in (told, during):
        assert (await tokens.verify(old))["sub"] == (await tokens.verify(new))["sub"] == "7"
    assert (await after.verify(new))["sub"] == "7"
    await refusal(after, old)
    await refusal(before, new)


async def test_one_key_alone_has_the_id_1_and_may_become_one_of_several(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    token = issued(desk.tokens())
    rotating = desk.tokens(key_files={"1": str(path), "2": str(path)})
    assert (await rotating.verify(token))["sub"] == "7"


async def test_eddsa_signs_with_the_private_and_shows_only_the_public_key(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "ed.pem"
    path.write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
    tokens = desk.tokens(algorithm="EdDSA", key=None, key_files={"e1": str(path)})
    token = issued(tokens)
    assert (await tokens.verify(token))["sub"] == "7"
    (shown,) = tokens.jwks()["keys"]
    assert shown.keys() == {"kty", "crv", "x", "use", "alg", "kid"}
    assert jwt.PyJWS().decode(token, jwt.PyJWK(shown).key, algorithms=["EdDSA"])
    assert desk.tokens().jwks() == {"keys": []}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_tokens_of_another_issuer_are_verified_and_not_issued(desk: Desk, tmp_path: Path, algorithm: str) -> None:
    key = private_key(algorithm)
    path = tmp_path / "public.pem"
    path.write_bytes(pem(key.public_key()))
    tokens = desk.tokens(
        algorithm=algorithm, public_key_file=str(path), issuer="https://issuer.example/", audience="us"
    )
    token = jwt.encode(foreign_claims(), key, algorithm, headers={"kid": "whatever they call it"})
    assert (await tokens.verify(token))["tenant"] == "acme"
    assert not tokens.are_own
    with pytest.raises(ConfigurationError, match="no key to sign with"):
        issued(tokens)
    await refusal(tokens, jwt.encode(foreign_claims(), private_key(algorithm), algorithm))
    for wrong in ({"iss": "https://evil.example/"}, {"aud": ["them"]}, {"aud": "us:selection"}, {"exp": NOW - 60}):
        await refusal(tokens, jwt.encode(foreign_claims() | wrong, key, algorithm))
    desk.revoked.epochs["acme"] = int(NOW)
    assert isinstance(await refusal(tokens, token), TokenExpired)


def private_key(algorithm: str) -> Any:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def foreign_claims() -> dict[str, Any]:
    return {
        "iss": "https://issuer.example/", "aud": ["us", "them"], "sub": "auth0|7", "iat": int(NOW), "exp": NOW + 600.5,
        "tenant": "acme",
    }  # fmt: skip


async def test_a_public_key_cannot_be_used_as_a_shared_secret(desk: Desk, tmp_path: Path) -> None:
    key = private_key("RS256")
    path = tmp_path / "public.pem"
    path.write_bytes(pem(key.public_key()))
    tokens = desk.tokens(algorithm="RS256", public_key_file=str(path), issuer="https://issuer.example/", audience="us")
    for secret in (path.read_bytes(), path.read_bytes().strip(), b""):
        await refusal(tokens, signed({"alg": "HS256", "typ": "JWT"}, foreign_claims(), secret))
        await refusal(tokens, signed({"alg": "RS256", "typ": "JWT"}, foreign_claims(), secret))
    with pytest.raises(ConfigurationError, match="HS256 needs a secret"):
        desk.tokens(key_files={"1": str(path)})


WEAK: dict[str, tuple[dict[str, Any], Callable[[], bytes]]] = {
    "31 bytes": ({}, lambda: b"x" * 31),
    "empty": ({}, lambda: b""),
    "an RSA key for HS256": ({}, lambda: pem(private_key("RS256"))),
    "no key for EdDSA": ({"algorithm": "EdDSA"}, lambda: b"x" * 64),
    "an EC key for EdDSA": ({"algorithm": "EdDSA"}, lambda: pem(private_key("ES256"))),
    "a public key to sign with": ({"algorithm": "EdDSA"}, lambda: pem(private_key("EdDSA").public_key())),
}


@pytest.mark.parametrize("kind", WEAK)
def test_a_key_that_is_too_weak_or_of_another_kind_is_refused_at_the_start(
    desk: Desk, tmp_path: Path, kind: str
) -> None:
    settings, make = WEAK[kind]
    path = tmp_path / "key"
    path.write_bytes(make())
    with pytest.raises(ConfigurationError) as refused:
        desk.tokens(key_files={"k1": str(path)}, **settings)
    assert "auth.key_files.k1" in str(refused.value)
    content = make()
    assert not content or content.decode().strip()[:20] not in str(refused.value).replace("-----BEGIN", "")


FOREIGN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "RSA of 1024 bits": ("RS256", lambda: pem(rsa.generate_private_key(65537, 1024).public_key())),
    "P-384": ("ES256", lambda: pem(ec.generate_private_key(ec.SECP384R1()).public_key())),
    "RSA for ES256": ("ES256", lambda: pem(private_key("RS256").public_key())),
    "a private key": ("RS256", lambda: pem(private_key("RS256"))),
    "nonsense": ("EdDSA", lambda: b"nonsense"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_weak_or_wrong_public_key_is_refused_at_the_start(desk: Desk, tmp_path: Path, kind: str) -> None:
    algorithm, make = FOREIGN[kind]
    path = tmp_path / "public.pem"
    path.write_bytes(make())
    with pytest.raises(ConfigurationError, match=r"auth\.public_key_file"):
        desk.tokens(algorithm=algorithm, public_key_file=str(path))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        desk.tokens(algorithm=algorithm, public_key_file=str(tmp_path / "absent"))


# --- bad tokens -------------------------------------------------------------------------------------------------------
def forged(desk: Desk, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """A token signed with the right key, and otherwise changed."""
    return changed(issued(desk.tokens()), SECRET, header, **claims)


def with_text(desk: Desk, find: str, put: str) -> str:
    """A token signed with the right key, its claims changed as text."""
    head, body = parts(issued(desk.tokens()))
    text = json.dumps(body)
    assert find in text
    return signed(head, text.replace(find, put, 1), SECRET)


BAD: dict[str, Callable[[Desk], str]] = {
    "empty": lambda desk: "",
    "two parts": lambda desk: issued(desk.tokens()).rpartition(".")[0],
    "no signature": lambda desk: issued(desk.tokens()).rpartition(".")[0] + ".",
    "four parts": lambda desk: issued(desk.tokens()) + ".x",
    "another signature": lambda desk: issued(desk.tokens())[:-6] + "AAAAAA",
    "another key": lambda desk: changed(issued(desk.tokens()), b"z" * 32),
    "5 MB": lambda desk: issued(desk.tokens()) + "A" * 5_000_000,
    "one byte too long": lambda desk: "A" * (MAX_TOKEN_BYTES - 3) + ".A.A",
    "padding": lambda desk: issued(desk.tokens()) + "=",
    "blank": lambda desk: " " + issued(desk.tokens()),
    "newline": lambda desk: issued(desk.tokens()) + "\n",
    "NUL": lambda desk: issued(desk.tokens()) + "\0",
    "unicode": lambda desk: issued(desk.tokens()) + "é",
    "surrogate": lambda desk: issued(desk.tokens()) + "\ud800",
    "alg none": lambda desk: forged(desk, {"alg": "none"}),
    "alg none, unsigned": lambda desk: forged(desk, {"alg": "none"}).rpartition(".")[0] + ".",
    "alg None": lambda desk: forged(desk, {"alg": "None"}),
    "alg nOnE": lambda desk: forged(desk, {"alg": "nOnE"}),
    "alg missing": lambda desk: forged(desk, {"alg": None}),
    "alg is a list": lambda desk: forged(desk, {"alg": ["HS256"]}),
    "alg HS512": lambda desk: forged(desk, {"alg": "HS512"}),
    "alg RS256": lambda desk: forged(desk, {"alg": "RS256"}),
    "alg hs256": lambda desk: forged(desk, {"alg": "hs256"}),
    "crit": lambda desk: forged(desk, {"crit": ["exp"]}),
    "b64 false": lambda desk: forged(desk, {"b64": False, "crit": ["b64"]}),
    "kid missing": lambda desk: forged(desk, {"kid": None}),
    "kid unknown": lambda desk: forged(desk, {"kid": "2"}),
    "kid is a path": lambda desk: forged(desk, {"kid": "../../../../dev/null"}),
    "kid is /dev/null signed with nothing": lambda desk: changed(issued(desk.tokens()), b"", {"kid": "/dev/null"}),
    "kid is SQL": lambda desk: forged(desk, {"kid": "x' UNION SELECT 'secret' --"}),
    "kid is a command": lambda desk: forged(desk, {"kid": "|whoami"}),
    "kid is an attribute": lambda desk: forged(desk, {"kid": "__class__"}),
    "kid is a number": lambda desk: forged(desk, {"kid": 1}),
    "kid is a list": lambda desk: forged(desk, {"kid": ["1"]}),
    "kid is an object": lambda desk: forged(desk, {"kid": {"1": 1}}),
    "kid is NUL": lambda desk: forged(desk, {"kid": "1\0"}),
    "header is a list": lambda desk: signed([], parts(issued(desk.tokens()))[1], SECRET),
    "header is no JSON": lambda desk: signed("{", parts(issued(desk.tokens()))[1], SECRET),
    "header key twice": lambda desk: signed(
        '{"alg":"none","alg":"HS256","kid":"1"}', parts(issued(desk.tokens()))[1], SECRET
    ),
    "claims are a list": lambda desk: signed(parts(issued(desk.tokens()))[0], [], SECRET),
    "claims are a number": lambda desk: signed(parts(issued(desk.tokens()))[0], "7", SECRET),
    "claims are empty": lambda desk: signed(parts(issued(desk.tokens()))[0], "{}", SECRET),
    "claims are no JSON": lambda desk: signed(parts(issued(desk.tokens()))[0], "nonsense", SECRET),
    "claims are nested deeply": lambda desk: with_text(desk, '"sub": "7"', '"sub":' + "[" * 2000 + "]" * 2000),
    "claims are nested a little too deeply": lambda desk: forged(desk, extra=json.loads("[" * 20 + "]" * 20)),
    "a claim twice": lambda desk: with_text(desk, '"sub": "7"', '"sub": "8", "sub": "7"'),
    "the tenant twice": lambda desk: with_text(desk, '"tid": "acme"', '"tid": "evil", "tid": "acme"'),
    "the same key twice further down": lambda desk: with_text(desk, '"sub": "7"', '"sub": "7", "x": {"a": 1, "a": 2}'),
    "the same key twice, once escaped": lambda desk: with_text(desk, '"sub": "7"', '"sub": "7", "s\\u0075b": "8"'),
    **{f"{name} missing": lambda desk, name=name: forged(desk, **{name: None}) for name in  # type: ignore[misc]
       ("exp", "iat", "iss", "aud", "sub", "jti", "tid", "tep", "tenant")},
    "exp is text": lambda desk: forged(desk, exp=str(NOW + 60)),
    "exp is true": lambda desk: forged(desk, exp=True),
    "exp is null": lambda desk: with_text(desk, f'"exp": {int(NOW) + 900}', '"exp": null'),
    "exp is NaN": lambda desk: with_text(desk, f'"exp": {int(NOW) + 900}', '"exp": NaN'),
    "exp is Infinity": lambda desk: with_text(desk, f'"exp": {int(NOW) + 900}', '"exp": Infinity'),
    "exp is 1e999": lambda desk: with_text(desk, f'"exp": {int(NOW) + 900}', '"exp": 1e999'),
    "exp has 5,000 digits": lambda desk: with_text(desk, f'"exp": {int(NOW) + 900}', '"exp": ' + "9" * 5000),
    "exp is beyond all time": lambda desk: forged(desk, exp=10**15),
    "exp is negative": lambda desk: forged(desk, exp=-1),
    "exp before iat": lambda desk: forged(desk, iat=NOW + 4, exp=NOW + 3),
    "iat in the future": lambda desk: forged(desk, iat=NOW + 6),
    "iat is text": lambda desk: forged(desk, iat="now"),
    "nbf in the future": lambda desk: forged(desk, nbf=NOW + 6),
    "nbf is text": lambda desk: forged(desk, nbf="x"),
    "iss of another": lambda desk: forged(desk, iss="tenantproxy "),
    "iss is a list": lambda desk: forged(desk, iss=["tenantproxy"]),
    "aud of another": lambda desk: forged(desk, aud="other"),
    "aud is a list with ours": lambda desk: forged(desk, aud=["other", "tenantproxy"]),
    "aud is of a selection token": lambda desk: forged(desk, aud="tenantproxy:selection"),
    "aud is of a refresh token": lambda desk: forged(desk, aud="tenantproxy:refresh"),
    "a selection token": lambda desk: desk.tokens().issue_selection(subject="7", claims={"tenants": ["acme"]}),
    "a refresh token": lambda desk: "tpr_" + "A" * 64,
    "sub is a number": lambda desk: forged(desk, sub=7),
    "sub is empty": lambda desk: forged(desk, sub=""),
    "sub with NUL": lambda desk: forged(desk, sub="7\0"),
    "sub with a lone surrogate": lambda desk: with_text(desk, '"sub": "7"', '"sub": "\\ud800"'),
    "NUL in the name of a claim": lambda desk: forged(desk, None, **{"a\0": 1}),
    "role is a list": lambda desk: forged(desk, role=["admin"]),
    "sid is a number": lambda desk: forged(desk, sid=1),
    "tep is text": lambda desk: forged(desk, tep="0"),
    "tep is false": lambda desk: forged(desk, tep=False),
    "tid of one, database of another": lambda desk: forged(desk, tenant="globex"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_token_is_refused_and_nobody_learns_why(desk: Desk, kind: str) -> None:
    error = await refusal(desk.tokens(), BAD[kind](desk))
    assert type(error) is AuthError
    assert (str(error), error.http_status, error.code) == ("the token is not valid. log in again", 401, "unauthorized")
    assert desk.tenants.asked == 0


@pytest.mark.parametrize("field", ["jku", "x5u", "jwk", "x5c", "x5t"])
async def test_keys_that_a_token_brings_along_are_not_looked_at(desk: Desk, field: str) -> None:
    theirs = b"their own secret, as long as needed......"
    brought = {
        "jku": "http://127.0.0.1:1/jwks.json", "x5u": "http://127.0.0.1:1/cert", "x5c": ["AA=="], "x5t": "AA",
        "jwk": {"kty": "oct", "k": b64(theirs), "kid": "1", "alg": "HS256"},
    }  # fmt: skip
    await refusal(desk.tokens(), changed(issued(desk.tokens()), theirs, {field: brought[field]}))
    assert (await desk.tokens().verify(forged(desk, {field: brought[field]})))["sub"] == "7"


@pytest.mark.parametrize(("claims", "late"), [({}, 904.9), ({"exp": NOW + 10}, 14.9), ({"iat": NOW + 4.9}, 0.0)])
async def test_clocks_may_be_apart_by_the_leeway(desk: Desk, claims: dict[str, Any], late: float) -> None:
    token = forged(desk, **claims)
    desk.clock.now += late
    assert (await desk.tokens().verify(token))["sub"] == "7"


@pytest.mark.parametrize("cached", [True, False])
async def test_an_expired_token_is_told_from_a_bad_one_also_when_it_was_cached(desk: Desk, *, cached: bool) -> None:
    tokens = desk.tokens()
    token = issued(tokens)
    if cached:
        await tokens.verify(token)
    desk.clock.now += 905
    error = await refusal(tokens, token)
    assert (type(error), error.code) == (TokenExpired, "token_expired")
    assert type(await refusal(tokens, token[:-4] + "AAAA")) is AuthError


async def test_a_selection_token_selects_and_nothing_else_does(desk: Desk) -> None:
    tokens = desk.tokens()
    selection = tokens.issue_selection(subject="key", claims={"tenants": ["acme", "globex"]})
    access = issued(tokens)
    for _ in range(2):  # and again from the cache
        claims = await tokens.verify(selection, purpose="selection")
        assert (claims["sub"], claims["tenants"]) == ("key", ("acme", "globex"))
        await refusal(tokens, access, purpose="selection")
        await refusal(tokens, selection)
        assert (await tokens.verify(access))["sub"] == "7"
    desk.clock.now += 306
    assert isinstance(await refusal(tokens, selection, purpose="selection"), TokenExpired)


# --- revoked, moved, deleted ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("what", ["token", "session"])
async def test_a_revoked_token_is_refused_also_when_it_was_cached(desk: Desk, what: str, *, cached: bool) -> None:
    tokens = desk.tokens()
    token = issued(tokens, session="s1")
    if cached:
        await tokens.verify(token)
    desk.revoked.names.add("s1" if what == "session" else parts(token)[1]["jti"])
    assert isinstance(await refusal(tokens, token), TokenExpired)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("how", ["moved", "revoked", "deleted", "replaced"])
async def test_a_token_is_refused_when_its_tenant_is_not_the_same_any_more(
    desk: Desk, how: str, *, cached: bool
) -> None:
    tokens = desk.tokens()
    desk.tenants.real["acme"] = a_tenant(epoch=3)
    token = tokens.issue(tenant=a_tenant(epoch=3), user="7")
    if cached:
        await tokens.verify(token)
    desk.tenants.known.clear()
    if how == "moved":
        desk.tenants.real["acme"] = a_tenant(epoch=4)
    elif how == "revoked":
        desk.revoked.epochs["acme"] = int(NOW)
    elif how == "deleted":
        del desk.tenants.real["acme"]
    else:
        desk.tenants.real["acme"] = a_tenant(epoch=0)
    assert isinstance(await refusal(tokens, token), TokenExpired)


async def test_a_tenant_that_began_anew_is_at_no_number_that_another_of_its_name_was_at(desk: Desk) -> None:
    tokens = desk.tokens()
    desk.revoked.epochs["acme"] = int(NOW)
    desk.tenants.real["acme"] = a_tenant(epoch=1)
    token = tokens.issue(tenant=a_tenant(epoch=1), user="7")
    assert (await tokens.verify(token))["tep"] < 2**53
    desk.tenants.known.clear()
    desk.revoked.epochs["acme"] = int(NOW) + 1  # deleted a second later, and made again
    desk.tenants.real["acme"] = a_tenant(epoch=0)
    assert isinstance(await refusal(tokens, token), TokenExpired)


async def test_a_token_newer_than_what_is_known_of_the_tenant_makes_it_ask_once(desk: Desk) -> None:
    tokens = desk.tokens()
    await tokens.verify(issued(tokens))
    desk.tenants.real["acme"] = a_tenant(epoch=1)  # the cache still has the old one
    newer = tokens.issue(tenant=a_tenant(epoch=1), user="7")
    assert (await tokens.verify(newer))["tep"] == 1
    assert desk.tenants.asked == 2
    stale = tokens.issue(tenant=a_tenant(epoch=0), user="7")
    for _ in range(10):
        await refusal(tokens, stale)
    assert desk.tenants.asked == 2
    desk.clock.now += 1.5
    await refusal(tokens, stale)
    assert desk.tenants.asked == 3


# --- the cache --------------------------------------------------------------------------------------------------------
async def test_a_token_is_verified_once_and_the_cache_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(Auth.model_validate({"key": KEY}), tenants=desk.tenants, clock=desk.clock, cached=2)
    seen: list[str] = []
    original = jwt.PyJWS.decode

    def counted(self: jwt.PyJWS, token: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(token)
        return original(self, token, *args, **kwargs)

    monkeypatch.setattr(jwt.PyJWS, "decode", counted)
    one, two, three = (issued(tokens) for _ in range(3))
    for token in (one, one, two, one, three, one, two):
        await tokens.verify(token)
    assert seen == [one, two, three, two]


async def test_a_refused_token_is_not_remembered(desk: Desk) -> None:
    tokens = desk.tokens()
    early = forged(desk, iat=NOW + 20)
    await refusal(tokens, early)
    desk.clock.now += 20
    assert (await tokens.verify(early))["sub"] == "7"


async def test_neither_token_nor_key_is_in_an_error_a_repr_or_a_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = desk.tokens()
    token = issued(tokens)
    await tokens.verify(token)
    error = await refusal(tokens, token[:-4] + "AAAA")
    said = " ".join([repr(tokens), repr(vars(tokens)), repr(error), str(error), caplog.text])
    for secret in (KEY, token, token.rpartition(".")[2], base64.b64encode(SECRET).decode()):
        assert secret not in said
