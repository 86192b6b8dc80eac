"""What does the console see, and what may it do? The listener implements it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tenantproxy.config import Settings
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import TenantId
from tenantproxy.pools.base import Stats

__all__ = ["ClientRow", "ConsoleView", "Counts", "ServerRow", "WorkerRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRow:
    """One client, now. Times are unix time. `tenant` None: on the console.

    `server_id`: the backend that it has; `pool`: the label of the pool that serves it, once there is one.
    """

    id: int
    user: str
    tenant: str | None
    state: Literal["active", "idle", "waiting"]
    address: str
    port: int
    local_address: str
    local_port: int
    connected_at: float
    requested_at: float | None = None
    waiting_seconds: float = 0.0
    server_id: int | None = None
    pool: str | None = None
    pool_mode: Literal["transaction", "session"] = "transaction"
    application_name: str = ""
    prepared_statements: int = 0
    is_pinned: bool = False
    backend: str = ""  # server and process id of what it holds
    tls: str = ""
    worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One backend, now. `tenant`: whose it is or is bound to; None: no tenant's. `client_id`: its holder."""

    id: int
    server: str
    user: str
    database: str
    tenant: str | None
    state: Literal["active", "idle", "tested", "active_cancel"]
    address: str
    port: int
    local_address: str
    local_port: int
    connected_at: float
    requested_at: float | None = None
    pid: int = 0
    client_id: int | None = None
    application_name: str = ""
    prepared_statements: int = 0
    tls: str = ""
    worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One process that serves. `number` 0: it is alone. `restarts`: how often the one in its place had crashed."""

    number: int
    pid: int
    state: str
    started_at: float
    restarts: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What passed for one tenant since the start; nothing here ever goes back."""

    queries: int = 0
    transactions: int = 0
    leases: int = 0
    logins: int = 0
    received: int = 0
    sent: int = 0
    query_seconds: float = 0.0
    transaction_seconds: float = 0.0
    wait_seconds: float = 0.0


class ConsoleView(Protocol):
    """The listener as the console sees it. The verbs raise TenantNotFound and other TenantProxyErrors."""

    @property
    def settings(self) -> Settings:
        """Those in force."""
        ...

    @property
    def version(self) -> str:
        """The version that runs."""
        ...

    @property
    def data_path(self) -> str:
        """Which carries the port's transactions."""
        ...

    def stats(self) -> Stats:
        """The router's."""
        ...

    def clients(self) -> Iterable[ClientRow]:
        """All clients of the port."""
        ...

    def servers(self) -> Iterable[ServerRow]:
        """All backends of the port's pools."""
        ...

    def counts(self) -> Mapping[str, Counts]:
        """By tenant; those beyond `metrics.max_tenants` under `_other`."""
        ...

    def limits(self) -> Iterable[LimitUsage]:
        """The limits of `[pg]`, and what is used of them."""
        ...

    def workers(self) -> Iterable[WorkerRow]:
        """The processes that serve."""
        ...

    async def gathered(self) -> ConsoleView:
        """What holds for all workers, as of now; the view itself where there is one process."""
        ...

    @property
    def unauthenticated(self) -> int:
        """How many connections have not logged in."""
        ...

    def paused(self) -> Collection[str]:
        """The tenants that `pause` stopped."""
        ...

    async def things(self, tenant: TenantId) -> list[dict[str, Any]]:
        """Whom a `pause`, `resume` or `kill` concerns now, as the audit log names them."""
        ...

    async def pause(self, tenant: TenantId) -> None:
        """Lend nothing to the tenant; returns when its last transaction is over. Cancelled, it stays paused."""
        ...

    async def resume(self, tenant: TenantId) -> None:
        """Undo `pause` and `kill`."""
        ...

    async def kill(self, tenant: TenantId) -> list[dict[str, Any]]:
        """As `pause`, and end its clients and what runs for them at once; whom, as the audit log names them."""
        ...

    async def reload(self) -> Collection[str]:
        """Read the configuration again; returns the keys that changed. Raises ConfigurationError: nothing changed."""
        ...
