"""Which tenants are half made? Those whose making was interrupted, and what of theirs is there until it goes on."""

from __future__ import annotations

from typing import Final, NamedTuple

import asyncpg

from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.lifecycle.doctor.session import rows

__all__ = ["NO_SAGAS", "HalfMade", "half_made"]

_READABLE: Final = """
SELECT coalesce(has_table_privilege(to_regclass('tenantproxy.sagas'), 'SELECT'), false)
"""
_HAS_STOCK: Final = """
SELECT coalesce(has_table_privilege(to_regclass('tenantproxy.stock'), 'SELECT'), false)
"""
_STOCK: Final = "SELECT 'tenantproxy_new_' || mark FROM tenantproxy.stock"


class HalfMade(NamedTuple):
    """The findings, and the names of databases and roles that are no orphans."""

    findings: tuple[DoctorFinding, ...]
    names: frozenset[str]


NO_SAGAS: Final = HalfMade((), frozenset())


async def half_made(conn: asyncpg.Connection, *, server: str, database: str) -> HalfMade:
    """Asked in the main database; nothing, where its table is missing or not for this user to read."""
    if not await conn.fetchval(_READABLE):
        return NO_SAGAS
    sagas = await rows(conn, "sagas.sql")
    findings = tuple(
        found("TPD007", server=server, database=database, object=row["tenant"], detail=_state(row))
        for row in sagas
        if row["is_left"]
    )
    names = {name for row in sagas for name in (row["database"], row["role"], row["temporary"]) if name}
    if await conn.fetchval(_HAS_STOCK):
        names |= {row[0] for row in await conn.fetch(_STOCK)}
    return HalfMade(findings, frozenset(names))


def _state(row: asyncpg.Record) -> str:
    error = f", {row['error']}" if row["error"] else ""
    return f"{row['state']} since {row['since']}{error}"
