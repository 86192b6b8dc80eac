"""Is PrismicX's day as its description says? 20 tenants of MongoDB's registry, with three systems each, kept apart."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from tenantproxy.demo.stage import Seen, eventually
from tenantproxy.demo.system_serve import Service
from tenantproxy.demo.system_stage import SystemStage, counted, seen, together
from tenantproxy.demo.system_world import SystemWorld
from tenantproxy.demo.tour import SystemStep
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.router import Router

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

__all__ = ["STEPS", "around", "invite", "service"]

_SYSTEMS: Final = ("crm", "sales", "marketing")
_REPOSITORY: Final = "management_system_repository"
_USERS: Final = "system_users"
_SCHEMAS: Final = "SELECT count(*) FROM pg_namespace WHERE nspname ~ $1"
_SEALED: Final = "SELECT count(*) FROM pg_attribute WHERE attname = 'tax_number' AND NOT attisdropped"
_REACH: Final = """
SELECT count(*) FROM pg_roles AS r, pg_namespace AS n
WHERE r.rolname ~ '^tenant_' AND n.nspname ~ '^(own|tenant)_tenant_' AND has_schema_privilege(r.oid, n.oid, 'USAGE')"""
_MAY: Final = """
SELECT count(*) FROM (VALUES ('prismicx_users', $1), ('prismicx_systems', $2)) AS other (role, database)
WHERE has_database_privilege(other.role, other.database, 'CONNECT')"""
_BROKEN: Final = """
INSERT INTO system_versions (version_id, system_id, version, schema_version, is_latest, release_date)
    VALUES ('crm-2.0.0', 'crm', '2.0.0', 3, false, now());
INSERT INTO schema_migrations VALUES ('crm-3', 'crm', '1.1.0', '2.0.0', 2, 3,
    'CREATE TABLE notes (id uuid PRIMARY KEY); ALTER TABLE contacts ADD COLUMN name text;', NULL, 'broken');
"""


@asynccontextmanager
async def around() -> AsyncIterator[Mapping[str, Any]]:
    """What stands for its MongoDB. Raises ConfigurationError where that is not installed."""
    try:
        import mongomock
        import starlette  # noqa: F401 - the platform's own service needs it
        import uvicorn  # noqa: F401 - and this serves it

        from tenantproxy.demo.mongo_server import MongoServer
    except ImportError as exc:
        problem = Problem(
            key="--system prismicx",
            problem=f"needs {exc.name}, which is not installed",
            fix="pip install mongomock pymongo starlette uvicorn",
        )
        raise ConfigurationError([problem]) from exc
    server = MongoServer(mongomock.MongoClient())
    await server.start()
    try:
        yield {"mongo.clusters.main.hosts": [server.address]}
    finally:
        await server.stop()


def service(world: SystemWorld, router: Router) -> Service:
    """The platform's own application, from its folder, with a router for the service of users too."""
    client = _client(world)
    users = Router(world.settings_of("users.toml"))
    made: Service = world.module("app").make_app(
        router, users, client, platform_key=world.secret("platform_key"),
        column_key=world.secret("column_key").encode(),
    )  # fmt: skip
    return made


def invite(stage: SystemStage) -> Sequence[str]:
    """What can be tried while it serves, ready to be copied."""
    people, key = stage.world.secret("people_password"), f"X-Platform-Key: {stage.world.secret('platform_key')}"
    body = f'{{"tenant": "tenant-001", "name": "First", "email": "ann@first.example", "password": "{people}"}}'
    login = f'{{"tenant": "tenant-001", "email": "ann@first.example", "password": "{people}"}}'
    return [
        "# the tables of users, of all tenants",
        f"tenantproxy migrate run --config {stage.world.config.with_name('users.toml')}",
        "# a tenant comes: its document, schema, role, database of documents, and first user",
        shlex.join(["curl", "-sS", "-H", key, "-d", body, f"{stage.url}/platform/tenants"]),
        "# it gets a system",
        shlex.join(
            ["curl", "-sS", "-X", "PUT", "-H", key, "-d", "{}", f"{stage.url}/platform/tenants/tenant-001/systems/crm"]
        ),
        "# its user logs in",
        shlex.join(["curl", "-sS", "-d", login, f"{stage.url}/platform/login"]),
        "# and asks, with the token",
        f"curl -sS -H 'Authorization: Bearer TOKEN' -H 'X-Tenant-ID: tenant-001' {stage.url}/crm/contacts",
    ]


