"""Does a client of PgBouncer find the same behind a sidecar whose configuration was made of its pgbouncer.ini?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation
from tests.support.pooler import PGBOUNCER, a_pooler
from tests.support.sidecar import a_sidecar
from tests.support.waiting import PATIENCE
from tests.support.world import APP_PASSWORD, APP_ROLE, a_world

PASSWORD = "of the web"


async def seen(port: int, database: str) -> list[object]:
    conn = await asyncpg.connect(
        host="127.0.0.1", port=port, database=database, user="web", password=PASSWORD, ssl=False, timeout=PATIENCE,
        statement_cache_size=0,
    )  # fmt: skip
    try:
        return [await conn.fetchrow("SELECT current_database(), current_user"), *await conn.fetch("TABLE projects")]
    finally:
        await conn.close(timeout=PATIENCE)


@pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")
async def test_a_client_sees_the_same_behind_what_was_made_of_its_pgbouncer_ini(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with a_world(postgres) as world:
        tenants = world.of(Isolation.DATABASE)
        lines = "\n".join(
            f"{tenant.id} = host={postgres.host} port={postgres.port} dbname={tenant.placement.database} "
            f"user={APP_ROLE} password={APP_PASSWORD}"
            for tenant in tenants
        )
        with a_pooler(postgres, databases=lines, users={"web": PASSWORD}) as pooler:
            before = [await seen(pooler.port, tenant.id) for tenant in tenants]
            command = (sys.executable, "-m", "tenantproxy", "config", "from-pgbouncer", str(pooler.file))
            done = await asyncio.to_thread(
                subprocess.run, [*command, "--into", str(tmp_path)], capture_output=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == 0, done.stderr
        config = tmp_path / "tenantproxy.toml"
        text = config.read_text().replace('database = "tenantproxy"', f'database = "{world.main.name}"')
        text = text.replace(f'listen = "127.0.0.1:{pooler.port}"', 'listen = "127.0.0.1:0"')
        config.write_text(f'{text}\n[http]\nlisten = ""\n[admin]\nlisten = "127.0.0.1:0"\n')
        with a_sidecar(config, tmp_path / "log") as served:
            port = int(served.pg.rpartition(":")[2])
            assert [await seen(port, tenant.id) for tenant in tenants] == before
        assert before[0] != before[1]
