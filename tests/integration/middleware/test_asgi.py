"""Does the ASGI middleware give each request its tenant or a clear refusal, and the router one life?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

import tenantproxy
from tenantproxy import (
    ConfigurationError,
    IsolationError,
    PoolTimeout,
    Router,
    TenantScope,
    TenantSuspended,
    TenantUnresolved,
)
from tenantproxy.auth.resolvers import SubdomainResolver
from tenantproxy.errors import (
    AccessDenied,
    BudgetExhausted,
    Problem,
    RegistryUnavailable,
    TenantError,
    TenantProxyError,
)
from tenantproxy.middleware.asgi import TenantMiddleware, tenant
from tenantproxy.middleware.logs import TenantFilter
from tenantproxy.model import TenantStatus, tenant_id
from tests.support.checked import CheckedRouter, checked
from tests.support.waiting import PATIENCE, until
from tests.support.web import AUTH, HEADER, App, Caller, Message, ask, http_scope
from tests.support.world import World

NAMES = "SELECT name FROM projects ORDER BY name"
KINDS = ("database1", "schema1", "row1")


async def reply(send: Callable[[Message], Awaitable[None]], body: str, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body.encode()})


async def who(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Answers whose request it is, by all that say so."""
    name = "nobody"
    with suppress(TenantUnresolved):
        name = str(tenantproxy.current().id)
    stated = scope["state"].get("tenant")
    assert name == (stated.id if stated is not None else "nobody")
    await reply(send, name)


async def projects(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Answers the names of the tenant's projects."""
    await reply(send, ",".join(row["name"] for row in await (await tenant()).fetch(NAMES)))


def raising(error: BaseException, *, begun: bool = False) -> App:
    """An application that fails, perhaps after it began its answer."""

    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def around(app: App, router: Router, **options: Any) -> TenantMiddleware:
    return TenantMiddleware(app, router=router, **{"tokens": Caller.of(router).tokens} | options)


# --- who it is -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KINDS)
async def test_a_token_opens_its_tenants_rows_and_no_others(router: CheckedRouter, caller: Caller, name: str) -> None:
    answer = await ask(around(projects, router), "/", *await caller.headers(name))
    assert (answer.status, answer.body.decode()) == (200, ",".join(f"{name} {n}" for n in (1, 2, 3)))


async def test_a_request_that_names_no_tenant_is_nobodys(router: CheckedRouter) -> None:
    assert (await ask(around(who, router))).body == b"nobody"
    answer = await ask(around(projects, router))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["title"] == "an access token is needed"
    assert "use(" not in answer.body.decode()
    nameless = await ask(around(projects, router, tokens=None))
    assert (nameless.status, nameless.json()["title"]) == (400, "the request names no tenant")
    assert "use(" not in nameless.body.decode()


class Nameless:
    """Verifies any token; it names no tenant."""

    async def verify(self, token: str) -> Mapping[str, object]:
        return {"sub": "7"}


async def test_a_token_without_a_tenant_opens_none(router: CheckedRouter) -> None:
    answer = await ask(around(projects, router, tokens=Nameless()), "/", ("Authorization", "Bearer x"))
    assert (answer.status, answer.json()["code"]) == (403, "tenant_mismatch")


@pytest.mark.parametrize("headers", [(), ("row1",)])
async def test_a_request_is_never_the_tenant_that_was_current_where_its_task_was_made(
    router: CheckedRouter, caller: Caller, headers: tuple[str, ...]
) -> None:
    given = [pair for name in headers for pair in await caller.headers(name)]
    with tenantproxy.use(router.tenant("row2")):
        answer = await ask(around(who, router), "/", *given, scope={"state": {"tenant": router.tenant("row2")}})
        assert tenantproxy.current().id == "row2"
    assert answer.body.decode() == (headers[0] if headers else "nobody")


async def test_a_tenant_stays_with_its_request_while_others_run(router: CheckedRouter, caller: Caller) -> None:
    gate = asyncio.Event()

    async def slow(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        before = tenantproxy.current().id
        await gate.wait()
        await reply(send, f"{before} {tenantproxy.current().id}")

    app = around(slow, router)
    tasks = [asyncio.create_task(ask(app, "/", *await caller.headers(name))) for name in KINDS * 5]
    gate.set()
    assert [answer.body.decode() for answer in await asyncio.gather(*tasks)] == [f"{n} {n}" for n in KINDS * 5]


@pytest.mark.parametrize("name", KINDS)
async def test_a_paused_tenant_is_503_to_its_own_at_once_and_to_strangers_as_before(lasting: World, name: str) -> None:
    settings = lasting.settings(auth=AUTH)
    paused = settings.tenants[name].model_copy(update={"status": TenantStatus.PAUSED})
    settings = settings.model_copy(update={"tenants": {**settings.tenants, name: paused}})
    async with Router(settings) as router:
        found = await router.registry.get(tenant_id(name))
        token = Caller.of(router).tokens.issue(tenant=found, user="7")
        mine = ("Authorization", f"Bearer {token}")
        answer = await ask(around(who, router), "/", mine)  # an application that asks no database
        assert (answer.status, answer.json()["code"]) == (503, "tenant_paused")
        assert answer.headers["retry-after"]
        assert (await ask(around(who, router), "/", ("X-Tenant-ID", name))).status == 401
        public = around(who, router, resolver=SubdomainResolver("example.com"))
        assert (await ask(public, "/", ("Host", f"{name}.example.com"))).status == 200


MISMATCH = (403, "tenant mismatch")
BEARER = "an access token is needed"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(HEADER, "row1")], (401, BEARER)),
        ([(HEADER, "nobody-at-all")], (401, BEARER)),
        ([(HEADER, "row1"), (HEADER, "row1")], (400, "the header that names the tenant is given more than once")),
        ([("Authorization", "TOKEN"), (HEADER, "row2")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "ROW1")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "row1\0")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "row1\xa0")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "row\xb9")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "")], MISMATCH),
        ([("Authorization", "TOKEN"), (HEADER, "row1"), (HEADER, "row2")], (400, None)),
        ([("Authorization", "TOKEN"), ("Authorization", "TOKEN")], (401, "more than one Authorization header")),
        ([("Authorization", "Bearer")], (401, "the Authorization header is malformed")),
        ([("Authorization", "Bearer a.b.c"), (HEADER, "row1")], (401, None)),
    ],
)
async def test_what_does_not_prove_its_tenant_is_refused(
    router: CheckedRouter, caller: Caller, given: list[tuple[str, str]], expected: tuple[int, str | None]
) -> None:
    token = f"Bearer {await caller.token('row1')}"
    headers = [(name, token if value == "TOKEN" else value) for name, value in given]
    answer = await ask(around(who, router), "/", *headers)
    problem = answer.json()
    assert answer.status == problem["status"] == expected[0]
    assert answer.headers["content-type"] == "application/problem+json"
    assert expected[1] in (None, problem["title"])
    assert ("www-authenticate" in answer.headers) == (answer.status == 401)
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert "row1" not in answer.body.decode()


