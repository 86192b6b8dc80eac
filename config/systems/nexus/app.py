"""NEXUS's service: people log in, viewers only read, and every change is written down with who made it, and from where.

`TENANTPROXY_CONFIG` is the path of the configuration: by default tenantproxy.toml.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tenantproxy import Router, TenantScope
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware, tenant

TENANT = "main"  # the only one

Db = Annotated[TenantScope, Depends(tenant)]


class Login(BaseModel):
    """The body of `POST /auth/login`."""

    email: str
    password: str


class NewAccount(BaseModel):
    """The body of `POST /accounts`."""

    account_name: str
    account_number: str
    account_type: str = "savings"
    currency: str = "EUR"


class NewTransaction(BaseModel):
    """The body of `POST /accounts/{account}/transactions`."""

    amount: Decimal
    transaction_type: str = "deposit"
    description: str | None = None


routes = APIRouter()


@routes.get("/healthz")
async def health(request: Request) -> dict[str, Any]:
    """Whether the database answers, and how many connections there are."""
    router: Router = request.app.state.router
    answered = await router.tenant(TENANT).fetchval("SELECT 1", timeout=2.0)
    pools = router.stats().pools
    return {"status": "ok" if answered == 1 else "failed", "connections": sum(pool.idle + pool.used for pool in pools)}


@routes.post("/auth/login")
async def log_in(body: Login, request: Request) -> dict[str, str | None]:
    """A token that says the role; that someone logged in is written down too."""
    router: Router = request.app.state.router
    tokens: Tokens = request.app.state.tokens
    address = request.client.host if request.client else None
    (account,) = await router.login(body.email, body.password, address=address)
    context = {
        "app.user_id": account.user,
        "app.ip_address": address or "",
        "app.user_agent": request.headers.get("user-agent", ""),
    }
    db = router.tenant(TENANT, context=context)
    await db.execute("UPDATE users SET last_login = now() WHERE id = $1", UUID(account.user))
    role = None if account.claims["role"] is None else str(account.claims["role"])
    token = tokens.issue(tenant=await tokens.look_up(account.tenant), user=account.user, role=role)
    return {"access_token": token, "token_type": "bearer", "role": role}


@routes.get("/users/me")
async def profile(db: Db, request: Request) -> dict[str, Any]:
    """The user's own profile."""
    found = await db.fetchrow(
        "SELECT email, username, first_name, last_name, is_verified FROM users WHERE id = $1", who(request)
    )
    if found is None:
        raise HTTPException(404)
    return dict(found)


@routes.get("/accounts")
async def accounts(db: Db) -> list[dict[str, Any]]:
    """All accounts, the first hundred."""
    rows = await db.fetch("SELECT id, account_name, balance, currency FROM accounts ORDER BY account_name LIMIT 100")
    return [dict(row) for row in rows]


@routes.post("/accounts", status_code=201)
async def new_account(body: NewAccount, db: Db, request: Request) -> dict[str, UUID]:
    """An account of the user's."""
    try:
        made = await db.fetchval(
            "INSERT INTO accounts (user_id, account_name, account_number, account_type, currency)"
            " VALUES ($1, $2, $3, $4, $5) RETURNING id",
            who(request), body.account_name, body.account_number, body.account_type, body.currency,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise HTTPException(409, "there is an account of this number") from None
    return {"id": made}


@routes.post("/accounts/{account}/transactions", status_code=201)
async def new_transaction(account: UUID, body: NewTransaction, db: Db) -> dict[str, UUID]:
    """A transaction and the balance behind it, or neither."""
    async with db.transaction() as conn:
        changed = await conn.execute("UPDATE accounts SET balance = balance + $2 WHERE id = $1", account, body.amount)
        if changed != "UPDATE 1":
            raise HTTPException(404, "there is no such account")
        made = await conn.fetchval(
            "INSERT INTO transactions (account_id, amount, transaction_type, description, status)"
            " VALUES ($1, $2, $3, $4, 'completed') RETURNING id",
            account, body.amount, body.transaction_type, body.description,
        )  # fmt: skip
    return {"id": made}


@routes.get("/audit")
async def audit(db: Db, request: Request, table: str = "accounts") -> list[dict[str, Any]]:
    """Who changed what in a table, the last ones first; for administrators."""
    if request.state.identity.claims.get("role") != "admin":
        raise HTTPException(403, "for administrators")
    rows = await db.fetch(
        "SELECT record_id, action, changed_by, host(ip_address) AS ip_address, user_agent, changed_at"
        " FROM audit_logs WHERE table_name = $1 ORDER BY changed_at DESC, id LIMIT 100",
        table,
    )
    return [dict(row) for row in rows]


async def refused(request: Request, error: Exception) -> JSONResponse:
    """PostgreSQL refused a statement of a role that may not run it."""
    return JSONResponse({"error": "your role may not do this"}, status_code=403)


def make_app(router: Router) -> FastAPI:
    """The application; the router is opened and closed with it."""
    app = FastAPI(title="NEXUS", exception_handlers={asyncpg.InsufficientPrivilegeError: refused})
    app.state.router = router
    app.state.tokens = tokens = Tokens(router.settings.auth, tenants=router.registry)
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)
    app.include_router(routes)
    return app


def who(request: Request) -> UUID:
    """The user that the request's token is of."""
    return UUID(request.state.identity.user)


if __name__ == "__main__":
    import uvicorn

    config = os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml")
    uvicorn.run(make_app(Router.from_file(config)), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
