"""What can a step of a platform's tour use? Its service over HTTP, its router, commands, and PostgreSQL itself."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import asyncpg

from tenantproxy.demo.commands import ourselves, run_command
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_world import SystemWorld
from tenantproxy.router import Router

__all__ = ["SystemStage", "counted", "seen", "state", "together"]

_AT_ONCE: Final = 4


def seen(what: str, expected: str, saw: object) -> Seen:
    """A line that is good when both are the same text."""
    return Seen(what=what, expected=expected, saw=str(saw), ok=str(saw) == expected)


async def together(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """All of them, a few at once, in their order."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Awaitable[Any]) -> Any:
        async with turns:
            return await call

    return await asyncio.gather(*map(one, calls))


def counted(values: Iterable[object]) -> str:
    """`201: 25`: each value, and how often it came; the latter ones last."""
    return ", ".join(f"{value}: {count}" for value, count in Counter(map(str, values)).items())


def state(row: Any) -> object:
    """That of a tenant, as a command says it in JSON: of one, or of the first of a list."""
    return (row[0] if isinstance(row, list) else row)["state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStage:
    """`watch` is a superuser's connection. `size`: how many tenants the day has. `kept`: for the steps behind one.

    `pg`: host and port of the PostgreSQL port, where the platform has one.
    """

    world: SystemWorld
    router: Router
    url: str
    http: aiohttp.ClientSession
    watch: asyncpg.Connection
    size: int
    pg: str = ""
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and body of a request to the service: JSON, or text where it is none."""
        async with self.http.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            try:
                return response.status, json.loads(text)
            except ValueError:
                return response.status, text

    async def command(
        self, line: str, expected: str, say: Callable[[Any], object] | None = None, *, config: str | None = None
    ) -> Seen:
        """Type `tenantproxy LINE`: its exit code, or what `say` makes of its JSON, compared with `expected`.

        `config`: another of the platform's files.
        """
        arguments = (*shlex.split(line), *(["--json"] if say is not None else []))
        typed = await run_command(
            (*ourselves(), *arguments, "--config", str(self.world.config.with_name(config or self.world.config.name))),
            self.world.environment,
        )
        saw: object = f"exit {typed.code}"
        if typed.code == 0 and say is not None:
            saw = say(json.loads(typed.out))
        elif typed.code != 0:
            saw = f"exit {typed.code}: {(typed.out + typed.err).strip()[-900:]}"
        named = f" --config {config}" if config else ""
        return seen(f"$ tenantproxy {line}{named}", expected, saw)

    async def count(self, query: str, *args: object, database: str | None = None) -> int:
        """A number that a superuser sees."""
        conn = self.watch if database is None else await self.world.connect(database)
        try:
            return int(await conn.fetchval(query, *args))
        finally:
            if conn is not self.watch:
                await conn.close()
