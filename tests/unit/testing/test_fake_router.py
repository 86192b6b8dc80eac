"""Does a `FakeRouter` take the calls of a real one, and fail where that would?"""

from __future__ import annotations

import inspect
from typing import Any

import asyncpg
import pytest

from tenantproxy import PoolClosed, Router, Tenant, TenantNotFound, TenantScope, TenantStatus, TenantSuspended, use
from tenantproxy.auth.resolvers import PathResolver
from tenantproxy.errors import AccessDenied
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.model import Isolation, Placement, tenant_id
from tenantproxy.testing import FakeCall, FakeRouter

CONTRACT = ("tenant", "main", "tenants", "admin", "stats", "expire_connections", "open", "close")


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(name, one.kind) for name, one in inspect.signature(function).parameters.items()]


@pytest.mark.parametrize("name", CONTRACT)
def test_it_takes_what_the_routers_own_method_takes(name: str) -> None:
    assert parameters(getattr(FakeRouter, name)) == parameters(getattr(Router, name))


@pytest.mark.parametrize(
    "name", [name for name in dir(TenantScope) if name[0] != "_" and callable(getattr(TenantScope, name))]
)
def test_its_scopes_take_what_a_tenants_scope_takes(name: str) -> None:
    fake = FakeRouter(["acme"]).tenant("acme")
    assert isinstance(fake, TenantScope)
    assert parameters(getattr(type(fake), name)) == parameters(getattr(TenantScope, name))


async def test_answers_are_the_tenants_own_and_calls_are_kept() -> None:
    router = FakeRouter(["acme", "globex"], answer=lambda call: [{"whose": call.tenant, "n": 1}])
    router.on("from  PROJECTS", [{"name": "Anvils"}], tenant="acme")
    acme = router.tenant("acme")
    assert await acme.fetchval("select name from projects where id = $1", 7) == "Anvils"
    row = await router.tenant("globex").fetchrow("SELECT * FROM projects")
    assert (row["whose"], row[1], dict(row)) == ("globex", 1, {"whose": "globex", "n": 1})
    assert await router.main().fetchval("SELECT 1") == ""
    assert [(call.tenant, call.method, call.args) for call in router.calls] == [
        ("acme", "fetchval", (7,)), ("globex", "fetchrow", ()), ("", "fetchval", ())
    ]  # fmt: skip


async def test_answers_may_keep_what_each_tenant_has() -> None:
    router = FakeRouter(["acme", "globex"])
    router.on("insert", lambda call: call.data.setdefault("rows", []).append({"name": call.args[0]}))
    router.on("select", lambda call: call.data.get("rows", []))
    async with router.tenant("acme").transaction() as conn:
        await conn.execute("INSERT INTO projects VALUES ($1)", "Anvils")
    assert await router.tenant("acme").fetch("SELECT * FROM projects") == [{"name": "Anvils"}]
    assert await router.tenant("globex").fetch("SELECT * FROM projects") == []
    assert [call.sql for call in router.calls][:3] == ["BEGIN", "INSERT INTO projects VALUES ($1)", "COMMIT"]


async def test_a_connection_that_is_used_after_its_block_fails_as_a_real_one() -> None:
    router = FakeRouter(["acme"], answer=lambda call: [])
    async with router.tenant("acme").connection() as conn:
        assert router.stats().pools[0].used == 1
    assert router.stats().pools[0].used == 0
    with pytest.raises(asyncpg.InterfaceError, match="released back"):
        await conn.fetch("SELECT 1")
    with pytest.raises(AttributeError, match="real PostgreSQL"):
        conn.cursor("SELECT 1")


async def test_unknown_and_suspended_tenants_and_a_closed_router_fail_at_first_use() -> None:
    place = Placement(isolation=Isolation.DATABASE, server="fake", database="old")
    router = FakeRouter(["acme", Tenant(id=tenant_id("old"), placement=place, status=TenantStatus.SUSPENDED)])
    unknown = router.tenant("nosuch")
    with pytest.raises(TenantNotFound):
        await unknown.fetch("SELECT 1")
    with pytest.raises(TenantSuspended):
        async with router.tenant("old").connection():
            pass
    with pytest.raises(AccessDenied):
        async with router.admin("acme", reason=" "):
            pass
    await router.close()
    with pytest.raises(PoolClosed):
        await router.tenant("acme").fetch("SELECT 1")


async def test_a_call_without_an_answer_is_told_and_errors_are_raised() -> None:
    router = FakeRouter(["acme"])
    router.on("lock", asyncpg.LockNotAvailableError("busy"))
    with pytest.raises(AssertionError, match=r"no answer to fetch\('SELECT 2'\) of acme"):
        await router.tenant("acme").fetch("SELECT 2")
    with pytest.raises(asyncpg.LockNotAvailableError):
        async with router.tenant("acme").transaction() as conn:
            await conn.execute("LOCK TABLE projects")
    assert router.calls[-1].sql == "ROLLBACK"


async def test_a_middleware_gives_its_scopes_to_an_application() -> None:
    """The hole that a test finds: the application takes the tenant from the query instead of the request."""
    router = FakeRouter(["acme", "globex"], answer=lambda call: [{"name": call.tenant}])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = scope["query_string"].decode() or scope["state"]["tenant"].id
        await router.tenant(asked).fetch("SELECT name FROM projects")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = TenantMiddleware(app, router=router, resolver=PathResolver("/t/{tenant}/"))  # type: ignore[arg-type]
    for query in (b"", b"globex"):
        request: dict[str, Any] = {"type": "http", "method": "GET", "path": "/t/acme/", "headers": []}
        request["query_string"] = query
        await served(request, _nothing, _nothing)
    assert [call.tenant for call in router.calls] == ["acme", "globex"]


async def _nothing(*_: Any) -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_its_scope_can_be_the_current_one() -> None:
    router = FakeRouter(["acme"], answer=_whose)
    with use(router.tenant("acme")) as scope:
        assert await scope.fetchval("SELECT 1") == "acme"


def _whose(call: FakeCall) -> list[dict[str, str]]:
    return [{"whose": call.tenant}]
