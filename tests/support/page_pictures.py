"""What does docs/page.md show? `python -m tests.support.page_pictures` takes its pictures again, of real work."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.demo.world import PG_USER, World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.browser import Browser, Tab, a_browser
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import PATIENCE

PICTURES: Final = Path(__file__).parents[2] / "docs" / "pictures"
_BUSY: Final = {"acme": 2, "globex": 3, "hooli": 4, "umbrella": 7, "wayne": 1, "initech": 2}  # clients of each tenant
_ASK: Final = "SELECT count(*), pg_sleep($1) FROM projects WHERE name <> 'nothing'"
_SECONDS: Final = 25.0  # of lines in the pictures


async def _work(served: Served, world: World, tenant: str, number: int) -> None:
    """A client that asks on and on."""
    dsn = f"postgresql://{PG_USER}:{world.pg_password}@{served.pg}/{tenant}?sslmode=disable"
    names = {"application_name": ("web", "worker", "nightly report")[number % 3]}
    while True:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            conn = await asyncpg.connect(dsn, timeout=PATIENCE, server_settings=names)
            try:
                while True:
                    await conn.fetch(_ASK, 0.04 + 0.07 * (number % 5))
                    await asyncio.sleep(0.02)
            finally:
                conn.terminate()
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _page(browser: Browser, served: Served, token: str, **look: object) -> AsyncIterator[Tab]:
    """Live, as who has the token sees it."""
    async with browser.tab(f"{served.admin}/", **look) as tab:
        await tab.until("document.getElementById('login').open", "the page asks for the token")
        await tab.evaluate("document.getElementById('token').focus()")
        await tab.write(token)
        await tab.press("Enter")
        await tab.until("document.getElementById('state').textContent === 'live'", "the page is live")
        yield tab


async def _take(tab: Tab, name: str) -> None:
    """All of the page, or as much as the screen has where a dialog covers it."""
    size = await tab.evaluate("({width: document.documentElement.clientWidth, height: document.body.scrollHeight})")
    clip = {"x": 0, "y": 0, **size, "scale": 1}
    if await tab.evaluate("!!document.querySelector('dialog[open]')"):
        clip["height"] = await tab.evaluate("innerHeight")
    taken = await tab.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    await asyncio.to_thread((PICTURES / name).write_bytes, base64.b64decode(taken["data"]))


async def main() -> None:
    """In some forty seconds."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(durable=False) as server:
        place = Path(folder)
        world = await build_world(server, place, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")
        config = world.config.with_name("pictures.toml")
        ann = f'[admin.tokens.ann]\nrole = "admin"\ntoken = "{token}"\n'
        text = world.config.read_text().replace("max_pools = 4", "max_pools = 40")
        config.write_text(f"{text}\n{ann}")
        with a_sidecar(config, place / "log", "--workers", "2") as served:
            clients = [(tenant, number) for tenant, count in _BUSY.items() for number in range(count)]
            work = [asyncio.create_task(_work(served, world, *each)) for each in clients]
            try:
                await _take_all(served, token)
            finally:
                for each in work:
                    each.cancel()
                await asyncio.gather(*work, return_exceptions=True)


async def _take_all(served: Served, token: str) -> None:
    async with a_browser() as browser:
        async with (
            _page(browser, served, token) as light,
            _page(browser, served, token, dark=True) as dark,
            _page(browser, served, token, width=390, height=844) as phone,
        ):
            await asyncio.sleep(_SECONDS / 2)
            for what in ("pools/hooli/pause", "pools/hooli/resume", "tenants/wayne/evict"):
                options = f"{{method: 'POST', headers: {{Authorization: 'Bearer {token}'}}}}"
                await light.evaluate(f"fetch('v1/{what}', {options}).then(() => 0)")
            await asyncio.sleep(_SECONDS / 2)
            for tab, name in ((light, "page.png"), (dark, "page-dark.png"), (phone, "page-phone.png")):
                await tab.send("Page.bringToFront")
                await _take(tab, name)
        async with _page(browser, served, token) as tab:
            await tab.until("document.querySelectorAll('#table tbody button').length > 0", "there are tenants")
            row = "[...document.querySelectorAll('#table tbody button')].find((e) => e.textContent === 'umbrella')"
            await tab.evaluate(f"({row}).click()")
            await tab.until(
                f"document.getElementById('drawer-body').textContent.includes({json.dumps('SELECT')})", "it"
            )
            await _take(tab, "page-tenant.png")


if __name__ == "__main__":
    asyncio.run(main())
