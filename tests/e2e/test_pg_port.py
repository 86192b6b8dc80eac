"""Does the PostgreSQL port give each tenant its own rows, to a client that knows nothing of us?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tenantproxy.demo.world import PG_USER, World
from tests.e2e.conftest import Served

Serve = Callable[..., Served]


@pytest.fixture
def config(demo_world: World, tmp_path: Path) -> Path:
    """The demo's configuration, and a user whose clients keep their backends."""
    path = demo_world.config.with_name(f"{tmp_path.name}.toml")
    user = '[pg.users.session]\npassword_file = "pg_password"\ntenants = "*"\npool_mode = "session"\n'
    path.write_text(f"{demo_world.config.read_text()}\n{user}")
    return path


@pytest.fixture
def port(config: Path, serve: Serve) -> int:
    """Where a sidecar serves it."""
    return int(serve(config).pg.rpartition(":")[2])


@pytest.mark.parametrize("user", [PG_USER, "session"])
async def test_every_tenant_reads_its_own_rows_and_no_others(user: str, port: int, demo_world: World) -> None:
    for tenant in demo_world.tenants:
        conn = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=demo_world.pg_password,
            database=tenant.id,
            ssl=False,
            timeout=20,
        )
        try:
            rows = await conn.fetch("SELECT name FROM projects ORDER BY id")
        finally:
            await conn.close(timeout=10)
        assert [row["name"] for row in rows] == list(tenant.projects)
