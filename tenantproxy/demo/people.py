"""Who can log in to the demo? One person in each tenant, and one who is in two; with a password made at start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp

__all__ = ["EVERYWHERE", "LOGIN", "OWN_USERS", "SHARED_USERS", "email_of", "log_in", "tokens_of", "users_of"]

EVERYWHERE: Final = "zoe@everywhere.example"
_IN: Final = ("acme", "umbrella")  # the tenants that Zoe is in

_COLUMNS: Final = "id text NOT NULL, email text NOT NULL, password_hash text NOT NULL, role text NOT NULL"
OWN_USERS: Final = f"CREATE TABLE users ({_COLUMNS}, PRIMARY KEY (id), UNIQUE (email))"
SHARED_USERS: Final = (
    f"CREATE TABLE users (tenant_id text NOT NULL, {_COLUMNS}, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, email))"
)
LOGIN: Final[Mapping[str, Any]] = {
    "account_query": "select id as user_id, password_hash, role from users where lower(email) = $1",
    "lookup_query": "select tenant_id, id as user_id from users where lower(email) = $1",
    "list_query": "select id as user_id, email from users where id > $1 order by id limit $2",
    "session_query": "select role from users where id = $1",
    "pepper_file": "pepper",
}
"""The section of the configuration."""


def email_of(tenant: str) -> str:
    """Who is in this tenant alone."""
    return f"ann@{tenant}.example"


def users_of(tenant: str, password_hash: str, *, shared: bool) -> Sequence[str]:
    """The statement that puts the tenant's people into its table; our own constants, without quotes."""
    people = [("ann", email_of(tenant)), *([("zoe", EVERYWHERE)] if tenant in _IN else [])]
    key = f"'{tenant}', " if shared else ""
    rows = ", ".join(f"({key}'{name}', '{email}', '{password_hash}', 'admin')" for name, email in people)
    return [f"INSERT INTO users ({'tenant_id, ' if shared else ''}id, email, password_hash, role) VALUES {rows}"]


async def log_in(
    http: aiohttp.ClientSession, public_url: str, email: str, password: str, **more: str
) -> tuple[int, dict[str, Any]]:
    """`POST /auth/login`: status and body."""
    body = {"email": email, "password": password, **more}
    async with http.post(f"{public_url}/auth/login", json=body) as response:
        return response.status, await response.json(content_type=None)


async def tokens_of(
    http: aiohttp.ClientSession, public_url: str, tenants: Sequence[str], password: str
) -> dict[str, str]:
    """An access token for each of `tenants`, from a login over HTTP. KeyError where one fails."""
    answers = await asyncio.gather(*(log_in(http, public_url, email_of(tenant), password) for tenant in tenants))
    return {tenant: body["access_token"] for tenant, (_, body) in zip(tenants, answers, strict=True)}
