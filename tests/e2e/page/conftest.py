"""What do the tests of the operator page share? One Chromium, and one sidecar with tokens of each role."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy.demo.world import World
from tests.support.browser import Browser, Tab, a_browser
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import PATIENCE

AXE = Path(__file__).with_name("node") / "node_modules" / "axe-core" / "axe.min.js"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A sidecar to look at; `tokens` by role."""

    served: Served
    world: World
    tokens: dict[str, str]
    log: Path

    @asynccontextmanager
    async def client(self, tenant: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
        """A client of the PostgreSQL port, as a user of that tenant."""
        dsn = f"postgresql://demo:{self.world.pg_password}@{self.served.pg}/{tenant}?sslmode=disable"
        conn = await asyncpg.connect(dsn, timeout=PATIENCE, server_settings=settings)
        try:
            yield conn
        finally:
            conn.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with a_browser() as running:
        yield running


@pytest.fixture(scope="module")
def looked(demo_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    folder = tmp_path_factory.mktemp("page")
    tokens = {role: secrets.token_hex(16) for role in ("read", "operate", "admin")}
    named = "".join(
        f'[admin.tokens.the_{role}]\nrole = "{role}"\ntoken = "{token}"\n' for role, token in tokens.items()
    )
    config = demo_world.config.with_name("page.toml")
    config.write_text(f"{demo_world.config.read_text()}\n{named}")
    with a_sidecar(config, folder / "log") as served:
        yield Looked(served=served, world=demo_world, tokens=tokens, log=folder / "log")


@asynccontextmanager
async def page_of(browser: Browser, looked: Looked, role: str, **look: object) -> AsyncIterator[Tab]:
    """The page, with a token of that role given; it is live."""
    async with browser.tab(f"{looked.served.admin}/", **look) as tab:
        await tab.until("document.getElementById('login').open", "the page asks for the token")
        await tab.evaluate("document.getElementById('token').focus()")
        await tab.write(looked.tokens[role])
        await tab.press("Enter")
        await tab.until("document.getElementById('state').textContent === 'live'", "the page is live")
        tab.problems.clear()  # a 401 is an entry in the log of the console
        yield tab


async def accessible(tab: Tab) -> list[object]:
    """What axe-core complains of, in the page as it is."""
    if not AXE.exists():
        pytest.skip("no axe-core: npm ci in tests/e2e/page/node")
    await tab.evaluate(f"window.axe ? 0 : (0, eval)({json.dumps(await asyncio.to_thread(AXE.read_text))}) && 0")
    found = await tab.evaluate(
        "axe.run(document, {resultTypes: ['violations']})"
        ".then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    )
    assert isinstance(found, list)
    return found
