"""What does it mean that a connect failed? Sorts the errors of asyncpg and the system into ours. Pure.

A restart shows as a mix of refused, reset and 57P03; 53300 has three texts: only types and SQLSTATEs are looked at.
"""

from __future__ import annotations

import errno
from typing import Final

import asyncpg

from tenantproxy.errors import BudgetExhausted, ConnectFailed, ProtocolError, TenantProxyError
from tenantproxy.model import PoolKey
from tenantproxy.pools.backoff import Failure
from tenantproxy.pools.exchange import Refused
from tenantproxy.pools.handshake import BEHIND_POOLER, WrongRole
from tenantproxy.pools.refusals import place_of, unreachable

__all__ = ["LOST", "classify", "describe"]

LOST: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)
"""What asyncpg raises when the server refuses, or is not there any more; the last when found out in mid-statement."""

_BUSY = {
    "57P03": ("the PostgreSQL server is starting up, shutting down or recovering", "it is retried until then"),
    "57P01": ("the PostgreSQL server is shutting down", "it is retried until then"),
    "53200": ("the PostgreSQL server is out of memory", "see the server's log"),
    "58000": ("the PostgreSQL server failed", "see the server's log"),
}
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # says nothing of the server
_DENIED = {
    "08P01": ("what answers does not take our startup packet, as a connection pooler may not", BEHIND_POOLER),
    "26000": ("the server does not know what was just prepared, as behind a transaction pooler", BEHIND_POOLER),
    "28P01": (
        "the PostgreSQL server refused our password",
        "see user and password of this server in the configuration",
    ),
    "28000": (
        "the PostgreSQL server refused our role",
        "see whether the role may log in, and the server's pg_hba.conf",
    ),
    "3D000": ("the database does not exist", "see where the tenant is registered, or provision it"),
    "42501": ("our role may not connect to the database", "GRANT CONNECT ON DATABASE ... TO the tenant's role"),
}


def classify(error: BaseException, key: PoolKey) -> tuple[TenantProxyError, Failure]:
    """The error for those who wait, and what the server is. Texts of drivers are not passed on."""
    where = place_of(key)
    if isinstance(error, ProtocolError):  # the server's, and no fault of a client who hears of it
        return ConnectFailed(error.message, detail=error.detail or where, hint=error.hint, retry_after=5.0), "denied"
    if isinstance(error, WrongRole):
        return error, "unfit"
    if isinstance(error, TenantProxyError):
        return error, "denied"
    if isinstance(error, asyncpg.PostgresError | Refused):
        state = error.sqlstate or ""
        if state == "53300":
            return _too_many(where), "full"
        if state.startswith("08") and state not in _DENIED:
            return unreachable(where), "refused"
        if state in _BUSY:
            message, hint = _BUSY[state]
            return ConnectFailed(message, detail=f"{where}, SQLSTATE {state}", hint=hint, retry_after=1.0), "busy"
        message, hint = _DENIED.get(state, ("the PostgreSQL server refused the connection", "see the server's log"))
        detail = f"{where}, SQLSTATE {state}"
        return ConnectFailed(message, detail=detail, hint=hint, retry_after=5.0, refusal=state), "denied"
    if isinstance(error, TimeoutError):
        message, hint = "the PostgreSQL server did not answer in time", "see whether it is reachable and not overloaded"
        return ConnectFailed(message, detail=where, hint=hint, retry_after=1.0), "busy"
    if isinstance(error, OSError) and error.errno in _OURS:
        return _no_descriptors(where), "busy"
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return unreachable(where), "refused"
    message, hint = "opening a connection failed", "see the log for its class"
    return ConnectFailed(message, detail=f"{where}, {describe(error)}", hint=hint, retry_after=5.0), "denied"


def _too_many(where: str) -> BudgetExhausted:
    return BudgetExhausted(
        "the PostgreSQL server, database or role has no connection left",
        detail=f"{where}, SQLSTATE 53300",
        hint="others use them too: lower the server's max_connections here by as many as they need, or raise the limit"
        " of the server, the database or the role",
        retry_after=1.0,
    )


def _no_descriptors(where: str) -> BudgetExhausted:
    return BudgetExhausted(
        "this process can open no more connections",
        detail=where,
        hint="let it have more file descriptors (ulimit -n) and memory, or lower max_clients",
        retry_after=1.0,
    )


def describe(error: BaseException) -> str:
    """The class and SQLSTATE of `error`: what may be logged. Texts may hold values or addresses."""
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {state}" if state else type(error).__name__
