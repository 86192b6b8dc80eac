"""When is the binding of a lent connection renewed? Before a statement, never within a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from tenantproxy.connect.checks import WrongRole
from tenantproxy.driver.connection import Kept, TenantConnection
from tenantproxy.driver.handles import LeasedStatement

__all__ = ["RenewingConnection", "ReplicaConnection"]


class RenewingConnection(TenantConnection):
    """A connection whose binding to a tenant has an end: it is renewed before a statement, never within a transaction.

    `renew_at` is a moment of `time.monotonic()`, `renew` what to await then. A transaction is not cut: PostgreSQL
    counts the window at its start.
    """

    __slots__ = ("renew", "renew_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renew_at = float("inf")
        self.renew: Callable[[], Awaitable[None]] | None = None

    async def renew_if_due(self) -> None:
        """Renew the binding when its time has come. Raises IsolationError, and the connection is then closed."""
        if monotonic() >= self.renew_at and self.renew is not None and not self._protocol.is_in_transaction():
            self.renew_at = float("inf")  # the renewal itself runs statements
            lease = self._pool_release_ctr
            await self.renew()
            self._check_lease(lease)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super().execute(query, *args, timeout=timeout)

    def _execute(self, *args: Any, **kwargs: Any) -> Any:  # no coroutine of its own: every statement goes through here
        if monotonic() < self.renew_at:
            return super()._execute(*args, **kwargs)
        return self._execute_renewed(*args, **kwargs)

    async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
        """As any connection's."""
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super().run_kept(query, args)

    async def _execute_renewed(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._execute(*args, **kwargs)

    async def _executemany(self, *args: Any, **kwargs: Any) -> Any:
        if monotonic() >= self.renew_at:
            await self.renew_if_due()
        return await super()._executemany(*args, **kwargs)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """As any connection's."""
        await self.renew_if_due()
        return await super().copy_records_to_table(table_name, **options)

    async def _copy_out(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._copy_out(*args, **kwargs)

    async def _copy_in(self, *args: Any, **kwargs: Any) -> Any:
        await self.renew_if_due()
        return await super()._copy_in(*args, **kwargs)

    async def _prepare(self, query: str, **kwargs: Any) -> Any:
        await self.renew_if_due()
        statement = await super()._prepare(query, **kwargs)
        statement.__class__ = _RenewingStatement
        return statement


class ReplicaConnection(RenewingConnection):
    """A connection to a replica: it takes no statement more once its server says that it was promoted.

    PostgreSQL (14 and later) says so with its answer to the first statement after the promotion. Transactions are read
    only by default; but a user who makes one write would write to what its former primary never sees.
    """

    __slots__ = ("_due_at",)

    @property
    def renew_at(self) -> float:
        """Always due: it looks before each statement."""
        return 0.0

    @renew_at.setter
    def renew_at(self, moment: float) -> None:
        self._due_at = moment

    async def renew_if_due(self) -> None:
        """As any connection's. Raises WrongRole after a promotion, and the connection ends with its lease."""
        if getattr(self.get_settings(), "in_hot_standby", "on") != "on":
            self.is_doubtful = True
            raise WrongRole("the replica was promoted", hint="try again: it is read elsewhere then", retry_after=0.1)
        if monotonic() >= self._due_at and self.renew is not None and not self._protocol.is_in_transaction():
            self._due_at = float("inf")  # the renewal itself runs statements
            lease = self._pool_release_ctr
            await self.renew()
            self._check_lease(lease)


class _RenewingStatement(LeasedStatement):
    """A prepared statement that renews the binding of its connection as the connection itself does."""

    __slots__ = ()

    async def _PreparedStatement__do_execute(self, executor: Any) -> Any:  # noqa: N802 - overrides asyncpg's private method
        await self._connection.renew_if_due()
        return await super()._PreparedStatement__do_execute(executor)
