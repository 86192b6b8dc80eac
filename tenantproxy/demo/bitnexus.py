"""Is BitNexus's day as its description says? Tenants share tables; an Elixir service and Netlify functions use them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenantproxy.demo.commands import run_command
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_stage import SystemStage, counted, seen, state, together
from tenantproxy.demo.system_world import system_folder
from tenantproxy.demo.tour import SystemStep

__all__ = ["STEPS", "invite"]

_USER: Final = "bitnexus"
_TABLES: Final = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
_POLICIES: Final = """SELECT count(*) FROM pg_policies WHERE schemaname = 'public' AND cmd = 'ALL' AND qual = with_check
AND qual = '(tenant_id = (( SELECT tenantproxy.bound_tenant() AS bound_tenant))::uuid)'"""
_WHOSE: Final = "SELECT DISTINCT tenant_id::text AS id FROM products"
_LATER: Final = """ALTER TABLE products ADD COLUMN tags text[] NOT NULL DEFAULT '{}';
CREATE TABLE coupons (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    code text NOT NULL,
    UNIQUE (tenant_id, code)
);
"""


def invite(stage: SystemStage) -> Sequence[str]:
    """What can be tried while it serves, ready to be copied."""
    config, tenant = stage.world.config, _tenants(1)[0]
    people = config.parent / "secrets" / "people_password"
    variables = " ".join(f"{name}={value}" for name, value in stage.world.environment.items())
    return [
        f"cd {config.parent}; export TENANTPROXY_CONFIG={config} {variables}",
        "# the tables, then a tenant",
        "tenantproxy migrate run",
        f"tenantproxy tenants create {tenant} --admin {_email(tenant)} --admin-password-file {people}",
        "# its administrator logs in",
        f'curl -sS {stage.url}/auth/login -d "{{\\"email\\": \\"{_email(tenant)}\\",'
        f' \\"password\\": \\"$(cat {people})\\"}}"',
        "# as the Elixir service does: the database is the tenant",
        f"PGPASSWORD=$(cat secrets/service_password) psql -h 127.0.0.1 -p {_port(stage)} -U {_USER} {tenant}",
    ]


async def founding(stage: SystemStage) -> AsyncIterator[Seen]:
    """One set of tables, with a policy each; a tenant is a row, a registry entry and a first administrator."""
    yield await stage.command("migrate run", "7", lambda rows: ", ".join(str(row["version"]) for row in rows))
    yield seen("tables", "6", await stage.count(_TABLES, database=_shared(stage)))
    yield seen("with the policy that casts to uuid", "6", await stage.count(_POLICIES, database=_shared(stage)))
    password = stage.world.config.parent / "secrets" / "people_password"
    tenants = stage.kept["tenants"] = _tenants(stage.size)
    made = await together(
        stage.command(f"tenants create {each} --admin {_email(each)} --admin-password-file {password}", "active", state)
        for each in tenants
    )
    yield seen(f"tenants create, {stage.size} times", f"active: {stage.size}", counted(each.saw for each in made))
    seed = (stage.world.config.parent / "seed.sql").read_text()
    for each in tenants:
        await stage.router.tenant(each).execute(seed)
    rows = await stage.count("SELECT count(*) FROM products", database=_shared(stage))
    yield seen("products of all, as a superuser sees them", str(2 * stage.size), rows)


async def logging_in(stage: SystemStage) -> AsyncIterator[Seen]:
    """An address and a password are enough: whose they are, is found."""
    tenants, password = stage.kept["tenants"], stage.world.secret("people_password")
    answers = await together(
        stage.ask("POST", "/auth/login", {"email": _email(each), "password": password}) for each in tenants
    )
    right = sum(body.get("tenant") == each for each, (_, body) in zip(tenants, answers, strict=True))
    yield seen("POST /auth/login of each administrator names its tenant", str(stage.size), right)
    stage.kept["tokens"] = {each: body["access_token"] for each, (_, body) in zip(tenants, answers, strict=True)}
    status, _ = await stage.ask("POST", "/auth/login", {"email": _email(tenants[0]), "password": "guess"})
    yield seen("a wrong password", "401", status)


async def over_http(stage: SystemStage) -> AsyncIterator[Seen]:
    """What a function sends, byte for byte: a token reaches its own rows, whatever else it says."""
    one, other, *_ = tenants = stage.kept["tenants"]
    answers = await together(_sql(stage, each, each, _WHOSE) for each in tenants)
    own = sum(body.get("rows") == [{"id": each}] for each, (_, body) in zip(tenants, answers, strict=True))
    yield seen("POST /sql with each one's token: its own rows and no others", str(stage.size), own)
    status, body = await _sql(stage, one, other, _WHOSE)
    yield seen("with a connection string that names another tenant", "400 28P01", f"{status} {body['code']}")
    attempts = (
        (
            "INSERT INTO products (tenant_id, sku, name) VALUES ($1, 'X', 'X')",
            "42501",
            "a row that says it is another's",
        ),
        ("UPDATE products SET tenant_id = $1", "42501", "its own rows given to another"),
        ("INSERT INTO transactions (user_id, amount) SELECT $1, 1", "23503", "a purchase of a user who is another's"),
    )
    foreign = await stage.router.tenant(other).fetchval("SELECT id::text FROM users")
    for query, expected, what in attempts:
        _, body = await _sql(stage, one, one, query, foreign if expected == "23503" else other)
        yield seen(what, expected, body.get("code"))


async def by_the_port(stage: SystemStage) -> AsyncIterator[Seen]:
    """The service's user reaches every tenant, one by one: the database it connects to is the tenant."""
    one, other, *_ = tenants = stage.kept["tenants"]
    found = await together(_ask_port(stage, each, _WHOSE) for each in tenants)
    own = sum(rows == [each] for each, rows in zip(tenants, found, strict=True))
    yield seen("each tenant as a database of the port: its own rows", str(stage.size), own)
    flip = f"SELECT set_config('app.current_tenant_id', '{other}', true)"
    yield seen("one that sets app.current_tenant_id itself", "42501", await _ask_port(stage, one, flip, _WHOSE))
    yield seen("a wrong password", "28P01", await _ask_port(stage, one, _WHOSE, password="guess"))
    token = stage.kept["tokens"][one]
    yield seen("a token as the password", one, "".join(await _ask_port(stage, one, _WHOSE, user="jwt", password=token)))
    yield seen("of another tenant", "28P01", await _ask_port(stage, other, _WHOSE, user="jwt", password=token))
    backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename = $2"
    server = stage.router.settings.servers["primary"]
    async with _idle(stage, tenants, 10):
        held = await stage.count(backends, _shared(stage), server.user)
    yield seen(
        f"{10 * stage.size} idle clients: backends, at most {server.max_connections}",
        "True",
        held <= server.max_connections,
    )