async def test_an_unknown_tenant_looks_like_a_mismatch(router: CheckedRouter, caller: Caller) -> None:
    trusting = TenantMiddleware(who, router=router, resolver=SubdomainResolver("testserver"))
    unknown = await ask(trusting, scope={"headers": [(b"host", b"unknown.testserver"), (b"x-request-id", b"1")]})
    impossible = await ask(trusting, scope={"headers": [(b"host", b"o'brien.testserver"), (b"x-request-id", b"1")]})
    headers = [("Authorization", f"Bearer {await caller.token('row1')}"), (HEADER, "row2"), ("X-Request-ID", "1")]
    other = await ask(around(who, router), "/", *headers)
    assert unknown == impossible == other
    assert (other.status, other.json()["title"]) == MISMATCH


async def test_an_unknown_tenant_met_by_the_application_looks_the_same(router: CheckedRouter) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await router.tenant("unknown").fetch("SELECT 1")

    answer = await ask(around(app, router))
    assert (answer.status, answer.json()["title"]) == MISMATCH


async def test_without_a_verifier_no_token_is_believed(router: CheckedRouter, caller: Caller) -> None:
    blind = TenantMiddleware(who, router=router)
    token = ("Authorization", f"Bearer {await caller.token('row1')}")
    assert (await ask(blind, "/", token)).body == b"nobody"
    assert (await ask(blind, "/", token, (HEADER, "row1"))).status == 401


