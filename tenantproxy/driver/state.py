"""What is known of one open connection of the driver? Its session, its server's clock, and who works on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tenantproxy.driver.behind import ResetBehind
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.detached import Detached
from tenantproxy.driver.pooled import PooledConnection
from tenantproxy.driver.turns import SessionTurns
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import TransactionEntry
from tenantproxy.model import Binding, Session, TenantId
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.pool import Pool

__all__ = ["DriverConnection"]


class DriverConnection:
    """One open connection and what is known of its session. Changed by the lender alone once it is open.

    `bound` is the tenant that the session is set to now; `bound_until` (monotonic) is when its proof ends.
    """

    __slots__ = (
        "_pool",
        "binding",
        "bound",
        "bound_until",
        "con",
        "entry_of",
        "is_aborted",
        "is_settled",
        "keep",
        "leased_at",
        "offset",
        "pid",
        "pool",
        "process",
        "signed",
        "signer",
        "task",
        "turns",
        "version",
        "waited",
    )  # fmt: skip

    def __init__(
        self,
        con: TenantConnection,
        pool: Pool[DriverConnection],
        *,
        process: ServerProcess,
        offset: float,
        version: int,
        signer: Signer | None,
    ) -> None:
        self.con = con
        self.process = process
        self.pool = pool
        self.pid: int = con.get_server_pid()
        self.offset = offset  # the server's clock minus ours
        self.version = version
        self.signer = signer
        self.turns: SessionTurns | None = None  # None: it is reset and bound in messages of their own
        self.entry_of: Callable[[Session], TransactionEntry] | None = None  # behind a pooler: of each transaction
        self.bound: TenantId | None = None
        self.bound_until = 0.0
        self.binding: Binding | None = None  # what it was last entered with
        self.signed: str | None = None  # the signed settings of the lease that it is in
        self.keep = ""  # the reset after which it still is
        self.is_settled = True  # nothing runs on it
        self.is_aborted = False  # we left without the server's knowledge: its side may live on
        self.leased_at = 0.0
        self.waited = 0.0  # seconds, of the lease that it is in, where any of them is looked at
        self.task: asyncio.Task[None] | Detached | ResetBehind | None = None  # the one that resets or ends it
        self._pool = self  # asyncpg's proxy asks its holder's pool to drop caches

    def __repr__(self) -> str:
        return f"<DriverConnection pid={self.pid} pool={self.pool.label!r}>"

    def set_entry(self, session: Session) -> None:
        """Make each of its transactions that of `session`, from now on. Behind a connection pooler only."""
        assert type(self.con) is PooledConnection  # asyncpg says of any connection that it is an instance
        assert self.entry_of is not None
        self.con.entry = self.entry_of(session)

    def server_now(self) -> float:
        """The server's clock, unix seconds."""
        return time.time() + self.offset

    def abort(self) -> None:
        """Leave at once, whatever runs: what is awaited on the connection fails."""
        self.is_aborted = True
        self.con.terminate()

    def _drop_statement_cache(self) -> None:
        for backend in self.pool.connections():
            backend.con.forget_statements()

    def _drop_type_cache(self) -> None:
        for backend in self.pool.connections():
            backend.con.forget_types()
