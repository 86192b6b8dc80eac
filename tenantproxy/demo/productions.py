"""Is the day of Productions as its description says? Organizations share 133 tables behind a PgBouncer, and no row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import asyncpg

from tenantproxy.demo.productions_facts import FUNCTIONS, Fact
from tenantproxy.demo.productions_life import LIFE
from tenantproxy.demo.productions_stage import bearer, refresh
from tenantproxy.demo.stage import Seen, eventually
from tenantproxy.demo.system_stage import SystemStage, seen
from tenantproxy.demo.tour import SystemStep

__all__ = ["STEPS", "invite"]

_TABLES: Final = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
_OWN_TABLES: Final = f"{_TABLES} AND NOT relispartition"
_INVOKERS: Final = (
    "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT prosecdef AND proname = ANY ($1)"
)
_PAST_POLICIES: Final = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relispartition OR c.relkind = 'm') AND c.relkind IN ('r', 'm') AND n.nspname IN ('public', 'reports')
  AND has_table_privilege('productions_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE')"""
_PERSON: Final = "mia@studio.example"
_ROLES: Final = ("admin", "member", "guest")


def invite(stage: SystemStage) -> Sequence[str]:
    """What can be tried while it serves, ready to be copied."""
    people, key = stage.world.secret("people_password"), stage.world.secret("platform_key")
    config = stage.world.config
    return [
        "# the tables, once",
        *(f"{name}={value} \\" for name, value in stage.world.environment.items()),
        f"sh -c 'tenantproxy install --database primary/productions --config {config}"
        f" && tenantproxy migrate run --config {config}'",
        "# an organization is founded",
        f"curl -sS -H 'X-Platform-Key: {key}' -H 'Content-Type: application/json' -d "
        f'\'{{"name": "Acme", "slug": "acme", "adminEmail": "ann@acme.example", "adminPassword": "{people}"}}\''
        f" {stage.url}/api/organizations",
        "# its owner logs in, chooses a workspace, and works there",
        f"curl -sS -H 'Content-Type: application/json' -d "
        f'\'{{"email": "ann@acme.example", "password": "{people}"}}\' {stage.url}/api/auth/login',
        f"curl -sS -H 'Authorization: Bearer TOKEN' {stage.url}/api/workspaces",
        f"curl -sS -H 'Authorization: Bearer TOKEN' -H 'Content-Type: application/json'"
        f' -d \'{{"workspaceId": "ID"}}\' {stage.url}/api/auth/workspace',
    ]


async def building(stage: SystemStage) -> AsyncIterator[Seen]:
    """13 files in their order, and what goes round policies is out of reach."""
    yield await stage.command("install --database primary/productions", "exit 0")
    yield await stage.command("migrate run", "13", lambda rows: rows[0]["version"])
    yield seen("tables of the platform", "133", await stage.count(_OWN_TABLES))
    named = [fact.function for fact in FUNCTIONS]
    yield seen("functions that run as their caller", "14", await stage.count(_INVOKERS, named))
    yield seen("partitions and materialized views that its role may touch", "0", await stage.count(_PAST_POLICIES))


async def founding(stage: SystemStage) -> AsyncIterator[Seen]:
    """Each gets a record of the main database, its owner, a first workspace, and the day's rows."""
    key = {"X-Platform-Key": stage.world.secret("platform_key")}
    status, _ = await stage.ask("POST", "/api/organizations", _order(stage, 0))
    yield seen("POST /api/organizations without the platform's key", "401", status)
    answers = [await stage.ask("POST", "/api/organizations", _order(stage, n), **key) for n in range(stage.size)]
    made = sum(status == 201 for status, _ in answers)
    yield seen(f"POST /api/organizations, {stage.size} times: 201", str(stage.size), made)
    stage.kept["organizations"] = [body["id"] for _, body in answers]
    stage.kept["workspaces"] = {body["id"]: body["workspaceId"] for _, body in answers}
    status, _ = await stage.ask("POST", "/api/organizations", _order(stage, 0), **key)
    yield seen("the same slug again", "409", status)
    seed = (stage.world.config.parent / "seed.sql").read_text()
    for each in stage.kept["organizations"]:
        await stage.router.tenant(each).execute(seed)
    rows = await stage.count("SELECT count(DISTINCT description) FROM productions WHERE name = 'Hamlet'")
    yield seen("productions, each marked with its organization", str(stage.size), rows)