async def functions(stage: SystemStage) -> AsyncIterator[Seen]:
    """The platform's Netlify functions, with the drivers as they are published."""
    node, packages = shutil.which("node"), _packages()
    if node is None or packages is None:
        yield _not_here("Netlify functions", "no node with @neondatabase/serverless and pg")
        return
    folder = stage.world.config.parent / "netlify"
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(packages)
    one, other, *_ = stage.kept["tenants"]
    own, head = stage.kept["tokens"][one], stage.kept["tokens"][one].split(".")
    forged = ".".join(
        (head[0], urlsafe_b64encode(json.dumps({"tenant": other}).encode()).decode().rstrip("="), head[2])
    )
    bridge = {"sku": "NX-3", "name": "Bridge", "price": "20.00", "stock": 5}
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("GET products", {"name": "products", "token": own}, "200 NX-1, NX-2"),
        ("without a token", {"name": "products"}, "401 an access token is needed"),
        ("with one that was changed", {"name": "products", "token": forged}, "403 refused"),
        ("POST products", {"name": "products", "method": "POST", "token": own, "body": bridge}, "201 NX-3"),
        ("GET tasks", {"name": "tasks", "token": own}, "200 Call the first customer"),
        ("POST purchase", _purchase(own, 2), "201 3 left, 40.00"),
        ("of more than there is: nothing of it stays", _purchase(own, 4), "422"),
        ("POST contact, over the port", _contact("ann@example.com"), "201 received"),
        ("with no address", _contact("no address"), "422"),
    ]
    given = folder / "calls.json"
    given.write_text(json.dumps([call for _, call, _ in calls]))
    service = f"postgresql://{_USER}:{stage.world.secret('service_password')}@127.0.0.1:{_port(stage)}"
    environment = {"SQL_URL": f"{stage.url}/sql", "DATABASE_URL": service, "SITE_TENANT": one}
    typed = await run_command(("sh", "-c", 'exec "$0" call.mjs < calls.json', node), environment, folder=folder)
    answers = [json.loads(line) for line in typed.out.splitlines()]
    if len(answers) != len(calls):
        yield seen("functions that answered", str(len(calls)), f"{len(answers)}: {typed.err[-600:]}")
    for (what, _, expected), answer in zip(calls, answers, strict=False):
        yield seen(f"functions: {what}", expected, _said(answer))
    wrote = [
        await stage.count(f"SELECT count(*) FROM {table} WHERE tenant_id = $1::uuid", one, database=_shared(stage))
        for table in ("transactions", "email_submissions")
    ]
    yield seen("purchases and submissions of the tenant, as a superuser sees them", "1, 2", ", ".join(map(str, wrote)))


