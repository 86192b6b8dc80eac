"""Who may ask what of the admin listener, from where, and what is answered to who may not? On requests made up here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tenantproxy.config import Admin
from tenantproxy.errors import AccessDenied, InvalidCredentials, TenantProxyError
from tenantproxy.events import AdminChangeAnswered, Event
from tenantproxy.sidecar.admin_gate import CALLER, ForeignOrigin, TokenInClear, admin_gate
from tenantproxy.sidecar.admin_roles import Role, RoleNeeded

TOKEN = "a token of more than sixteen bytes"
OWN = "10.0.0.5"
NAMED = {
    role.value: {"role": role.value, "token": f"the token of who may {role.value}"}
    for role in (Role.READ, Role.OPERATE)
}


class FakeTransport:
    """A connection of the listener's, from `peer`."""

    def __init__(self, peer: str | None, *, has_tls: bool) -> None:
        self._known: dict[str, Any] = {"sockname": (OWN, 8081), "peername": None if peer is None else (peer, 40000)}
        self._known["ssl_object"] = object() if has_tls else None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._known.get(name, default)


async def asked(
    path: str,
    peer: str | None = "127.0.0.1",
    *,
    has_tls: bool = False,
    method: str = "GET",
    sends: str | None = TOKEN,
    headers: Sequence[tuple[str, str]] = (),
    values: dict[str, str] | None = None,
    told: list[Event] | None = None,
    fails: Exception | None = None,
    **keys: Any,
) -> web.Response:
    """The answer to a request with the token; `peer` None: nothing is known of who asks. It names who asked."""
    admin = Admin.model_validate({"listen": "0.0.0.0:8081", "token": TOKEN, "ssl_required": "never", **keys})
    transport: Any = FakeTransport(peer, has_tls=has_tls)
    sent = {"Host": f"{OWN}:8081", **dict(headers)} | ({} if sends is None else {"Authorization": f"Bearer {sends}"})
    request = make_mocked_request(method, path, headers=sent, transport=transport)

    async def answer(got: web.Request) -> web.StreamResponse:
        if fails is not None:
            raise fails
        return web.Response(text=f"answered {got[CALLER].by}" if CALLER in got else "answered")

    app = web.Application()
    resource = app.router.add_resource(path)
    request._match_info = web.UrlMappingMatchInfo(values or {}, resource.add_route(method, answer))
    request._match_info.add_app(app)
    response = await admin_gate(lambda: admin, (told if told is not None else []).append)(request, answer)
    assert isinstance(response, web.Response)
    return response


@pytest.mark.parametrize("path", ["/metrics", "/v1/pools", "/v1/restart", "/"])
@pytest.mark.parametrize("peer", ["10.0.0.9", "fe80::1%eth0", None])
async def test_the_token_is_refused_in_clear_text_from_another_machine(path: str, peer: str | None) -> None:
    with pytest.raises(TokenInClear, match="not taken in clear text") as refused:
        await asked(path, peer)
    assert TOKEN not in repr(refused.value)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", OWN])
async def test_the_token_is_taken_from_the_machine_itself(peer: str) -> None:
    assert (await asked("/v1/pools", peer)).status == 200


@pytest.mark.parametrize("keys", [{"has_tls": True}, {"token_in_clear": True}])
async def test_the_token_of_another_machine_is_taken_by_tls_or_by_permission(keys: dict[str, Any]) -> None:
    assert (await asked("/v1/pools", "10.0.0.9", **keys)).status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_and_public_metrics_are_answered_in_clear_text(path: str) -> None:
    assert (await asked(path, "10.0.0.9", metrics_public=True)).status == 200


# --- roles -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path", "values", "least"),
    [
        ("GET", "/metrics", {}, Role.READ),
        ("GET", "/v1/pools", {}, Role.READ),
        ("HEAD", "/v1/pools", {}, Role.READ),
        ("POST", "/v1/tenants/{tenant}/{verb}", {"tenant": "acme", "verb": "suspend"}, Role.OPERATE),
        ("DELETE", "/v1/tenants/{tenant}/users/{user}/sessions", {"tenant": "acme", "user": "7"}, Role.OPERATE),
        ("POST", "/v1/tenants/{tenant}/{verb}", {"tenant": "acme", "verb": "move"}, Role.ADMIN),
        ("POST", "/v1/tenants", {}, Role.ADMIN),
        ("POST", "/v1/reload", {}, Role.ADMIN),
        ("GET", "/v1/in_no_table", {}, Role.ADMIN),
        ("POST", "/v1/tenants/{tenant}/{verb}", {"tenant": "acme", "verb": "in_no_table"}, Role.ADMIN),
    ],
)
async def test_a_route_is_answered_to_its_role_and_stronger_ones_alone(
    method: str, path: str, values: dict[str, str], least: Role
) -> None:
    secrets = {Role(name): str(each["token"]) for name, each in NAMED.items()} | {Role.ADMIN: TOKEN}
    for role, secret in secrets.items():
        call = asked(path, method=method, values=values, sends=secret, tokens=NAMED)
        if role.includes(least):
            assert (await call).text == f"answered {role.value}", "its name is known to the handler"
        else:
            with pytest.raises(RoleNeeded, match=f"needs the role {least.value}.* {role.value} has the role"):
                await call