async def logging_in(stage: SystemStage) -> AsyncIterator[Seen]:
    """A person of three organizations chooses one, and is there what she is in that one."""
    ids: list[str] = stage.kept["organizations"]
    answers = [await stage.ask("POST", "/api/auth/login", _login(stage, n)) for n in range(stage.size)]
    right = sum(body.get("organizationId") == each for each, (_, body) in zip(ids, answers, strict=True))
    yield seen("each owner logs in: the own organization", str(stage.size), right)
    stage.kept["owners"] = {each: body["token"] for each, (_, body) in zip(ids, answers, strict=True)}
    hashed = await stage.watch.fetchval("SELECT encrypted_password FROM auth.users LIMIT 1")  # the demo's one password
    for each, role in zip(ids, _ROLES, strict=False):
        async with stage.router.tenant(each).transaction() as conn:
            person = await conn.fetchval(
                "INSERT INTO invitations (organization_id, email, role, password_hash)"
                " VALUES ($1, $2, $3, $4) RETURNING user_id", each, _PERSON, role, hashed,
            )  # fmt: skip
            await conn.execute(
                "INSERT INTO organization_members (organization_id, user_id, role, status)"
                " VALUES ($1, $2, $3, 'active')",
                each, person, role,
            )  # fmt: skip
    await stage.command("login reconcile", "exit 0")
    told = {"email": _PERSON, "password": stage.world.secret("people_password")}
    status, body = await stage.ask("POST", "/api/auth/login", told)
    yield seen("a person of three organizations", "300 3", f"{status} {len(body['organizations'])}")
    tokens: dict[str, str] = {}
    for each, role in zip(ids, _ROLES, strict=False):
        _, body = await stage.ask("POST", "/api/auth/login", {**told, "organizationId": each})
        tokens[role] = await _working(stage, body["token"], stage.kept["workspaces"][each])
    stage.kept["roles"] = tokens
    yield seen("she chooses each in its turn, and a workspace of it", "3", len(tokens))
    status, _ = await stage.ask("POST", "/api/auth/login", {**told, "password": "guess"})
    yield seen("a wrong password", "401", status)


async def requests(stage: SystemStage) -> AsyncIterator[Seen]:
    """Organization and workspace are in the token, and the policies believe what the router signed."""
    ids: list[str] = stage.kept["organizations"]
    own = 0
    stage.kept["tokens"] = {}
    for number, each in enumerate(ids):
        owner = stage.kept["owners"][each]
        if number == 0:
            _, rows = await stage.ask("GET", "/api/productions", **bearer(owner))
            yield seen("GET /api/productions before a workspace is chosen", "[]", rows)
            status, _ = await stage.ask(
                "POST", "/api/auth/workspace", {"workspaceId": stage.kept["workspaces"][ids[1]]}, **bearer(owner)
            )
            yield seen("the workspace of another organization", "404", status)
        token = stage.kept["tokens"][each] = await _working(stage, owner, stage.kept["workspaces"][each])
        _, rows = await stage.ask("GET", "/api/productions", **bearer(token))
        own += [(row["name"], row["custom_fields"]) for row in rows] == [("Hamlet", '{"acts": 5, "genre": "drama"}')]
    yield seen("GET /api/productions: its own row and no other", str(stage.size), own)
    _, rows = await stage.ask("GET", "/api/search?q=hamlet", **bearer(stage.kept["tokens"][ids[0]]))
    found = ", ".join(sorted(row["entity_type"] for row in rows))
    yield seen("GET /api/search?q=hamlet", "events, files, productions", found)
    status, _ = await stage.ask("GET", "/api/productions")
    yield seen("without a token", "401", status)


async def roles(stage: SystemStage) -> AsyncIterator[Seen]:
    """What the membership lets its user do, in one organization more than in another."""
    for role, wrote, deleted in (("guest", 403, 0), ("member", 201, 0), ("admin", 201, 1)):
        token = bearer(stage.kept["roles"][role])
        order = {"name": "Macbeth", "custom_fields": {"by": role}}
        status, body = await stage.ask("POST", "/api/productions", order, **token)
        yield seen(f"a {role} plans a production", str(wrote), status)
        production = body.get("id", stage.kept["workspaces"][stage.kept["organizations"][0]])
        _, body = await stage.ask("DELETE", f"/api/productions/{production}", **token)
        yield seen(f"a {role} deletes one: rows", str(deleted), body.get("deleted"))
    invited = {"email": "noa@studio.example", "role": "member"}
    status, _ = await stage.ask("POST", "/api/members", invited, **bearer(stage.kept["roles"]["member"]))
    yield seen("a member invites a person", "403", status)
    status, _ = await stage.ask("POST", "/api/members", invited, **bearer(stage.kept["roles"]["admin"]))
    yield seen("an admin invites a person", "201", status)
    first = stage.kept["organizations"][0]
    logged = await stage.count(
        "SELECT count(*) FROM audit_logs"
        " WHERE organization_id = $1::text::uuid AND table_name = 'organization_members'",
        first,
    )  # fmt: skip
    yield seen("which the audit log has, as invited", "1", logged)


async def functions(stage: SystemStage) -> AsyncIterator[Seen]:
    """The 14 functions, each with the result that the seed gives."""
    await refresh(stage.watch)
    scope = stage.router.tenant(stage.kept["organizations"][1], context=_context(stage, 1))
    async with scope.transaction() as conn:
        for fact in FUNCTIONS:
            yield seen(f"{fact.function}{fact.shown}", fact.expected, await _result(conn, fact))


