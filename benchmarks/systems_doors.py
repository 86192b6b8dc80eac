"""By which doors do a platform's tenants come? The library, its replica, the port, `/sql`, the platform's own service.

A door takes a few statements as one transaction, whole or not at all, and hands back what each was answered. A caller
that is cancelled leaves in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

import asyncpg

from benchmarks.systems_ledger import Refused
from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.scope import TenantScope

__all__ = ["ALL", "READS", "Door", "Library", "OverHttp", "Port", "Rows", "Service", "Statement"]

Statement: TypeAlias = tuple[str, tuple[str, ...]]
Rows: TypeAlias = list[Sequence[object]]

READS: Final = ("read", "list", "join")
ALL: Final = ("write", *READS, "transaction", "undone", "left")
_SECONDS: Final = 60.0  # for one transaction: what takes longer is told as an error that nothing explains


class Door(Protocol):
    """One caller's way in, as one tenant."""

    name: str
    kinds: Sequence[str]

    async def do(self, *statements: Statement) -> list[Rows]:
        """All of them in one transaction; raises what the door answers instead."""
        ...

    async def close(self) -> None:
        """Let go of what it keeps."""
        ...


class Library:
    """`router.tenant(...)` in the process of the service."""

    def __init__(self, name: str, scope: TenantScope, kinds: Sequence[str] = ALL) -> None:
        self.name, self._scope = name, scope
        self.kinds: Sequence[str] = kinds

    async def do(self, *statements: Statement) -> list[Rows]:
        """One statement by the scope itself, more in a transaction of it."""
        async with asyncio.timeout(_SECONDS):
            if len(statements) == 1:
                sql, args = statements[0]
                return [[tuple(row) for row in await self._scope.fetch(sql, *args)]]
            async with self._scope.transaction() as conn:
                return [[tuple(row) for row in await conn.fetch(sql, *args)] for sql, args in statements]

    async def close(self) -> None:
        """It keeps nothing."""


class Port:
    """A client of the PostgreSQL port that stays connected until it fails, or leaves: then without a word."""

    def __init__(self, stage: SystemStage, tenant: str, user: str, password: str) -> None:
        self.name = "port"
        self.kinds: Sequence[str] = ALL
        self._place: dict[str, Any] = {
            "host": "127.0.0.1", "port": int(stage.pg.rpartition(":")[2]), "user": user, "database": tenant,
            "password": password, "timeout": _SECONDS,
        }  # fmt: skip
        self._client: asyncpg.Connection | None = None

    async def do(self, *statements: Statement) -> list[Rows]:
        """The extended protocol, as asyncpg speaks it."""
        try:
            async with asyncio.timeout(_SECONDS):
                if self._client is None or self._client.is_closed():
                    self._client = await asyncpg.connect(**self._place)
                if len(statements) == 1:
                    sql, args = statements[0]
                    return [[tuple(row) for row in await self._client.fetch(sql, *args)]]
                async with self._client.transaction():
                    return [[tuple(row) for row in await self._client.fetch(sql, *args)] for sql, args in statements]
        except BaseException:
            if self._client is not None:
                self._client.terminate()
            self._client = None
            raise

    async def close(self) -> None:
        """Politely."""
        if self._client is not None:
            with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError, TimeoutError):
                await self._client.close(timeout=10)


class OverHttp:
    """`POST /sql` as Neon's driver sends it: one statement, or a batch as one transaction."""

    def __init__(self, stage: SystemStage, token: str, tenant: str) -> None:
        self.name, self._stage = "/sql", stage
        self.kinds: Sequence[str] = ALL
        self._headers = {
            "Authorization": f"Bearer {token}", "Neon-Array-Mode": "true",
            "Neon-Connection-String": f"postgresql://jwt@db.example/{tenant}",
        }  # fmt: skip

    async def do(self, *statements: Statement) -> list[Rows]:
        """Raises Refused with the SQLSTATE."""
        each = [{"query": sql, "params": args} for sql, args in statements]
        async with asyncio.timeout(_SECONDS):
            status, said = await self._stage.ask(
                "POST", "/sql", each[0] if len(each) == 1 else {"queries": each}, **self._headers
            )
        if status != 200:
            raise Refused(str(said.get("code") or f"http {status}"), str(said)[:200])
        return [part["rows"] for part in said.get("results", [said])]

    async def close(self) -> None:
        """It keeps nothing."""


class Service:
    """The platform's own service: a row is posted by its mark, which is the one argument of the one statement."""

    def __init__(self, stage: SystemStage, path: str, body: Callable[[str], object], **headers: str) -> None:
        self.name = "service"
        self.kinds: Sequence[str] = ("write",)
        self._stage, self._path, self._body, self._headers = stage, path, body, headers

    async def do(self, *statements: Statement) -> list[Rows]:
        """Raises Refused with the status."""
        ((_, (mark,)),) = statements
        async with asyncio.timeout(_SECONDS):
            status, said = await self._stage.ask("POST", self._path, self._body(mark), **self._headers)
        if status != 201:
            raise Refused(f"http {status}", str(said)[:200])
        return [[]]

    async def close(self) -> None:
        """It keeps nothing."""
