"""Can the headers of a stranger do more than name the tenant of a token that he has, or be refused?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantproxy import Router
from tenantproxy.auth.caller import header_texts, unwrap_token
from tenantproxy.auth.tokens import NothingRevoked, Tokens
from tenantproxy.config import Settings
from tenantproxy.errors import AccessDenied, AuthError, TenantUnresolved
from tenantproxy.middleware.gate import Gate
from tenantproxy.middleware.problems import answer_to, request_id
from tenantproxy.scope import TenantScope

SETTINGS: Final = Settings.from_mapping(
    {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"user": "app", "password": ""}},
        "registry": {"source": "file"},
        "auth": {"key": "the key that the tests sign their tokens with"},
        "http": {"trusted_proxies": ["10.0.0.0/8"]},
        "tenants": {
            name: {"isolation": "database", "database": f"{name}_db"} for name in ("acme", "globex", "initech")
        },
    }
)
NAMES: Final = (
    "authorization", "x-tenant-id", "X-Tenant-ID", "host", "x-forwarded-for", "sec-websocket-protocol",
    "x-request-id", "cookie", "",
)  # fmt: skip
TOKEN: Final = b"TOKEN"  # stands for acme's own
pieces = st.sampled_from(
    [b"Bearer ", b"bearer", TOKEN, b"acme", b"globex", b"ACME", b"acme\0", b"acme ", b",", b" ", b"tenantproxy.bearer.",
     b"tenantproxy", b"10.0.0.1", b"::1", b"[", b"a.b.c", b"\xc3\xa9", b"' OR 1=1 --", b"../", b"\r\n"]
) | st.binary(max_size=12)  # fmt: skip
values = st.lists(pieces, max_size=5).map(b"".join)
headers = st.lists(st.tuples(st.sampled_from(NAMES).map(str.encode) | st.binary(max_size=8), values), max_size=6)
peers = st.sampled_from([None, "10.0.0.1", "192.0.2.7", "not an address"])


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def gate() -> tuple[Gate, str]:
    """A gate with the default resolver, and a good token of acme's."""
    router = Router(SETTINGS)
    tokens = Tokens(SETTINGS.auth, tenants=router.registry, revoked=NothingRevoked())
    tenants = SETTINGS.tenants
    return Gate(router, tokens=tokens), tokens.issue(tenant=tenants["acme"].to_tenant("acme", "primary"), user="user-7")


def admitted(
    runner: asyncio.Runner, gate: tuple[Gate, str], raw: list[tuple[bytes, bytes]], peer: str | None
) -> TenantScope | None:
    """Who is admitted with these headers; None when refused, by a whole answer that says nothing of them."""
    door, token = gate
    given = header_texts([(name, value.replace(TOKEN, token.encode())) for name, value in raw])
    shown, believed = unwrap_token(given)
    try:
        return runner.run(door.admit(method="GET", path="/", headers=shown + believed, peer=peer))
    except (AuthError, TenantUnresolved, AccessDenied) as error:
        answer = answer_to(error, request_id([value for name, value in given if name == "x-request-id"]))
        assert answer.status in (400, 401, 403)
        assert token.encode() not in answer.body
        return None


@settings(max_examples=300, deadline=None)
@given(headers, peers)
def test_whatever_the_headers_are_nobody_gets_more_than_the_tenant_of_his_token(
    runner: asyncio.Runner, gate: tuple[Gate, str], raw: list[tuple[bytes, bytes]], peer: str | None
) -> None:
    scope = admitted(runner, gate, raw, peer)
    if scope is not None:
        assert scope.id == "acme"
        assert any(TOKEN in value for _, value in raw)
        assert all(value == b"acme" for name, value in raw if name.lower() == b"x-tenant-id")


@settings(max_examples=100, deadline=None)
@given(headers, peers)
def test_a_good_token_is_believed_unless_what_else_is_said_disagrees(
    runner: asyncio.Runner, gate: tuple[Gate, str], raw: list[tuple[bytes, bytes]], peer: str | None
) -> None:
    others = [(name, value) for name, value in raw if name.lower() not in (b"authorization", b"sec-websocket-protocol")]
    scope = admitted(runner, gate, [*others, (b"authorization", b"Bearer " + TOKEN)], peer)
    named = [value for name, value in others if name.lower() == b"x-tenant-id"]
    assert (scope is not None and scope.id == "acme") is (named in ([], [b"acme"]))