async def elixir(stage: SystemStage) -> AsyncIterator[Seen]:
    """The platform's accounts service: Ecto, a repo for each tenant."""
    program = shutil.which("elixir")
    if program is None or not _has_ecto():
        yield _not_here("the accounts service in Elixir", "no elixir with ecto_sql in ERL_LIBS")
        return
    tenants = stage.kept["tenants"]
    environment = {
        "PGHOST": "127.0.0.1", "PGPORT": str(_port(stage)), "PGUSER": _USER,
        "PGPASSWORD": stage.world.secret("service_password"),
    }  # fmt: skip
    script = stage.world.config.parent / "accounts_service" / "day.exs"
    typed = await run_command((program, str(script), *tenants), environment)
    saw = typed.out.split() if typed.code == 0 else typed.err[-600:]
    expected = [word for each in tenants for word in (each, "2")]
    yield seen("elixir day.exs: its users, two of each tenant", " ".join(expected), " ".join(saw))


async def migration(stage: SystemStage) -> AsyncIterator[Seen]:
    """The next version: a column, and a table that is isolated in the transaction that makes it."""
    (stage.world.config.parent / "migrations" / "0008_coupons.sql").write_text(_LATER)
    yield await stage.command("migrate run", "8", lambda rows: ", ".join(str(row["version"]) for row in rows))
    yield seen("tables with the policy", "7", await stage.count(_POLICIES, database=_shared(stage)))
    one, other, *_ = stage.kept["tenants"]
    await stage.router.tenant(one).execute("INSERT INTO coupons (code) VALUES ('SPRING')")
    counts = [await stage.router.tenant(each).fetchval("SELECT count(*) FROM coupons") for each in (one, other)]
    yield seen("a row of one tenant in the new table, seen by it and by another", "1, 0", ", ".join(map(str, counts)))


async def saving(stage: SystemStage) -> AsyncIterator[Seen]:
    """A tenant is saved by itself, restored into a scratch place to be compared, and comes back after a mishap."""
    one, *_, last = stage.kept["tenants"]
    yield await stage.command(
        "backup create --all", f"saved: {stage.size + 1}", lambda rows: counted(row["state"] for row in rows)
    )
    yield await stage.command(
        "backup verify", f"True: {stage.size + 1}", lambda rows: counted(bool(row["verified_at"]) for row in rows)
    )
    before = await _summary(stage, last), await _summary(stage, one)
    yield await stage.command(f"tenants delete {last} --grace 0", "deleted", state)
    query = "SELECT count(*) FROM users WHERE tenant_id = $1::uuid"
    yield seen("its rows in the shared tables", "0", await stage.count(query, last, database=_shared(stage)))
    _, body = await _sql(stage, last, last, _WHOSE)
    yield seen("its token at /sql", "28000", body.get("code"))
    again = _tenants(stage.size + 1)[-1]
    yield await stage.command(
        f"backup restore {last} --as {again}", f"restored {again}", lambda row: f"{row['state']} {row['tenant']}"
    )
    after = await _summary(stage, again), await _summary(stage, one)
    yield seen("what it had under a new identifier, and its neighbour's", "True", after == before)


async def verdict(stage: SystemStage) -> AsyncIterator[Seen]:
    """Does isolation hold, as the catalogues say it and as an attacker finds it, by every door?"""
    one, other, *_ = stage.kept["tenants"]
    yield await stage.command("doctor", "exit 0")
    doors = f"--door library --door port --door http --pg 127.0.0.1:{_port(stage)} --http {stage.url}"
    yield await stage.command(f"prove {doors} --tenants {one},{other} --timeout 300", "exit 0")


STEPS: Final[Sequence[SystemStep[SystemStage]]] = (
    founding, logging_in, over_http, by_the_port, functions, elixir, migration, saving, verdict,
)  # fmt: skip


