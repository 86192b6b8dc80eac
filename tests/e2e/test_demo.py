"""Does the demo keep its word: everything checked, everything cleaned up, and a failure when something is wrong?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from tenantproxy.config import Settings, load
from tenantproxy.demo.people import email_of
from tenantproxy.demo.routes import demo_routes
from tenantproxy.demo.stage import Seen, Stage, eventually
from tenantproxy.demo.tour import is_ready, logins, own_rows, row_breakout, take_tour
from tenantproxy.demo.world import SHARED, World
from tenantproxy.model import Isolation, tenant_id
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar
from tests.e2e.conftest import Command, get
from tests.support.waiting import PATIENCE, wait_until


@asynccontextmanager
async def touring(world: World, settings: Settings | None = None) -> AsyncIterator[Stage]:
    """A sidecar with the demo's route in this very process, and all that a step of the tour may use."""
    router = Router(settings or load(world.config))
    watch = await world.connect()
    try:
        sidecar = Sidecar(router, routes=demo_routes(router, lambda: sidecar.auth.tokens), drain_timeout=2)
        async with sidecar, aiohttp.ClientSession() as http:
            tokens = {
                tenant.id: sidecar.auth.tokens.issue(tenant=await router.registry.get(tenant_id(tenant.id)), user="ann")
                for tenant in world.tenants
            }
            yield Stage(
                world=world, router=router, tokens=tokens, http=http, watch=watch,
                public_url=str(sidecar.public_url), admin_url=str(sidecar.admin_url),
                pg_address=str(sidecar.pg_address),
            )  # fmt: skip
    finally:
        watch.terminate()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of an embedded server can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_demo_serves_until_it_is_interrupted_and_leaves_nothing(open_folder: Path, tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as to_out, err.open("w") as to_err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "demo"],
            env={**os.environ, "TMPDIR": str(open_folder)},
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=to_err,
        )
    try:
        wait_until(lambda: "pools --url" in out.read_text() or process.poll() is not None, "it is up")
        curl = next(line for line in out.read_text().splitlines() if line.startswith("curl") and "Bearer" in line)
        token, url = curl.split("Bearer ")[1].split("' ")
        status, _, body = get(url, Authorization=f"Bearer {token}")
        assert (status, json.loads(body)["tenant"]) == (200, "acme")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert list(open_folder.iterdir()) == []
    assert "Traceback" not in err.read_text()


def test_the_tour_sees_what_it_expects_and_exits_0(command: Command, open_folder: Path) -> None:
    ended = command("demo", "--once", TMPDIR=str(open_folder))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for kind in ("(row)", "(schema)", "(database)"):
        assert kind in ended.stdout
    assert "NO" not in ended.stdout
    assert list(open_folder.iterdir()) == []


def test_the_tour_of_a_tenants_life_sees_what_it_expects_and_exits_0(command: Command, open_folder: Path) -> None:
    ended = command("demo", "--tour", "lifecycle", "--once", TMPDIR=str(open_folder))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for typed in ("create", "move", "suspend", "resume", "archive", "delete", "undelete"):
        assert f"$ tenantproxy tenants {typed}" in ended.stdout
    for typed in ("migrate run", "backup verify", "backup restore", "gdpr export", "doctor", "prove"):
        assert f"$ tenantproxy {typed}" in ended.stdout
    assert "NO" not in ended.stdout
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("break_it", "notices"),
    [
        ("ALTER TABLE projects NO FORCE ROW LEVEL SECURITY; ALTER TABLE projects DISABLE ROW LEVEL SECURITY", "acme"),
        ("UPDATE projects SET tenant_id = 'acme' WHERE name = 'Weather dome'", "globex"),
    ],
    ids=["no row security", "a row that moved"],
)
async def test_the_tour_notices_when_isolation_is_broken(break_it: str, notices: str, own_world: World) -> None:
    seen: list[Seen] = []
    async with touring(own_world) as stage:  # which refuses to open on a table without row security
        admin = await own_world.connect(SHARED)
        try:
            await admin.execute(break_it)
        finally:
            await admin.close()
        assert not await take_tour(stage, seen.append, steps=(own_rows, row_breakout))
    assert any(notices in line.what for line in seen if not line.ok)
    assert any(line.ok for line in seen)


