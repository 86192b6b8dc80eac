"""Is what a request says of its caller read as it was meant, and refused where it could be read in two ways?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.auth.base import RequestContext
from tenantproxy.auth.caller import (
    TrustedProxies,
    bearer_token,
    carries_token,
    host_of,
    session_settings,
    unwrap_token,
)
from tenantproxy.auth.claims import parse_object
from tenantproxy.errors import AuthError, TenantUnresolved
from tenantproxy.events import Event, UntrustedForwardedFor
from tenantproxy.model import tenant_id

CONTEXT = {"app.user_id": "claim:sub", "app.ip": "client:ip", "app.trace": "header:X-Trace"}
ACME = tenant_id("acme")


def request(
    *headers: tuple[str, str], claims: dict[str, object] | None = None, ip: str | None = "192.0.2.1"
) -> RequestContext:
    return RequestContext(method="GET", path="/", host="x", headers=headers, client_ip=ip, claims=claims)


@pytest.mark.parametrize(
    ("value", "host"),
    [("Example.com", "example.com"), ("a.b:8080", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), (" a ", "a")],
)
def test_a_host_has_no_port_and_no_capitals(value: str, host: str) -> None:
    assert host_of([value]) == host


def test_no_host_or_two_are_none() -> None:
    assert host_of([]) == host_of(["a", "a"]) == ""


@pytest.mark.parametrize("value", ["Bearer abc.def", "bearer abc.def", "BEARER  abc.def ", "Bearer abc.def\t"])
def test_a_bearer_token_is_found(value: str) -> None:
    assert bearer_token([value]) == "abc.def"


@pytest.mark.parametrize("values", [[], ["Basic YTpi"], ["Digest x"], [""]])
def test_another_scheme_is_the_applications_own_affair(values: list[str]) -> None:
    assert bearer_token(values) is None


@pytest.mark.parametrize(
    "values",
    [["Bearer"], ["Bearer "], ["Bearer a b"], ["Bearer a", "Bearer a"], ["Basic x", "Bearer a"], ["Bearer a, Bearer b"],
     ["Bearer caf\xe9"], ["Bearer a\0b"], ["Bearer a\tb"]],
)  # fmt: skip
def test_a_token_that_is_missing_malformed_or_not_the_only_one_is_refused(values: list[str]) -> None:
    with pytest.raises(AuthError) as caught:
        bearer_token(values)
    assert caught.value.http_status == 401


@given(st.lists(st.text(st.characters(max_codepoint=255)), max_size=3))
def test_any_authorization_is_one_clean_token_none_or_an_error(values: list[str]) -> None:
    try:
        token = bearer_token(values)
    except AuthError:
        return
    assert token is None or (token.isascii() and token.isprintable() and " " not in token and token in values[0])


# --- proxies ---------------------------------------------------------------------------------------------------------
PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client", "trusted"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9", False),
        (None, ["198.51.100.1"], None, False),
        ("10.0.0.1", [], "10.0.0.1", True),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1", True),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1", True),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.9.9.9"], "198.51.100.1", True),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1", True),
        ("10.0.0.1", ["198.51.100.1, garbage, 10.0.0.2"], "10.0.0.2", True),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1:50123"], "198.51.100.1", True),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2:443"], "198.51.100.1", True),
        ("10.0.0.1", ["[2001:db9::1]:443, [2001:db8::1]"], "2001:db9::1", True),
        ("10.0.0.1", ["198.51.100.1:, 10.0.0.2"], "10.0.0.2", True),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", True),
        ("2001:db8::5", ["2001:db9::1"], "2001:db9::1", True),
        ("unix:", ["198.51.100.1"], "unix:", False),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_is(
    peer: str | None, forwarded: list[str], client: str | None, trusted: bool
) -> None:
    assert PROXIES.client(peer, forwarded) == (client, trusted)


def test_nobody_is_trusted_by_default() -> None:
    assert TrustedProxies([]).client("10.0.0.1", ["1.1.1.1"]) == ("10.0.0.1", False)


def test_a_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="proxy"):
        TrustedProxies(["proxy.internal"])


@given(st.lists(st.text(max_size=20), max_size=4))
def test_what_a_client_writes_before_its_own_proxy_decides_nothing(lies: list[str]) -> None:
    assert PROXIES.client("10.0.0.1", [*lies, "198.51.100.7"]) == ("198.51.100.7", True)


# --- session settings ------------------------------------------------------------------------------------------------
def test_session_settings_come_from_claims_the_client_and_headers() -> None:
    asked = request(("x-trace", "t1"), claims={"sub": "user-7"})
    assert session_settings(CONTEXT, asked, ACME) == {"app.user_id": "user-7", "app.ip": "192.0.2.1", "app.trace": "t1"}


def test_the_tenants_own_name_can_be_a_setting() -> None:
    assert session_settings({"application_name": "tenant:id"}, request(), ACME) == {"application_name": "acme"}


def test_what_a_request_does_not_have_is_left_out() -> None:
    assert session_settings(CONTEXT, request(ip=None), ACME) == {}
    assert session_settings(CONTEXT, request(claims={}), ACME) == {"app.ip": "192.0.2.1"}


def test_claims_that_are_no_text_are_json_and_headers_are_utf8_where_they_can_be() -> None:
    asked = request(("x-trace", "caf\xc3\xa9"), ("x-trace", "\xff"), claims={"sub": 7})
    assert session_settings(CONTEXT, asked, ACME)["app.user_id"] == "7"
    assert session_settings(CONTEXT, asked, ACME)["app.trace"] == "caf\xc3\xa9, \xff"
    assert session_settings(CONTEXT, request(("x-trace", "caf\xc3\xa9")), ACME)["app.trace"] == "café"


def test_a_claim_that_is_an_object_is_json_too() -> None:
    claims = parse_object(b'{"sub": {"roles": ["admin", {"of": "all"}]}}')  # as a verified token's are: frozen
    found = session_settings(CONTEXT, request(claims=dict(claims)), ACME)
    assert found["app.user_id"] == '{"roles": ["admin", {"of": "all"}]}'


def test_a_value_with_a_nul_is_refused_before_it_reaches_a_session() -> None:
    with pytest.raises(TenantUnresolved):
        session_settings(CONTEXT, request(("x-trace", "a\0b")), ACME)


# --- a token among the subprotocols of a websocket -------------------------------------------------------------------
OFFER = "sec-websocket-protocol"


@pytest.mark.parametrize(
    ("offered", "left", "tokens"),
    [
        (["tenantproxy, tenantproxy.bearer.a.b.c"], ["tenantproxy"], ["a.b.c"]),
        (["tenantproxy.bearer.a.b.c"], [], ["a.b.c"]),
        (["chat,tenantproxy.bearer.a.b.c ,\tv2"], ["chat, v2"], ["a.b.c"]),
        (["chat", "TenantProxy.Bearer.a.b.c"], ["chat"], ["a.b.c"]),
        (["tenantproxy.bearer."], [], [""]),
        (["tenantproxy.bearer.a.b.c", "tenantproxy.bearer.d.e.f"], [], ["a.b.c", "d.e.f"]),
        (["tenantproxy, chat"], ["tenantproxy, chat"], []),
        (["x-tenantproxy.bearer.a"], ["x-tenantproxy.bearer.a"], []),
        ([], [], []),
    ],
)
def test_a_token_is_taken_out_of_the_subprotocols(offered: list[str], left: list[str], tokens: list[str]) -> None:
    headers = (("host", "x"), *((OFFER, each) for each in offered), ("origin", "y"))
    shown, believed = unwrap_token(headers)
    assert shown == (("host", "x"), *((OFFER, each) for each in left), ("origin", "y"))
    assert believed == tuple(("authorization", f"Bearer {token}") for token in tokens)


def test_a_token_in_both_places_or_twice_or_empty_is_refused() -> None:
    for headers in (
        (("authorization", "Bearer a.b.c"), (OFFER, "tenantproxy.bearer.a.b.c")),
        ((OFFER, "tenantproxy.bearer.a.b.c, tenantproxy.bearer.a.b.c"),),
        ((OFFER, "tenantproxy.bearer."),),
    ):
        shown, believed = unwrap_token(headers)
        with pytest.raises(AuthError):
            bearer_token([value for name, value in shown + believed if name == "authorization"])


@given(st.lists(st.text(st.characters(max_codepoint=255)), max_size=3), st.text("abc.-_", min_size=1, max_size=9))
def test_no_token_is_left_where_it_may_be_shown(others: list[str], token: str) -> None:
    shown, believed = unwrap_token(tuple((OFFER, each) for each in [*others, f"chat, tenantproxy.bearer.{token}"]))
    assert ("authorization", f"Bearer {token}") in believed
    assert not any(carries_token(each.strip(" \t")) for _, value in shown for each in value.split(","))


@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",)])
def test_an_untrusted_peer_that_forwards_is_told_once(networks: tuple[str, ...]) -> None:
    events: list[Event] = []
    proxies = TrustedProxies(networks, observer=events.append)
    assert proxies.client("192.0.2.1", ()) == ("192.0.2.1", False)
    assert events == []
    for _ in range(3):
        assert proxies.client("192.0.2.1", ("198.51.100.7",)) == ("192.0.2.1", False)
    assert events == [UntrustedForwardedFor(peer="192.0.2.1")]


def test_a_hop_brings_no_text_of_its_own_as_a_zone() -> None:
    client, _ = TrustedProxies(["10.0.0.0/8"]).client("10.0.0.9", ["fe80::1%\x1b[31m, 10.0.0.8"])
    assert client == "fe80::1"
