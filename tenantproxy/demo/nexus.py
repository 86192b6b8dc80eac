"""Is NEXUS's day as its description says? One database for all: who reads, who writes, and who is written down."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from tenantproxy.auth.passwords import Passwords
from tenantproxy.demo.commands import ourselves, run_command
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_stage import SystemStage, seen
from tenantproxy.demo.system_world import SystemWorld
from tenantproxy.demo.tour import SystemStep
from tenantproxy.errors import ConfigurationError, PoolTimeout, Problem, TenantProxyError
from tenantproxy.router import Router

__all__ = ["STEPS", "invite", "prepare", "service"]

_MAIN: Final = "nexus_db"
_TENANT: Final = "main"
_PEOPLE: Final = {"ann": "admin", "max": "manager", "uma": "user", "vic": "viewer"}
_AGENT: Final = "nexus-tour/1"
_LATER: Final = """CREATE TABLE ai_feedback (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    insight_id uuid REFERENCES ai_insights ON DELETE CASCADE,
    rating integer NOT NULL
);
CREATE INDEX ai_feedback_insight_id ON ai_feedback (insight_id);
"""
_OURS: Final = "relnamespace = 'public'::regnamespace"
_KEPT_OUT: Final = "none: 42501"


def service(world: SystemWorld, router: Router) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The platform's own application, from its folder. Raises ConfigurationError without FastAPI."""
    try:
        application: Callable[[Any, Any, Any], Awaitable[None]] = world.module("app").make_app(router)
    except ModuleNotFoundError as exc:
        fix = "pip install fastapi uvicorn"
        raise ConfigurationError([Problem(key="demo", problem=f"this platform needs {exc.name}", fix=fix)]) from None
    return application


async def prepare(world: SystemWorld) -> None:
    """Roles, tables and the first people, as docs/nexus.md says it for an operator."""
    await _typed(world, "install", "--roles")
    conn = await world.connect(_MAIN)
    try:
        await conn.execute((world.config.parent / "roles.sql").read_text())
        await _typed(world, "migrate", "run")
        passwords = Passwords()
        try:
            hashed = await passwords.hash(world.secret("people_password"))
        finally:
            passwords.close()
        await conn.execute((world.config.parent / "seed.sql").read_text(), hashed)
    finally:
        await conn.close()
    await _typed(world, "install", "--roles")  # its reader reads what there is by now


async def _typed(world: SystemWorld, *command: str) -> None:
    """Raises TenantProxyError where it fails."""
    typed = await run_command((*ourselves(), *command, "--config", str(world.config)), world.environment)
    if typed.code != 0:
        said = (typed.out + typed.err)[-500:]
        raise TenantProxyError(f"tenantproxy {' '.join(command)} failed", detail=said)


def invite(stage: SystemStage) -> Sequence[str]:
    """What can be tried while it serves, ready to be copied."""
    people = stage.world.secret("people_password")

    def login(name: str) -> str:
        body = f'{{"email": "{name}@nexus.example", "password": "{people}"}}'
        return shlex.join(["curl", "-sS", "--json", body, f"{stage.url}/auth/login"])

    return [
        "# a viewer logs in, reads accounts, and can open none",
        login("vic"),
        f"curl -sS -H 'Authorization: Bearer TOKEN' {stage.url}/accounts",
        f"curl -sS -H 'Authorization: Bearer TOKEN' --json"
        f' \'{{"account_name": "mine", "account_number": "NX-1"}}\' {stage.url}/accounts',
        "# an administrator, who sees who changed what",
        login("ann"),
        f"curl -sS -H 'Authorization: Bearer TOKEN' {stage.url}/audit?table=users",
    ]


async def health(stage: SystemStage) -> AsyncIterator[Seen]:
    """What a load balancer asks, and what the schema holds."""
    status, body = await stage.ask("GET", "/healthz")
    yield seen("GET /healthz", "200 ok", f"{status} {body['status']}")
    yield seen("tables", "13", await stage.count(f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND {_OURS}",
                                                 database=_MAIN))  # fmt: skip
    named = "SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relname LIKE 'idx%'"
    yield seen("indexes of its list", "16", await stage.count(named, database=_MAIN))
    touched = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'update%updated_at'"
    yield seen("updated_at triggers", "6", await stage.count(touched, database=_MAIN))
    roles = await stage.router.tenant(_TENANT).fetch("SELECT name FROM roles ORDER BY name")
    yield seen("default roles", "admin, manager, user, viewer", ", ".join(row["name"] for row in roles))


