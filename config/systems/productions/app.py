"""The service of Productions: organizations are founded, people log in and choose one, and work in a workspace of it.

`TENANTPROXY_CONFIG` is the path of the configuration, `PRODUCTIONS_POOLER` the address of PgBouncer (host:port; without
it the server itself serves), `PRODUCTIONS_PLATFORM_KEY_FILE` a file with the key that the platform's own staff send as
`X-Platform-Key`: by default tenantproxy.toml and secrets/platform_key next to it.
"""

from __future__ import annotations

import hmac
import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tenantproxy import Router, TenantScope
from tenantproxy.auth.passwords import Passwords
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import load
from tenantproxy.lifecycle.provision import ProvisioningFailed, SagaState, first_admin
from tenantproxy.middleware.asgi import TenantMiddleware, tenant

Scope = Annotated[TenantScope, Depends(tenant)]


class Founding(BaseModel):
    """A new organization, its first workspace and its owner."""

    name: str = Field(min_length=1)
    slug: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")
    plan: str = "free"
    admin_email: str = Field(alias="adminEmail", min_length=3)
    admin_password: str = Field(alias="adminPassword", min_length=8)


class Login(BaseModel):
    """`organization`: which one, of a person who is in several."""

    email: str
    password: str
    organization: str | None = Field(default=None, alias="organizationId")


class Choice(BaseModel):
    """A workspace of the organization."""

    workspace: uuid.UUID = Field(alias="workspaceId")


class Production(BaseModel):
    """A new one, in the workspace of the request."""

    name: str = Field(min_length=1)
    description: str | None = None
    custom_fields: dict[str, Any] = {}


class Invitation(BaseModel):
    """Whom an owner or administrator asks in."""

    email: str = Field(min_length=3)
    role: str = Field(default="member", pattern="^(admin|member|guest)$")


def routers(config: Path, overrides: Mapping[str, Any] | None = None, *, pooler: str = "") -> tuple[Router, Router]:
    """The one of requests, through the pooler where there is one, and that of reports, which reads from the standby."""
    given = dict(overrides or {})
    reports = Router(load(config, overrides=given))
    if not pooler:
        return reports, reports
    host, _, port = pooler.rpartition(":")
    pooled = {"host": host, "port": int(port), "pooler": "pgbouncer", "replicas": []}
    given |= {f"servers.primary.{key}": value for key, value in pooled.items()}
    return Router(load(config, overrides=given)), reports


class Platform:
    """What the platform itself does, with the key of its staff."""

    def __init__(self, router: Router, reports: Router, key: str) -> None:
        self._router, self._reports, self._key = router, reports, key
        self._passwords = Passwords()

    def check(self, given: str) -> None:
        """Raises 401."""
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise HTTPException(401, "the key of the platform is needed: X-Platform-Key")

    async def found(self, order: Founding) -> dict[str, str]:
        """Its name is taken first; then the tenant with its owner and first workspace, whole or not at all."""
        organization, main = uuid.uuid4(), self._router.main()
        admin = first_admin(order.admin_email, await self._passwords.hash(order.admin_password))
        try:
            await main.execute(
                "INSERT INTO organization_slugs (slug, organization_id) VALUES ($1, $2)", order.slug, organization
            )
        except asyncpg.UniqueViolationError:
            raise HTTPException(409, "an organization has this slug already") from None
        lifecycle = self._reports.lifecycle  # past the pooler
        try:
            await lifecycle.create(lifecycle.wanted(str(organization)), key=str(organization), admin=admin)
        except ProvisioningFailed as exc:
            if exc.saga.state is SagaState.CLEANED:  # else `tenantproxy tenants finish` goes on with it
                await main.execute("DELETE FROM organization_slugs WHERE organization_id = $1", organization)
            raise
        async with self._router.tenant(str(organization)).transaction() as conn:
            await conn.execute(
                "UPDATE organizations SET name = $1, slug = $2, plan = $3", order.name, order.slug, order.plan
            )
            workspace = await conn.fetchval("SELECT id FROM workspaces")
        return {"id": str(organization), "workspaceId": str(workspace)}

    async def close(self) -> None:
        """At the end of the application."""
        self._passwords.close()