async def hostile(stage: SystemStage) -> AsyncIterator[Seen]:
    """SQL that was let in by a mistake of the application: settings are its to change, and prove nothing."""
    first, second = stage.kept["organizations"][:2]
    theirs = stage.kept["workspaces"][second]
    scope = stage.router.tenant(first, context=_context(stage, 0, role="guest"))
    forged = f'{{"app.current_workspace_id": "{theirs}", "app.member_role": "owner"}}'
    for what, sql, expected in (
        ("another organization in the setting",
         f"SELECT set_config('app.current_organization_id', '{second}', true)", "42501"),
        ("another workspace and role in the settings", f"SELECT set_config('app.context', '{forged}', true)", "42501"),
        ("a partition by its name", "SELECT count(*) FROM activities_2026", "42501"),
        ("the materialized view by its name", "SELECT count(*) FROM reports.workspace_totals", "42501"),
        ("the accounts of all", "SELECT count(*) FROM auth.users", "42501"),
        ("its user makes itself owner", "UPDATE organization_members SET role = 'owner'", "42501"),
        ("the totals, through their function",
         f"SELECT count(*) FROM workspace_totals() WHERE workspace_id = '{theirs}'", "0"),
        ("a row into another workspace",
         f"INSERT INTO assets (workspace_id, name) VALUES ('{theirs}', 'x')", "42501"),
    ):  # fmt: skip
        yield seen(what, expected, await _tried(scope, sql))
    member = stage.router.tenant(first, context=_context(stage, 0, role="member"))
    reference = f"INSERT INTO project_tasks (workspace_id, title) VALUES ('{theirs}', 'x')"
    yield seen("a member's task in another organization's workspace", "42501", await _tried(member, reference))


async def between(stage: SystemStage) -> AsyncIterator[Seen]:
    """Requests go through PgBouncer, reports to the standby."""
    async with stage.router.tenant(stage.kept["organizations"][0]).transaction() as conn:
        told, real = conn.get_server_pid(), await conn.fetchval("SELECT pg_backend_pid()")
    yield seen("the process that answers is the one that we logged in at", "False", told == real)
    token = stage.kept["tokens"][stage.kept["organizations"][0]]
    heard: Mapping[str, Any] = {}

    async def there() -> bool:
        nonlocal heard
        _, heard = await stage.ask("GET", "/api/reports/financial?since=2026-01-01&until=2026-12-31", **bearer(token))
        return heard.get("income") == 9000

    await eventually(there)
    yield seen("GET /api/reports/financial, from a standby", "True", heard.get("is_standby"))
    figures = ", ".join(f"{heard.get(name):g}" for name in ("income", "expenses", "net", "outstanding"))
    yield seen("its figures", "9000, 6000, 3000, 1700", figures)
    _, body = await stage.ask("GET", "/api/dashboard", **bearer(token))
    saw = f"{body['active_productions']:g} {body['outstanding']:g}"
    yield seen("GET /api/dashboard: active productions, outstanding", "1 1700", saw)


STEPS: Final[Sequence[SystemStep[SystemStage]]] = (
    building, founding, logging_in, requests, roles, functions, hostile, between, *LIFE,
)  # fmt: skip


def _order(stage: SystemStage, number: int) -> dict[str, str]:
    slug = f"studio-{number:02d}"
    return {
        "name": f"Studio {number:02d}", "slug": slug, "plan": "pro", "adminEmail": f"owner@{slug}.example",
        "adminPassword": stage.world.secret("people_password"),
    }  # fmt: skip


def _login(stage: SystemStage, number: int) -> dict[str, str]:
    order = _order(stage, number)
    return {"email": order["adminEmail"], "password": order["adminPassword"]}


async def _working(stage: SystemStage, token: str, workspace: str) -> str:
    _, body = await stage.ask("POST", "/api/auth/workspace", {"workspaceId": workspace}, **bearer(token))
    return str(body["token"])


def _context(stage: SystemStage, number: int, *, role: str = "owner") -> dict[str, str]:
    """What a request of a person in that organization's workspace says of itself."""
    workspace = stage.kept["workspaces"][stage.kept["organizations"][number]]
    return {"app.current_workspace_id": workspace, "app.member_role": role, "app.user_id": _NO_ONE}


_NO_ONE: Final = "00000000-0000-4000-8000-000000000000"


async def _result(conn: Any, fact: Fact) -> str:
    rows = await conn.fetch(f"SELECT {fact.columns} FROM {fact.function}({fact.arguments}) AS f")
    return "; ".join(" ".join(map(_text, row)) for row in rows)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


async def _tried(scope: Any, sql: str) -> str:
    """What came of hostile SQL, and of a look at the rows behind it: what it did, or why it could not."""
    try:
        async with scope.transaction() as conn:
            if sql.startswith("SELECT"):
                value = await conn.fetchval(sql)
                if sql.startswith("SELECT set_config"):
                    value = await conn.fetchval("SELECT count(*) FROM productions")
                return str(value)
            return str(await conn.execute(sql))
    except asyncpg.PostgresError as exc:
        return str(exc.sqlstate)