async def logging_in(stage: SystemStage) -> AsyncIterator[Seen]:
    """One database, so that there is nothing to choose; the token says the role."""
    tokens = stage.kept["tokens"] = {}
    for name, role in _PEOPLE.items():
        status, body = await _login(stage, name, stage.world.secret("people_password"))
        tokens[name] = body.get("access_token")
        yield seen(f"{name} logs in", f"200 {role}", f"{status} {body.get('role')}")
    status, _ = await _login(stage, "ann", "guess")
    yield seen("a wrong password", "401", status)
    status, _ = await stage.ask("GET", "/accounts")
    yield seen("GET /accounts without a token", "401", status)


async def roles(stage: SystemStage) -> AsyncIterator[Seen]:
    """A viewer's sessions are of a role that can write nothing, whatever is sent."""
    status, body = await _as(stage, "vic", "GET", "/accounts")
    yield seen("a viewer: GET /accounts", "200, 3 accounts", f"{status}, {len(body)} accounts")
    order = {"account_name": "mine", "account_number": "NX-9"}
    status, body = await _as(stage, "vic", "POST", "/accounts", order)
    yield seen("a viewer: POST /accounts", "403 your role may not do this", f"{status} {body.get('error')}")
    status, body = await _as(stage, "ann", "POST", "/accounts", order)
    yield seen("an administrator: POST /accounts", "201", status)
    stage.kept["account"] = body["id"]
    reader = stage.router.tenant(_TENANT, read_only=True)
    yield seen("as whom a viewer reads", "nexus_service_reader", await reader.fetchval("SELECT current_user"))
    for what, statement in (
        ("SET TRANSACTION READ WRITE; DELETE", "SET TRANSACTION READ WRITE; DELETE FROM transactions"),
        ("UPDATE in a DO block", "DO $$ BEGIN UPDATE accounts SET balance = 0; END $$"),
        ("SET ROLE nexus_service", "SET ROLE nexus_service"),
        ("CREATE TABLE", "CREATE TABLE mine (id int)"),
        ("lo_create", "SELECT lo_create(0)"),
        ("COPY TO PROGRAM", "COPY accounts TO PROGRAM 'cat'"),
    ):
        yield seen(f"a viewer's SQL: {what}", _KEPT_OUT, await _tried(stage, statement, read_only=True))


async def audit(stage: SystemStage) -> AsyncIterator[Seen]:
    """Who changed what, from where and with what: as the request said it, not as its SQL does."""
    path = f"/accounts/{stage.kept['account']}/transactions"
    status, _ = await _as(stage, "ann", "POST", path, {"amount": "12.50", "description": "a coffee machine"})
    yield seen(f"an administrator: POST {path[:9]}/.../transactions", "201", status)
    status, rows = await _as(stage, "ann", "GET", "/audit?table=transactions")
    ann = stage.kept["ann"] = await stage.router.tenant(_TENANT).fetchval(
        "SELECT id::text FROM users WHERE username = 'ann'"
    )
    first = rows[0]
    saw = f"{status} {first['action']} {first['changed_by'] == ann} {first['ip_address']} {first['user_agent']}"
    yield seen("GET /audit: changed_by, ip_address, user_agent", f"200 INSERT True 127.0.0.1 {_AGENT}", saw)
    status, _ = await _as(stage, "max", "GET", "/audit")
    yield seen("a manager: GET /audit", "403", status)
    context = {"app.user_id": ann, "app.ip_address": "192.0.2.7", "app.user_agent": "a job"}
    async with stage.router.tenant(_TENANT, context=context).transaction() as conn:
        await conn.execute("SELECT set_config('app.user_id', gen_random_uuid()::text, true)")
        await conn.execute("UPDATE accounts SET bank_name = 'Second Bank' WHERE account_number = 'NX-9'")
        forged = await conn.fetchval(
            "SELECT changed_by::text FROM audit_logs WHERE record_id = $1::text::uuid AND new_values ->> 'bank_name'"
            " = 'Second Bank'", stage.kept["account"],
        )  # fmt: skip
    yield seen(
        "SQL that says it is another user: changed_by", "the real one", "the real one" if forged == ann else forged
    )
    for what, statement in (
        ("INSERT", "INSERT INTO audit_logs (table_name, record_id, action) VALUES ('x', gen_random_uuid(), 'x')"),
        ("DELETE", "DELETE FROM audit_logs"),
        ("UPDATE", "UPDATE audit_logs SET user_agent = 'another'"),
    ):
        yield seen(f"the service's SQL: {what} audit_logs", _KEPT_OUT, await _tried(stage, statement, read_only=False))