async def test_a_step_that_breaks_is_a_failed_line_and_the_next_one_runs(demo_world: World) -> None:
    async def broken(stage: Stage) -> AsyncIterator[Seen]:
        yield Seen(what="before", expected="", saw="", ok=True)
        raise RuntimeError("this step broke")

    seen: list[Seen] = []
    async with touring(demo_world) as stage:
        assert not await take_tour(stage, seen.append, steps=(broken, is_ready))
    assert [line.ok for line in seen] == [True, False, True]
    assert "this step broke" in seen[1].saw


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic {token}", "{token}", "Bearer {token}x", "Bearer demo_", "Bearer {token} {token}"],
)
async def test_only_the_very_token_opens_a_tenant(authorization: str, demo_world: World) -> None:
    async with touring(demo_world) as stage:
        globex = stage.world.one(Isolation.ROW, 1)
        assert (await stage.ask(globex)).projects == globex.projects
        wrong = authorization.replace("{token}", stage.tokens[globex.id])
        assert (await stage.ask(Authorization=wrong)).status == 401


async def test_the_tour_notices_when_no_login_works(own_world: World) -> None:
    seen: list[Seen] = []
    async with touring(own_world) as stage:
        admin = await own_world.connect(SHARED)
        try:
            await admin.execute("UPDATE users SET password_hash = 'x'")
        finally:
            await admin.close()
        assert not await take_tour(stage, seen.append, steps=(logins,))
    assert next(line.what for line in seen if not line.ok).startswith(email_of("globex"))


async def test_two_authorization_headers_are_rejected(demo_world: World) -> None:
    async with touring(demo_world) as stage:
        both = [("Authorization", f"Bearer {stage.tokens[tenant]}") for tenant in ("acme", "globex")]
        async with stage.http.get(f"{stage.public_url}/demo/projects", headers=CIMultiDict(both)) as answer:
            assert answer.status == 401


async def test_a_suspended_tenant_is_refused_and_its_neighbour_served(demo_world: World, tmp_path: Path) -> None:
    settings = load(demo_world.config, overrides={"tenants.globex.status": "suspended"})
    async with touring(demo_world, settings) as stage:
        acme, globex = stage.world.one(Isolation.ROW), stage.world.one(Isolation.ROW, 1)
        assert (await stage.ask(globex)).body["code"] == "tenant_suspended"
        assert (await stage.ask(acme)).status == 200


async def test_the_sidecar_is_not_ready_once_its_only_server_is_found_down_and_ready_again_after(
    own_world: World,
) -> None:
    async with touring(own_world) as stage:
        acme = stage.world.one(Isolation.ROW)
        own_world.server.stop("immediate")

        async def ready(status: int) -> bool:
            await stage.ask(acme)
            return await stage.ready() == status

        assert await eventually(lambda: ready(503), within=PATIENCE)
        own_world.server.start()
        assert await eventually(lambda: ready(200), within=PATIENCE)
        assert (await stage.ask(acme)).projects == acme.projects


async def test_a_draining_sidecar_says_so_and_finishes_what_it_has(demo_world: World) -> None:
    sleeping = asyncio.Event()
    router = Router(load(demo_world.config))

    async def slow(request: web.Request) -> web.Response:
        async with router.tenant("acme").connection() as conn:
            sleeping.set()
            await release.wait()
            return web.json_response(await conn.fetchval("SELECT count(*) FROM projects"))

    release = asyncio.Event()
    sidecar = Sidecar(router, routes=[web.get("/slow", slow)], drain_timeout=10)
    async with aiohttp.ClientSession() as http:
        await sidecar.open()
        admin = sidecar.admin_url
        running = asyncio.ensure_future(http.get(f"{sidecar.public_url}/slow"))
        await sleeping.wait()
        closing = asyncio.ensure_future(sidecar.close())
        try:
            async with http.get(f"{admin}/readyz?verbose") as answer:
                assert answer.status == 503
                assert "[-] not draining" in await answer.text()
            async with http.get(f"{admin}/metrics") as answer:
                assert "tenantproxy_draining 1.0" in await answer.text()
        finally:
            release.set()
        async with await running as answer:
            assert (answer.status, await answer.json()) == (200, 2)
        await closing
