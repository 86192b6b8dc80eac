"""Does the isolation proof find each deployment that was broken on purpose, and which check does?"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp import web

from tenantproxy.config import Settings, TenantEntry, load
from tenantproxy.demo.world import APP_ROLE, SCHEMAS, SHARED, World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.prove import IsolationProof, Options, TrialState, prove
from tenantproxy.raw import exchange
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar
from tests.support.pooler import PGBOUNCER, PINS, a_pooler
from tests.support.relay_mutations import MUTATIONS
from tests.support.trusting import trust
from tests.support.world import a_world

ROWS: Final = ("acme", "globex")
IN_SCHEMAS: Final = ("initech", "hooli")
IN_DATABASES: Final = ("umbrella", "wayne")
UNCHECKED: Final = {"schema_": {"shared_role": True}}  # a connection does not look what its role reaches
FORM: Final = "tenant_id = (SELECT tenantproxy.bound_tenant())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What an operator did, and what undoes it; `check`: which one finds it. `changes`: of the configuration."""

    name: str
    check: str
    tenants: tuple[str, str]
    database: str = "postgres"
    sql: str = ""
    undo: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


BROKEN: Final = (
    # --- row tenants ---
    Broken(
        name="a policy was dropped", check="own rows", tenants=ROWS, database=SHARED,
        sql="DROP POLICY tenantproxy ON projects; ALTER TABLE projects DISABLE ROW LEVEL SECURITY",
        undo=f"ALTER TABLE projects ENABLE ROW LEVEL SECURITY; CREATE POLICY tenantproxy ON projects USING ({FORM})",
    ),
    Broken(
        name="the role owns a table whose row security is not forced", check="own rows", tenants=ROWS, database=SHARED,
        sql=f"ALTER TABLE projects NO FORCE ROW LEVEL SECURITY; ALTER TABLE projects OWNER TO {APP_ROLE}",
        undo="ALTER TABLE projects OWNER TO CURRENT_USER; ALTER TABLE projects FORCE ROW LEVEL SECURITY;"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON projects TO {APP_ROLE}",
    ),
    Broken(
        name="the role bypasses row security", check="own rows", tenants=ROWS,
        sql=f"ALTER ROLE {APP_ROLE} BYPASSRLS", undo=f"ALTER ROLE {APP_ROLE} NOBYPASSRLS",
    ),
    Broken(
        name="a permissive policy for all", check="own rows", tenants=ROWS, database=SHARED,
        sql="CREATE POLICY opened ON projects USING (true)", undo="DROP POLICY opened ON projects",
    ),
    Broken(
        name="a view of a superuser's", check="own rows", tenants=ROWS, database=SHARED,
        sql=f"CREATE VIEW all_projects AS SELECT * FROM projects; GRANT SELECT ON all_projects TO {APP_ROLE}",
        undo="DROP VIEW all_projects",
    ),
    Broken(
        name="a policy that compares another column", check="own tables", tenants=ROWS, database=SHARED,
        sql="CREATE TABLE notes (tenant_id text, shared_with text);"
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;"
        f"CREATE POLICY tenantproxy ON notes USING ({FORM.replace('tenant_id', 'shared_with')});"
        f"INSERT INTO notes VALUES ('globex', 'acme'); GRANT SELECT ON notes TO {APP_ROLE}",
        undo="DROP TABLE notes",
    ),
    Broken(
        name="a SECURITY DEFINER function", check="own functions", tenants=ROWS, database=SHARED,
        sql="CREATE FUNCTION all_projects() RETURNS SETOF projects LANGUAGE sql STABLE SECURITY DEFINER"
        " AS 'SELECT * FROM public.projects'",
        undo="DROP FUNCTION all_projects()",
    ),
    Broken(
        name="the role may become pg_read_all_data", check="own rows", tenants=ROWS,
        sql=f"GRANT pg_read_all_data TO {APP_ROLE}", undo=f"REVOKE pg_read_all_data FROM {APP_ROLE}",
    ),
    Broken(
        name="the keys can be read", check="own rows", tenants=ROWS, database=SHARED,
        sql=f"GRANT SELECT ON tenantproxy.context_key TO {APP_ROLE}",
        undo=f"REVOKE SELECT ON tenantproxy.context_key FROM {APP_ROLE}",
    ),
    Broken(
        name="sessions see and end each other", check="other sessions", tenants=ROWS, database=SHARED,
        sql="GRANT EXECUTE ON FUNCTION pg_stat_get_activity(int), pg_terminate_backend(int, bigint) TO PUBLIC",
        undo="REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(int), pg_terminate_backend(int, bigint) FROM PUBLIC",
    ),
    Broken(
        name="the key is not the one that is installed", check="own rows", tenants=ROWS,
        changes={"row": {"key_file": None, "key": "k" * 40}},
    ),
    Broken(
        name="the setting is not signed", check="forged context", tenants=ROWS, database=SHARED,
        sql="GRANT EXECUTE ON FUNCTION pg_prepared_statement() TO PUBLIC",
        undo="REVOKE EXECUTE ON FUNCTION pg_prepared_statement() FROM PUBLIC",
        changes={"row": {"signed": False, "key_file": None, "unprotected": ["public.projects", "public.users"]}},
    ),
    # --- schema tenants ---
    Broken(
        name="all may look into a schema", check="other schemas", tenants=IN_SCHEMAS, database=SCHEMAS,
        sql="GRANT USAGE ON SCHEMA tenant_hooli TO PUBLIC", undo="REVOKE USAGE ON SCHEMA tenant_hooli FROM PUBLIC",
    ),
    Broken(
        name="tables to come are open to all", check="cross writes", tenants=IN_SCHEMAS, database=SCHEMAS,
        sql="GRANT USAGE ON SCHEMA tenant_hooli TO PUBLIC;"
        "ALTER DEFAULT PRIVILEGES IN SCHEMA tenant_hooli GRANT ALL ON TABLES TO PUBLIC",
        undo="REVOKE USAGE ON SCHEMA tenant_hooli FROM PUBLIC;"
        "ALTER DEFAULT PRIVILEGES IN SCHEMA tenant_hooli REVOKE ALL ON TABLES FROM PUBLIC",
        changes=UNCHECKED,
    ),
    Broken(
        name="a role that may become the other's", check="own rows", tenants=IN_SCHEMAS,
        sql="GRANT demo_hooli TO demo_initech", undo="REVOKE demo_hooli FROM demo_initech",
    ),
    Broken(
        name="the same where the check at connect is off", check="other roles", tenants=IN_SCHEMAS,
        sql="GRANT demo_hooli TO demo_initech", undo="REVOKE demo_hooli FROM demo_initech", changes=UNCHECKED,
    ),
    Broken(
        name="a setting that was laid on the role", check="violations", tenants=IN_SCHEMAS,
        sql="ALTER ROLE demo_initech SET transform_null_equals = on", undo="ALTER ROLE demo_initech RESET ALL",
    ),
    Broken(
        name="two tenants in one schema", check="one place each", tenants=IN_SCHEMAS,
        changes={"tenants": {"acquired": {
            "isolation": "schema", "database": SCHEMAS, "schema": "tenant_hooli", "role": "demo_hooli"}}},
    ),
    # --- database tenants ---
    Broken(
        name="all may connect to a database", check="other databases", tenants=IN_DATABASES,
        sql="GRANT CONNECT ON DATABASE demo_wayne TO PUBLIC", undo="REVOKE CONNECT ON DATABASE demo_wayne FROM PUBLIC",
    ),
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The demo's world on a server of its own: each test repairs what it broke."""
    with EmbeddedPostgres(durable=False) as server:
        folder = tmp_path_factory.mktemp("broken")
        yield await build_world(server, folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")


def changed(world: World, changes: Mapping[str, Any]) -> Settings:
    settings = load(world.config)
    for section, keys in changes.items():
        if section == "tenants":
            more = {name: TenantEntry.model_validate(entry) for name, entry in keys.items()}
            settings = settings.model_copy(update={"tenants": {**settings.tenants, **more}})
        else:
            old = getattr(settings, section)
            settings = settings.model_copy(update={section: type(old).model_validate(_given(old) | dict(keys))})
    return settings


def _given(section: Any) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.model_fields_set}


def leaks(proof: IsolationProof) -> dict[str, str]:
    """Which checks saw one, and what."""
    return {result.check: result.detail for result in proof.of(TrialState.LEAK)}


async def proved(
    settings: Settings, tenants: tuple[str, str], *doors: str, checks: tuple[str, ...] = (), **where: Any
) -> IsolationProof:
    return await prove(settings, Options(tenants=tenants, doors=doors, checks=checks, timeout=240.0, **where))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
async def test_a_deployment_that_is_broken_does_not_pass(demo: World, broken: Broken) -> None:
    admin = await demo.connect(broken.database)
    try:
        await admin.execute(broken.sql or "SELECT 1")
        try:
            proof = await proved(changed(demo, broken.changes), broken.tenants, "library", checks=(broken.check,))
        finally:
            await admin.execute(broken.undo or "SELECT 1")
    finally:
        await admin.close()
    assert broken.check in leaks(proof), [(each.check, each.state, each.detail) for each in proof.results]
    assert proof.exit_code == 1


async def test_the_trusted_form_holds(postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres) as world:
        await trust(world)
        proof = await proved(world.settings(row={"form": "trusted"}), ("row1", "row2"), "library")
    assert proof.exit_code == 0, leaks(proof)
    assert {each.kind for each in proof.results} == {"all", "row, trusted"}


# --- doors that are broken -------------------------------------------------------------------------------------------
@asynccontextmanager
async def a_sidecar(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """One in this process, and where a proof finds it."""
    async with Sidecar(Router(settings), drain_timeout=1.0) as sidecar:
        yield {"http": str(sidecar.public_url), "pg": str(sidecar.pg_address)}


async def test_a_resolver_that_believes_a_header_is_found(demo: World) -> None:
    """As where everyone is a trusted proxy."""
    resolve = {"agree": ["claim:tenant", "header:X-Tenant-ID"], "trust_header_from_proxies": True, "anonymous": True}
    settings = changed(demo, {"resolve": resolve, "http": {"trusted_proxies": ["127.0.0.1/32"]}})
    async with a_sidecar(settings) as where:
        proof = await proved(settings, ROWS, "http", **where)
    assert "without a token" in leaks(proof)["headers that lie"]
    assert proof.exit_code == 1


@asynccontextmanager
async def a_credulous_listener() -> AsyncIterator[str]:
    """Its author decodes tokens, and does not look who signed them."""

    async def check(request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            part = token.split(".")[1]
            tenant = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["tenant"]
        except (IndexError, ValueError, KeyError):
            raise web.HTTPUnauthorized from None
        return web.Response(headers={"X-Tenant-Id": request.headers.get("X-Tenant-ID", tenant)})

    app = web.Application()
    app.router.add_get("/auth/check", check)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_listener_that_verifies_no_signature_is_found(demo: World) -> None:
    async with a_credulous_listener() as url:
        proof = await proved(changed(demo, {}), ROWS, "http", http=url)
    assert {"forged tokens", "headers that lie"} <= leaks(proof).keys()
    assert "an empty key" in leaks(proof)["forged tokens"]


async def test_a_port_whose_reset_is_off_is_found(demo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It clears the setting that names the tenant, and no more."""
    partial = "SET app.current_tenant_id = ''"
    monkeypatch.setattr(exchange, "_DISCARD", exchange.query(partial))
    monkeypatch.setattr(exchange, "_DISCARD_ANSWER", exchange.tag("SET") + exchange.READY_IDLE)
    settings = changed(demo, {"pools": {"shared_size": 1}})
    async with a_sidecar(settings) as where:
        proof = await proved(settings, ROWS, "port", checks=("left behind", "kept settings"), **where)
    assert {"left behind", "kept settings"} <= leaks(proof).keys(), leaks(proof)
    assert proof.exit_code == 1


@pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")
async def test_a_proxy_in_between_that_swaps_backends_is_found(demo: World) -> None:
    with a_pooler(demo.server, ignored=PINS, users={APP_ROLE: demo.password(APP_ROLE)}) as pooler:
        primary = load(demo.config).servers["primary"].model_copy(update={"port": pooler.port})
        settings = load(demo.config).model_copy(update={"servers": {"primary": primary}})
        proof = await proved(settings, ROWS, "library")
    assert "a connection pooler is in between" in leaks(proof)["own rows"]
    assert proof.exit_code == 1


async def test_a_port_that_lets_more_users_in_than_the_configuration_says_is_found(demo: World) -> None:
    users = load(demo.config).pg.users
    meant = {**users, "bi": users["demo"].model_copy(update={"tenants": ("acme",)})}
    served = {**users, "bi": users["demo"]}
    async with a_sidecar(changed(demo, {"pg": {"users": served}})) as where:
        settings = changed(demo, {"pg": {"users": meant}})
        proof = await proved(settings, ROWS, "port", checks=("users of the port",), **where)
    assert leaks(proof) == {"users of the port": "the user bi: is let in to globex"}


async def test_a_port_that_takes_any_key_to_cancel_is_found(demo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "compare_digest", lambda one, other: True)
    settings = changed(demo, {})
    async with a_sidecar(settings) as where:
        proof = await proved(settings, ROWS, "port", checks=("cancel keys",), **where)
    assert "a guessed secret: the second was cancelled" in leaks(proof)["cancel keys"]


async def test_a_port_that_loses_step_with_its_server_does_not_pass(
    demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it then mixes up is a matter of time; what it cannot tell is not held."""
    monkeypatch.setenv("TENANTPROXY_NATIVE", "0")
    settings = changed(demo, {"pools": {"shared_size": 1}})
    async with a_sidecar(settings) as where:
        with MUTATIONS["a COPY message behind open messages makes it doubtful"]():
            proof = await proved(settings, ROWS, "port", checks=("pipelines out of step",), **where)
    (result,) = [each for each in proof.results if each.check == "pipelines out of step"]
    assert result.state is not TrialState.HELD
    assert "between Parse and Sync at a timeout" in result.detail


async def test_tokens_as_passwords_open_their_own_tenant_alone(demo: World) -> None:
    settings = changed(demo, {"pg": {"users": {}, "jwt": True}})
    async with a_sidecar(settings) as where:
        proof = await proved(settings, ROWS, "port", checks=("cross reads", "tokens as passwords"), **where)
    assert proof.exit_code == 0, [(each.check, each.state, each.detail) for each in proof.results]
    assert {each.check for each in proof.results if each.door == "port, jwt"} == {
        "own rows", "cross reads", "tokens as passwords"
    }  # fmt: skip
