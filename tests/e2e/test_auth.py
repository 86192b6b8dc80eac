"""Does the public listener log people in, keep them logged in, let them go, and tell strangers nothing? Over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.events import Event, LoginSearchFailed, Observer, RefreshTokenReused, ignore
from tenantproxy.metrics.logging import LogObserver, combine
from tenantproxy.model import TenantStatus, tenant_id
from tenantproxy.registry import MemoryRegistry
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar
from tests.support.bad_tokens import parts
from tests.support.issuers import MAKERS, entry
from tests.support.logins import PASSWORD, change, login_settings, populate, take_away
from tests.support.waiting import PATIENCE, until
from tests.support.world import World, a_world

PEOPLE = {
    "row1": ["ann@example.org", "both@example.org"],
    "schema1": ["cem@example.org"],
    "database1": ["dan@example.org", "both@example.org"],
}
KEY = "the key that signs tokens in the tests, long enough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found


class Client:
    def __init__(self, http: aiohttp.ClientSession, sidecar: Sidecar) -> None:
        self.http = http
        self.sidecar = sidecar
        self.public = str(sidecar.public_url)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        if body is not None:
            options["json"] = body
        async with self.http.post(self.public + path, **options) as answer:
            return Answer(status=answer.status, headers=dict(answer.headers), text=await answer.text())

    async def get(self, path: str, *headers: tuple[str, str]) -> Answer:
        async with self.http.get(self.public + path, headers=CIMultiDict(headers)) as answer:
            return Answer(status=answer.status, headers=dict(answer.headers), text=await answer.text())

    async def login(self, email: str, password: str = PASSWORD, **more: str) -> Answer:
        return await self.post("/auth/login", {"email": email, "password": password, **more})

    async def check(self, token: str, *headers: tuple[str, str]) -> Answer:
        return await self.get("/auth/check", ("Authorization", f"Bearer {token}"), *headers)

    async def metrics(self) -> dict[tuple[str, ...], float]:
        async with self.http.get(f"{self.sidecar.admin_url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


Serving = Callable[..., AbstractAsyncContextManager[Client]]


async def with_people(world: World) -> None:
    await populate(world, PEOPLE)


@pytest.fixture
async def people(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, furnish=with_people) as made:
        yield made


@pytest.fixture
def serving(people: World) -> Serving:
    """`serving(login={...})`: a sidecar for the world, with those keys changed."""

    @asynccontextmanager
    async def serve(observer: Observer = ignore, **changes: Any) -> AsyncIterator[Client]:
        sections: dict[str, Any] = {
            "auth": {"key": KEY},
            "http": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
        }
        for name, keys in changes.items():
            sections[name] = sections.get(name, {}) | keys
        router = Router(login_settings(people, **sections), observer=observer)
        async with Sidecar(router, drain_timeout=2) as sidecar, aiohttp.ClientSession() as http:
            yield Client(http, sidecar)

    return serve


@pytest.mark.parametrize(
    ("email", "tenant"), [("ann@example.org", "row1"), ("CEM@example.org", "schema1"), ("dan@example.org", "database1")]
)
async def test_a_login_gives_tokens_that_open_the_persons_tenant(
    email: str, tenant: str, people: World, serving: Serving
) -> None:
    async with serving() as client:
        answer = await client.login(email)
        assert answer.status == 200
        body = answer.body
        assert {name: body[name] for name in ("token_type", "expires_in", "tenant", "user")} == {
            "token_type": "Bearer",
            "expires_in": 900,
            "tenant": tenant,
            "user": f"{tenant}-1",
        }
        assert answer.headers["Cache-Control"] == "no-store"
        claims = await client.sidecar.auth.tokens.verify(body["access_token"])
        assert (claims["sub"], claims["role"], claims["tid"]) == (f"{tenant}-1", "member", tenant)
        checked = await client.check(body["access_token"], ("X-Tenant-ID", tenant))
        assert checked.status == 200
        database = next(each for each in people.tenants if each.id == tenant).placement.database
        assert (checked.headers["X-Tenant-Id"], checked.headers["X-Tenant-Database"]) == (tenant, database)
        assert checked.headers["X-User-Id"] == f"{tenant}-1"


async def test_who_is_in_several_tenants_chooses_and_the_choice_is_good_once(serving: Serving) -> None:
    async with serving() as client:
        found = (await client.login("both@example.org")).body
        assert sorted(each["tenant"] for each in found["tenants"]) == ["database1", "row1"]
        assert "access_token" not in found
        token = found["selection_token"]
        assert (await client.check(token)).status == 401
        assert (await client.post("/auth/select", {"selection_token": token, "tenant": "schema1"})).status == 403
        chosen = await client.post("/auth/select", {"selection_token": token, "tenant": "row1"})
        assert (chosen.status, chosen.body["tenant"], chosen.body["user"]) == (200, "row1", "row1-2")
        assert (await client.check(chosen.body["access_token"])).headers["X-Tenant-Id"] == "row1"
        assert (await client.post("/auth/select", {"selection_token": token, "tenant": "row1"})).status == 401
        access = chosen.body["access_token"]
        assert (await client.post("/auth/select", {"selection_token": access, "tenant": "row1"})).status == 401
        named = await client.login("both@example.org", tenant="database1")
        assert named.body["tenant"] == "database1"


async def test_of_two_choices_at_the_same_moment_one_counts(serving: Serving) -> None:
    async with serving() as client:
        token = (await client.login("both@example.org")).body["selection_token"]
        choices = [{"selection_token": token, "tenant": tenant} for tenant in ("row1", "database1", "row1", "row1")]
        answers = await asyncio.gather(*(client.post("/auth/select", choice) for choice in choices))
        assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]


@pytest.mark.parametrize("other", [{"status": TenantStatus.SUSPENDED}, {"epoch": 1}], ids=["suspended", "another one"])
async def test_a_choice_among_tenants_does_not_outlive_the_tenant(serving: Serving, other: dict[str, Any]) -> None:
    async with serving() as client:
        token = (await client.login("both@example.org")).body["selection_token"]
        registry = client.sidecar.router.registry
        tenants = [replace(each, **other) if each.id == "row1" else each async for each in registry.tenants()]
        registry.renew(MemoryRegistry(tenants))
        gone = await client.post("/auth/select", {"selection_token": token, "tenant": "row1"})
        assert gone.status == (403 if "status" in other else 401)
        assert (await client.post("/auth/select", {"selection_token": token, "tenant": "database1"})).status == 200


def same(answer: Answer) -> tuple[object, ...]:
    """All of an answer but what differs between any two."""
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in ("x-request-id", "date")}
    body = {name: value for name, value in answer.body.items() if name != "request_id"}
    return answer.status, headers, body, len(answer.text)


async def test_unknown_and_wrong_have_the_same_status_headers_and_body(serving: Serving) -> None:
    async with serving() as client:
        await client.login("dan@example.org")
        answers = [
            await client.login("unknown@example.org"),
            await client.login("dan@example.org", "wrong"),
            await client.login("dan@example.org", "x" * 10_000),
            await client.login("dan@example.org", ""),
            await client.login("", ""),
            await client.login("dan@example.org", tenant="unknown"),
            await client.login("dan@example.org", tenant="row1"),
            await client.login("dan@example.org", tenant="../../etc"),
            await client.login("\0", "\ud800"),
        ]
        assert answers[0].status == 401
        assert answers[0].headers["Content-Type"].startswith("application/problem+json")
        assert answers[0].body["code"] == "invalid_credentials"
        assert all(same(answer) == same(answers[0]) for answer in answers)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": b"{}"}, 415),
        ({"data": b'{"email":"a","password":"b"}', "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": {"email": "a", "password": "b"}}, 415),
        ({"data": b"not json", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"[" * 60_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": []}, 400),
        ({"json": {"email": "a"}}, 400),
        ({"json": {"email": 1, "password": "b"}}, 400),
        ({"json": {"email": "a", "password": None}}, 400),
        ({"json": {"email": "a", "password": "b", "tenant": ["row1"]}}, 400),
        ({"json": {"email": "a", "password": "x" * 70_000}}, 413),
    ],
)
async def test_what_is_no_login_is_said_so_and_never_an_internal_error(
    options: dict[str, Any], status: int, serving: Serving
) -> None:
    async with serving() as client:
        answer = await client.post("/auth/login", **options)
        assert answer.status == status
        assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_a_body_that_does_not_come_is_not_waited_for(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantproxy.sidecar.auth._BODY_SECONDS", 0.05)
    head = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(client.public).port)
        writer.write(head)
        assert b" 408 " in await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.close()


async def test_a_refresh_gives_the_next_tokens_and_a_logout_ends_them_all(serving: Serving) -> None:
    async with serving() as client:
        first = (await client.login("dan@example.org")).body
        second = await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})
        assert second.status == 200
        assert second.body["refresh_token"] != first["refresh_token"]
        assert (await client.check(second.body["access_token"])).status == 200
        assert (await client.post("/auth/refresh", {"refresh_token": first["access_token"]})).status == 401
        out = await client.post("/auth/logout", {"refresh_token": second.body["refresh_token"]})
        assert (out.status, out.text) == (204, "")
        for token in (first["access_token"], second.body["access_token"]):
            assert (await client.check(token)).status == 401
        assert (await client.post("/auth/refresh", {"refresh_token": second.body["refresh_token"]})).status == 401
        assert (await client.post("/auth/logout", {"refresh_token": "nonsense"})).status == 204


# --- the account at a refresh ----------------------------------------------------------------------------------------
ASKED = {"session_query": "select role, email as address from users where id = $1 and is_active"}
LOGINS = [("ann@example.org", "row1"), ("cem@example.org", "schema1"), ("dan@example.org", "database1")]


async def alter(people: World, tenant: str, sql: str) -> None:
    """`sql` about the first account of `tenant`, wherever it is."""
    await change(people, tenant, f"UPDATE users SET {sql} WHERE id = $1", f"{tenant}-1")


@pytest.mark.parametrize(("email", "tenant"), LOGINS)
async def test_a_refresh_gives_the_role_and_claims_that_the_account_has_by_now(
    email: str, tenant: str, people: World, serving: Serving
) -> None:
    async with serving(login=ASKED) as client:
        first = (await client.login(email)).body
        await alter(people, tenant, "role = 'reader'")
        second = await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})
        claims = await client.sidecar.auth.tokens.verify(second.body["access_token"])
        assert (claims["role"], claims["address"], claims["sub"]) == ("reader", email, f"{tenant}-1")
        await alter(people, tenant, "role = NULL")
        third = await client.post("/auth/refresh", {"refresh_token": second.body["refresh_token"]})
        assert "role" not in await client.sidecar.auth.tokens.verify(third.body["access_token"])


@pytest.mark.parametrize(("email", "tenant"), LOGINS)
async def test_a_refresh_for_an_account_that_is_off_is_refused_and_ends_the_session(
    email: str, tenant: str, people: World, serving: Serving
) -> None:
    async with serving(login=ASKED) as client:
        first = (await client.login(email)).body
        await alter(people, tenant, "is_active = false")
        assert (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 401
        assert (await client.check(first["access_token"])).status == 401
        await alter(people, tenant, "is_active = true")
        assert (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 401


async def test_a_row_tenants_session_is_not_kept_alive_by_the_same_user_of_another_tenant(
    people: World, serving: Serving
) -> None:
    async with serving(login=ASKED) as client:
        first = (await client.login("ann@example.org")).body
        await change(people, "row1", "UPDATE users SET tenant_id = 'row2' WHERE id = 'row1-1'")
        assert (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 401


async def test_while_the_account_cannot_be_asked_a_refresh_is_503_and_its_token_stays_good(
    people: World, serving: Serving
) -> None:
    events: list[Event] = []
    async with serving(observer=events.append, login=ASKED) as client:
        first = (await client.login("dan@example.org")).body
        await change(people, "database1", "ALTER TABLE users RENAME TO people")
        answer = await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})
        assert (answer.status, answer.body["code"]) == (503, "login_unavailable")
        assert "users" not in answer.text
        assert "Retry-After" in answer.headers
        assert (await client.check(first["access_token"])).status == 200
        await change(people, "database1", "ALTER TABLE people RENAME TO users")
        assert (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 200
    assert [event.place for event in events if isinstance(event, LoginSearchFailed)] == ["database1"]


@pytest.mark.parametrize(
    "query", ["select role from users where id = $1::int4::text", "select role from users where $1::text is not null"]
)
async def test_a_session_query_that_is_wrong_ends_no_session(query: str, people: World, serving: Serving) -> None:
    async with serving(login={"session_query": query}) as client:
        await change(people, "database1", "INSERT INTO users (id, role) VALUES ('another', 'admin')")
        first = (await client.login("dan@example.org")).body
        assert (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 503
        assert (await client.check(first["access_token"])).status == 200


async def test_a_password_hash_that_the_session_query_gives_is_in_no_token(serving: Serving) -> None:
    query = "select id as user_id, password_hash, role from users where id = $1"
    async with serving(login={"session_query": query}) as client:
        first = (await client.login("dan@example.org")).body
        second = (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).body
        claims = await client.sidecar.auth.tokens.verify(second["access_token"])
        assert not {"password_hash", "user_id"} & claims.keys()
        assert claims["role"] == "member"


async def test_without_a_session_query_a_session_keeps_what_the_login_gave(people: World, serving: Serving) -> None:
    async with serving() as client:
        first = (await client.login("dan@example.org")).body
        await alter(people, "database1", "role = 'reader', is_active = false")
        second = (await client.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).body
        assert (await client.sidecar.auth.tokens.verify(second["access_token"]))["role"] == "member"


async def test_the_router_ends_all_sessions_of_one_person_and_no_others(people: World, serving: Serving) -> None:
    async with serving() as client, Router(login_settings(people, auth={"key": KEY})) as elsewhere:
        mine = [(await client.login("dan@example.org")).body for _ in range(2)]
        other = (await client.login("cem@example.org")).body
        assert await elsewhere.end_sessions("database1", "unknown") == 0
        assert await elsewhere.end_sessions("database1", "database1-1") == 2
        for tokens in mine:
            assert (await client.post("/auth/refresh", {"refresh_token": tokens["refresh_token"]})).status == 401

        async def refused() -> bool:
            return [(await client.check(tokens["access_token"])).status for tokens in mine] == [401, 401]

        await until(refused, "the other process refuses the access tokens too")
        assert (await client.check(other["access_token"])).status == 200


async def test_a_spent_refresh_token_that_comes_again_raises_an_alarm_without_names(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    async with serving(observer=combine(LogObserver(), events.append)) as client:
        stolen = (await client.login("dan@example.org")).body
        second = (await client.post("/auth/refresh", {"refresh_token": stolen["refresh_token"]})).body
        third = (await client.post("/auth/refresh", {"refresh_token": second["refresh_token"]})).body
        assert (await client.metrics())["tenantproxy_refresh_token_reuses_total",] == 0
        assert (await client.post("/auth/refresh", {"refresh_token": stolen["refresh_token"]})).status == 401
        assert (await client.check(third["access_token"])).status == 401, "the session is over for both"
        assert (await client.post("/auth/refresh", {"refresh_token": third["refresh_token"]})).status == 401
        assert (await client.metrics())["tenantproxy_refresh_token_reuses_total",] == 1
    assert [event for event in events if isinstance(event, RefreshTokenReused)] == [
        RefreshTokenReused(tenant="database1")
    ]
    seen = caplog.text + repr([record.__dict__ for record in caplog.records]) + repr(events)
    assert "refresh_token_reused tenant=database1" in seen
    session = parts(third["access_token"])[1]["sid"]
    for secret in ("dan@", session, stolen["refresh_token"], stolen["access_token"]):
        assert secret not in seen, secret


async def test_an_access_token_alone_ends_its_session_too(serving: Serving) -> None:
    async with serving() as client:
        token = (await client.login("dan@example.org")).body["access_token"]
        other = (await client.login("dan@example.org")).body["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await client.post("/auth/logout", headers=bearer)).status == 204
        assert (await client.check(token)).status == 401
        assert (await client.check(other)).status == 200
        assert (await client.post("/auth/logout")).status == 401


async def test_a_token_without_a_session_ends_by_itself_alone(serving: Serving) -> None:
    async with serving() as client:
        tokens = client.sidecar.auth.tokens
        tenant = await client.sidecar.router.registry.get(tenant_id("database1"))
        token, other = (tokens.issue(tenant=tenant, user="script") for _ in range(2))
        assert (await client.post("/auth/logout", headers={"Authorization": f"Bearer {token}"})).status == 204
        assert ((await client.check(token)).status, (await client.check(other)).status) == (401, 200)


async def test_a_check_keeps_the_method_and_the_path_of_the_request_that_it_is_for(serving: Serving) -> None:
    agree = {"agree": ["claim:tenant", "path:/t/{tenant}/"]}
    async with serving(resolve=agree) as client:
        token = (await client.login("dan@example.org")).body["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        for path in ("", "/", "/projects/7", "/t/database1/projects"):
            for method in ("GET", "POST", "DELETE"):
                async with client.http.request(method, f"{client.public}/auth/check{path}", headers=bearer) as answer:
                    assert (answer.status, answer.headers["X-Tenant-Id"]) == (200, "database1"), (method, path)
        assert (await client.get("/auth/check/t/row1/projects", *bearer.items())).status == 403
        assert (await client.get("/auth/check/t/database1/projects")).status == 401


async def test_a_token_of_one_tenant_opens_no_other_by_its_address(serving: Serving) -> None:
    async with serving(resolve={"agree": ["path:/t/{tenant}/"]}) as client:
        token = (await client.login("dan@example.org")).body["access_token"]
        bearer = ("Authorization", f"Bearer {token}")
        mine = await client.get("/auth/check/t/database1/", bearer)
        assert (mine.status, mine.headers["X-User-Id"]) == (200, "database1-1")
        answer = await client.get("/auth/check/t/row1/", bearer)
        assert (answer.status, answer.body["error"]) == (403, "tenant mismatch")
        assert "X-User-Id" not in answer.headers


async def test_a_token_without_a_jti_of_another_issuer_can_be_logged_out(serving: Serving) -> None:
    now = int(time.time())
    token, other = (
        MAKERS["supabase"].token(iat=now, exp=now + 600, sub=user, app_metadata={"tenant": "database1"}, sid="s")
        for user in ("7", "8")
    )
    async with serving(auth={"issuers": [entry("supabase", "", "")]}) as client:
        checked = await client.check(token, ("X-Tenant-ID", "database1"))
        assert (checked.status, checked.headers["X-Tenant-Id"], checked.headers["X-User-Id"]) == (200, "database1", "7")
        assert (await client.check(token, ("X-Tenant-ID", "row1"))).status == 403
        own = (await client.login("dan@example.org")).body["access_token"]
        assert (await client.check(own)).status == 200
        assert (await client.post("/auth/logout", headers={"Authorization": f"Bearer {token}"})).status == 204
        assert [(await client.check(each)).status for each in (token, other, own)] == [401, 200, 200]


async def test_an_address_alone_passes_no_check_unless_that_is_configured(serving: Serving) -> None:
    agree = {"agree": ["path:/t/{tenant}/"]}
    async with serving(resolve=agree) as client:
        answer = await client.get("/auth/check/t/row1/")
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "X-Tenant-Id" not in answer.headers
    async with serving(resolve=agree | {"anonymous": True}) as client:
        answer = await client.get("/auth/check/t/row1/")
        assert (answer.status, answer.headers["X-Tenant-Id"]) == (200, "row1")
        assert "X-User-Id" not in answer.headers


async def test_a_platform_may_use_names_of_its_own(serving: Serving) -> None:
    own = {
        "resolve": {"agree": ["claim:agencyDatabase", "header:X-Agency-Database"], "mismatch_text": "Agency mismatch"},
        "auth": {"tenant_claim": "agencyDatabase"},
        "login": {"response_names": ["agencyDatabase"]},
    }
    async with serving(**own) as client:
        body = (await client.login("ann@example.org")).body
        assert (body["tenant"], body["agencyDatabase"]) == ("row1", "row1")
        assert (await client.check(body["access_token"], ("X-Agency-Database", "row1"))).status == 200
        answer = await client.check(body["access_token"], ("X-Agency-Database", "schema1"))
        assert (answer.status, answer.body["title"], answer.body["error"]) == (403, *["Agency mismatch"] * 2)
        assert (await client.check(body["access_token"], ("X-Tenant-ID", "schema1"))).status == 200
        refreshed = await client.post("/auth/refresh", {"refresh_token": body["refresh_token"]})
        assert refreshed.body["agencyDatabase"] == "row1"
        both = (await client.login("both@example.org")).body
        assert {one["agencyDatabase"] for one in both["tenants"]} == {"row1", "database1"}


async def test_claim_and_header_must_agree_or_it_is_a_tenant_mismatch(serving: Serving) -> None:
    async with serving() as client:
        token = (await client.login("dan@example.org")).body["access_token"]
        for other in ("row1", "unknown", "DATABASE1", "database1 ", ""):
            answer = await client.check(token, ("X-Tenant-ID", other))
            if other.strip() != "database1":
                assert (answer.status, answer.body["error"]) == (403, "tenant mismatch"), other
        two = [("X-Tenant-ID", "database1")] * 2
        assert (await client.check(token, *two)).status == 400
        assert (await client.get("/auth/check", ("X-Tenant-ID", "database1"))).status == 401
        assert (await client.get("/auth/check")).status == 401
        assert (await client.check(token + "x")).status == 401
        socket = await client.get("/auth/check", ("Sec-WebSocket-Protocol", f"chat, tenantproxy.bearer.{token}"))
        assert (socket.status, socket.headers["X-Tenant-Id"]) == (200, "database1")
        assert token not in str(socket.headers)


async def test_public_keys_are_there_where_there_are_any(serving: Serving) -> None:
    async with serving() as client:
        answer = await client.get("/auth/jwks.json")
        assert (answer.status, answer.body) == (200, {"keys": []})


async def test_without_login_there_are_no_such_routes(people: World) -> None:
    settings = people.settings(http={"listen": "127.0.0.1:0"}, admin={"listen": "127.0.0.1:0"})
    async with Sidecar(Router(settings), drain_timeout=2) as sidecar, aiohttp.ClientSession() as http:
        client = Client(http, sidecar)
        assert (await client.login("dan@example.org")).status == 404
        assert (await client.get("/auth/check")).status == 404


async def test_a_dead_tenant_database_is_503_for_all_who_fail(people: World, serving: Serving) -> None:
    async with serving() as client:
        await client.login("dan@example.org")
        await client.login("cem@example.org")
        await take_away(people, "database2")
        answers = [await client.login("unknown@example.org"), await client.login("cem@example.org", "wrong")]
        assert [answer.status for answer in answers] == [503, 503]
        assert same(answers[0]) == same(answers[1])
        assert "Retry-After" in answers[0].headers
        assert "database2" not in answers[0].text
        assert (await client.login("dan@example.org")).status == 200


async def test_the_main_database_without_its_tables_says_503_and_nothing_of_itself(
    people: World, serving: Serving
) -> None:
    async with serving() as client:
        await client.login("dan@example.org")
        async with people.main.connect() as admin:
            await admin.execute("ALTER TABLE tenantproxy.sessions RENAME TO away")
        answer = await client.login("dan@example.org")
        assert answer.status == 503
        assert "sessions" not in answer.text
        assert "relation" not in answer.text


async def test_who_tries_too_often_is_told_when_to_come_back(serving: Serving) -> None:
    async with serving(login={"attempts_per_address": 5}) as client:
        answers = await asyncio.gather(*(client.login(f"{n}@example.org", "guess") for n in range(12)))
        assert sorted(answer.status for answer in answers) == [401] * 5 + [429] * 7
        late = next(answer for answer in answers if answer.status == 429)
        assert int(late.headers["Retry-After"]) >= 1
        assert late.body["code"] == "too_many_attempts"


@pytest.mark.parametrize(("path", "status"), [("/auth/refresh", 401), ("/auth/logout", 204)])
async def test_refresh_tokens_cannot_be_tried_without_end(path: str, status: int, serving: Serving) -> None:
    async with serving(login={"attempts_per_address": 4}) as client:
        token = (await client.login("dan@example.org")).body["refresh_token"]
        for _ in range(6):  # those that are good do not count
            token = (await client.post("/auth/refresh", {"refresh_token": token})).body["refresh_token"]
        heard = [(await client.post(path, {"refresh_token": f"tpr_{n:064}"})).status for n in range(12)]
        assert set(heard) == {status, 429}
        assert heard[:3] == [status] * 3


async def test_the_address_is_the_one_that_a_trusted_proxy_names(serving: Serving) -> None:
    async def tries(client: Client, address: str) -> list[int]:
        body = {"email": "x@example.org", "password": "guess"}
        sent = {"X-Forwarded-For": address}
        return [(await client.post("/auth/login", body, headers=sent)).status for _ in range(3)]

    async with serving(login={"attempts_per_address": 2}, http={"trusted_proxies": ["127.0.0.1"]}) as client:
        assert await tries(client, "192.0.2.1") == [401, 401, 429]
        assert await tries(client, "192.0.2.2") == [401, 401, 429]
    async with serving(login={"attempts_per_address": 2}) as client:
        assert await tries(client, "192.0.2.1") == [401, 401, 429]
        assert await tries(client, "192.0.2.2") == [429] * 3


async def test_logins_are_counted_by_result_and_no_person_is_a_label(serving: Serving) -> None:
    async with serving(login={"attempts_per_account": 3}) as client:
        before = await client.metrics()
        assert before["tenantproxy_logins_total", "ok"] == 0
        await client.login("dan@example.org")
        await client.login("both@example.org")
        for _ in range(4):
            await client.login("unknown@example.org")
        after = await client.metrics()
        counted = {key[1]: value for key, value in after.items() if key[0] == "tenantproxy_logins_total"}
        assert counted == {"ok": 1, "selection": 1, "refused": 3, "throttled": 1, "unavailable": 0, "error": 0}
        assert after["tenantproxy_login_seconds_count", "refused"] == 3
        assert after["tenantproxy_login_databases_searched_count",] == 6
        assert after["tenantproxy_http_requests_total", "/auth/login", "200", "POST"] == 2
        assert not any("@" in part for key in after for part in key)


async def test_nothing_in_the_log_names_a_person(
    people: World, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    async with serving(observer=combine(LogObserver(), events.append)) as client:
        found = (await client.login("dan@example.org")).body
        await client.login("dan@example.org", "guess what")
        await client.login("stranger@example.org", "guess what")
        await client.post("/auth/refresh", {"refresh_token": found["refresh_token"]})
        await change(people, "database2", "ALTER TABLE users RENAME TO away")
        await client.login("another@example.org", "guess what")
        async with people.main.connect() as admin:
            await admin.execute("DROP TABLE tenantproxy.login_directory")
        await client.login("dan@example.org")
        await client.post("/auth/logout", {"refresh_token": found["refresh_token"]})
    seen = caplog.text + repr([record.__dict__ for record in caplog.records]) + repr(events)
    assert "login_search_failed" in seen
    for secret in ("dan@", "stranger@", "another@", PASSWORD, "guess what", found["refresh_token"]):
        assert secret not in seen, secret


async def test_a_selection_token_is_worth_nothing_once_the_sessions_were_ended(people: World, serving: Serving) -> None:
    async with serving() as client:
        found = (await client.login("both@example.org")).body
        chosen = {"selection_token": found["selection_token"], "tenant": "row1"}
        assert await client.sidecar.router.end_sessions("row1", "row1-2") == 0
        refused = await client.post("/auth/select", chosen)
        assert (refused.status, refused.body["code"]) == (401, "token_expired")
        other = await client.post("/auth/select", {**chosen, "tenant": "database1"})
        assert other.status == 200
        again = (await client.login("both@example.org")).body
        chosen["selection_token"] = again["selection_token"]
        assert (await client.post("/auth/select", chosen)).status == 200


async def test_a_choice_asks_the_account_again(people: World, serving: Serving) -> None:
    async with serving(login=ASKED) as client:
        found = (await client.login("both@example.org")).body
        await change(people, "row1", "UPDATE users SET role = 'reader' WHERE tenant_id = 'row1'")
        await change(people, "database1", "DELETE FROM users WHERE email = 'both@example.org'")
        chosen = {"selection_token": found["selection_token"]}
        assert (await client.post("/auth/select", {**chosen, "tenant": "database1"})).status == 401
        body = (await client.post("/auth/select", {**chosen, "tenant": "row1"})).body
        assert (await client.sidecar.auth.tokens.verify(body["access_token"]))["role"] == "reader"


async def test_every_door_says_that_a_tenant_is_paused_to_those_who_are_of_it(people: World, serving: Serving) -> None:
    async with serving() as client:
        registry = client.sidecar.router.registry
        mine = (await client.login("dan@example.org")).body
        found = (await client.login("both@example.org")).body
        tenants = [
            replace(tenant, status=TenantStatus.PAUSED) if tenant.id == "database1" else tenant
            for tenant in people.tenants
        ]
        registry.renew(MemoryRegistry(tenants))
        registry.invalidate(None)
        answers = {
            "login": await client.login("dan@example.org"),
            "select": await client.post(
                "/auth/select", {"selection_token": found["selection_token"], "tenant": "database1"}
            ),
            "refresh": await client.post("/auth/refresh", {"refresh_token": mine["refresh_token"]}),
            "check": await client.check(mine["access_token"]),
        }
        told = {name: (answer.status, answer.body["code"]) for name, answer in answers.items()}
        assert told == dict.fromkeys(answers, (503, "tenant_paused"))
        assert all("Retry-After" in answer.headers for answer in answers.values())
        assert (await client.login("dan@example.org", "guess")).status == 401
        registry.renew(MemoryRegistry(list(people.tenants)))
        registry.invalidate(None)
        assert (await client.post("/auth/refresh", {"refresh_token": mine["refresh_token"]})).status == 200


async def test_a_device_token_comes_with_a_login_and_may_come_with_the_next(serving: Serving) -> None:
    async with serving() as client:
        token = (await client.login("dan@example.org")).body["device_token"]
        assert token.startswith("tpd_")
        assert (await client.login("dan@example.org", device_token=token)).status == 200
        assert (await client.login("dan@example.org", device_token="nonsense")).status == 200
        assert (await client.login("both@example.org")).body["device_token"] != token