async def coming(stage: SystemStage) -> AsyncIterator[Seen]:
    """Each gets a document, a schema and a role, a database of documents, a view, and a first user."""
    yield await stage.command("install --database primary/system_users", "exit 0", config="users.toml")
    yield await stage.command(
        "migrate run", "4: 1", lambda rows: counted(row["version"] for row in rows), config="users.toml"
    )
    status, _ = await stage.ask("POST", "/platform/tenants", _order(stage, 0))
    yield seen("POST /platform/tenants without the platform's key", "401", status)
    names = stage.kept["tenants"] = [_name(number) for number in range(stage.size)]
    answers = await together(_staff(stage, "POST", "/tenants", _order(stage, n)) for n in range(stage.size))
    yield seen(f"POST /platform/tenants, {stage.size} times", f"201: {stage.size}", counted(s for s, _ in answers))
    yield seen("their databases of documents", "tenant_001_db ...", f"{answers[0][1]['documents']} ...")
    own = await stage.count(_SCHEMAS, "^own_tenant_", database=_REPOSITORY)
    yield seen("schemas own_<tenant>, which no system's can be", str(stage.size), own)
    documents = await _registry(stage)
    yield seen("tenant_registry.tenants", f"active: {stage.size}", counted(each["status"] for each in documents))
    status, _ = await _staff(stage, "POST", "/tenants", _order(stage, 0))
    yield seen("the same tenant again", "409", status)
    views = await stage.count(
        "SELECT count(*) FROM pg_views WHERE viewname ~ '^tenant_.*_extensions$'", database=_USERS
    )
    yield seen("views tenant_XXX_extensions", str(stage.size), views)
    yield await stage.command("tenants list", str(len(names)), len)


async def systems(stage: SystemStage) -> AsyncIterator[Seen]:
    """Installed, upgraded from version to version, taken back; a step that fails leaves the version of before."""
    names: list[str] = stage.kept["tenants"]
    first, neighbour = names[:2]
    for system in _SYSTEMS:
        version = {"version": "1.0.0"} if system == "crm" else {}
        answers = await together(_staff(stage, "PUT", f"/tenants/{name}/systems/{system}", version) for name in names)
        latest = "1.0.0" if system == "crm" else "1.1.0"
        told = counted(body.get("version") for _, body in answers)
        yield seen(f"PUT /platform/tenants/.../systems/{system}", f"{latest}: {stage.size}", told)
        made = await stage.count(_SCHEMAS, f"^tenant_tenant_.*_{system}$", database=_REPOSITORY)
        yield seen(f"schemas tenant_<tenant>_{system}", str(stage.size), made)
    status, body = await _staff(stage, "PUT", f"/tenants/{first}/systems/crm", {"version": "1.0.0"})
    yield seen("its schema", "200 tenant_tenant_001_crm", f"{status} {body['schema']}")
    answers = await together(_staff(stage, "PUT", f"/tenants/{name}/systems/crm", {}) for name in names)
    yield seen("crm, upgraded", f"1.1.0: {stage.size}", counted(body.get("version") for _, body in answers))
    yield seen("contacts with a tax number", str(stage.size), await stage.count(_SEALED, database=_REPOSITORY))
    status, _ = await _staff(stage, "PUT", f"/tenants/{neighbour}/systems/crm", {"version": "1.0.0"})
    found = await stage.count(_SEALED, database=_REPOSITORY)
    yield seen("crm of one tenant, taken back", f"200 {stage.size - 1}", f"{status} {found}")
    await _staff(stage, "PUT", f"/tenants/{neighbour}/systems/crm", {})
    conn = await stage.world.connect(_REPOSITORY)
    try:
        await conn.execute(_BROKEN)
        status, _ = await _staff(stage, "PUT", f"/tenants/{first}/systems/crm", {"version": "2.0.0"})
        row = await conn.fetchrow("SELECT * FROM tenant_systems WHERE tenant_id = $1 AND system_id = 'crm'", first)
        assert row is not None
        saw = f"{status} {row['version_id']} {row['status']}"
        yield seen("an upgrade that fails", "409 crm-1.1.0 failed", saw)
        left = await conn.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'notes'")
        yield seen("what it left in the schema", "0", left)
    finally:
        await conn.close()
    await _staff(stage, "PUT", f"/tenants/{first}/systems/crm", {"version": "1.0.0"})
    await _staff(stage, "PUT", f"/tenants/{first}/systems/crm", {"version": "1.1.0"})
    status, _ = await _staff(stage, "PUT", f"/tenants/{first}/systems/payroll", {})
    yield seen("a system that is not there", "409", status)


