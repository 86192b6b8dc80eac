"""What is an operator told when a step of a tenant's life fails, and does it say anything of the tenant?"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.errors import PoolError

__all__ = ["LOST", "said"]

LOST: Final = (
    OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, PoolError,
)  # fmt: skip
"""A server that is gone or full: the same step may succeed later, and undoing it now would fail for the same reason."""


def said(error: BaseException) -> str:
    """What went wrong, in a line: PostgreSQL's message is about the operator's own SQL."""
    if isinstance(error, asyncpg.PostgresError):
        return f"PostgreSQL says {error.sqlstate}: {error.args[0] if error.args else type(error).__name__}"
    return str(error) or type(error).__name__
