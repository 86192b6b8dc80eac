"""Which sessions has a person, and how are they ended? As `sessions.sql` keeps them in the main database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from tenantproxy.auth.base import AuthDatabase
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["UserSession", "end_sessions", "not_installed", "sessions_of"]

_OF: Final = "SELECT id, last_used, idle_until, expires_at FROM tenantproxy.sessions_of($1, $2, $3)"
_MOST: Final = 1000
_TIMEOUT: Final = 5.0


def not_installed(problem: str) -> ConfigurationError:
    """The main database lacks what `tenantproxy install` makes."""
    return ConfigurationError([Problem(key="auth", problem=problem, fix="run: tenantproxy install")])


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSession:
    """A session of a person, as an operator sees it. It ends at `idle_until` unless it is used before."""

    id: str
    last_used: datetime
    idle_until: datetime
    expires_at: datetime


async def end_sessions(
    database: AuthDatabase,
    seconds: float,
    *,
    family: bytes | None = None,
    session: str | None = None,
    tenant: str | None = None,
    user: str | None = None,
) -> list[str]:
    """End those of a family, of a `sid`, or of a user of a tenant; which. `seconds`: see `lasting`."""
    rows = await database.fetch(
        "SELECT id FROM tenantproxy.end_sessions($1, $2, $3, $4, $5) AS ended(id)",
        family,
        session,
        tenant,
        user,
        seconds,
        timeout=_TIMEOUT,
    )
    return [row["id"] for row in rows]


async def sessions_of(database: AuthDatabase, tenant: str, user: str) -> list[UserSession]:
    """The sessions of one user, the last used first, 1000 at most. Raises ConfigurationError: not installed."""
    try:
        rows = await database.fetch(_OF, tenant, user, _MOST, timeout=_TIMEOUT)
    except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError):
        raise not_installed("the main database lists no sessions yet") from None
    return [UserSession(**dict(row)) for row in rows]
