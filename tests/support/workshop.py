"""What does an ordinary application's database look like? Thirty tables of one role `app`, none of them tenantproxy's.

A company's workshop software: serial and identity keys, foreign keys, an enum, a domain, views, a materialized view, a
partitioned table, functions and triggers, lookup tables for all companies, and a table that names no company.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.embedded import EmbeddedPostgres

__all__ = ["COMPANIES", "PASSWORD", "ROLE", "build"]

ROLE: Final = "app"
PASSWORD: Final = "of-the-application"
COMPANIES: Final = 4
"""Their ids are 1 to 4; the last one is cancelled."""


async def build(server: EmbeddedPostgres, database: str = "app", *, role: str = ROLE) -> None:
    """The role, its database, and all that is in it, made by the role itself."""
    root = await asyncpg.connect(**server.connect_args("postgres"))
    try:
        if not await root.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            await root.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'")
        await root.execute(f'CREATE DATABASE "{database}" OWNER "{role}"')
    finally:
        await root.close()
    app = await asyncpg.connect(**server.connect_args(database, role, PASSWORD))
    try:
        for name in ("workshop.sql", "workshop_rows.sql"):
            await app.execute(Path(__file__).with_name(name).read_text())
    finally:
        await app.close()