async def test_a_token_of_another_tenant_is_refused_at_an_address(router: CheckedRouter, caller: Caller) -> None:
    by_host = TenantMiddleware(who, router=router, resolver=SubdomainResolver("testserver"), tokens=caller.tokens)
    for name, expected in (("row1", 200), ("row2", 403)):
        token = (b"authorization", f"Bearer {await caller.token('row1')}".encode())
        headers = [(b"host", f"{name}.testserver".encode())]
        assert (await ask(by_host, scope={"headers": [*headers, token]})).status == expected
        assert (await ask(by_host, scope={"headers": headers})).status == 200  # who says nothing of himself


async def test_a_header_alone_is_believed_from_a_trusted_proxy_only(lasting: World) -> None:
    settings = lasting.settings(http={"trusted_proxies": ["192.0.2.0/24"]}, resolve={"trust_header_from_proxies": True})
    async with checked(settings, lasting) as router:
        app = TenantMiddleware(who, router=router)
        assert (await ask(app, "/", (HEADER, "row1"))).body == b"row1"
        assert (await ask(app, "/", (HEADER, "row1"), scope={"client": ("203.0.113.1", 1)})).status == 401
        assert (await ask(app, "/", (HEADER, "row1"), scope={"client": None})).status == 401


async def test_a_proxy_that_is_no_address_is_told_at_start(lasting: World) -> None:
    router = Router(lasting.settings(http={"trusted_proxies": ["proxy.internal"]}))
    with pytest.raises(ConfigurationError, match=r"http\.trusted_proxies"):
        TenantMiddleware(who, router=router)


async def test_one_middleware_inside_another_may_not_change_the_tenant(router: CheckedRouter, caller: Caller) -> None:
    by_host = SubdomainResolver("testserver")
    app = around(TenantMiddleware(who, router=router, resolver=by_host), router)
    host = ("Host", "x")
    for name, expected in (("row1", 200), ("row2", 403)):
        raw = [(b"host", f"{name}.testserver".encode())]
        raw += [(key.lower().encode(), value.encode()) for key, value in await caller.headers("row1")]
        assert (await ask(app, scope={"headers": raw})).status == expected
    answer = await ask(app, "/", *await caller.headers("row1"), host)
    assert answer.body == b"row1"