async def pooling(stage: SystemStage) -> AsyncIterator[Seen]:
    """So many connections and no more, each with its timeouts; its use is counted."""
    limit = stage.router.settings.pools.shared_size
    async with AsyncExitStack() as stack:
        for _ in range(limit):
            await stack.enter_async_context(stage.router.tenant(_TENANT).connection())
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'nexus_service'"
        yield seen("all are lent: pg_stat_activity", str(limit), await stage.count(query))
        try:
            async with stage.router.tenant(_TENANT).connection(timeout=0.1):
                saw = "served"
        except PoolTimeout:
            saw = "PoolTimeout"
        yield seen("one more", "PoolTimeout", saw)
        used = max(pool.used for pool in stage.router.stats().pools)
        yield seen("router.stats(): used of the pool", str(limit), used)
    async with stage.router.tenant(_TENANT).connection() as conn:
        shown = [await conn.fetchval(f"SHOW {name}") for name in
                 ("statement_timeout", "idle_in_transaction_session_timeout")]  # fmt: skip
    yield seen("statement and idle timeouts of a session", "30s, 1min", ", ".join(shown))


async def migration(stage: SystemStage) -> AsyncIterator[Seen]:
    """A new file is looked at, applied and verified; viewers read its table too, and write it no more than others."""
    (stage.world.config.parent / "migrations" / "0008_ai_feedback.sql").write_text(_LATER)
    yield await stage.command("migrate run", "8", lambda rows: rows[0]["version"])
    await stage.router.tenant(_TENANT).execute("INSERT INTO ai_feedback (rating) VALUES (5)")
    found = await stage.router.tenant(_TENANT, read_only=True).fetchval("SELECT rating FROM ai_feedback")
    yield seen("a viewer reads the new table", "5", found)
    saw = await _tried(stage, "DELETE FROM ai_feedback", read_only=True)
    yield seen("a viewer's SQL: DELETE there", _KEPT_OUT, saw)


async def saving(stage: SystemStage) -> AsyncIterator[Seen]:
    """The whole database is saved, tried, and restored next to the one that serves."""
    yield await stage.command("backup create _main", "saved", lambda rows: rows[0]["state"])
    yield await stage.command("backup verify _main", "True", lambda rows: bool(rows[0]["verified_at"]))
    yield await stage.command("backup restore _main --as nexus_restored", "exit 0")
    for table in ("users", "accounts", "audit_logs"):
        counts = {
            await stage.count(f"SELECT count(*) FROM {table}", database=name) for name in (_MAIN, "nexus_restored")
        }
        yield seen(f"rows of {table}, there and here", "equal", "equal" if len(counts) == 1 else counts)
    await stage.watch.execute("DROP DATABASE nexus_restored")  # tried, and no one's


async def a_person(stage: SystemStage) -> AsyncIterator[Seen]:
    """What is held of one person is handed out, and erased; the books and the trail stay, without a name."""
    into = shlex.quote(str(stage.world.config.parent / "exports"))
    yield await stage.command(f"gdpr export --person uma@nexus.example --into {into}", "exit 0")
    yield await stage.command("gdpr erase --person uma@nexus.example", "exit 0")
    held = "SELECT count(*) FROM users WHERE email LIKE 'uma@%' OR first_name = 'Uma'"
    yield seen("users that are Uma", "0", await stage.count(held, database=_MAIN))
    trail = "SELECT count(*) FROM audit_logs WHERE concat(old_values, new_values) ~* 'uma|underwood'"
    yield seen("entries of the audit trail with her name", "0", await stage.count(trail, database=_MAIN))
    kept = await stage.router.tenant(_TENANT).fetchval(
        "SELECT sum(t.amount)::text FROM transactions t JOIN accounts a ON a.id = t.account_id"
        " WHERE a.account_name = 'erased'"
    )
    yield seen("her transactions in the books", "1250.00", kept)
    status, _ = await _login(stage, "uma", stage.world.secret("people_password"))
    yield seen("she logs in", "401", status)


async def verdict(stage: SystemStage) -> AsyncIterator[Seen]:
    """Does all of it hold, as the catalogues say it and as an attacker finds it?"""
    yield await stage.command("doctor", "exit 0")
    yield await stage.command("prove --door library --timeout 300", "exit 0")


STEPS: Final[Sequence[SystemStep[SystemStage]]] = (
    health, logging_in, roles, audit, pooling, migration, saving, a_person, verdict,
)  # fmt: skip


async def _login(stage: SystemStage, name: str, password: str) -> tuple[int, Any]:
    body = {"email": f"{name}@nexus.example", "password": password}
    return await stage.ask("POST", "/auth/login", body, **{"User-Agent": _AGENT})


async def _as(stage: SystemStage, name: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {stage.kept['tokens'][name]}", "User-Agent": _AGENT}
    return await stage.ask(method, path, body, **headers)


async def _tried(stage: SystemStage, statement: str, *, read_only: bool) -> str:
    """What came of a statement that is to be refused."""
    try:
        async with stage.router.tenant(_TENANT, read_only=read_only).connection() as conn:
            done = await conn.execute(statement)
    except asyncpg.PostgresError as exc:
        return f"none: {exc.sqlstate}"
    await asyncio.sleep(0)
    return done
