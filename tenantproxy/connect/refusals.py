"""Why was a connection not lent though there was one? It could not be made the tenant's, or was lost before. Pure."""

from __future__ import annotations

from tenantproxy.errors import ConnectFailed, IsolationError, PoolTimeout, ProtocolError
from tenantproxy.model import PoolKey

__all__ = [
    "bound_to_another",
    "entered_late",
    "lost_early",
    "not_entered",
    "place_of",
    "proof_refused",
    "setting_refused",
]


def place_of(key: PoolKey) -> str:
    """Where it was, for a detail."""
    return f"server {key.server!r}, database {key.database!r}"


def proof_refused(detail: str) -> IsolationError:
    """The database said 42501 to a bind."""
    return IsolationError(
        "the database refuses the proof of this tenant",
        detail=detail,
        hint="it is fenced (suspended or being moved), or the key in [row] is not the one installed there",
    )


def setting_refused(detail: str) -> ProtocolError:
    """The server takes a setting of the client's not."""
    return ProtocolError(
        "the server refuses a setting of this session",
        detail=detail,
        hint="see the settings that the client sends when it connects, and those it sets",
    )


def bound_to_another(detail: str) -> IsolationError:
    """The database answered a bind with another tenant."""
    return IsolationError("the database bound another tenant than the one asked for", detail=detail)


def not_entered(detail: str) -> IsolationError:
    """The server answered, and otherwise than it must."""
    return IsolationError("the session could not be made the tenant's", detail=detail, hint="see the server's log")


def entered_late(detail: str) -> PoolTimeout:
    """The server did not answer in time."""
    return PoolTimeout(
        "the connection could not be made the tenant's in time",
        detail=detail,
        hint="see whether the PostgreSQL server is slow or silent",
        retry_after=1.0,
    )


def lost_early(detail: str) -> ConnectFailed:
    """The connection broke before its caller had it."""
    return ConnectFailed(
        "the connection was lost before it could be lent",
        detail=detail,
        hint="see whether the PostgreSQL server runs",
        retry_after=1.0,
    )
