"""PrismicX's service: tenants come, get systems, and work in them; each request says for which tenant and system.

`PRISMICX_MONGO_URL` is where the platform's own client writes the registry. Run it with any ASGI server:
`uvicorn --factory app:main`.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
from documents import database_document, make_indexes, now, tenant_document
from pymongo import AsyncMongoClient
from sealed import KeyOf, SealedColumn, keys_from
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from systems import LONGEST, TENANT, NoWay, Systems

from tenantproxy import Router, current
from tenantproxy.auth.passwords import Passwords, password_bytes
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.desk import Lifecycle
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.model import tenant_id
from tenantproxy.mongo import own_database

_NEW_USER = """
INSERT INTO user_data.users (tenant_id, username, email, password_hash, role, status, metadata)
VALUES ($1, $2, $3, $4, 'admin', 'active', '{}') RETURNING id"""


class Platform:
    """What the platform's own staff do, with their key."""

    def __init__(self, systems: Router, users: Router, client: Any, key: str) -> None:
        self.systems, self.users, self.client, self._key = systems, users, client, key
        self.passwords = Passwords()
        self.tokens = Tokens(systems.settings.auth, tenants=systems.registry)
        self._registry = client["tenant_registry"]
        self._systems = Systems(systems)

    async def new_tenant(self, request: Request) -> JSONResponse:
        """`POST /platform/tenants`: the registry's document, schema and role, the database of documents, an admin."""
        self._check(request)
        body = await _body(request, "tenant", "name", "email", "password")
        tenant, settings = body["tenant"], self.systems.settings
        if not TENANT.fullmatch(tenant) or len(tenant) > LONGEST:
            raise HTTPException(400, f"tenant: a-z 0-9 and single hyphens, {LONGEST} at most")
        if await self._registry["tenants"].find_one({"tenant_id": tenant}) is not None:
            raise HTTPException(409, "there is a tenant of this name already")
        lifecycle = Lifecycle(lambda: _own_table(settings))
        schema = f"own_{tenant.replace('-', '_')}"  # `tenant_` would make that of tenant a-crm the crm of tenant a
        want = replace(lifecycle.wanted(tenant), schema=schema)
        place = settings.servers[want.server]
        server = f"postgresql://{place.host}:{place.port}/{want.database}"
        document = tenant_document(tenant, body["name"], server=server, schema=schema, role=want.role)
        await self._registry["tenants"].insert_one(document)
        await lifecycle.create(want, key=tenant)
        database = own_database(settings.mongo.database, tenant_id(tenant))
        await self._registry["tenant_databases"].insert_one(database_document(database, tenant, place.host))
        await self._set(tenant, {"status": "active"})
        await self._people(tenant, body)
        insights = self.systems.tenant(tenant).mongo()["user_insights"]
        await insights.create_index("user_id", unique=True)
        await insights.create_index("topics.name")
        await insights.create_index("updated_at")
        return JSONResponse({"tenant": tenant, "schema": schema, "documents": database}, status_code=201)

    async def _people(self, tenant: str, body: dict[str, str]) -> None:
        """The view of its extensions, and its first user."""
        settings = self.users.settings
        async with admin_connection(settings, settings.main.server, settings.registry.mongodb.place) as conn:
            await conn.execute("SELECT user_extensions.make_tenant_view($1)", tenant)
        hashed = await self.passwords.hash(body["password"])
        name = body["email"].partition("@")[0]
        await self.users.tenant(tenant).fetchval(_NEW_USER, tenant, name, body["email"], hashed)

    async def set_status(self, request: Request) -> JSONResponse:
        """`PUT /platform/tenants/{tenant}/status`: suspended, inactive, active."""
        self._check(request)
        body = await _body(request, "status")
        await self._set(request.path_params["tenant"], {"status": body["status"]})
        return JSONResponse({"status": body["status"]})

    async def set_system(self, request: Request) -> JSONResponse:
        """`PUT /platform/tenants/{tenant}/systems/{system}`: at `version`, or the latest; forward or back."""
        self._check(request)
        tenant, system = request.path_params["tenant"], request.path_params["system"]
        body = await _body(request, optional=("version",))
        found = await self.systems.registry.ask(tenant_id(tenant))
        try:
            version, schema = await self._systems.bring(found, system, body.get("version"))
        except NoWay as exc:
            raise HTTPException(409, str(exc)) from None
        except asyncpg.PostgresError as exc:
            raise HTTPException(409, f"a step failed, and is undone: {type(exc).__name__}") from None
        await self._set(tenant, {f"settings.systems.{system}": schema})
        return JSONResponse({"version": version, "schema": schema})

    async def _set(self, tenant: str, fields: dict[str, Any]) -> None:
        done = await self._registry["tenants"].update_one(
            {"tenant_id": tenant}, {"$set": {**fields, "updated_at": now()}}
        )
        if done.matched_count == 0:
            raise HTTPException(404, "there is no such tenant")
        self.systems.registry.invalidate(tenant)  # other processes hear of it from MongoDB
        self.users.registry.invalidate(tenant)

    async def log_in(self, request: Request) -> JSONResponse:
        """`POST /platform/login`: the token names the tenant."""
        body = await _body(request, "tenant", "email", "password")
        row = None
        if TENANT.fullmatch(body["tenant"]):
            row = await self.users.tenant(body["tenant"]).fetchrow(
                "SELECT id, role, password_hash FROM users WHERE email = $1 AND status = 'active'", body["email"]
            )
        raw = password_bytes(body["password"]) or b""
        verdict = await self.passwords.verify(raw, None if row is None else row["password_hash"])
        if row is None or not verdict.matches:
            raise HTTPException(401, "wrong tenant, address or password")
        await self.users.tenant(body["tenant"]).execute(
            "UPDATE users SET last_login_at = now() WHERE id = $1", row["id"]
        )
        found = await self.tokens.look_up(body["tenant"])
        return JSONResponse({"token": self.tokens.issue(tenant=found, user=str(row["id"]), role=row["role"])})

    def _check(self, request: Request) -> None:
        given = request.headers.get("X-Platform-Key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise HTTPException(401, "the key of the platform is needed: X-Platform-Key")

    async def close(self) -> None:
        """At the end of the application."""
        self.passwords.close()
        await self.client.close()


class Tenants:
    """What a tenant's people do. Which tenant it is, the middleware knows; which system, the path says."""

    def __init__(self, systems: Router, users: Router, key_of: KeyOf) -> None:
        self._systems, self._users = systems, users
        self._tax_number = SealedColumn("contacts.tax_number", key_of)

    def _crm(self) -> Any:
        return self._systems.tenant(current().id, system="crm")

    async def contacts(self, request: Request) -> JSONResponse:
        """`GET /crm/contacts`."""
        rows = await self._crm().fetch("SELECT id::text, name, tax_number FROM contacts ORDER BY name")
        sealed, tenant = self._tax_number, current().id
        found = [
            {"name": row["name"], "tax_number": await sealed.open(tenant, row["id"], row["tax_number"])} for row in rows
        ]
        return JSONResponse(found)

    async def new_contact(self, request: Request) -> JSONResponse:
        """`POST /crm/contacts`: the tax number is encrypted before it leaves this process."""
        body = await _body(request, "name", "tax_number")
        row = uuid.uuid4()
        sealed = await self._tax_number.seal(current().id, str(row), body["tax_number"])
        await self._crm().execute(
            "INSERT INTO contacts (id, name, tax_number) VALUES ($1, $2, $3)", row, body["name"], sealed
        )
        return JSONResponse({"id": str(row)}, status_code=201)

    async def tables(self, request: Request) -> JSONResponse:
        """`GET /{system}/tables`: what is in the schema of the tenant's system, and the catalogue next to it."""
        scope = self._systems.tenant(current().id, system=request.path_params["system"])
        rows = await scope.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        return JSONResponse([row["tablename"] for row in rows])

    async def people(self, request: Request) -> JSONResponse:
        """`GET /users`."""
        rows = await self._users.tenant(current().id).fetch("SELECT tenant_id, email, role FROM users ORDER BY email")
        return JSONResponse([dict(row) for row in rows])

    async def tasks(self, request: Request) -> JSONResponse:
        """`GET /tasks`: its part of the collection of all tenants."""
        tasks = current().mongo().shared("task_repository.tasks")
        found = await tasks.find({}, {"_id": 0, "task_id": 1, "tenant_id": 1, "status": 1}, sort="task_id").to_list()
        return JSONResponse(found)

    async def new_task(self, request: Request) -> JSONResponse:
        """`POST /tasks`."""
        body = await _body(request, "type")
        task = {
            "task_id": uuid.uuid4().hex, "service_id": "prismicx", "type": body["type"], "status": "pending",
            "priority": 1, "payload": {}, "created_at": now(),
        }  # fmt: skip
        await current().mongo().shared("task_repository.tasks").insert_one(task)
        return JSONResponse({"task_id": task["task_id"]}, status_code=201)

    async def insights(self, request: Request) -> JSONResponse:
        """`PUT /insights`: into the tenant's own database of documents."""
        body = await _body(request, "user_id", "topic")
        scope = current()
        await scope.mongo()["user_insights"].replace_one(
            {"user_id": body["user_id"]},
            {"user_id": body["user_id"], "tenant_id": scope.id, "topics": [{"topic_id": "1", "name": body["topic"],
             "created_at": now(), "updated_at": now()}], "created_at": now(), "updated_at": now()},
            upsert=True,
        )  # fmt: skip
        return JSONResponse({})


def make_app(systems: Router, users: Router, client: Any, *, platform_key: str, column_key: bytes) -> Any:
    """The application; both routers are opened and closed with it."""
    platform, tenants = Platform(systems, users, client, platform_key), Tenants(systems, users, keys_from(column_key))

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with systems, users:
            await make_indexes(client)
            yield
        await platform.close()

    inside = Starlette(routes=[
        Route("/users", tenants.people),
        Route("/tasks", tenants.tasks),
        Route("/tasks", tenants.new_task, methods=["POST"]),
        Route("/insights", tenants.insights, methods=["PUT"]),
        Route("/crm/contacts", tenants.contacts),
        Route("/crm/contacts", tenants.new_contact, methods=["POST"]),
        Route("/{system}/tables", tenants.tables),
    ], exception_handlers={TenantProxyError: refused})  # fmt: skip
    return Starlette(lifespan=life, routes=[
        Route("/platform/tenants", platform.new_tenant, methods=["POST"]),
        Route("/platform/tenants/{tenant}/status", platform.set_status, methods=["PUT"]),
        Route("/platform/tenants/{tenant}/systems/{system}", platform.set_system, methods=["PUT"]),
        Route("/platform/login", platform.log_in, methods=["POST"]),
        Mount("/", TenantMiddleware(inside, router=systems, tokens=platform.tokens)),
    ])  # fmt: skip


async def refused(request: Request, error: Exception) -> JSONResponse:
    """What tenantproxy refuses, as it is to be answered."""
    assert isinstance(error, TenantProxyError)
    return JSONResponse({"code": error.code}, status_code=error.http_status)


def _own_table(settings: Settings) -> Settings:
    """What makes a tenant keeps its steps in our own table; the registry in MongoDB is the platform's to write."""
    return settings.model_copy(update={"registry": type(settings.registry)()})


async def _body(request: Request, *needed: str, optional: tuple[str, ...] = ()) -> dict[str, str]:
    """The strings of a JSON object. Raises HTTPException that names what is missing."""
    try:
        body: Any = await request.json()
    except ValueError:
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is no JSON object")
    found = {name: body[name] for name in (*needed, *optional) if isinstance(body.get(name), str)}
    if missing := [name for name in needed if not found.get(name)]:
        raise HTTPException(400, f"missing: {', '.join(missing)}")
    return found


def main() -> Any:
    """From the files next to this one."""
    folder = Path(os.environ.get("PRISMICX_FOLDER", "."))
    client: Any = AsyncMongoClient(os.environ["PRISMICX_MONGO_URL"])
    read = {name: (folder / "secrets" / name).read_bytes().strip() for name in ("platform_key", "column_key")}
    return make_app(
        Router.from_file(folder / "tenantproxy.toml"), Router.from_file(folder / "users.toml"), client,
        platform_key=read["platform_key"].decode(), column_key=read["column_key"],
    )  # fmt: skip


if __name__ == "__main__":
    import uvicorn

    asyncio.run(
        uvicorn.Server(uvicorn.Config(main(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))).serve()
    )
