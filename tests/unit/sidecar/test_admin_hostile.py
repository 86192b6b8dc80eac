"""What does a hostile request, or an `auth` that is wrong, get of the mounted admin API? Asked without a server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tenantproxy.admin import AdminCaller, Role, asgi_app
from tenantproxy.config import Settings
from tenantproxy.events import SlowStatement
from tenantproxy.lifecycle.operations import Finished, OperationRequest, Operations
from tenantproxy.lifecycle.operations.run import TooManyOperations
from tenantproxy.router import Router
from tenantproxy.sidecar import asgi_bridge, bodies
from tenantproxy.sidecar.page.recent import RecentEvents
from tests.support.waiting import until
from tests.support.web import App, Message, ask, http_scope

VALUES: dict[str, Any] = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"user": "app", "password": ""}},
    "registry": {"source": "file"},
}
OWN = (("Origin", "http://testserver"), ("Content-Type", "application/json"))


def of_ann(headers: Mapping[str, str]) -> AdminCaller:
    return AdminCaller(by="ann", role=Role.ADMIN)


@pytest.fixture
async def app() -> App:
    return asgi_app(Router(Settings.from_mapping(VALUES)), auth=of_ann)


async def sent_to(app: App, method: str, path: str, headers: Mapping[str, str], *bodies: bytes | None) -> list[Message]:
    """All messages of the answer; a body that is None never comes."""
    waiting, sent = list(bodies), list[Message]()

    async def receive() -> Message:
        if not waiting or waiting[0] is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(http_scope(path, (*OWN, *headers.items()), method), receive, send)
    return sent


# --- who asks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([("X-User", "ann"), ("X-User", "root")], {"x-user": "ann, root"}),
        ([("X-User", "root"), ("x-user", "ann")], {"x-user": "root, ann"}),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer b")], {"authorization": "Bearer a, Bearer b"}),
        ([("Cookie", "a=1"), ("Cookie", "b=2")], {"cookie": "a=1; b=2"}),
    ],
)
async def test_a_header_that_came_twice_is_given_to_auth_whole(
    given: list[tuple[str, str]], seen: dict[str, str]
) -> None:
    asked: list[Mapping[str, str]] = []
    app = asgi_app(Router(Settings.from_mapping(VALUES)), auth=asked.append)
    assert (await ask(app, "/v1/me", *given)).status == 401
    assert {name: value for name, value in asked[0].items() if name != "host"} == seen


async def test_of_two_tokens_neither_is_taken() -> None:
    token = "a token of more than sixteen bytes"
    app = asgi_app(Router(Settings.from_mapping({**VALUES, "admin": {"token": token}})))
    right = ("Authorization", f"Bearer {token}")
    assert (await ask(app, "/v1/me", right)).status == 200
    assert (await ask(app, "/v1/me", ("Authorization", "Bearer other"), right)).status == 401
    assert (await ask(app, "/v1/me", right, right)).status == 401


@pytest.mark.parametrize(
    "wrong", [True, False, "admin", Role.ADMIN, ("ann", Role.ADMIN), AdminCaller(by="ann", role=cast("Role", "admin"))]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_auth_gives_and_is_no_caller_is_refused_and_the_log_says_what_is_wrong(
    wrong: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = asgi_app(Router(Settings.from_mapping(VALUES)), auth=lambda headers: wrong)
    path = "/v1/me" if method == "GET" else "/v1/tenants/acme/evict"
    with caplog.at_level(logging.ERROR):
        assert (await ask(app, path, *OWN, method=method)).status == 500
    assert "an AdminCaller whose role is a member of" in caplog.text


# --- paths, heads and bodies -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["//elsewhere/v1/me", "//[", "//[::1]:x/", "/v1/me#x", "//v1/me"])
async def test_a_path_is_never_read_as_an_address(app: App, path: str) -> None:
    answer = await ask(app, path)
    assert (answer.status, answer.json()["status"]) == (404, 404)


async def test_a_body_that_waits_for_leave_is_answered_in_order(app: App) -> None:
    sent = await sent_to(app, "POST", "/v1/tenants", {"Expect": "100-continue"}, b"{}")
    assert [message["type"] for message in sent][:1] == ["http.response.start"], "and no bare text before it"
    assert sent[0]["status"] == 400
    assert json.loads(b"".join(each.get("body", b"") for each in sent[1:]))["title"] == "id is missing"


async def test_a_body_that_never_comes_is_answered_408(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_bridge, "_BODY_SECONDS", 0.01)
    sent = await sent_to(app, "POST", "/v1/tenants", {}, b"{", None)
    assert sent[0]["status"] == 408


async def test_a_body_that_never_comes_is_no_internal_error_of_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_mocked_request("POST", "/v1/tenants")
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.01)
    monkeypatch.setattr(request, "read", asyncio.Event().wait)
    with pytest.raises(web.HTTPRequestTimeout):
        await bodies.body_of(request, {})


@pytest.mark.parametrize("text", ["a\\u0000b", "a\\ud800b"])
@pytest.mark.parametrize(
    ("path", "member"),
    [("/v1/tenants", '"tier": "%s"'), ("/v1/persons/erase", '"email": "%s"'), ("/v1/doctor", '"ignore": ["%s"]')],
)
async def test_what_no_text_of_postgresql_can_hold_is_refused_before_anything_is_done(
    app: App, path: str, member: str, text: str
) -> None:
    body = '{"id": "acme", %s}' if path == "/v1/tenants" else "{%s}"
    sent = await sent_to(app, "POST", path, {}, (body % (member % text)).encode())
    assert sent[0]["status"] == 400
    assert b"PostgreSQL's texts cannot have" in sent[1]["body"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/tenants/a%00b/suspend"),
        ("POST", "/v1/tenants/a%00b/finish"),
        ("POST", "/v1/tenants/..%2F..%2Fetc/backup"),
        ("POST", "/v1/tenants/..%2F..%2Fetc/erase"),
        ("DELETE", "/v1/tenants/a%00b"),
    ],
)
async def test_what_can_be_no_tenant_is_unknown_before_anything_is_asked(app: App, method: str, path: str) -> None:
    sent = await sent_to(app, method, path, {"Prefer": "respond-async"}, b"{}")
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["code"] == "unknown_tenant"


async def test_the_stream_has_no_head(app: App) -> None:
    assert (await ask(app, "/v1/events", method="HEAD")).status == 405


# --- what is kept, and how much --------------------------------------------------------------------------------------
def test_the_page_is_told_of_a_slow_statement_and_not_what_it_was() -> None:
    recent = RecentEvents()
    recent(
        SlowStatement(server="s", pool="p", tenant="acme", seconds=2.0, statement="SELECT salary", error="", untold=0)
    )
    assert "salary" not in json.dumps(recent.since(0))
    assert recent.since(0)[0]["fields"]["tenant"] == "acme"


async def test_however_many_operations_are_asked_for_at_once_few_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations(lambda: Settings.from_mapping(VALUES), lambda event: None)
    connected = 0

    class Waiting:
        async def __aenter__(self) -> None:
            nonlocal connected
            connected += 1
            await asyncio.Event().wait()

        async def __aexit__(self, *args: object) -> None: ...

    async def work(progress: object) -> Finished:
        return Finished(result={})

    monkeypatch.setattr(operations, "_main", Waiting)
    asked = [asyncio.ensure_future(operations.begin(OperationRequest(change="backup"), work)) for _ in range(50)]
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert connected == len(waiting) == 8
    assert all(isinstance(each.exception(), TooManyOperations) for each in done)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    with pytest.raises(TimeoutError):  # their places are free again
        await asyncio.wait_for(operations.begin(OperationRequest(change="backup"), work), 0.01)


@pytest.mark.parametrize("path", ["/v1/operations", "/v1/operations/7", "/v1/migrations", "/v1/tenants/unfinished"])
async def test_however_many_look_at_once_the_main_database_has_few_connections_of_theirs(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = 0

    async def connects(*args: object, **options: object) -> None:
        nonlocal connected
        connected += 1
        await asyncio.Event().wait()

    monkeypatch.setattr("tenantproxy.lifecycle.access._connect", connects)
    app = asgi_app(Router(Settings.from_mapping(VALUES)), auth=lambda headers: AdminCaller(by="bo", role=Role.READ))
    asked = [asyncio.ensure_future(ask(app, path)) for _ in range(50)]
    await until(lambda: connected > 0, "they look")
    for _ in range(20):  # until those that would not wait have connected too
        await asyncio.sleep(0)
    assert connected <= 4
    for each in asked:
        each.cancel()
    await asyncio.wait(asked)