# --- what the application is given -----------------------------------------------------------------------------------
async def who_asks(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Answers who the middleware says it is."""
    identity = scope["state"].get("identity")
    told = "nobody" if identity is None else f"{identity.tenant} {identity.user} {identity.claims.get('role')}"
    assert "role" not in repr(identity)
    await reply(send, told)


async def test_the_application_sees_who_asks_and_nothing_of_an_earlier_one(
    router: CheckedRouter, caller: Caller
) -> None:
    app, left = around(who_asks, router), {"identity": "what a lifespan left"}
    token = caller.tokens.issue(tenant=await router.registry.get(tenant_id("row1")), user="ann", role="admin")
    bearer = (b"authorization", f"Bearer {token}".encode())
    assert (await ask(app, scope={"headers": [bearer]})).body == b"row1 ann admin"
    assert (await ask(app, scope={"headers": [], "state": left})).body == b"nobody"
    by_host = around(who_asks, router, resolver=SubdomainResolver("testserver"))
    host = (b"host", b"row1.testserver")
    assert (await ask(by_host, scope={"headers": [host]})).body == b"row1 None None"
    nested = around(TenantMiddleware(who_asks, router=router, resolver=SubdomainResolver("testserver")), router)
    assert (await ask(nested, scope={"headers": [bearer, host]})).body == b"row1 ann admin"


async def test_session_settings_come_from_the_request(lasting: World) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        row = await tenantproxy.current().fetchrow(
            "SELECT current_setting('app.user_id'), current_setting('app.ip'), current_setting('app.trace', true),"
            " current_setting('application_name'), current_setting('app.current_tenant_id', true)"
        )
        await reply(send, "|".join(str(value) for value in row or ()))

    context = {
        "app.user_id": "claim:sub", "app.ip": "client:ip", "app.trace": "header:X-Trace",
        "application_name": "tenant:id",
    }  # fmt: skip
    async with checked(lasting.settings(auth=AUTH, context=context, pools={"max_size": 1}), lasting) as router:
        asker = around(app, router)
        headers = await Caller.of(router).headers("row1")
        answer = await ask(asker, "/", *headers, ("X-Trace", "t'1"))
        assert answer.body.decode() == "user-7|192.0.2.7|t'1|row1|row1"
        again = await ask(asker, "/", *headers)
        assert again.body.decode().split("|")[2] in ("", "None"), "the setting of an earlier request was left"
        assert (await ask(asker, "/", *headers, ("X-Trace", "a\0b"))).status == 400
        plain = await router.tenant("row1").fetchval("SELECT current_setting('application_name')")
        assert plain == "tenantproxy"


async def test_signed_settings_come_from_the_request_or_are_empty(lasting: World) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        row = await tenantproxy.current().fetchrow(
            "SELECT tenantproxy.context('app.user_id'), tenantproxy.context('app.ip'),"
            " tenantproxy.context('app.agent'), current_setting('app.agent')"
        )
        await reply(send, "|".join(str(value) for value in row or ()))

    signed = {"app.user_id": "claim:sub", "app.ip": "client:ip", "app.agent": "header:User-Agent"}
    async with checked(lasting.settings(auth=AUTH, signed_context=signed, pools={"max_size": 1}), lasting) as router:
        asker = around(app, router)
        headers = await Caller.of(router).headers("row1")
        agent = ("User-Agent", 'it\'s \\ "x"')
        assert (await ask(asker, "/", *headers, agent)).body.decode() == "|".join(
            ("user-7", "192.0.2.7", agent[1], agent[1])
        )
        assert (await ask(asker, "/", *headers)).body.decode() == "user-7|192.0.2.7||"
        assert (await ask(asker, "/", *headers, ("User-Agent", "x" * 20_000))).status == 400


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_X", True), ("a" * 64, True), ("a" * 65, False), ("a b", False),
                                             ("a\nb", False), ("", False), ("caf\xe9", False)])  # fmt: skip
async def test_a_request_id_is_kept_when_it_can_be_logged(router: CheckedRouter, given: str, kept: bool) -> None:
    seen = ""

    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        nonlocal seen
        seen = scope["state"]["request_id"]
        await reply(send, "")

    answer = await ask(around(app, router), "/", ("X-Request-ID", given))
    assert (answer.headers["x-request-id"] == given) is kept
    assert seen == answer.headers["x-request-id"]
    assert len(seen) == (len(given) if kept else 32)


async def test_a_request_id_that_the_application_sets_is_left_alone(router: CheckedRouter) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await reply(send, "", (b"X-Request-Id", b"mine"))

    assert (await ask(around(app, router))).headers["x-request-id"] == "mine"


async def test_a_waiting_application_holds_no_connection(router: CheckedRouter, caller: Caller) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await (await tenant()).fetch(NAMES)
        assert all(backend.pool.is_main for backend in router.lent)  # that hears of revocations
        await reply(send, "ok")

    assert (await ask(around(app, router), "/", *await caller.headers("row1"))).body == b"ok"


async def test_log_records_say_whose_they_are(router: CheckedRouter, caller: Caller) -> None:
    seen: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.tenant)  # type: ignore[attr-defined]

    log = logging.getLogger("tests.middleware")
    handler = Listening()
    handler.addFilter(TenantFilter())
    log.addHandler(handler)

    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        log.warning("one")
        log.warning("two", extra={"tenant": "told"})
        await reply(send, "")

    try:
        await ask(around(app, router), "/", *await caller.headers("row1"))
        log.warning("three")
    finally:
        log.removeHandler(handler)
    assert seen == ["row1", "told", "-"]


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (PoolTimeout("no connection became free", detail="max_size 10", retry_after=0.2), 503, "pool_timeout", "1"),
        (TenantSuspended("the tenant is suspended"), 403, "tenant_suspended", None),
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), 503, "connect_failed", "1"),
        (asyncpg.ConnectionDoesNotExistError("connection was closed"), 503, "connect_failed", "1"),
        (asyncpg.AdminShutdownError("terminating connection"), 503, "connect_failed", "1"),
    ],
)
async def test_our_errors_and_lost_connections_become_problems(
    router: CheckedRouter, error: Exception, status: int, code: str, retry: str | None
) -> None:
    answer = await ask(around(raising(error), router))
    assert (answer.status, answer.json()["code"], answer.headers.get("retry-after")) == (status, code, retry)
    assert "protocol state" not in answer.body.decode()
    assert "terminating" not in answer.body.decode()


@pytest.mark.parametrize(
    "error",
    [
        IsolationError("the session could not be proven", detail="secret detail"),
        ConfigurationError([Problem(key="row.key_file", problem="secret detail", fix="secret detail")]),
    ],
)
async def test_what_we_are_to_blame_for_is_logged_and_not_told(
    router: CheckedRouter, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await ask(around(raising(error), router), "/", ("X-Request-ID", "r1"))
    assert (answer.status, answer.json()["title"]) == (500, "internal error")
    assert "secret" not in answer.body.decode()
    assert "request r1 failed" in caplog.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("this block runs for another tenant already", detail="it is secret's", hint="secret"),
        TenantError("the tenant is registered on a server that is not configured", detail="server 'secret'"),
        RegistryUnavailable("the tenant could not be looked up", detail="secret", hint="grant the secret SELECT"),
        BudgetExhausted("no connection left", detail="server 'secret', database 'secret'", hint="lower secret"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_servers_databases_and_other_tenants_are_called_is_for_the_program_alone(
    router: CheckedRouter, error: TenantProxyError, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await ask(around(raising(error), router))
    assert (answer.status, answer.json()["code"]) == (error.http_status, error.code)
    assert "secret" not in answer.body.decode()
    assert ("secret" in caplog.text) == (error.http_status >= 500)


@pytest.mark.parametrize("error", [ValueError("x"), asyncpg.UniqueViolationError("x"), RuntimeError("x")])
async def test_the_applications_own_errors_pass(router: CheckedRouter, error: Exception) -> None:
    with pytest.raises(type(error)):
        await ask(around(raising(error), router))


async def test_an_error_after_the_answer_began_passes_so_that_the_server_cuts_it(router: CheckedRouter) -> None:
    with pytest.raises(PoolTimeout):
        await ask(around(raising(PoolTimeout("x"), begun=True), router))


class Counted:
    """Remembers what was observed."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def observe(self, *, route: str, method: str, code: int, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((route, method, code))


async def test_requests_are_counted_by_pattern_and_never_by_path(router: CheckedRouter) -> None:
    class Route:
        path = "/items/{id}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/items/7":
            scope["route"] = Route()
        if scope["path"] == "/fail":
            raise ValueError
        if scope["path"] == "/wait":
            await asyncio.Event().wait()
        await reply(send, "")

    counted = Counted()
    asker = around(app, router, requests=counted)
    await ask(asker, "/items/7")
    await ask(asker, "/a/secret/path", method="POST")
    await ask(asker, "/", (HEADER, "row1"))
    with suppress(ValueError):
        await ask(asker, "/fail")
    gone = asyncio.create_task(ask(asker, "/wait"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert counted.seen == [
        ("/items/{id}", "GET", 200), ("unmatched", "POST", 200), ("unmatched", "GET", 401), ("unmatched", "GET", 500),
        ("unmatched", "GET", 499),
    ]  # fmt: skip


# --- websockets ------------------------------------------------------------------------------------------------------
async def socket(
    app: App, *headers: tuple[str, str], denies: bool = False, offered: Sequence[str] = ()
) -> list[Message]:
    """One websocket handshake; what the application sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    extensions: dict[str, Any] = {"websocket.http.response": {}} if denies else {}
    scope = http_scope("/", headers) | {"type": "websocket", "extensions": extensions, "subprotocols": list(offered)}
    if offered:
        scope["headers"].append((b"sec-websocket-protocol", ", ".join(offered).encode()))
    del scope["method"]
    await app(scope, receive, send)
    return sent


async def test_a_websocket_is_its_tenants(router: CheckedRouter, caller: Caller) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": tenantproxy.current().id})

    sent = await socket(around(app, router), *await caller.headers("row1"))
    assert sent[1]["text"] == "row1"


@pytest.mark.parametrize(
    ("offered", "seen", "chooses", "answered"),
    [
        (["tenantproxy", "TOKEN"], ["tenantproxy"], None, "tenantproxy"),
        (["TOKEN", "tenantproxy", "chat"], ["tenantproxy", "chat"], "chat", "chat"),
        (["chat", "TOKEN"], ["chat"], None, None),
        (["TOKEN"], [], "TOKEN", None),
        (["tenantproxy", "TOKEN"], ["tenantproxy"], "TOKEN", "tenantproxy"),
    ],
)
async def test_a_token_among_the_subprotocols_is_believed_and_never_seen_again(
    router: CheckedRouter,
    caller: Caller,
    offered: list[str],
    seen: list[str],
    chooses: str | None,
    answered: str | None,
) -> None:
    token = f"tenantproxy.bearer.{await caller.token('row1')}"

    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        assert scope["subprotocols"] == seen
        values = [value.decode() for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
        assert values == ([", ".join(seen)] if seen else [])
        assert not any(name == b"authorization" for name, _ in scope["headers"])
        await send({"type": "websocket.accept", "subprotocol": token if chooses == "TOKEN" else chooses})
        await send({"type": "websocket.send", "text": tenantproxy.current().id})

    sent = await socket(around(app, router), offered=[token if each == "TOKEN" else each for each in offered])
    assert (sent[0]["subprotocol"], sent[1]["text"]) == (answered, "row1")


async def test_a_token_among_the_subprotocols_of_a_plain_request_is_worth_nothing(
    router: CheckedRouter, caller: Caller
) -> None:
    offer = ("Sec-WebSocket-Protocol", f"tenantproxy.bearer.{await caller.token('row1')}")
    assert (await ask(around(who, router), "/", offer)).body == b"nobody"


async def test_a_handshake_is_refused_with_a_problem_where_the_server_can(router: CheckedRouter) -> None:
    start, body = await socket(around(who, router), (HEADER, "row1"), denies=True)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert b"an access token is needed" in body["body"]
    assert await socket(around(who, router), (HEADER, "row1")) == [
        {"type": "websocket.close", "code": 1008, "reason": "unauthorized"}
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [(PoolTimeout("x", retry_after=1), 1013), (IsolationError("x"), 1011), (TenantUnresolved("x"), 1008)],
)
async def test_an_open_websocket_is_closed_with_the_code_of_the_error(
    router: CheckedRouter, error: Exception, code: int
) -> None:
    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise error

    sent = await socket(around(app, router), denies=True)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == code


# --- the router's life -----------------------------------------------------------------------------------------------
class Lifespan:
    """The server's side of an application's lifespan."""

    def __init__(self, app: App) -> None:
        self.sent: list[Message] = []
        self.state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self.task = asyncio.ensure_future(app(scope, self._to_app.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def startup(self) -> str:
        await self._to_app.put({"type": "lifespan.startup"})
        await until(lambda: self.sent or self.task.done(), "an answer to the startup")
        return str(self.sent[-1]["type"]) if self.sent else "none"

    async def shutdown(self) -> str:
        await self._to_app.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(self.task, PATIENCE)
        return str(self.sent[-1]["type"])


def unopened(world: World) -> Router:
    return Router(world.settings(auth=AUTH))


class Living:
    """An application with a lifespan; knows whether the router was open when it started and ended."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.open_at: list[tuple[str, bool]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await who(scope, receive, send)
            return
        while True:
            kind = (await receive())["type"]
            self.open_at.append((kind, self.router.is_open))
            scope["state"]["pool"] = "mine"
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


async def test_a_router_that_is_not_open_lives_as_long_as_the_application(lasting: World) -> None:
    router = unopened(lasting)
    app = Living(router)
    lifespan = Lifespan(TenantMiddleware(app, router=router))
    assert await lifespan.startup() == "lifespan.startup.complete"
    assert lifespan.state == {"pool": "mine"}
    assert await lifespan.shutdown() == "lifespan.shutdown.complete"
    assert not router.is_open
    assert app.open_at == [("lifespan.startup", True), ("lifespan.shutdown", True)]
    assert [message["type"] for message in lifespan.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def plain_returning(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await who(scope, receive, send)


async def plain_raising(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await who(scope, receive, send)


@pytest.mark.parametrize("app", [plain_returning, plain_raising])
async def test_lifespan_is_answered_for_an_application_that_has_none(lasting: World, app: App) -> None:
    router = unopened(lasting)
    lifespan = Lifespan(TenantMiddleware(app, router=router))
    assert await lifespan.startup() == "lifespan.startup.complete"
    assert (await ask(TenantMiddleware(app, router=router))).body == b"nobody"
    assert await lifespan.shutdown() == "lifespan.shutdown.complete"
    assert not router.is_open


async def test_an_open_router_is_left_alone(router: CheckedRouter) -> None:
    lifespan = Lifespan(TenantMiddleware(Living(router), router=router))
    await lifespan.startup()
    await lifespan.shutdown()
    assert router.is_open


async def test_without_lifespan_the_first_request_opens_the_router_once(lasting: World) -> None:
    router = unopened(lasting)
    tokens = Caller.of(router).tokens
    one = TenantMiddleware(plain_raising, router=router, tokens=tokens)
    other = TenantMiddleware(plain_raising, router=router, tokens=tokens)
    try:
        answers = await asyncio.gather(*(ask(app) for app in [one, other] * 10))
        assert {answer.status for answer in answers} == {200}
    finally:
        await router.close()
    assert (await ask(one)).body == b"nobody"
    assert not router.is_open, "whoever closed it meant it"


async def test_the_first_request_may_go_away_while_the_router_opens(lasting: World) -> None:
    router = unopened(lasting)
    app = TenantMiddleware(plain_raising, router=router)
    first = asyncio.create_task(ask(app))
    await asyncio.sleep(0)
    second = asyncio.create_task(ask(app))
    await asyncio.sleep(0)
    first.cancel()
    try:
        assert (await second).status == 200
    finally:
        await router.close()


async def test_a_router_that_cannot_be_opened_fails_the_start_and_says_why(
    lasting: World, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router(lasting.settings(registry="postgres", auth=AUTH, servers={"primary": {"port": 1}}))
    lifespan = Lifespan(TenantMiddleware(Living(router), router=router))
    assert await lifespan.startup() == "lifespan.startup.failed"
    assert "cannot be opened" in lifespan.sent[-1]["message"]
    assert [record.exc_info for record in caplog.records if "cannot be opened" in record.message] == [None]
    await lifespan.task
    answer = await ask(TenantMiddleware(who, router=router))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert not router.is_open


async def test_an_application_that_fails_to_start_leaves_no_open_router(lasting: World) -> None:
    router = unopened(lasting)

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        raise RuntimeError("no")

    lifespan = Lifespan(TenantMiddleware(failing, router=router))
    assert await lifespan.startup() == "lifespan.startup.failed"
    with pytest.raises(RuntimeError):
        await lifespan.task
    assert not router.is_open


async def test_a_failure_in_a_running_lifespan_leaves_tenants_served(lasting: World) -> None:
    router = unopened(lasting)
    fail = asyncio.Event()

    async def failing_later(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            return await who(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await fail.wait()
        raise RuntimeError("a background task of the application")

    app = TenantMiddleware(failing_later, router=router, tokens=Caller.of(router).tokens)
    lifespan = Lifespan(app)
    assert await lifespan.startup() == "lifespan.startup.complete"
    fail.set()
    await asyncio.sleep(0)
    for _ in range(3):
        assert (await ask(app, "/", *await Caller.of(router).headers("row1"))).body == b"row1"
    assert not lifespan.task.done()
    assert await lifespan.shutdown() == "lifespan.shutdown.failed"
    assert "a background task" in lifespan.sent[-1]["message"]
    assert not router.is_open


async def test_a_cancelled_lifespan_lets_a_later_request_open_the_router(lasting: World) -> None:
    router = unopened(lasting)
    app = TenantMiddleware(Living(router), router=router, tokens=Caller.of(router).tokens)
    lifespan = Lifespan(app)
    await lifespan.startup()
    headers = await Caller.of(router).headers("row1")
    lifespan.task.cancel()
    await asyncio.wait([lifespan.task])
    assert not router.is_open
    try:
        assert (await ask(app, "/", *headers)).body == b"row1"
    finally:
        await router.close()


async def test_an_application_that_raises_in_its_startup_fails_the_start(lasting: World) -> None:
    router = unopened(lasting)

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database of my own")

    lifespan = Lifespan(TenantMiddleware(raising, router=router))
    assert await lifespan.startup() == "lifespan.startup.failed"
    assert lifespan.sent[-1]["message"] == "RuntimeError: no database of my own"
    await lifespan.task
    assert not router.is_open


async def test_an_application_can_start_again(lasting: World) -> None:
    router = unopened(lasting)
    caller, registry = Caller.of(router), router.registry
    app = TenantMiddleware(Living(router), router=router, tokens=caller.tokens)
    for _ in range(2):
        lifespan = Lifespan(app)
        assert await lifespan.startup() == "lifespan.startup.complete"
        assert (await ask(app, "/", *await caller.headers("row1"))).body == b"row1"
        registry.invalidate(None)  # so that the verifier, which holds it since before, has to ask
        assert (await ask(app, "/", *await caller.headers("row1"))).body == b"row1"
        await lifespan.shutdown()
        assert not router.is_open


async def test_the_dependency_raises_where_there_is_no_tenant(router: CheckedRouter) -> None:
    with pytest.raises(TenantUnresolved):
        await tenant()
    with tenantproxy.use(router.tenant("row1")):
        assert isinstance(await tenant(), TenantScope)
