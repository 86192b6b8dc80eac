"""Who has how much of each server? Read from the main database, as the user that reports."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.fleet.link import connect_main

__all__ = ["fleet"]

_VIEW: Final = "SELECT * FROM tenantproxy.fleet_view($1)"


async def fleet(settings: Settings) -> list[dict[str, Any]]:
    """A row for each process and server, and one for each server that no process uses.

    Raises TenantProxyError where the main database keeps no budget, asyncpg's errors.
    """
    conn = await connect_main(settings)
    try:
        rows = await conn.fetch(_VIEW, settings.fleet.id)
    except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError) as exc:
        raise TenantProxyError(
            "the main database keeps no budget for a fleet", hint="run `tenantproxy install --config FILE`"
        ) from exc
    finally:
        await conn.close(timeout=1.0)
    return [_row(row) for row in rows]


def _row(row: asyncpg.Record) -> dict[str, Any]:
    process = row["process"]
    state = "-" if process is None else "silent" if row["silent"] else "settling" if row["settling"] else "live"
    return {
        "server": row["server"],
        "process": None if process is None else str(process),
        "state": state,
        "granted": row["granted"],
        "used": row["used"],
        "wanted": None if row["wanted"] is None else round(row["wanted"], 1),
        "target": row["target"],
        "floor": row["floor"],
        "cap": row["cap"],
        "seen_seconds": round(row["seen_ms"] / 1000, 1) if process is not None else None,
        "ghosts": row["ghosts"],
        "epoch": row["epoch"],
        "counted": row["counted"],
    }
