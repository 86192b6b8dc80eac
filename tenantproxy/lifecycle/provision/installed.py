"""Has the main database the tables that this release writes tenants' making, removal and moves into?"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["check_installed"]

_INSTALLED: Final = """
SELECT to_regclass('tenantproxy.stock') IS NOT NULL
  AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('tenantproxy.sagas') AND attname = 'kind')
"""


async def check_installed(conn: asyncpg.Connection) -> None:
    """Raises ConfigurationError where the main database, that of `conn`, lacks the table of this release."""
    if not await conn.fetchval(_INSTALLED):
        problem = "the main database has no table for tenants that are being made, or one of an older release"
        raise ConfigurationError([Problem(key="provision", problem=problem, fix="run: tenantproxy install")])