async def requests(stage: SystemStage) -> AsyncIterator[Seen]:
    """The middleware chooses the tenant, the path its system; nothing of another one is seen."""
    names: list[str] = stage.kept["tenants"]
    answers = await together(stage.ask("POST", "/platform/login", _login(stage, n)) for n in range(stage.size))
    stage.kept["tokens"] = {name: body["token"] for name, (_, body) in zip(names, answers, strict=True)}
    yield seen("POST /platform/login of each first user", f"200: {stage.size}", counted(s for s, _ in answers))
    status, _ = await stage.ask("POST", "/platform/login", {**_login(stage, 0), "password": "guess"})
    yield seen("a wrong password", "401", status)
    made = await together(
        _as(stage, name, "POST", "/crm/contacts", {"name": name, "tax_number": f"TAX {name}"}) for name in names
    )
    yield seen("POST /crm/contacts of each", f"201: {stage.size}", counted(s for s, _ in made))
    answers = await together(_as(stage, name, "GET", "/crm/contacts") for name in names)
    own = sum(body == [{"name": n, "tax_number": f"TAX {n}"}] for n, (_, body) in zip(names, answers, strict=True))
    yield seen("GET /crm/contacts: its own and no other", str(stage.size), own)
    plain = await stage.count(
        "SELECT count(*) FROM tenant_tenant_001_crm.contacts WHERE position('TAX'::bytea IN tax_number) > 0",
        database=_REPOSITORY,
    )
    yield seen("tax numbers that the database can read", "0", plain)
    _, tables = await _as(stage, names[0], "GET", "/sales/tables")
    yield seen("another system of the same tenant", "orders", ", ".join(tables))
    pairs = list(zip(names, names[1:] + names[:1], strict=True))
    answers = await together(_as(stage, one, "GET", "/crm/contacts", header=other) for one, other in pairs)
    yield seen("with the X-Tenant-ID of another", f"403: {stage.size}", counted(s for s, _ in answers))
    status, _ = await stage.ask("GET", "/crm/contacts", **{"X-Tenant-ID": names[0]})
    yield seen("without a token", "401", status)
    reach = await stage.count(_REACH, database=_REPOSITORY)
    yield seen("schemas that the tenants' roles may use: each its own four", str(4 * stage.size), reach)


async def users(stage: SystemStage) -> AsyncIterator[Seen]:
    """The tables of all tenants, under the policies of the description and signed ones; a role for each service."""
    names: list[str] = stage.kept["tenants"]
    answers = await together(_as(stage, name, "GET", "/users") for name in names)
    own = sum({each["tenant_id"] for each in body} == {n} for n, (_, body) in zip(names, answers, strict=True))
    yield seen("GET /users: its own and no other", str(stage.size), own)
    yield seen(
        "rows of user_data.users",
        str(stage.size),
        await stage.count("SELECT count(*) FROM user_data.users", database=_USERS),
    )
    given = "SELECT count(*) FROM pg_policies WHERE policyname = 'tenant_isolation_policy'"
    yield seen("policies as they are given", "2", await stage.count(given, database=_USERS))
    signed = "SELECT count(DISTINCT tablename) FROM pg_policies WHERE qual ~ 'tenantproxy'"
    yield seen("tables with a signed policy", "5", await stage.count(signed, database=_USERS))
    yield seen("services that may enter the other's database", "0", await stage.count(_MAY, _REPOSITORY, _USERS))


