"""Why was there no connection? Which limit, its value, how many wait, what to do. Pure."""

from __future__ import annotations

from tenantproxy.errors import (
    BudgetExhausted,
    ConnectFailed,
    IdlePinned,
    IdleTransaction,
    LeaseExpired,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    TenantProxyError,
)

__all__ = [
    "budget_spent",
    "closed",
    "fenced",
    "held_too_long",
    "idle_in_transaction",
    "idle_pinned",
    "not_ready",
    "pool_spent",
    "queue_full",
    "tenant_spent",
    "unreachable",
    "without_place",
]


def closed() -> PoolClosed:
    """Nothing is lent any more."""
    return PoolClosed("the pool is closed", hint="the tenant was removed or the router is closing")


def queue_full(*, max_waiting: int, leased: int, max_size: int) -> PoolFull:
    """As many wait as may wait."""
    return PoolFull(
        "too many wait for a connection of this tenant",
        detail=f"max_waiting = {max_waiting} wait, {leased} of max_size = {max_size} are lent",
        hint="raise max_size or max_waiting, or send fewer requests at once",
        retry_after=1.0,
    )


def tenant_spent(
    timeout: float, *, max_size: int, leased: int, closing: int, lingering: int, waiting: int
) -> PoolTimeout:
    """The tenant holds all that it may, or left too much behind that still runs on the server."""
    if not (closing or lingering):
        return PoolTimeout(
            _none_free(timeout),
            detail=f"all max_size = {max_size} connections of this tenant are lent, {_more(waiting)}",
            hint="hold connections for less time, or raise max_size",
            retry_after=max(1.0, timeout),
        )
    hint = "hold connections for less time, or raise max_size"
    if lingering:
        hint = "end the statements that still run on the server after their callers left, or wait until they have ended"
    return PoolTimeout(
        _none_free(timeout),
        detail=f"of max_size = {max_size} connections of this tenant {leased} are lent, {closing} being reset or closed"
        f" and {lingering} still at work on the server after their callers left, {_more(waiting)}",
        hint=hint,
        retry_after=max(1.0, timeout),
    )


def held_too_long(seconds: float, *, max_hold: float) -> LeaseExpired:
    """Others waited for the connection."""
    return LeaseExpired(
        f"the connection was closed after {seconds:.3g} s, as others waited for it",
        detail=f"max_hold = {max_hold:g} s; what its transaction did is undone",
        hint="hold connections for less time, or raise max_hold in [pools]",
        retry_after=1.0,
    )


def fenced() -> LeaseExpired:
    """What the process may use is not known any more."""
    return LeaseExpired(
        "the connection was closed, as this process does not reach the main database of its fleet",
        detail="without it, it keeps [fleet] floor connections to each server; what its transaction did is undone",
        hint="look at the main database; raise floor in [fleet] to keep more",
        retry_after=1.0,
    )


def idle_in_transaction(limit: float) -> IdleTransaction:
    """A client keeps a transaction open and does nothing."""
    return IdleTransaction(
        "terminating connection due to idle-in-transaction timeout",
        detail=f"idle_transaction_timeout = {limit:g} s",
        hint="end transactions when their work is done, or raise idle_transaction_timeout in [pg]",
    )


def idle_pinned(limit: float) -> IdlePinned:
    """A client keeps a connection and does nothing, while others wait for one."""
    return IdlePinned(
        "terminating connection: it was idle, with something left in its session, while others waited",
        detail=f"idle_transaction_timeout = {limit:g} s",
        hint="drop temporary tables, release advisory locks and reset settings, or send DISCARD ALL, when they are not"
        " needed any more",
    )


def pool_spent(timeout: float, *, limit: int, waiting: int) -> PoolTimeout:
    """The tenants of a shared pool hold all that it has."""
    return PoolTimeout(
        _none_free(timeout),
        detail=f"all {limit} connections of this pool are lent, {_more(waiting)}",
        hint="hold connections for less time, or raise shared_size",
        retry_after=max(1.0, timeout),
    )


def not_ready(timeout: float, *, opening: int, resetting: int, waiting: int) -> PoolTimeout:
    """Connections are on their way, and the server takes its time."""
    return PoolTimeout(
        f"no connection became ready within {timeout:.3g} s",
        detail=f"{opening} are being opened and {resetting} reset, {_more(waiting)}",
        hint="see whether the PostgreSQL server is slow or silent",
        retry_after=max(1.0, timeout),
    )


def budget_spent(timeout: float, *, limit: int, most: int, waiting: int) -> BudgetExhausted:
    """The server's connections are all taken, by other pools too; `limit` of `most` are this process's in its fleet."""
    if limit < most:
        return BudgetExhausted(
            _none_free(timeout),
            detail=f"this process may have {limit} of the server's {most} connections, all taken; {_more(waiting)}",
            hint="see who of its fleet has the others (tenantproxy fleet), or raise the server's max_connections",
            retry_after=max(1.0, timeout),
        )
    return BudgetExhausted(
        _none_free(timeout),
        detail=f"the server's max_connections = {limit} are all taken, {_more(waiting)}",
        hint="raise the server's max_connections, or lower max_size of the tenants",
        retry_after=max(1.0, timeout),
    )


def unreachable(detail: str) -> ConnectFailed:
    """The server cannot be reached."""
    return ConnectFailed(
        "the PostgreSQL server cannot be reached",
        detail=detail,
        hint="see whether it runs, and its host and port in the configuration",
        retry_after=1.0,
    )


def without_place(error: TenantProxyError, server: str) -> ConnectFailed:
    """What `error` says of the server, for tenants of its other databases: it names none."""
    if not isinstance(error, ConnectFailed):
        return unreachable(f"server {server!r}")
    told = error.again()
    told.detail = f"server {server!r}"
    return told


def _none_free(timeout: float) -> str:
    return f"no connection became free within {timeout:.3g} s"


def _more(waiting: int) -> str:
    return f"{waiting} more of this tenant wait"
