"""How soon is the operator page there, and does it stay smooth? In Chromium without a window, next to an empty page."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from benchmarks.admin_world import POOLS, AdminWorld
from benchmarks.measure import Spread, percentile
from benchmarks.part import Options, Part
from benchmarks.pg_client import Client
from benchmarks.pg_process import allow_many_files
from benchmarks.registry_world import schema_name
from benchmarks.table import Verdict, at_most, figure, render, spread, trust
from tests.support.browser import Browser, Tab, a_browser

__all__ = ["paint", "scroll"]

PAINT_MS: Final = 300.0
TEXT_MS: Final = 100.0  # the same of a line of text: else others had the processors
FRAME_MS: Final = 50.0  # the longest that one may take: what takes longer is a long task to browsers
CLIENTS: Final = 10_000
OF_ONE: Final = 600  # of them are one tenant's: its drawer shows 500
SCROLL_MS: Final = 4000
_AT_ONCE: Final = 50
_SPARE_FILES: Final = 1000

_PAINTED: Final = """new Promise((done) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName('first-contentful-paint')[0];
  if (found) done(found.startTime);
}).observe({type: 'paint', buffered: true}))"""
_SCROLLED: Final = """new Promise((done) => {
  const box = document.querySelector(%s) ?? document.scrollingElement, frames = [], tasks = [];
  const seen = new PerformanceObserver((list) => tasks.push(...list.getEntries().map((each) => each.duration)));
  seen.observe({type: 'longtask'});
  let last = null, began = null;
  const step = (now) => {
    began ??= now;
    if (last !== null) frames.push(now - last);
    last = now;
    const most = box.scrollHeight - box.clientHeight;
    box.scrollTop = most * Math.abs(((now - began) / %d) %% 2 - 1);
    if (now - began < %d) requestAnimationFrame(step);
    else { seen.disconnect(); done({frames, tasks, most}); }
  };
  requestAnimationFrame(step);
})"""
_POOLS, _DRAWER, _NOTHING = "#scroll", "#drawer .clients", "#no-such-element"
_WORK: Final = {
    "TaskDuration": "its thread busy %", "ScriptDuration": "script %", "LayoutDuration": "layout %",
    "RecalcStyleDuration": "style %",
}  # fmt: skip
_NAMES: Final = {_NOTHING: "an empty page", _POOLS: "the pools", _DRAWER: "a drawer with 500 clients"}


def _missing(target: str, wanted: str) -> Part | None:
    """What is told where there is no browser."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return None
    verdict = Verdict(target=target, wanted=wanted, measured="no chromium: apt install chromium", met=False)
    return Part(title="In a browser", text="no chromium on PATH", data={}, verdicts=(verdict,))


async def paint(world: AdminWorld, options: Options) -> Part:
    """From asking for the page to its first content on the screen, each time in a browser context that has nothing."""
    target = "first paint of the page, from loopback"
    if (missing := _missing(target, f"<= {PAINT_MS:g} ms")) is not None:
        return missing
    pages = {"the page": f"{world.sidecar.admin}/", "a line of text": f"{world.sidecar.admin}/livez"}
    found: dict[str, list[float]] = {name: [] for name in pages}
    async with a_browser() as browser, world.at_work():
        for url in pages.values():  # the first page of a browser starts processes too
            await _painted(browser, url)
        for _ in range(options.rounds):
            for name, url in pages.items():
                found[name].append(await _painted(browser, url))
    rows = [(name, spread(Spread.of(times)), figure(max(times))) for name, times in found.items()]
    return Part(
        title=f"First contentful paint, {options.rounds} loads of each without a cache",
        text=render(("", "ms", "longest"), rows),
        data=found,
        verdicts=trust(
            [
                at_most(target, PAINT_MS, Spread.of(found["the page"]), "ms"),
                replace(
                    at_most("first paint of a line of text", TEXT_MS, Spread.of(found["a line of text"]), "ms"),
                    control=True,
                ),
            ]
        ),
    )


async def _painted(browser: Browser, url: str) -> float:
    async with browser.tab(url) as tab:
        return float(await tab.evaluate(_PAINTED))


