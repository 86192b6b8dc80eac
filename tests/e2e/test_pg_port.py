"""Does the PostgreSQL port give each tenant its own rows, to a client that knows nothing of us?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tenantproxy.demo.world import World
from tests.e2e.conftest import Served

Serve = Callable[..., Served]

PASSWORD = "a password of the test"


@pytest.fixture
def config(demo_world: World, tmp_path: Path) -> Path:
    """The demo's configuration with a PostgreSQL port."""
    users = "\n".join(
        f'[pg.users.{mode}]\npassword = "{PASSWORD}"\ntenants = "*"\npool_mode = "{mode}"'
        for mode in ("transaction", "session")
    )
    path = demo_world.config.with_name(f"{tmp_path.name}.toml")
    path.write_text(f'{demo_world.config.read_text()}\n[pg]\nlisten = "127.0.0.1:0"\n{users}\n')
    return path


@pytest.fixture
def port(config: Path, serve: Serve) -> int:
    """Where a sidecar serves it."""
    return int(serve(config).pg.rpartition(":")[2])


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_every_tenant_reads_its_own_rows_and_no_others(mode: str, port: int, demo_world: World) -> None:
    for tenant in demo_world.tenants:
        conn = await asyncpg.connect(
            host="127.0.0.1", port=port, user=mode, password=PASSWORD, database=tenant.id, ssl=False, timeout=20
        )
        try:
            rows = await conn.fetch("SELECT name FROM projects ORDER BY id")
        finally:
            await conn.close(timeout=10)
        assert [row["name"] for row in rows] == list(tenant.projects)