@pytest.mark.parametrize("sends", [None, "", "none of them, though it is long", TOKEN[:-1], TOKEN + "x"])
async def test_a_token_that_is_missing_or_wrong_is_named_so_and_not_quoted(sends: str | None) -> None:
    with pytest.raises(InvalidCredentials, match="wrong" if sends else "missing") as refused:
        await asked("/v1/pools", sends=sends, tokens=NAMED)
    assert not sends or sends not in str(refused.value)


async def test_where_there_is_no_token_clients_look_and_change_nothing() -> None:
    assert (await asked("/v1/pools", token=None, sends=None)).status == 200
    for path in ("/v1/reload", "/v1/in_no_table"):
        with pytest.raises(AccessDenied, match="has none"):
            await asked(path, method="POST", token=None, sends=None)


@pytest.mark.parametrize("missing", ["read", "operate"])
async def test_a_token_that_cannot_be_read_shuts_out_no_other(missing: str) -> None:
    tokens = {**NAMED, missing: {"role": missing, "token_file": "/nowhere/token"}}
    assert (await asked("/v1/pools", tokens=tokens)).status == 200
    with pytest.raises(InvalidCredentials):
        await asked("/v1/pools", sends=str(NAMED[missing]["token"]), tokens=tokens)


async def test_of_two_equal_tokens_the_weaker_one_counts() -> None:
    with pytest.raises(RoleNeeded):
        await asked("/v1/reload", method="POST", tokens={"low": {"role": "read", "token": TOKEN}})


async def test_each_change_is_told_with_the_name_of_its_token_and_the_answer() -> None:
    told: list[Event] = []
    values = {"tenant": "acme", "verb": "suspend"}
    suspend = "/v1/tenants/{tenant}/{verb}"
    operate, read = str(NAMED["operate"]["token"]), str(NAMED["read"]["token"])
    await asked(suspend, method="POST", values=values, sends=operate, tokens=NAMED, told=told)
    with pytest.raises(RoleNeeded):
        await asked(suspend, method="POST", values=values, sends=read, tokens=NAMED, told=told)
    with pytest.raises(TenantProxyError):
        await asked(suspend, method="POST", values=values, tokens=NAMED, told=told, fails=TenantProxyError("no"))
    await asked("/v1/pools", tokens=NAMED, told=told)
    by = [(each.by, each.change, each.tenant, each.status) for each in told if isinstance(each, AdminChangeAnswered)]
    change = "POST /v1/tenants/{tenant}/suspend"
    assert by == [("operate", change, "acme", 200), ("read", change, "acme", 403), ("admin", change, "acme", 500)]


# --- web pages of others ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://10.0.0.5:3000", "http://[", "ftp://10.0.0.5:8081", "10.0.0.5:8081"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_web_page_of_another_origin_is_refused(origin: str, method: str) -> None:
    with pytest.raises(ForeignOrigin):
        await asked("/v1/reload", method=method, headers=[("Origin", origin)], hosts=["ops.internal"])


@pytest.mark.parametrize(
    "told",
    [
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Proto", "http, HTTPS"),
        ("Forwarded", 'for=192.0.2.1;proto="https"'),
        ("Forwarded", "proto=http, for=_x;Proto=https;by=_y"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ],
)
async def test_a_page_in_clear_text_is_not_that_of_its_name_by_tls(told: tuple[str, str]) -> None:
    with pytest.raises(ForeignOrigin):
        await asked("/v1/pools", headers=[("Origin", "http://10.0.0.5:8081"), told])


@pytest.mark.parametrize(
    "told", [("X-Forwarded-Proto", "http"), ("Forwarded", "host=https.example"), ("Sec-Fetch-Site", "same-origin")]
)
async def test_a_page_in_clear_text_asks_where_there_is_no_tls(told: tuple[str, str]) -> None:
    assert (await asked("/v1/pools", headers=[("Origin", "http://10.0.0.5:8081"), told])).status == 200


@pytest.mark.parametrize("origin", ["http://10.0.0.5:8081", "https://10.0.0.5:8081", "https://ops.internal"])
async def test_its_own_page_may_ask_behind_a_proxy_with_another_name_too(origin: str) -> None:
    assert (await asked("/v1/pools", headers=[("Origin", origin)], hosts=["ops.internal"])).status == 200
