"""Can anything that a stranger sends for a token do more than be refused?"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import hypothesis.strategies as st
from hypothesis import given, settings

from tenantproxy.auth.claims import parse_object
from tenantproxy.auth.jwks import read_keys
from tenantproxy.auth.tokens import MAX_TOKEN_BYTES
from tenantproxy.errors import AuthError, TokenExpired
from tests.support.bad_tokens import b64, parts, signed
from tests.support.token_desk import KEY, Desk, a_tenant

SECRET: Final = KEY.encode()
DESK: Final = Desk()
TOKENS: Final = DESK.tokens()
GOOD: Final = TOKENS.issue(tenant=a_tenant(), user="7", role="admin", session="s1")
HEADER, CLAIMS = parts(GOOD)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.sampled_from(
    ["none", "HS256", "RS256", "1", "../../etc/passwd", "' OR 1=1 --", "tenantproxy", "acme", 1e308, 10**400, -1, "\0"]
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
header_names = st.sampled_from(["alg", "kid", "typ", "jku", "x5u", "jwk", "x5c", "crit", "b64", "cty", "zip"])
claim_names = st.sampled_from([*CLAIMS, "nbf", "extra", ""])
header_changes = st.dictionaries(header_names, values, max_size=4)
claim_changes = st.dictionaries(claim_names, values, max_size=4)
IS_TRIED: Final = settings(max_examples=100, deadline=None)
SAID: Final = (
    "the token is not valid. log in again",
    "the token has expired. refresh it, or log in again",
    "the token is no longer valid. refresh it, or log in again",
)


def outcome(token: str) -> Mapping[str, Any] | None:
    """The claims, or None for a token that was refused; whatever else is raised fails the test."""
    running = TOKENS.verify(token)
    try:
        running.send(None)
    except StopIteration as done:
        claims: Mapping[str, Any] = done.value
        return claims
    except AuthError as error:
        if str(error) not in SAID:
            raise
        return None
    raise AssertionError("it waited for something")


@IS_TRIED
@given(st.text(st.characters()) | st.from_regex(r"[A-Za-z0-9_\-=+/. ]{0,200}", fullmatch=True) | st.just(""))
def test_text_is_refused(text: str) -> None:
    assert outcome(text) is None


@IS_TRIED
@given(header_changes, claim_changes)
def test_what_nobody_signed_is_refused_whatever_it_says(header: dict[str, Any], claims: dict[str, Any]) -> None:
    assert outcome(signed(HEADER | header, CLAIMS | claims, b"a key of their own, which is long enough")) is None


@IS_TRIED
@given(
    st.integers(0, len(GOOD) - 1), st.sampled_from("ABab09-_.=\0é"), st.sampled_from(["replace", "insert", "delete"])
)
def test_a_token_changed_in_one_place_is_refused(place: int, put: str, how: str) -> None:
    after = GOOD[place + (how != "insert") :]
    changed = GOOD[:place] + ("" if how == "delete" else put) + after
    if changed != GOOD:
        assert outcome(changed) is None


@IS_TRIED
@given(header_changes, claim_changes)
def test_what_we_signed_is_read_as_it_stands_or_refused(header: dict[str, Any], claims: dict[str, Any]) -> None:
    head, body = HEADER | header, CLAIMS | claims
    read = outcome(signed(head, body, SECRET))
    if read is None:
        return
    assert (head["alg"], head["kid"]) == ("HS256", "1")
    assert "crit" not in head
    assert (read["iss"], read["aud"], read["tid"], read["tenant"]) == (
        "tenantproxy",
        "tenantproxy",
        "acme",
        "acme",
    )
    assert isinstance(read["sub"], str)
    assert read["sub"]
    assert type(read["tep"]) is int
    assert read["iat"] <= DESK.clock.now + 5 < read["exp"] + 10
    json.dumps({key: value for key, value in read.items() if isinstance(value, str | int | float)}).encode()


@IS_TRIED
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_bytes_in_the_form_of_a_token_are_refused(head: bytes, body: bytes) -> None:
    assert outcome(f"{b64(head)}.{b64(body)}.{b64(b'x' * 32)}") is None
    assert outcome(f"{GOOD.split('.')[0]}.{b64(body)}.{b64(b'x' * 32)}") is None


@IS_TRIED
@given(st.binary(max_size=400))
def test_claims_that_are_any_bytes_and_signed_are_refused(body: bytes) -> None:
    text = body.decode("latin-1")
    assert outcome(signed(HEADER, text, SECRET)) is None


@IS_TRIED
@given(st.binary(max_size=400) | st.builds(lambda value: json.dumps(value).encode(), values))
def test_json_is_read_as_python_reads_it_or_refused(raw: bytes) -> None:
    try:
        read = parse_object(raw)
    except TokenExpired:
        raise
    except AuthError:
        return
    assert _plain(read) == json.loads(raw)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


jwk_values = values | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig", ["verify"], "A" * 342])
jwk_names = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "kid", "use", "alg", "key_ops"])


@IS_TRIED
@given(
    st.lists(st.dictionaries(jwk_names, jwk_values) | values, max_size=4), st.sampled_from(["RS256", "ES256", "EdDSA"])
)
def test_a_key_set_is_read_or_refused(entries: list[Any], algorithm: str) -> None:
    try:
        keys = read_keys(json.dumps({"keys": entries}).encode(), algorithm)
    except ValueError:
        return
    assert all(key.algorithm == algorithm for key in keys.values())


def test_the_longest_token_is_read_and_one_byte_more_is_not() -> None:
    spare = MAX_TOKEN_BYTES - len(GOOD) - 100
    token = TOKENS.issue(tenant=a_tenant(), user="7", claims={"much": "x" * (spare * 3 // 4)})
    assert MAX_TOKEN_BYTES - 400 < len(token) <= MAX_TOKEN_BYTES
    assert outcome(token) is not None
    assert base64.urlsafe_b64decode(token.split(".")[1] + "==")
