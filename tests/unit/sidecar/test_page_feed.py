"""What does each viewer of the operator page get, and what becomes of one that takes nothing?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tenantproxy.errors import PoolClosed
from tenantproxy.events import ConnectionOpened, Exhausted, PoolEvicted, PoolOpened
from tenantproxy.fleet.stats import FleetProcess
from tenantproxy.model import Isolation, PoolKey
from tenantproxy.pools.base import HistogramSnapshot, PoolStats, Stats, TenantPoolStats
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.page.feed import PageFeed, TooManyViewers, Viewer
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.routes import FILES, page_routes
from tenantproxy.sidecar.page.rows import Look, changes, pool_rows
from tenantproxy.sidecar.page.shares import FleetShares
from tests.support.waiting import PATIENCE, until

WAITS = HistogramSnapshot(bounds=(0.001, 0.01), counts=(3, 2, 1), total=0.1)


def a_pool(name: str, used: int = 0, *, shared: bool = False, tenants: tuple[TenantPoolStats, ...] = ()) -> PoolStats:
    return PoolStats(
        key=PoolKey(server="primary", database=f"{name}_db", shared=shared),
        label=f"primary/{name}_db" if shared else name,
        limit=5, idle=1, used=used, opening=0, resetting=0, retiring=0, waiting=0, tenants=tenants, unused_seconds=2.0,
    )  # fmt: skip


def stats_of(*pools: PoolStats) -> Stats:
    return Stats(
        pools=pools, servers=(), pools_limit=100, acquires={}, exhaustions={"connect": 2},
        acquire_wait={Isolation.ROW: WAITS, Isolation.SCHEMA: WAITS}, hold={}, closed={}, opened={}, evicted={},
        resets={}, violations={}, lookups={}, lookup_seconds={}, registry_last_success=None,
    )  # fmt: skip


class FakeRouter:
    """What there is to look at; each look is counted."""

    def __init__(self, *pools: PoolStats) -> None:
        self.pools = list(pools)
        self.looks = 0
        self.error: Exception | None = None

    async def look(self) -> Look:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return Look(stats=stats_of(*self.pools))


def parsed(frame: bytes) -> tuple[str, dict[str, Any]]:
    """The name of an event and what it holds."""
    head, data, *rest = frame.decode().split("\n")
    assert rest == ["", ""], "one line of data, and a blank one"
    return head.removeprefix("event: "), json.loads(data.removeprefix("data: "))


class Reader:
    """A viewer that reads; `rows` is what it has put together."""

    def __init__(self, viewer: Viewer) -> None:
        self.kinds: list[str] = []
        self.rows: dict[str, Any] = {}
        self.events: list[int] = []
        self.task = asyncio.create_task(self._read(viewer))

    async def _read(self, viewer: Viewer) -> None:
        async for frame in viewer.frames():
            kind, told = parsed(frame)
            self.kinds.append(kind)
            if kind == "all":
                self.rows = {}
            if kind != "trouble":
                self.rows |= told["pools"]
                self.events += [each["n"] for each in told["events"]]
                for name in told.get("gone", ()):
                    del self.rows[name]


@asynccontextmanager
async def reading(feed: PageFeed) -> AsyncIterator[Reader]:
    async with feed.viewer(lambda: None) as viewer:
        reader = Reader(viewer)
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.wait([reader.task])


def rows_of(router: FakeRouter) -> dict[str, Any]:
    return {name: json.loads(row.text)[:-1] for name, row in pool_rows(stats_of(*router.pools), 0.0)}


def without_times(reader: Reader) -> dict[str, Any]:
    return {name: row[:-1] for name, row in reader.rows.items()}


async def test_a_late_viewer_sees_the_same_as_one_that_came_first() -> None:
    router = FakeRouter(a_pool("acme"), a_pool("globex"))
    feed = PageFeed(router.look, RecentEvents(), seconds=0.001)
    async with reading(feed) as first:
        await until(lambda: "more" in first.kinds, "the first has everything, then changes")
        router.pools = [a_pool("acme", used=3), a_pool("initech")]
        async with reading(feed) as second:
            await until(lambda: without_times(first) == without_times(second) == rows_of(router), "they see the same")
    assert first.kinds[0] == second.kinds[0] == "all"
    assert first.kinds.count("all") == second.kinds.count("all") == 1


async def test_the_processes_of_a_fleet_are_sent_once_while_nothing_of_them_changes() -> None:
    asked: list[int] = []
    now = [0.0]
    known = [FleetProcess(server="primary", process="p", state="live", granted=3, used=2, wanted=1.0, seen_seconds=1)]

    async def ask() -> list[FleetProcess]:
        asked.append(1)
        return list(known)

    shares = FleetShares(ask, clock=lambda: now[0])
    frames: list[dict[str, Any]] = []
    sent: list[Any] = []

    async def look() -> Look:
        return Look(stats=stats_of(), processes=shares.latest(), own=["p"])

    feed = PageFeed(look, RecentEvents(), seconds=0.001)
    async with feed.viewer(lambda: None) as viewer:
        async for frame in viewer.frames():
            frames.append(parsed(frame)[1])
            sent = [each["processes"] for each in frames if "processes" in each]
            if len(frames) == 20:
                assert sent[-1] == [["primary", "p", True, "live", 3, 2, 1.0, None]]
                assert (len(sent), len(asked)) == (2, 1), "none were known at first; two seconds have not passed"
                now[0] = 3.0
                known[0] = replace(known[0], state="silent", seen_seconds=20)
            elif len(sent) == 3:
                break
    await shares.close()
    assert sent[-1] == [["primary", "p", True, "silent", 3, 2, 1.0, 20]]


async def test_one_look_a_tick_serves_all_viewers_and_without_any_there_is_none() -> None:
    router = FakeRouter(a_pool("acme"))
    feed = PageFeed(router.look, RecentEvents(), seconds=0.001)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(feed)) for _ in range(200)]
        await until(lambda: all(len(each.kinds) >= 3 for each in readers), "all have had three pictures")
        assert router.looks <= max(len(each.kinds) for each in readers) + 1
        with pytest.raises(TooManyViewers, match="200"):
            await stack.enter_async_context(reading(feed))
    assert len(feed) == 0
    looks = router.looks
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert router.looks <= looks + 1, "the one that was under way"


async def test_events_come_once_to_who_is_there_and_all_known_ones_to_who_comes() -> None:
    recent, router = RecentEvents(), FakeRouter()
    feed = PageFeed(router.look, recent, seconds=0.001)
    recent(PoolOpened(pool="acme", reason="cold"))
    recent(ConnectionOpened(server="primary", pool="acme", seconds=0.1))
    async with reading(feed) as first:
        await until(lambda: first.events == [1], "what was before, without what is too frequent")
        recent(PoolEvicted(pool="acme", reason="lru"))
        await until(lambda: first.events == [1, 2], "what came then")
        async with reading(feed) as second:
            await until(lambda: second.events == [1, 2], "all of it")
            recent(Exhausted(cause="queue_full", tenant="acme", pool="acme", limit=1, waiting=2))
            await until(lambda: first.events == second.events == [1, 2, 3], "each once")
    assert recent.starved(5) == [("acme", "queue_full", 1)]


async def test_a_look_that_fails_is_told_and_the_next_one_goes_on() -> None:
    router = FakeRouter(a_pool("acme"))
    feed = PageFeed(router.look, RecentEvents(), seconds=0.001)
    async with reading(feed) as reader:
        await until(lambda: reader.kinds, "it is live")
        router.error = PoolClosed("the router is closed")
        await until(lambda: "trouble" in reader.kinds, "it is told")
        router.error = ZeroDivisionError()
        count = len(reader.kinds)
        await until(lambda: len(reader.kinds) > count + 2, "whatever it is")
        router.error, router.pools = None, [a_pool("globex")]
        await until(lambda: without_times(reader) == rows_of(router), "it goes on")


async def test_viewers_are_let_go_when_the_listener_closes() -> None:
    feed = PageFeed(FakeRouter().look, RecentEvents(), seconds=0.001)
    async with reading(feed) as reader:
        await until(lambda: reader.kinds, "it is live")
        await feed.close()
        await asyncio.wait_for(reader.task, PATIENCE)
        with pytest.raises(TooManyViewers):
            async with feed.viewer(lambda: None):
                pass


async def test_over_a_socket_a_viewer_that_never_reads_is_dropped_and_others_are_not() -> None:
    router = FakeRouter(*(a_pool(f"tenant{number}") for number in range(2000)))

    async def busy() -> Look:
        look = await router.look()
        used = router.looks % 5
        return Look(stats=stats_of(*(a_pool(pool.label, used) for pool in look.stats.pools)))

    feed = PageFeed(busy, RecentEvents(), seconds=0.001)
    app = web.Application()
    app.add_routes(page_routes(feed))
    app.on_shutdown.append(lambda _: feed.close())
    listener = HttpListener(app, protocol="admin", host="127.0.0.1", port=0, max_clients=10, drain_timeout=5.0)
    await listener.open()
    host, port = listener.url.removeprefix("http://").split(":")
    _, silent = await asyncio.open_connection(host, int(port), limit=1024)
    read, alive = await asyncio.open_connection(host, int(port))
    got = 0

    async def take() -> None:
        nonlocal got
        while data := await read.read(1 << 20):
            got += len(data)

    task = asyncio.create_task(take())
    try:
        for writer in (silent, alive):
            writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(feed) == 2, "both look on")
        await until(lambda: len(feed) == 1, "the one that takes nothing is dropped")
        before = got
        await until(lambda: got > before + 1_000_000, "the other one goes on")
        await listener.close()
        await asyncio.wait_for(task, PATIENCE)
    finally:
        silent.close()
        alive.close()
        task.cancel()
        await listener.close()


def test_tenants_of_a_shared_pool_have_rows_and_equal_keys_are_told_apart() -> None:
    part = TenantPoolStats(tenant="acme", leased=1, waiting=2, oldest_wait_seconds=0.5, max_size=3)
    shared = a_pool("shared", shared=True, tenants=(part,))
    rows = dict(pool_rows(stats_of(shared, shared), 100.0))
    assert len(rows) == 4
    whole, one = (json.loads(row.text) for row in list(rows.values())[:2])
    assert whole[:4] == ["primary/shared_db", "shared", "primary", "shared_db"]
    assert whole[-2:] == [0.5, 98]
    assert one[:2] == ["acme", "part"]


def test_a_row_that_is_as_it_was_is_not_encoded_again() -> None:
    before = dict(pool_rows(stats_of(a_pool("idle"), a_pool("busy")), 100.0))
    now = dict(pool_rows(stats_of(a_pool("idle"), a_pool("busy", used=1)), 100.0, before))
    same = [now[name] is row for name, row in before.items()]
    assert same == [True, False]
    assert [json.loads(row.text)[6] for row in now.values()] == [0, 1]


def test_changes_are_the_rows_that_differ_and_the_ids_that_are_gone() -> None:
    assert changes({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}) == ({"b": "9", "d": "4"}, ["c"])


def test_counts_of_exhaustions_stay_bounded_and_keep_the_most_frequent() -> None:
    recent = RecentEvents()
    for number in range(5000):
        for tenant in ("acme", f"tenant{number}"):
            recent(Exhausted(cause="connect", tenant=tenant, pool="p", limit=1, waiting=0))
    assert recent.starved(1) == [("acme", "connect", 5000)]
    assert len(recent.starved(10_000)) <= 1000
    assert len(recent.since(0)) == 300


async def test_the_page_is_served_with_a_strict_policy_and_nothing_else_of_its_folder() -> None:
    feed = PageFeed(FakeRouter().look, RecentEvents())
    app = web.Application()
    app.add_routes(page_routes(feed))
    listener = HttpListener(app, protocol="admin", host="127.0.0.1", port=0, max_clients=10, drain_timeout=5.0)
    await listener.open()
    try:
        async with aiohttp.ClientSession(listener.url) as http:
            for path in ("/", *(f"/page/{name}" for name in FILES)):
                async with http.get(path) as answer:
                    assert answer.status == 200, path
                    policy = answer.headers["Content-Security-Policy"]
                    assert policy.startswith("default-src 'none'")
                    assert "unsafe" not in policy
                    text = await answer.text()
                async with http.get(path, headers={"If-None-Match": answer.headers["ETag"]}) as again:
                    assert again.status == 304
                if "uplot" not in path and not path.endswith(".svg"):
                    assert not any(each in text for each in ("http://", "https://", "innerHTML", " style=", "onclick"))
            for path in ("/page/routes.py", "/page/..%2froutes.py", "/page/"):
                async with http.get(path) as answer:
                    assert answer.status == 404
    finally:
        await listener.close()