def _tenants(count: int) -> list[str]:
    """Identifiers of so many."""
    return [str(uuid.uuid5(uuid.NAMESPACE_DNS, f"tenant{number}.bitnexus.example")) for number in range(count)]


def _email(tenant: str) -> str:
    return f"admin@{tenant[:8]}.example"


def _shared(stage: SystemStage) -> str:
    return stage.router.settings.provision.shared_database


def _port(stage: SystemStage) -> int:
    return int(stage.pg.rpartition(":")[2])


async def _sql(stage: SystemStage, whose: str, named: str, query: str, *params: object) -> tuple[int, Any]:
    """What Neon's driver sends with the token of `whose` and a connection string that names a tenant."""
    headers = {
        "Authorization": f"Bearer {stage.kept['tokens'][whose]}",
        "Neon-Connection-String": f"postgresql://jwt@db.bitnexus.example/{named}",
    }
    return await stage.ask("POST", "/sql", {"query": query, "params": params}, **headers)


async def _ask_port(
    stage: SystemStage, tenant: str, *queries: str, user: str = _USER, password: str | None = None
) -> list[Any] | str:
    """The first column of the last query's rows, all in one transaction; or the SQLSTATE of what failed."""
    try:
        async with _client(stage, tenant, user=user, password=password) as client, client.transaction():
            rows = [await client.fetch(query) for query in queries][-1]
            return [row[0] for row in rows]
    except asyncpg.PostgresError as exc:
        return str(exc.sqlstate)


@asynccontextmanager
async def _client(
    stage: SystemStage, tenant: str, *, user: str = _USER, password: str | None = None
) -> AsyncIterator[asyncpg.Connection]:
    client = await asyncpg.connect(
        host="127.0.0.1", port=_port(stage), user=user, database=tenant, timeout=60,
        password=stage.world.secret("service_password") if password is None else password,
    )  # fmt: skip
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def _idle(stage: SystemStage, tenants: Iterable[str], count: int) -> AsyncIterator[None]:
    """So many clients of each, that have asked once and wait."""
    async with AsyncExitStack() as stack:
        for tenant in tenants:
            for _ in range(count):
                client = await stack.enter_async_context(_client(stage, tenant))
                await client.fetchval("SELECT 1")
        yield


async def _summary(stage: SystemStage, tenant: str) -> Sequence[Any]:
    """What a tenant has, without whose it is."""
    query = """SELECT (SELECT array_agg(email ORDER BY email) FROM users),
    (SELECT array_agg(sku ORDER BY sku) FROM products),
    (SELECT count(*) FROM transactions), (SELECT count(*) FROM team_tasks), (SELECT count(*) FROM email_submissions)"""
    return [tuple(row) for row in await stage.router.tenant(tenant).fetch(query)]


def _packages() -> Path | None:
    """The folder node_modules with what the functions need: next to them, or where BITNEXUS_NODE_MODULES says."""
    given = os.environ.get("BITNEXUS_NODE_MODULES")
    folder = Path(given) if given else system_folder("bitnexus") / "netlify" / "node_modules"
    return folder.resolve() if all((folder / each).is_dir() for each in ("@neondatabase/serverless", "pg")) else None


def _has_ecto() -> bool:
    """Whether ERL_LIBS has it."""
    return any(any(Path(each).glob("ecto_sql*")) for each in os.environ.get("ERL_LIBS", "").split(":") if each)


def _not_here(what: str, why: str) -> Seen:
    """A step that this machine lacks something for: said, and no failure."""
    return Seen(what=what, expected="tried where there is what it needs", saw=f"not tried: {why}", ok=True)


def _purchase(token: str, quantity: int) -> dict[str, Any]:
    body = {"sku": "NX-3", "quantity": quantity}
    return {"name": "purchase", "method": "POST", "token": token, "body": body}


def _contact(email: str) -> dict[str, Any]:
    return {"name": "contact", "method": "POST", "body": {"email": email, "message": "Hello"}}


def _said(answer: Mapping[str, Any]) -> str:
    """Status, and in a few words the body of a function's answer."""
    status, body = answer["status"], answer["body"]
    if isinstance(body, list):
        return f"{status} {', '.join(row.get('sku') or row['title'] for row in body)}"
    if status == 422:
        return str(status)
    if "left" in body:
        return f"{status} {body['left']} left, {body['amount']}"
    return f"{status} {body.get('error') or body.get('sku') or next(iter(body))}"
