"""Is it true what the tutorial and the guides show? Their blocks are run in order, and what they say is compared."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tenantproxy.demo.world import PG_USER, World
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.server import _free_port as free_port
from tests.e2e.pg.programs import NODE
from tests.support.readme import DOCS, follow
from tests.support.sidecar import Served, a_sidecar

pytestmark = pytest.mark.timeout(600)  # many processes, on a machine that may be loaded


def reader(**more: str) -> dict[str, str]:
    """What a reader's shell has: the environment in which tenantproxy is installed, and nothing of the tests'."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTPROXY_", "PG"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"PATH": path, "COLUMNS": "160", "NO_COLOR": "1"} | more


def test_the_five_minutes_show_what_they_say(tmp_path: Path) -> None:
    follow("five minutes", DOCS / "five-minutes.md", folder=tmp_path, environment=reader(), real={})


@pytest.fixture(scope="module")
def served(demo_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's tenants behind a sidecar, for the guides that only read."""
    with a_sidecar(demo_world.config, tmp_path_factory.mktemp("served") / "log") as served:
        yield served


@pytest.mark.parametrize(
    "guide", ["aiohttp", "django", "ecto", "from-dict-of-pools", "litestar", "netlify", "psql", "web-applications"]
)
def test_a_guide_shows_what_it_says(guide: str, demo_world: World, served: Served, tmp_path: Path) -> None:
    port = str(free_port())
    environment = reader(PGPASSWORD=demo_world.pg_password, TENANTPROXY_CONFIG=str(demo_world.config), PORT=port)
    real = {
        "https://db.example.com": served.public, "127.0.0.1:6432": served.pg, "6432": served.pg.rpartition(":")[2],
        "8000": port, "billing": PG_USER, '"tenantproxy.toml"': f'"{demo_world.config}"',
    }  # fmt: skip
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    follow(guide, DOCS / f"{guide}.md", folder=tmp_path, environment=environment, real=real)


@pytest.mark.parametrize("guide", ["from-django-tenants", "from-set-config"])
async def test_a_guide_leads_from_a_database_that_is_there(
    guide: str, own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    root = await asyncpg.connect(**own_postgres.connect_args())
    try:
        await root.execute("CREATE DATABASE app")
    finally:
        await root.close()
    real = {"db.internal:5432": f"{own_postgres.host}:{own_postgres.port}"}
    environment = reader(PGPASSWORD=own_postgres.password)
    await asyncio.to_thread(follow, guide, DOCS / f"{guide}.md", folder=tmp_path, environment=environment, real=real)
