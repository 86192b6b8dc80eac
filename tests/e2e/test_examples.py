"""Do the examples run as they are written, under their own servers, and keep tenants apart?"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tenantproxy.auth.tokens import Tokens
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.lasting import a_lasting_world
from tests.support.waiting import PATIENCE, wait_until
from tests.support.web import AUTH, HEADER
from tests.support.world import World

ROOT: Final = Path(__file__).parents[2]
UVICORN: Final = ("-m", "uvicorn", "--port", "0")
SERVERS: Final[dict[str, tuple[str, ...]]] = {
    "fastapi_app": (*UVICORN, "examples.fastapi_app:app"),
    "fastapi_sqlalchemy": (*UVICORN, "examples.fastapi_sqlalchemy:app"),
    "starlette_app": (*UVICORN, "examples.starlette_app:app"),
    "litestar_app": (*UVICORN, "examples.litestar_app:app"),
    "django_app": (*UVICORN, "examples.django_app:app"),
    "aiohttp_app": ("-m", "examples.aiohttp_app"),
}
TENANTS: Final = ("row1", "schema1", "database1", "row2")


@pytest.fixture(scope="module")
def example_world(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres, each=2) as world:
        yield world


@pytest.fixture(scope="module")
def config(example_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration as an operator would write it."""
    path = tmp_path_factory.mktemp("examples") / "tenantproxy.toml"
    path.write_text(f'{example_world.toml()}[auth]\nkey = "{AUTH["key"]}"\n')
    return path


@contextmanager
def running(name: str, config: Path) -> Iterator[str]:
    """The example's server as a process of its own; its URL. It must end in order when it is asked to."""
    environment = {**os.environ, "TENANTPROXY_CONFIG": str(config), "PORT": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *SERVERS[name]],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=said.extend, args=(process.stdout,))
    reader.start()

    def url() -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", "".join(said))
        return found[0] if found else ""

    try:
        wait_until(lambda: url() or process.poll() is not None, f"{name} listens")
        assert process.poll() is None, "".join(said)
        yield url()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) in (0, -signal.SIGINT), "".join(said)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
    assert "Traceback" not in "".join(said), "".join(said)


@pytest.fixture
def headers(example_world: World) -> dict[str, dict[str, str]]:
    """Token and header of each tenant, and what disagrees."""
    tokens = Tokens(example_world.settings(auth=AUTH).auth, tenants=None)
    made = {
        str(tenant.id): {"Authorization": f"Bearer {tokens.issue(tenant=tenant, user='user-7')}", HEADER: tenant.id}
        for tenant in example_world.tenants
    }
    return {**made, "liar": {**made["row1"], HEADER: "row2"}, "stranger": {HEADER: "row1"}}


@pytest.mark.parametrize("name", SERVERS)
async def test_an_example_serves_each_tenant_its_own(
    config: Path, headers: dict[str, dict[str, str]], name: str
) -> None:
    with running(name, config) as url:
        async with aiohttp.ClientSession() as http:
            for tenant in TENANTS:
                async with http.get(f"{url}/projects", headers=headers[tenant]) as answer:
                    assert (answer.status, await answer.json()) == (200, [f"{tenant} {n}" for n in (1, 2, 3)])
            for who, status in (("liar", 403), ("stranger", 401), ("no header", 401)):
                async with http.get(f"{url}/projects", headers=headers.get(who)) as answer:
                    problem = await answer.json(content_type="application/problem+json")
                    assert (answer.status, problem["status"]) == (status, status), name
                    assert answer.headers["X-Request-ID"] == problem["request_id"]


async def test_the_fastapi_example_streams_and_talks(config: Path, headers: dict[str, dict[str, str]]) -> None:
    with running("fastapi_app", config) as url:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/projects/stream", headers=headers["row1"]) as answer:
                assert (await answer.text()).splitlines() == ["row1 1", "row1 2", "row1 3"]
            async with http.ws_connect(f"{url}/projects/count", headers=headers["schema1"]) as socket:
                await socket.send_str("?")
                assert await socket.receive_json() == 3
            async with http.get(f"{url}/health") as answer:
                assert await answer.json() == {"open": True}


async def test_the_sqlalchemy_example_changes_its_own_tenants_rows_alone(
    config: Path, headers: dict[str, dict[str, str]]
) -> None:
    with running("fastapi_sqlalchemy", config) as url:
        async with aiohttp.ClientSession() as http:

            async def names(tenant: str) -> list[str]:
                async with http.get(f"{url}/projects", headers=headers[tenant]) as answer:
                    found: list[str] = await answer.json()
                    return found

            async def rename(tenant: str, old: str, new: str) -> None:
                sent = http.put(f"{url}/projects", params={"old": old}, json={"name": new}, headers=headers[tenant])
                async with sent as answer:
                    assert answer.status == 204

            for tenant in TENANTS:
                own = [f"{tenant} {n}" for n in (1, 2, 3)]
                for other in TENANTS:
                    await rename(other, own[0], "renamed")
                assert [other for other in TENANTS if "renamed" in await names(other)] == [tenant]
                await rename(tenant, "renamed", own[0])
                assert await names(tenant) == own


async def test_the_django_example_serves_sync_views(config: Path, headers: dict[str, dict[str, str]]) -> None:
    with running("django_app", config) as url:
        async with aiohttp.ClientSession() as http:
            for tenant in TENANTS:
                async with http.get(f"{url}/projects/sync", headers=headers[tenant]) as answer:
                    assert (answer.status, await answer.json()) == (200, [f"{tenant} {n}" for n in (1, 2, 3)])
            async with http.get(f"{url}/projects/sync") as answer:
                assert answer.status == 401


def test_the_worker_runs_each_job_for_its_tenant(config: Path) -> None:
    jobs = [{"tenant": tenant, "job": "count"} for tenant in (*TENANTS, "unknown", "o'brien") * 3]
    done = subprocess.run(
        [sys.executable, "-m", "examples.worker"],
        cwd=ROOT, env={**os.environ, "TENANTPROXY_CONFIG": str(config)}, timeout=PATIENCE, check=True,
        input="".join(json.dumps(job) + "\n" for job in jobs), capture_output=True, text=True,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(jobs)
    assert {(one["tenant"], one.get("result"), one.get("error")) for one in results} == {
        *((tenant, 3, None) for tenant in TENANTS),
        ("unknown", None, "tenant_not_found"), ("o'brien", None, "tenant_not_found"),
    }  # fmt: skip
    assert done.stderr == ""
