"""What may a lent asyncpg connection do? All that asyncpg's can, until its lease ends; then nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from tenantproxy.driver.connection import Kept, TenantConnection
from tenantproxy.driver.private import AsyncpgProxy
from tenantproxy.driver.reading import SlicedReading

__all__ = ["Guard", "Lent", "reading_in_slices"]


class Lent(Protocol):
    """What a guard needs of the pool that lends: asyncpg asks its `_pool` to drop caches of all its connections."""

    def _drop_statement_cache(self) -> None: ...
    def _drop_type_cache(self) -> None: ...


class Guard(AsyncpgProxy):
    """One lease of an asyncpg connection: everything that `asyncpg.Connection` can do, until the block ends.

    Afterwards each call raises asyncpg's InterfaceError when it is awaited, even if it was made in the block, and so do
    statements, cursors and transactions kept from it. `isinstance(guard, asyncpg.Connection)` holds.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # What a lease has in addition to asyncpg's own methods. All its coroutine methods are set below.
        async def prepare_kept(self, query: str) -> PreparedStatement[asyncpg.Record]:
            """See `TenantConnection.prepare_kept`."""
            ...

        async def run_kept(self, query: str, args: Sequence[object]) -> Kept:
            """See `TenantConnection.run_kept`."""
            ...

        async def commit_begun(self) -> None:
            """See `TenantConnection.commit_begun`."""
            ...

        async def rollback_begun(self) -> None:
            """See `TenantConnection.rollback_begun`."""
            ...
    else:

        def __getattr__(self, name: str) -> Any:
            if name[0] != "_":  # asyncpg would give what `TenantConnection` has for the lender
                raise AttributeError(f"a lent connection has no {name!r}")
            return super().__getattr__(name)

    @contextmanager
    def query_logger(self, callback: Any) -> Iterator[None]:
        """As asyncpg's, of the lease in which the block is entered."""
        self.add_query_logger(callback)
        try:
            yield
        finally:
            if self._con is not None:
                self.remove_query_logger(callback)

    def begin_with_next(self, **options: Any) -> None:
        """See `TenantConnection.begin_with_next`. Raises InterfaceError when the lease has ended."""
        if self._con is None:
            raise asyncpg.InterfaceError("the connection has been released back to the pool")
        self._con.begin_with_next(**options)

    def detach(self) -> TenantConnection | None:
        """End the lease on this side; the connection, or None when it ended before."""
        con: TenantConnection | None = self._detach()
        return con


@contextmanager
def reading_in_slices(guard: Guard) -> Iterator[None]:
    """For the block, thousands of announcements on the lent connection do not hold the event loop. Not for COPY."""
    con = guard._con
    if con is None or con.is_closed():
        yield
        return
    reading = SlicedReading(con._transport)
    try:
        yield
    finally:
        reading.stop()


# Calls ahead of which a BEGIN that is due goes out by itself; for `execute` it depends on its arguments.
_BEGIN: Final = frozenset({"fetch", "fetchrow", "fetchval", "run_kept", "close", "commit_begun", "rollback_begun"})


def _guarded(name: str) -> Any:
    """The coroutine method `name` of the lent connection; see "what a lease hands out"."""

    async def call(guard: Guard, *args: Any, **kwargs: Any) -> Any:
        con = guard._con
        if con is None:
            raise asyncpg.InterfaceError(
                f"cannot call Connection.{name}(): connection has been released back to the pool"
            )
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            if con.is_unsynced and name != "close":
                await con.sync(kwargs.get("timeout"))
            if con.begin is not None and not (name in _BEGIN or (name == "execute" and len(args) > 1)):
                await con.begin_now(kwargs.get("timeout"))
            return await getattr(con, name)(*args, **kwargs)
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1

    return functools.update_wrapper(call, getattr(TenantConnection, name))


for _name, _ in inspect.getmembers(asyncpg.Connection, inspect.iscoroutinefunction):
    if _name[0] != "_":
        setattr(Guard, _name, _guarded(_name))
for _name in ("commit_begun", "prepare_kept", "rollback_begun", "run_kept"):
    setattr(Guard, _name, _guarded(_name))
