"""How long does each statement of the library take? Connections that are looked at are of classes made here.

Not theirs: statements that were prepared by the caller, cursors, and COPY; and connections behind a pooler.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, TypeVar

import asyncpg

from tenantproxy.connect.opening import Opening
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.pooled import PooledConnection
from tenantproxy.driver.renewing import RenewingConnection, ReplicaConnection
from tenantproxy.driver.state import DriverConnection
from tenantproxy.model import PoolKey
from tenantproxy.watch import StatementOver, Watch

__all__ = ["StatementTimes", "connection_class"]

_TIMED: Final = ("fetch", "fetchrow", "fetchval", "fetchmany", "execute", "executemany", "run_kept")

Con = TypeVar("Con", bound=TenantConnection)


class StatementTimes:
    """Tells `watch` of the statements on one connection, for the tenant whose session that is."""

    __slots__ = ("_backend", "_watch")

    def __init__(self, watch: Watch, backend: DriverConnection) -> None:
        self._watch = watch
        self._backend = backend

    def tell(self, text: str, seconds: float, error: str) -> None:
        """A statement is over."""
        pool = self._backend.pool
        tenant = self._backend.bound or pool.label
        self._watch.statement(StatementOver(pool.key.server, pool.label, tenant, text, seconds, error))


def connection_class(opening: Opening, key: PoolKey, watch: Watch | None) -> type[TenantConnection]:
    """What a connection for `key` is made of; `watch` is told of its statements, but not behind a pooler."""
    if opening.server(key).pooler:
        return PooledConnection
    cls = RenewingConnection if key.shared else TenantConnection
    if opening.is_replica(key):
        cls = ReplicaConnection
    return cls if watch is None else _watched(cls)


@functools.cache
def _watched(cls: type[Con]) -> type[Con]:
    """`cls`, whose statements are timed once `observed_by` is set."""
    methods = {name: _timed(getattr(cls, name)) for name in _TIMED}
    kind: Any = type(cls)
    made: type[Con] = kind(f"Watched{cls.__name__}", (cls,), {"__slots__": (), **methods})
    return made


def _timed(method: Callable[..., Awaitable[Any]]) -> Any:
    async def call(con: TenantConnection, query: str, *args: Any, **kwargs: Any) -> Any:
        times: StatementTimes | None = con.observed_by
        if times is None:  # it is being opened
            return await method(con, query, *args, **kwargs)
        started, error = monotonic(), ""
        try:
            return await method(con, query, *args, **kwargs)
        except BaseException as exc:
            error = (exc.sqlstate or "") if isinstance(exc, asyncpg.PostgresError) else type(exc).__name__
            raise
        finally:
            times.tell(query, monotonic() - started, error)

    return functools.update_wrapper(call, method)
