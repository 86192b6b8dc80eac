"""What must a transaction behind a connection pooler be, and what does it mean that it could not be made so?

A pooler says nearly everything with one SQLSTATE, 08P01; only its one word on the pool mode is looked for in a text.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.connect.failures import LOST, Refused, describe
from tenantproxy.connect.opening import ADMIN_PROFILE, Opening
from tenantproxy.connect.refusals import lost_early, not_entered, place_of, proof_refused, setting_refused
from tenantproxy.errors import ConnectFailed, IsolationError, PoolTimeout, TenantProxyError
from tenantproxy.isolation.transaction import TransactionEntry
from tenantproxy.model import PoolKey, Session

__all__ = ["PoisonedSession", "entry_of", "not_the_tenants"]


class PoisonedSession(IsolationError):
    """The session holds what others prepared in SQL. It is ended; another one may do."""


_NO_SESSION: Final = Session()
# Of what is pinned, what a transaction says itself when it begins, or what means something at the start of one alone.
_OF_SESSIONS: Final = (
    "default_transaction_read_only",
    "default_transaction_isolation",
    "default_transaction_deferrable",
    "idle_session_timeout",
    "local_preload_libraries",
)
_NOT_INSTALLED: Final = ("3F000", "42883", "42P01", "42501")  # the last: its functions may not be called
_SETTING: Final = ("22023", "42704", "42602")
_PREPARED: Final = ("55006", "22012")  # `prepared_check`, and what asks the same without it


def entry_of(opening: Opening, key: PoolKey, session: Session = _NO_SESSION) -> TransactionEntry:
    """What each transaction of a lease must be."""
    pins = opening.pins(key)
    settings = {name: value for name, value in pins.items() if name not in _OF_SESSIONS} | {"client_encoding": "UTF8"}
    return TransactionEntry(
        key=key,
        role=key.user or opening.server(key).user,
        settings=(*settings.items(), *session.context),
        binding=session.binding,
        signed=session.signed,
        is_operators=key.profile == ADMIN_PROFILE,
    )


def not_the_tenants(opening: Opening, key: PoolKey, error: BaseException, was_shown: bool) -> TenantProxyError:
    """The caller's error, counted. Nothing of the caller has run, and the connection is ended.

    `was_shown`: a proof had been shown.
    """
    refusal = _refusal(error, key, was_shown=was_shown)
    if isinstance(refusal, IsolationError):
        opening.violated("transaction", key, refusal.message)
    return refusal


def _refusal(error: BaseException, key: PoolKey, *, was_shown: bool) -> TenantProxyError:
    where = f"{place_of(key)}, {describe(error)}"
    if isinstance(error, TenantProxyError):
        return error
    if isinstance(error, TimeoutError):
        return PoolTimeout(
            "the pooler did not begin the transaction in time",
            detail=place_of(key),
            hint="see whether it is paused, reaches its server, and has a free server connection: SHOW POOLS there,"
            " default_pool_size and max_db_connections in pgbouncer.ini",
            retry_after=1.0,
        )
    state = (getattr(error, "sqlstate", None) or "") if isinstance(error, asyncpg.PostgresError | Refused) else ""
    if state[:2] == "08" and "statement pooling" in str(error):
        return IsolationError(
            "the pooler has no transactions: its pool_mode is statement",
            detail=place_of(key),
            hint="set pool_mode = transaction in pgbouncer.ini",
        )
    if state == "42501" and was_shown:
        return proof_refused(where)
    if state in _SETTING:
        return setting_refused(where)
    if state in _NOT_INSTALLED:
        return IsolationError(
            "the signed context is not installed in this database, or an older version of it",
            detail=where,
            hint="run `tenantproxy install --config FILE`",
        )
    if state in _PREPARED:
        return PoisonedSession(
            "the session that the pooler gave us has statements that were prepared in SQL",
            detail=where,
            hint="they may have the names of others' statements: let nothing else use this user and database at the"
            " pooler",
        )
    if state[:2] in ("08", "57", "53"):
        return ConnectFailed(
            "the pooler refused the transaction, or lost its server",
            detail=where,
            hint="see its log, and whether the PostgreSQL server runs",
            retry_after=1.0,
        )
    if isinstance(error, LOST) and not state:
        return lost_early(where)
    return not_entered(where)
