"""Where does a request for a tenant of another region go? There, by 307 or asked by us, once, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tenantproxy.model import tenant_id
from tenantproxy.sidecar.sql import regions
from tests.support.sql_house import SqlClient, SqlHouse, a_sql_client, a_sql_house, connection_string
from tests.support.waiting import until
from tests.support.world import SERVER, World

pytestmark = pytest.mark.asyncio

NODE = Path(__file__).parents[2] / "e2e" / "pg" / "node"
SECRET = "k" * 40
AUTH = {"key": SECRET, "issuer": "tests", "audience": "sql"}


@pytest.fixture
async def home(lasting: World) -> AsyncIterator[SqlHouse]:
    """A sidecar in the region `us`, where the server of all tenants is."""
    sql = {"region": "us", "regions": {"us": "http://127.0.0.1:1"}}
    async with a_sql_house(lasting, sql=sql, servers={SERVER: {"region": "us"}}, auth=AUTH, pg={"jwt": True}) as house:
        yield house


@asynccontextmanager
async def elsewhere(home: SqlHouse, url: str | None = None, **sql: object) -> AsyncIterator[SqlClient]:
    """One in the region `eu`, which knows of the other one at `url`."""
    regions = {"us": url or home.listener.url}
    async with a_sql_client(
        home.port.port, home.port.router, drains=False, region="eu", regions=regions, **sql
    ) as near:
        yield near


async def asked(near: SqlClient, **headers: str) -> tuple[int, str | None, bytes]:
    sent = {"Neon-Connection-String": connection_string("row1"), **headers}
    query = json.dumps({"query": "SELECT 1"})
    async with near.http.post(near.url, data=query, headers=sent, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location"), await answer.read()


async def test_a_request_for_another_region_is_sent_there_by_its_client(home: SqlHouse) -> None:
    async with elsewhere(home) as near:
        for _ in range(2):  # of a stranger, and of a caller who is known
            status, location, body = await asked(near)
            assert (status, location) == (307, f"{home.listener.url}/sql?region=us")
            assert json.loads(body)["hint"] == f"ask {home.listener.url}/sql"
        assert (await near.ask("SELECT $1", ["followed"])).value == "followed"
        assert not near.door._port.listener.guests


async def test_only_callers_who_may_reach_a_tenant_hear_of_its_region(home: SqlHouse) -> None:
    async with elsewhere(home) as near:
        wrong = connection_string("row1", password="guess")
        status, location, body = await asked(near, **{"Neon-Connection-String": wrong})
        assert (status, location, json.loads(body)["code"]) == (400, None, "28P01")


async def test_neons_driver_follows_to_the_region_unmodified(home: SqlHouse) -> None:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "@neondatabase" / "serverless").is_dir():
        pytest.skip("Neon's driver needs node and npm ci in tests/e2e/pg/node")
    async with elsewhere(home) as near:
        text = connection_string("row1", host="ep-cool-wind.neon.example")
        process = await asyncio.create_subprocess_exec(
            node, str(NODE / "regions.mjs"), near.url, text, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert json.loads(said) == ["followed", "in a transaction", "42703"]


async def test_a_proxy_answers_what_the_region_does_tokens_and_batches_too(home: SqlHouse) -> None:
    tenant = await home.port.router.registry.get(tenant_id("row1"))
    token = home.port.port._desk.tokens.issue(tenant=tenant, user="ann")
    async with elsewhere(home, elsewhere="proxy") as near:
        assert await asked(near) == await asked(home)
        refused, theirs = await near.ask("SELECT nowhere"), await home.ask("SELECT nowhere")
        assert (refused.status, refused.body) == (theirs.status, theirs.body)
        modes = {"Neon-Batch-Isolation-Level": "Serializable"}
        batch = await near.batch("SELECT 1", "SELECT 2", headers=modes)
        assert batch.headers["Neon-Batch-Isolation-Level"] == "Serializable"
        assert len((await near.ask("SELECT repeat('x', 3000000)")).value or "") == 3_000_000
        bearer = {"Authorization": f"Bearer {token}", "Neon-Connection-String": None}
        assert (await near.ask("SELECT 1", headers=bearer)).value == "1"
    async with elsewhere(home) as near:  # clients take no token along
        assert (await near.ask("SELECT 1", headers=bearer)).value == "1"


@pytest.mark.parametrize("mark", [{"Tenantproxy-Region": "us"}, None])
async def test_a_request_that_was_sent_here_is_sent_nowhere(home: SqlHouse, mark: dict[str, str] | None) -> None:
    for how in ("redirect", "proxy"):
        async with elsewhere(home, "http://127.0.0.1:1", elsewhere=how) as near:
            url = near.url if mark else f"{near.url}?region=us"
            sent = {"Neon-Connection-String": connection_string("row1"), **(mark or {})}
            async with near.http.post(url, data='{"query": "SELECT 1"}', headers=sent, allow_redirects=False) as answer:
                said = json.loads(await answer.read())
            assert (answer.status, said["code"]) == (400, "0A000")
            assert said["message"] == "two regions disagree about where the tenant is"


async def test_two_regions_that_send_to_each_other_end_after_one_turn(home: SqlHouse) -> None:
    async with elsewhere(home, elsewhere="proxy") as first:
        async with elsewhere(home, first.listener.url, elsewhere="proxy") as second:
            first.door._regions._sql = first.door._regions._sql.model_copy(
                update={"regions": {"us": second.listener.url}}
            )
            said = await second.ask("SELECT 1")
            assert (said.status, said.code) == (400, "0A000")


async def test_nothing_that_a_caller_sends_chooses_the_address(home: SqlHouse) -> None:
    async with elsewhere(home) as near:
        text = connection_string("row1", host="169.254.169.254") + "?region=eu&host=169.254.169.254"
        for more in (
            {"Host": "169.254.169.254"},
            {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"},
        ):
            _, location, _ = await asked(near, **{"Neon-Connection-String": text}, **more)
            assert location == f"{home.listener.url}/sql?region=us"


async def test_a_region_that_does_not_answer_is_told_and_leaves_nothing(home: SqlHouse) -> None:
    async with elsewhere(home, "http://127.0.0.1:1", elsewhere="proxy") as near:
        said = await near.ask("SELECT 1")
        assert (said.status, said.code) == (400, "08001")
        assert said.headers["Retry-After"]


async def test_a_client_that_goes_ends_what_was_asked_for_it_elsewhere(home: SqlHouse) -> None:
    async with elsewhere(home, elsewhere="proxy") as near:
        await near.ask("SELECT 1")
        asking = asyncio.create_task(near.ask("SELECT pg_sleep(60)"))
        await until(lambda: any(guest.holds_backend for guest in home.port.listener.guests), "it runs there")
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not home.port.listener.guests and home.port.is_quiet, "it has ended there")


async def test_a_tenant_leaves_the_others_connections_to_their_region(
    home: SqlHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_CONNECTIONS", 4)
    async with elsewhere(home, elsewhere="proxy") as near:
        await near.ask("SELECT 1")
        slow = [asyncio.create_task(near.ask("SELECT pg_sleep(60)")) for _ in range(8)]
        try:
            await until(lambda: any(guest.holds_backend for guest in home.port.listener.guests), "some run there")
            async with asyncio.timeout(30):
                assert (await near.ask("SELECT 'other'", tenant="row2")).value == "other"
            await until(lambda: sum(task.done() for task in slow) == 6, "the rest was refused")
            assert {task.result().code for task in slow if task.done()} == {"53300"}
        finally:
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)
        await until(lambda: not home.port.listener.guests and home.port.is_quiet, "it has ended there")
        assert (await near.ask("SELECT 'again'")).value == "again"
