"""What did an operator act upon? Each thing by its number, whose it was and since when, for the audit log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tenantproxy.auth.user_sessions import UserSession
from tenantproxy.events import AdminActedOn

if TYPE_CHECKING:
    from tenantproxy.sidecar.pg.console.view import ClientRow

__all__ = ["Thing", "client_thing", "connection_thing", "session_thing", "told_of"]

Thing: TypeAlias = dict[str, Any]
"""One of them, as JSON takes it."""

_MOST: Final = 50  # in an event


def client_thing(row: ClientRow) -> Thing:
    """A client of the PostgreSQL port: by the number that it was told, and by which the page has it."""
    address = f"[{row.address}]:{row.port}" if ":" in row.address else f"{row.address}:{row.port}"
    return {
        "client": row.id, "user": row.user, "application_name": row.application_name, "address": address,
        "connected_at": _moment(row.connected_at), "state": row.state, "backend": row.backend, "worker": row.worker,
    }  # fmt: skip


def connection_thing(name: str) -> Thing:
    """A connection to a server: its name there, and the process id of its backend."""
    return {"backend": name}


def session_thing(session: UserSession) -> Thing:
    """A session of a person."""
    return {"session": session.id, "last_used": session.last_used.isoformat()}


def told_of(
    things: Sequence[Thing],
    *,
    by: str,
    change: str,
    tenant: str,
    address: str,
    user: str = "",
    request_id: str = "",
) -> Iterator[AdminActedOn]:
    """The events that name all of them; none where there are no things."""
    for first in range(0, len(things), _MOST):
        yield AdminActedOn(
            by=by, change=change, tenant=tenant, user=user, address=address, request_id=request_id, count=len(things),
            acted_on=tuple(things[first : first + _MOST]),
        )  # fmt: skip


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