def add_people(app: FastAPI, router: Router, tokens: Tokens) -> None:
    """Who logs in, which workspace they choose, and whom they ask in."""

    @app.post("/api/auth/login", response_model=None)
    async def log_in(body: Login, request: Request) -> Any:
        """One organization: a token for it. Several: 300, and the list to choose from."""
        accounts = await router.login(
            body.email, body.password, address=request.client.host if request.client else None,
            tenant=body.organization,
        )  # fmt: skip
        if len(accounts) > 1:
            return JSONResponse({"organizations": sorted(each.tenant for each in accounts)}, status_code=300)
        account = accounts[0]
        token = tokens.issue(
            tenant=await tokens.look_up(account.tenant), user=account.user, role=str(account.claims["role"])
        )
        return {"token": token, "organizationId": account.tenant, "role": account.claims["role"]}

    @app.post("/api/auth/workspace")
    async def choose(body: Choice, request: Request, db: Scope) -> dict[str, str]:
        """Another token, with a workspace of the organization in it: what it says is signed for the policies."""
        if not await db.fetchval("SELECT EXISTS (SELECT FROM workspaces WHERE id = $1)", body.workspace):
            raise HTTPException(404, "the organization has no such workspace")
        who = request.state.identity
        standing = await db.fetchval(
            "SELECT role FROM organization_members WHERE user_id = $1 AND status = 'active'", uuid.UUID(who.user)
        )
        if standing is None:
            raise HTTPException(403, "no active member of the organization")
        token = tokens.issue(
            tenant=await tokens.look_up(who.tenant), user=who.user, role=standing,
            claims={"workspace": str(body.workspace)},
        )  # fmt: skip
        return {"token": token}

    @app.get("/api/workspaces")
    async def workspaces(db: Scope) -> list[dict[str, Any]]:
        return [_plain(row) for row in await db.fetch("SELECT id, name, slug FROM workspaces ORDER BY name")]

    @app.post("/api/members", status_code=201)
    async def invite(body: Invitation, db: Scope) -> dict[str, str]:
        """A person who is new is made without a password: the link in the mail sets it."""
        async with db.transaction() as conn:
            person = await conn.fetchval(
                "INSERT INTO invitations (organization_id, email, role)"
                " VALUES ((SELECT tenantproxy.bound_tenant())::uuid, $1, $2) RETURNING user_id",
                body.email, body.role,
            )  # fmt: skip
            await conn.execute(
                "INSERT INTO organization_members (organization_id, user_id, role)"
                " VALUES ((SELECT tenantproxy.bound_tenant())::uuid, $1, $2)",
                person, body.role,
            )  # fmt: skip
        return {"userId": str(person)}


def add_work(app: FastAPI, reports: Router) -> None:
    """What is done in a workspace, and what is read of the whole."""

    @app.get("/api/productions")
    async def productions(db: Scope) -> list[dict[str, Any]]:
        rows = await db.fetch("SELECT id, name, status, custom_fields FROM productions ORDER BY name")
        return [_plain(row) for row in rows]

    @app.post("/api/productions", status_code=201)
    async def new_production(body: Production, request: Request, db: Scope) -> dict[str, str]:
        workspace = request.state.identity.claims.get("workspace")
        if workspace is None:
            raise HTTPException(400, "choose a workspace first: POST /api/auth/workspace")
        found = await db.fetchval(
            "INSERT INTO productions (workspace_id, name, description, custom_fields)"
            " VALUES ($1, $2, $3, $4::text::jsonb) RETURNING id",
            uuid.UUID(workspace), body.name, body.description, json.dumps(body.custom_fields),
        )  # fmt: skip
        return {"id": str(found)}

    @app.delete("/api/productions/{production}")
    async def remove(production: uuid.UUID, db: Scope) -> dict[str, int]:
        """Owners and administrators alone: the policy lets no other role delete a row."""
        done = await db.execute("DELETE FROM productions WHERE id = $1", production)
        return {"deleted": int(done.split()[-1])}

    @app.get("/api/search")
    async def search(q: str, db: Scope) -> list[dict[str, Any]]:
        return [_plain(row) for row in await db.fetch("SELECT entity_type, title FROM global_search($1)", q)]

    @app.get("/api/dashboard")
    async def dashboard(db: Scope) -> dict[str, float]:
        return {row["metric"]: float(row["value"]) for row in await db.fetch("SELECT * FROM get_dashboard_metrics()")}

    @app.get("/api/reports/financial")
    async def financial(since: date, until: date, request: Request, db: Scope) -> dict[str, Any]:
        """From the standby, with the same settings signed."""
        who = request.state.identity
        context = {
            "app.current_workspace_id": who.claims.get("workspace", ""),
            "app.member_role": who.claims.get("role", ""),
            "app.user_id": who.user or "",
        }
        there = reports.tenant(who.tenant, replica=True, context=context)
        row = await there.fetchrow(
            "SELECT f.*, pg_is_in_recovery() AS is_standby FROM get_financial_summary($1, $2) AS f", since, until
        )
        return _plain(row)


def make_app(router: Router, reports: Router, platform_key: str) -> FastAPI:
    """The application; both routers are opened and closed with it."""
    tokens = Tokens(router.settings.auth, tenants=router.registry)
    platform = Platform(router, reports, platform_key)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            if reports is router:
                yield
            else:
                async with reports:
                    yield
        finally:
            await platform.close()

    app = FastAPI(lifespan=life)

    @app.exception_handler(asyncpg.InsufficientPrivilegeError)
    async def refused(request: Request, exc: asyncpg.InsufficientPrivilegeError) -> JSONResponse:
        return JSONResponse({"error": "your role in this organization does not allow that"}, status_code=403)

    @app.post("/api/organizations", status_code=201)
    async def found(body: Founding, x_platform_key: Annotated[str, Header()] = "") -> dict[str, str]:
        platform.check(x_platform_key)
        return await platform.found(body)

    add_people(app, router, tokens)
    add_work(app, reports)
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)
    return app


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON takes it."""
    return {
        name: str(value) if isinstance(value, uuid.UUID) else float(value) if isinstance(value, Decimal) else value
        for name, value in row.items()
    }


if __name__ == "__main__":
    import uvicorn

    file = Path(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
    key = Path(os.environ.get("PRODUCTIONS_PLATFORM_KEY_FILE", file.parent / "secrets" / "platform_key"))
    if not (text := key.read_text().strip()):
        raise SystemExit(f"{key} is empty: write a key into it, openssl rand -hex 32")
    work, reading = routers(file, pooler=os.environ.get("PRODUCTIONS_POOLER", ""))
    uvicorn.run(make_app(work, reading, text), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
