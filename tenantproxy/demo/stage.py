"""What can a step of the tour use and see? The sidecar over HTTP, its metrics, the router, and PostgreSQL itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
from prometheus_client.parser import text_string_to_metric_families

from tenantproxy.demo.routes import PROJECTS
from tenantproxy.demo.world import APP_ROLE, LOGIN_ROLE, DemoTenant, World
from tenantproxy.router import Router

__all__ = ["DemoAnswer", "Scrape", "Seen", "Stage", "eventually"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One line of the tour: what was done, what had to come, what came."""

    what: str
    expected: str
    saw: str
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoAnswer:
    """An HTTP answer."""

    status: int
    body: dict[str, Any]

    @property
    def projects(self) -> tuple[str, ...]:
        """The names in an answer of the demo's route; empty in an error."""
        return tuple(project["name"] for project in self.body.get("projects", ()))


class Scrape:
    """One reading of `/metrics`."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        """The value of this very series (`tenantproxy_` is added), None when it is missing."""
        return self._samples.get((f"tenantproxy_{name}", frozenset(labels.items())))

    def count(self, name: str, **labels: str) -> int:
        """A counter's value; one that has not appeared yet is 0."""
        return int(self.get(name, **labels) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything a step may use. `watch` is a superuser's connection that looks at pg_stat_activity.

    `tokens`: by tenant, from a login over HTTP.
    """

    world: World
    router: Router
    tokens: Mapping[str, str] = field(repr=False)
    public_url: str
    admin_url: str
    pg_address: str
    http: aiohttp.ClientSession
    watch: asyncpg.Connection

    async def ask(self, tenant: DemoTenant | None = None, **headers: str) -> DemoAnswer:
        """`GET /demo/projects` with the tenant's token."""
        if tenant is not None:
            headers["Authorization"] = f"Bearer {self.tokens[tenant.id]}"
        async with self.http.get(self.public_url + PROJECTS, headers=headers) as response:
            return DemoAnswer(status=response.status, body=await response.json(content_type=None))

    async def log_in(self, email: str, password: str) -> tuple[int, dict[str, Any]]:
        """`POST /auth/login`: status and body."""
        return await self.post("/auth/login", {"email": email, "password": password})

    async def post(self, path: str, body: Mapping[str, object]) -> tuple[int, dict[str, Any]]:
        """Status and body of a call of the public listener."""
        async with self.http.post(self.public_url + path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def ready(self) -> int:
        """The status of `/readyz`."""
        async with self.http.get(f"{self.admin_url}/readyz") as response:
            return response.status

    async def scrape(self) -> Scrape:
        """`/metrics`, now."""
        async with self.http.get(f"{self.admin_url}/metrics") as response:
            return Scrape(await response.text())

    async def backends(self, role: str | None = None) -> int:
        """How many of our sessions (of `role`) PostgreSQL has, by pg_stat_activity."""
        roles = {APP_ROLE, LOGIN_ROLE, *(tenant.role for tenant in self.world.tenants if tenant.role)}
        count = await self.watch.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY($1::text[])", [role] if role else list(roles)
        )
        return int(count)


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 30.0) -> bool:
    """Whether `condition` comes true; looked at again until it does or `within` seconds are over."""
    deadline = time.monotonic() + within
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
