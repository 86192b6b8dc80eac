"""Does docs/init.md lead from an ordinary database of one role to tenants that are proven apart?"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.support import workshop
from tests.support.readme import README, blocks
from tests.support.waiting import PATIENCE

STEPS: Final = blocks("init", README.parent / "docs" / "init.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Who follows the page: a folder, a shell, and the server that the page calls db.internal."""

    server: EmbeddedPostgres
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The password, and where the server is."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTPROXY_", "PG"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        dsn = f"postgresql://{self.server.superuser}@{self.server.host}:{self.server.port}/app"
        more = {"PATH": path, "COLUMNS": "200", "NO_COLOR": "1", "DSN": dsn, "PGPASSWORD": self.server.password}
        return kept | more

    def follow(self, step: str) -> str:
        """What the commands of a block wrote; each of them succeeds."""
        return self.run(STEPS[step])

    def run(self, commands: str) -> str:
        """What they wrote; each of them succeeds."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=4 * PATIENCE, stdin=subprocess.DEVNULL, env=self.environment,
        )  # fmt: skip
        assert ended.returncode == 0, f"{commands}{ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    async def as_app(self) -> asyncpg.Connection:
        """A connection as the role that the application has always had."""
        return await asyncpg.connect(**self.server.connect_args("app", workshop.ROLE, workshop.PASSWORD))


@pytest.fixture
async def follower(tmp_path: Path, own_postgres: EmbeddedPostgres) -> Follower:
    if which("psql") is None:
        pytest.skip("install postgresql-client")
    await workshop.build(own_postgres)
    return Follower(server=own_postgres, folder=tmp_path)


async def _works_on(follower: Follower) -> None:
    """What the application did yesterday, as the role of yesterday: all rows, DDL, and the materialized view."""
    app = await follower.as_app()
    try:
        assert await app.fetchval("SELECT count(*) FROM orders") == workshop.COMPANIES
        assert await app.fetchval("SELECT count(*) FROM open_orders") == workshop.COMPANIES
        assert await app.fetchval("SELECT order_total(1)") == 10
        await app.execute("INSERT INTO projects (company_id, name) VALUES (2, 'by the old application')")
        await app.execute("UPDATE users SET name = upper(name)")
        await app.execute("ALTER TABLE reports ADD COLUMN IF NOT EXISTS more text")
        await app.execute("REFRESH MATERIALIZED VIEW sales")
        assert await app.fetchval("SELECT has_database_privilege('postgres', 'CONNECT')")
        assert await app.fetchval("SELECT has_function_privilege('pg_cancel_backend(int)', 'EXECUTE')")
    finally:
        await app.close()


@pytest.mark.timeout(600)  # a dozen processes, one of them a proof, on a machine that may be loaded
async def test_the_page_leads_from_one_role_to_proven_tenants(follower: Follower) -> None:
    """Its commands, byte for byte; only the server is another one."""
    assert list(STEPS) == ["where.sh", "look.sh", "write.sh", "apply.sh", "keys.sh", "check.sh", "old.sh"]
    assert "nothing was written" in follower.follow("look.sh")
    assert not (follower.folder / "tenantproxy").exists()
    follower.follow("write.sh")
    await _works_on(follower)
    assert "60_server.sql" in follower.follow("apply.sh")
    follower.follow("keys.sh")
    await _works_on(follower)
    checked = follower.follow("check.sh")
    assert "isolation held" in checked
    assert "acme customer" in checked
    assert "globex customer" not in checked
    assert "suspended" in checked
    follower.follow("old.sh")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await follower.as_app()
    follower.run(STEPS["check.sh"].splitlines()[0])
