"""How does a tenant's SQL come in? By the library, or by the PostgreSQL port of a running sidecar; both alike."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import asyncpg

from tenantproxy.driver.guard import Guard
from tenantproxy.errors import IsolationError, TenantProxyError
from tenantproxy.lifecycle.prove.base import CanaryRows, DoorClosed, Pair, Rows, SqlRefused, WallOpen
from tenantproxy.lifecycle.prove.pairs import reason
from tenantproxy.lifecycle.prove.port_client import PortClient, PortRefused
from tenantproxy.model import Tenant
from tenantproxy.router import Router

__all__ = ["LibraryDoor", "PortDoor", "PortTalk", "replayed"]

_REPLAY_TIMEOUT: Final = 10.0
STATEMENT_TIMEOUT: Final = 15.0  # seconds; of what should be answered at once


# --- the library -----------------------------------------------------------------------------------------------------
class LibraryTalk:
    """A lease of the library."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    async def ask(self, sql: str) -> Rows:
        """See `base.Talk`."""
        try:
            rows = await self.guard.fetch(sql, timeout=STATEMENT_TIMEOUT)
        except asyncpg.PostgresError as exc:
            said = " ".join(str(part) for part in (exc, exc.detail, exc.hint) if part)
            raise SqlRefused(exc.sqlstate or "", said) from None
        except IsolationError as exc:
            raise WallOpen(reason(exc)) from None
        except (asyncpg.InterfaceError, OSError, TimeoutError, TenantProxyError) as exc:
            raise DoorClosed(str(exc) or type(exc).__name__) from None
        return [[None if value is None else str(value) for value in row] for row in rows]


class LibraryDoor:
    """A router of this process, which lends one connection at a time of each pool: users of it must share it.

    `replica`: it reads from replicas. `read_only`: by roles that only read.
    """

    turns_each_time: Final = False

    def __init__(self, router: Router, *, replica: bool = False, read_only: bool = False) -> None:
        self.router = router
        self._replica = replica
        self._read_only = read_only

    @property
    def name(self) -> str:
        """See `base.Door`."""
        return "library, reader" if self._read_only else "library, replica" if self._replica else "library"

    @asynccontextmanager
    async def session(self, tenant: Tenant) -> AsyncIterator[LibraryTalk]:
        """See `base.Door`."""
        scope = self.router.tenant(tenant.id, replica=self._replica, read_only=self._read_only)
        lease = scope.connection(timeout=STATEMENT_TIMEOUT)
        try:
            guard = await lease.__aenter__()
        except IsolationError as exc:
            raise WallOpen(reason(exc)) from None
        except TenantProxyError as exc:
            raise DoorClosed(reason(exc)) from None
        except (asyncpg.PostgresError, OSError, TimeoutError) as exc:
            raise DoorClosed(str(exc) or type(exc).__name__) from None
        try:
            yield LibraryTalk(guard)
        finally:
            lease.end()


async def replayed(door: LibraryDoor, pair: Pair, rows: CanaryRows | None) -> None:
    """Wait until the replica that `door` reads from shows the canary rows to both tenants.

    Raises DoorClosed when the primary serves in its place, TimeoutError, what a session raises.
    """
    async with asyncio.timeout(_REPLAY_TIMEOUT):
        for tenant in (pair.first, pair.second):
            while not await _is_replayed(door, tenant, rows):  # noqa: ASYNC110 - a standby announces nothing
                await asyncio.sleep(0.05)


async def _is_replayed(door: LibraryDoor, tenant: Tenant, rows: CanaryRows | None) -> bool:
    async with door.session(tenant) as talk:
        if await talk.ask("SELECT pg_catalog.pg_is_in_recovery()") != [["True"]]:
            raise DoorClosed("no replica serves: the primary is read in its place")
        try:
            return rows is None or bool(await talk.ask(f"SELECT 1 FROM {rows.table}"))
        except SqlRefused as exc:
            if exc.sqlstate == "42P01":  # undefined_table
                return False
            raise


# --- the port --------------------------------------------------------------------------------------------------------
class PortTalk:
    """A client of the port."""

    def __init__(self, client: PortClient) -> None:
        self.client = client

    async def ask(self, sql: str) -> Rows:
        """See `base.Talk`."""
        try:
            answer = await self.client.query(sql)
        except (OSError, TimeoutError) as exc:
            raise DoorClosed(str(exc) or type(exc).__name__) from None
        if answer.errors:
            error = answer.errors[0]
            raise SqlRefused(error["C"], " ".join(error.get(name, "") for name in ("M", "D", "H")))
        if not answer.status:
            raise DoorClosed("the port closed the connection")
        return answer.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PortDoor:
    """The port at `host`:`port`, as one of its users. `mode`: how long that user keeps a backend.

    `tokens`: by tenant, what is the password there, in clear text if it is asked for; else it is `password`.
    """

    host: str
    port: int
    user: str
    password: str = field(default="", repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    mode: Literal["transaction", "session"] = "transaction"
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """See `base.Door`."""
        return f"port, {self.user if self.tokens else self.mode}"

    @property
    def turns_each_time(self) -> bool:
        """See `base.Door`."""
        return self.mode == "transaction"

    async def connect(self, tenant: Tenant, **parameters: str) -> PortClient:
        """A client that has logged in. Raises as `session`."""
        try:
            return await PortClient.enter(
                self.host, self.port, user=self.user, password=self.tokens.get(tenant.id, self.password),
                database=tenant.id, may_show=bool(self.tokens), answer_timeout=STATEMENT_TIMEOUT,
                context=self.context, parameters=parameters,
            )  # fmt: skip
        except PortRefused as exc:
            said = f"{exc.sqlstate}: {exc.fields.get('M', '')} {exc.fields.get('D', '')}".strip()
            if exc.sqlstate == IsolationError.sqlstate:
                raise WallOpen(said) from None
            raise DoorClosed(f"the port refuses the user {self.user} {said}") from None
        except (OSError, TimeoutError, asyncio.IncompleteReadError, TenantProxyError) as exc:
            why = str(exc) or type(exc).__name__
            raise DoorClosed(f"no port answers at {self.host}:{self.port} ({why})") from None

    @asynccontextmanager
    async def session(self, tenant: Tenant, **parameters: str) -> AsyncIterator[PortTalk]:
        """See `base.Door`. `parameters`: of the startup packet."""
        client = await self.connect(tenant, **parameters)
        try:
            yield PortTalk(client)
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(STATEMENT_TIMEOUT):
                    await client.close()
            client.abort()