async def documents(stage: SystemStage) -> AsyncIterator[Seen]:
    """Collections of all tenants through a guard, and a database for each."""
    names: list[str] = stage.kept["tenants"]
    made = await together(_as(stage, name, "POST", "/tasks", {"type": "import"}) for name in names)
    yield seen("POST /tasks of each", f"201: {stage.size}", counted(s for s, _ in made))
    answers = await together(_as(stage, name, "GET", "/tasks") for name in names)
    own = sum([each["tenant_id"] for each in body] == [n] for n, (_, body) in zip(names, answers, strict=True))
    yield seen("GET /tasks: its own and no other", str(stage.size), own)
    body = {"user_id": "u1", "topic": "Bridges"}
    made = await together(_as(stage, name, "PUT", "/insights", body) for name in names)
    yield seen("PUT /insights of each", f"200: {stage.size}", counted(s for s, _ in made))
    async with _client(stage.world) as client:
        found = [await client[f"{n.replace('-', '_')}_db"]["user_insights"].find({}).to_list(9) for n in names]
    own = sum([each["tenant_id"] for each in rows] == [n] for n, rows in zip(names, found, strict=True))
    yield seen("databases tenant_XXX_db with its insight and no other", str(stage.size), own)


async def suspending(stage: SystemStage) -> AsyncIterator[Seen]:
    """What is written into the registry holds at once, and for the neighbours nothing changes."""
    last, neighbour = stage.kept["tenants"][-1], stage.kept["tenants"][0]
    async with _client(stage.world) as client:
        await client["tenant_registry"]["tenants"].update_one({"tenant_id": last}, {"$set": {"status": "suspended"}})
    heard = ""

    async def refused() -> bool:
        nonlocal heard
        status, _ = await _as(stage, last, "GET", "/tasks")
        heard = "refused" if status in (401, 403) else str(status)
        return status != 200

    await eventually(refused)
    yield seen("suspended in MongoDB, with the token that it had", "refused", heard)
    status, _ = await _as(stage, neighbour, "GET", "/tasks")
    yield seen("another tenant", "200", status)
    await _staff(stage, "PUT", f"/tenants/{last}/status", {"status": "active"})
    status, _ = await _as(stage, last, "GET", "/tasks")
    yield seen("active again", "200", status)


async def saving(stage: SystemStage) -> AsyncIterator[Seen]:
    """All are saved, and each is restored into a scratch place and compared."""
    yield await stage.command(
        "backup create --all", f"saved: {stage.size + 1}", lambda rows: counted(row["state"] for row in rows)
    )
    yield await stage.command(
        "backup verify", f"True: {stage.size + 1}", lambda rows: counted(bool(row["verified_at"]) for row in rows)
    )


async def verdict(stage: SystemStage) -> AsyncIterator[Seen]:
    """Does isolation hold, as the catalogues say it and as an attacker finds it?"""
    pair = ",".join(stage.kept["tenants"][:2])
    yield await stage.command("doctor", "exit 0")
    for config in ("tenantproxy.toml", "users.toml"):
        yield await stage.command(f"prove --door library --tenants {pair} --timeout 300", "exit 0", config=config)


STEPS: Final[Sequence[SystemStep[SystemStage]]] = (
    coming, systems, requests, users, documents, suspending, saving, verdict,
)  # fmt: skip


def _client(world: SystemWorld) -> AsyncMongoClient[Any]:
    """The platform's own client, past tenantproxy."""
    from pymongo import AsyncMongoClient

    return AsyncMongoClient(f"mongodb://{world.overrides['mongo.clusters.main.hosts'][0]}")


async def _registry(stage: SystemStage) -> list[Any]:
    async with _client(stage.world) as client:
        return await client["tenant_registry"]["tenants"].find({}).to_list(None)


def _name(number: int) -> str:
    return f"tenant-{number + 1:03d}"


def _order(stage: SystemStage, number: int) -> dict[str, str]:
    return {**_login(stage, number), "name": f"Tenant {number + 1}"}


def _login(stage: SystemStage, number: int) -> dict[str, str]:
    name = _name(number)
    return {"tenant": name, "email": f"admin@{name}.example", "password": stage.world.secret("people_password")}


async def _staff(stage: SystemStage, method: str, path: str, body: object) -> tuple[int, Any]:
    headers = {"X-Platform-Key": stage.world.secret("platform_key")}
    return await stage.ask(method, f"/platform{path}", body, **headers)


async def _as(
    stage: SystemStage, whose: str, method: str, path: str, body: object = None, *, header: str | None = None
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {stage.kept['tokens'][whose]}", "X-Tenant-ID": header or whose}
    return await stage.ask(method, path, body, **headers)