async def scroll(world: AdminWorld, options: Options) -> Part:
    """Frames while the tables are scrolled to the end and back, with thousands of clients, and changes each second."""
    if (missing := _missing("longest frame while the tables are scrolled", f"<= {FRAME_MS:g} ms")) is not None:
        return missing
    count = min(max(OF_ONE, round(CLIENTS * options.scale)), allow_many_files() - _SPARE_FILES)
    clients = await _arrived(world, count)
    seen: dict[str, list[Scrolled]] = {name: [] for name in _NAMES}
    try:
        async with (
            a_browser() as browser,
            world.at_work(),
            browser.tab(f"{world.sidecar.admin}/") as page,
            browser.tab(f"{world.sidecar.admin}/livez") as empty,
        ):
            await page.until("document.documentElement.dataset.frames >= 3", "the page is live")
            for _ in range(options.rounds):
                seen[_NOTHING].append(await _scrolled(empty, _NOTHING))
                seen[_POOLS].append(await _scrolled(page, _POOLS))
                await _open_drawer(page, schema_name(0))
                seen[_DRAWER].append(await _scrolled(page, _DRAWER))
                await page.evaluate("document.getElementById('drawer-close').click()")
    finally:
        for client in clients:
            client.close()
    return _scroll_part(count, seen)


@dataclass(frozen=True, slots=True)
class Scrolled:
    """Milliseconds of each frame and of each long task; of the time, what the page's thread worked at, in percent."""

    frames: list[float]
    tasks: list[float]
    percent: Mapping[str, float]


def _scroll_part(count: int, seen: Mapping[str, Sequence[Scrolled]]) -> Part:
    rows, longest = [], {}
    for name, runs in seen.items():
        frames = [each for run in runs for each in run.frames]
        longest[name] = Spread.of(max(run.frames) for run in runs)
        rows.append(
            (
                _NAMES[name], figure(percentile(frames, 50)), figure(percentile(frames, 99)), spread(longest[name]),
                figure(max((each for run in runs for each in run.tasks), default=0.0)),
                *(figure(percentile([run.percent[kind] for run in runs], 50)) for kind in _WORK),
            )
        )  # fmt: skip
    head = ("", "frame p50 ms", "p99 ms", "longest of a round ms", "longest task ms", *_WORK.values())
    verdicts = [
        at_most(f"longest frame while {_NAMES[name]} is scrolled", FRAME_MS, longest[name], "ms")
        for name in (_POOLS, _DRAWER)
    ]
    empty = at_most("longest frame of an empty page", FRAME_MS, longest[_NOTHING], "ms")
    return Part(
        title=f"Scrolling for {SCROLL_MS / 1000:g} s with {POOLS} pools and {count:,} clients",
        text=render(head, rows),
        data={"clients": count, "scrolled": {name: [asdict(run) for run in runs] for name, runs in seen.items()}},
        verdicts=trust([*verdicts, replace(empty, control=True)]),
    )


async def _arrived(world: AdminWorld, count: int) -> list[Client]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> Client:
        async with turns:
            return await world.client(0 if number < OF_ONE else number % POOLS)

    return await asyncio.gather(*(one(number) for number in range(count)))


async def _open_drawer(page: Tab, tenant: str) -> None:
    filled = (
        f"const box = document.getElementById('filter'); box.value = '{tenant}'; box.dispatchEvent(new Event('input'))"
    )
    await page.evaluate(f"(() => {{ {filled} }})()")
    button = "document.querySelector('#table tbody button')"
    await page.until(f"{button}?.textContent === '{tenant}'", "the tenant is found")
    await page.evaluate(f"{button}.click()")
    await page.until("document.querySelector('#drawer .clients')?.scrollHeight > 10000", "its clients are shown")
    await page.evaluate(f"(() => {{ {filled.replace(tenant, '')} }})()")


async def _scrolled(tab: Tab, name: str) -> Scrolled:
    await tab.send("Page.bringToFront")
    await tab.send("Performance.enable")
    before = await _spent(tab)
    told = await tab.evaluate(_SCROLLED % (json.dumps(name), SCROLL_MS // 4, SCROLL_MS))
    if name != _NOTHING and told["most"] <= 0:
        raise RuntimeError(f"{_NAMES[name]} cannot be scrolled")
    after = await _spent(tab)
    percent = {name: 100 * (after[name] - before[name]) / (SCROLL_MS / 1e3) for name in _WORK}
    return Scrolled(told["frames"], told["tasks"], percent)


async def _spent(tab: Tab) -> dict[str, float]:
    """Seconds of the page's own thread so far, in all and by kind of work."""
    return {each["name"]: each["value"] for each in (await tab.send("Performance.getMetrics"))["metrics"]}
