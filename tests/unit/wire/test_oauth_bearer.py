"""Is a bearer token taken exactly as RFC 7628 and libpq 18 write it?"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import InvalidCredentials, ProtocolError
from tenantproxy.wire.client_auth import ClientAuth, Verdict
from tenantproxy.wire.frames import HEADER
from tenantproxy.wire.oauth_bearer import BearerExchange, Discovery

WHERE = Discovery("https://id.example.com/", "openid")


def exchange() -> BearerExchange:
    return BearerExchange(WHERE)


def auth() -> ClientAuth:
    return ClientAuth("oauth", user=b"oauth", discovery=WHERE)


def initial(first: bytes, mechanism: bytes = b"OAUTHBEARER") -> bytes:
    return mechanism + b"\0" + len(first).to_bytes(4, "big") + first


@pytest.mark.parametrize(
    "said",
    [
        b"n,,\x01auth=Bearer abc.DEF-1_~+/==\x01\x01",  # libpq's
        b"y,,\x01auth=bearer   abc.DEF-1_~+/==\x01\x01",
        b"n,,\x01host=db.example.com\x01port=5432\x01auth=Bearer abc.DEF-1_~+/==\x01\x01",  # RFC 7628, 4.1
    ],
)
def test_the_token_is_what_stands_behind_bearer(said: bytes) -> None:
    assert exchange().first(said) == "abc.DEF-1_~+/=="


BAD = [
    b"",
    b"n,,",
    b"n,,\x01",
    b"n,,\x01\x01",
    b"p=tls-server-end-point,,\x01auth=Bearer a\x01\x01",
    b"n,a=ann,\x01auth=Bearer a\x01\x01",
    b"n,\x01auth=Bearer a\x01\x01",
    b"n,,\x01auth=Bearer a\x01",
    b"n,,\x01auth=Bearer a",
    b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
    b"n,,\x01auth=Bearer \x01\x01",
    b"n,,\x01auth=Basic YWJj\x01\x01",
    b"n,,\x01auth=Bearer a b\x01\x01",
    b"n,,\x01auth=Bearer a\0\x01\x01",
    b"n,,\x01=x\x01auth=Bearer a\x01\x01",
    b"n,,\x01a1=x\x01auth=Bearer a\x01\x01",
    b"n,,\x01auth=Bearer \xc3\xa4\x01\x01",
]


@pytest.mark.parametrize("said", BAD)
def test_anything_else_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        exchange().first(said)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_token_or_a_documented_error(said: bytes) -> None:
    for text in (said, b"n,,\x01auth=" + said + b"\x01\x01", b"n,,\x01" + said):
        try:
            token = exchange().first(text)
        except ProtocolError:
            continue
        assert token is None or token.isprintable()


def test_a_client_without_a_token_hears_where_to_get_one_and_is_refused() -> None:
    login = auth()
    assert login.challenge[HEADER + 4 :] == b"OAUTHBEARER\0\0"
    step = login.feed(initial(b"n,,\x01auth=\x01\x01"))
    assert step.verdict is Verdict.MORE
    assert json.loads(step.send[HEADER + 4 :]) == {
        "status": "invalid_token",
        "openid-configuration": "https://id.example.com/.well-known/openid-configuration",
        "scope": "openid",
    }
    with pytest.raises(InvalidCredentials):
        login.feed(b"\x01")


def test_a_token_that_is_not_accepted_can_not_be_followed_by_another_one() -> None:
    login = auth()
    step = login.feed(initial(b"n,,\x01auth=Bearer abc\x01\x01"))
    assert (step.verdict, step.password) == (Verdict.PASSWORD, "abc")
    assert "abc" not in repr(step)
    with pytest.raises(ProtocolError):
        login.feed(initial(b"n,,\x01auth=Bearer abd\x01\x01"))
    login = auth()
    login.feed(initial(b"n,,\x01auth=Bearer abc\x01\x01"))
    login.without_token("it has expired")
    with pytest.raises(ProtocolError):
        login.feed(initial(b"n,,\x01auth=Bearer abd\x01\x01"))


def test_no_other_mechanism_is_taken() -> None:
    with pytest.raises(ProtocolError, match="was not offered"):
        auth().feed(initial(b"n,,n=,r=abc", b"SCRAM-SHA-256"))
