"""How does a test use a web browser? Chromium without a window, over its DevTools protocol; nothing is downloaded."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest

from tests.support.waiting import PATIENCE, until

__all__ = ["Browser", "Tab", "a_browser"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--disable-component-update", "--hide-scrollbars",
    "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
_MAX_MESSAGE: Final = 64 * 1024 * 1024
_KEYS: Final = {"Enter": (13, "\r"), "Escape": (27, ""), "ArrowDown": (40, ""), "ArrowUp": (38, ""), "/": (191, "/")}


class Tab:
    """One page. `problems`: what its console, its scripts and its policy complained of."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and what it answers."""
        return await self._browser.send(method, params, self._session)

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is. AssertionError with what it throws."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:2000]
        return answer["result"].get("value")

    async def until(self, script: str, what: str) -> None:
        """Return when the expression is true."""

        async def holds() -> bool:
            try:
                return bool(await self.evaluate(script))
            except AssertionError:  # in a page that is being left
                return False

        await until(holds, f"{what} ({self.problems})")

    async def press(self, key: str) -> None:
        """As on a keyboard."""
        code, text = _KEYS[key]
        key_of = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **key_of)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **key_of)

    async def write(self, text: str) -> None:
        """Into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def looks(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """A screen of that size, in light or dark colours."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        value = "dark" if dark else "light"
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])


class Browser:
    """A running Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def send(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """See Tab."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        message = {"id": number, "method": method, "params": params} | (
            {} if session is None else {"sessionId": session}
        )
        await self._socket.send_json(message)
        async with asyncio.timeout(PATIENCE):
            return await future

    async def read(self) -> None:
        """Until it is gone."""
        async for message in self._socket:
            told = json.loads(message.data)
            future = self._asked.pop(told.get("id", 0), None)
            if future is not None and not future.done():
                if "error" in told:
                    future.set_exception(AssertionError(told["error"]))
                else:
                    future.set_result(told["result"])
            elif (tab := self._tabs.get(told.get("sessionId", ""))) is not None:
                _note(tab, told["method"], told["params"])

    @asynccontextmanager
    async def tab(self, url: str, **look: Any) -> AsyncIterator[Tab]:
        """A page of its own, without cookies of others; it has been loaded."""
        context = (await self.send("Target.createBrowserContext", {}))["browserContextId"]
        target = await self.send("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.send("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.send(f"{domain}.enable")
            await tab.looks(**look)
            await tab.send("Page.navigate", url=url)
            await tab.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})", url)
            yield tab
        finally:
            await self.send("Target.disposeBrowserContext", {"browserContextId": context})


def _note(tab: Tab, method: str, params: dict[str, Any]) -> None:
    if method == "Runtime.exceptionThrown":
        tab.problems.append(json.dumps(params["exceptionDetails"])[:500])
    elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        tab.problems.append(f"{params['entry']['source']}: {params['entry']['text']}")


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    """Chromium, until the end of the block; skips where it is not installed."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium: apt install chromium")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program, f"--user-data-dir={folder}", *_SWITCHES,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            address = await _address_of(process)
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(address, max_msg_size=_MAX_MESSAGE) as socket,
            ):
                browser = Browser(socket)
                reading = asyncio.create_task(browser.read())
                try:
                    yield browser
                finally:
                    reading.cancel()
                    await asyncio.wait([reading])
        finally:
            process.kill()
            await process.communicate()


async def _address_of(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(PATIENCE):
        while line := await process.stderr.readline():
            said += line
            if found := re.search(rb"DevTools listening on (ws://\S+)", line):
                return found[1].decode()
    raise AssertionError(f"chromium has ended: {said.decode(errors='replace')[-2000:]}")
