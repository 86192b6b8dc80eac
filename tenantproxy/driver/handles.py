"""What does a lease hand out? Statements, cursors and transactions that end with it, and are counted while they run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from asyncpg.transaction import Transaction

from tenantproxy.driver.private import AsyncpgCursorFactory, AsyncpgPortal, AsyncpgRows, AsyncpgStatement

if TYPE_CHECKING:
    from tenantproxy.driver.connection import TenantConnection
    from tenantproxy.driver.gated import GatedConnection

__all__ = ["LeasedFactory", "LeasedStatement", "LeasedTransaction", "PooledTransaction"]


# --- what a lease hands out ------------------------------------------------------------------------------------------
# asyncpg asks whether the lease goes on when a method is called. Its coroutine may run when it likes, in a task that
# starts after the block, say, and would then run for its next user. So each of them is a coroutine
# around asyncpg's, which is called in the first step. One that has begun is counted until it has ended: a
# connection that comes back with one under way, be it between two answers of the server, is not lent again.
def _leased(method: Callable[..., Any]) -> Any:
    """`method` of a statement, cursor or transaction; it asks itself whether its lease goes on."""

    checks = method.__name__ != "__aexit__"  # that of a transaction does it, and forgives what ends a generator

    async def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        if checks:  # before anything is done to the connection, which may be another user's by now
            resource._check_conn_validity(method.__name__)
        con: TenantConnection = resource._connection
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            if con.is_unsynced:
                await con.sync(kwargs.get("timeout"))
            if con.begin is not None:
                await con.begin_now(kwargs.get("timeout"))
            if con.is_behind_pooler and not isinstance(resource, Transaction):
                return await con.within(partial(method, resource), *args, **kwargs)
            return await method(resource, *args, **kwargs)
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1

    return functools.update_wrapper(call, method)


_Class = TypeVar("_Class", bound=type)


def _all_leased(cls: _Class) -> _Class:
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if inspect.iscoroutinefunction(inspect.unwrap(method)) and (name[0] != "_" or name.endswith("__")):
            setattr(cls, name, _leased(method))
    return cls


@_all_leased
class LeasedTransaction(Transaction):
    """A transaction of one lease."""

    __slots__ = ()


class PooledTransaction(LeasedTransaction):
    """A transaction behind a connection pooler: its connection makes it the tenant's when it begins."""

    __slots__ = ()

    _connection: GatedConnection

    async def start(self) -> None:
        """As asyncpg's."""
        with self._connection.managing():
            await super().start()

    async def commit(self) -> None:
        """As asyncpg's."""
        with self._connection.managing():
            await super().commit()

    async def rollback(self) -> None:
        """As asyncpg's."""
        with self._connection.managing():
            await super().rollback()

    async def __aexit__(self, *args: Any) -> None:
        with self._connection.managing():
            await super().__aexit__(*args)


@_all_leased
class _LeasedPortal(AsyncpgPortal):
    __slots__ = ()


@_all_leased
class _LeasedRows(AsyncpgRows):
    __slots__ = ()


class LeasedFactory(AsyncpgCursorFactory):
    """What `cursor()` returns: awaited for a portal, iterated over for rows."""

    __slots__ = ()

    def __aiter__(self) -> Any:
        rows = super().__aiter__()
        rows.__class__ = _LeasedRows
        return rows

    def __await__(self) -> Generator[Any, Any, Any]:  # asyncpg's is called in the first step of this one
        con: TenantConnection = self._connection
        lease = con._pool_release_ctr
        con.under_way += 1
        try:
            if con.begin is not None:
                yield from con.begin_now(None).__await__()
            portal = yield from super().__await__()
        except BaseException as exc:
            con.note_failure(exc, lease)
            raise
        finally:
            con.under_way -= 1
        portal.__class__ = _LeasedPortal
        return portal


@_all_leased
class LeasedStatement(AsyncpgStatement):
    """A prepared statement of one lease."""

    __slots__ = ()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        factory = super().cursor(*args, **options)
        factory.__class__ = LeasedFactory
        return factory
