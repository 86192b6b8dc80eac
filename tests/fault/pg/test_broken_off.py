"""What if a client is gone after any byte of what it had to say? Its backend's next clients meet nothing of it."""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.raw.exchange import SYNC_NOW, query, statement
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tests.support.model_server import DONE, TERMINATE, bind, close, data, describe, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import PATIENCE, until
from tests.support.wire_client import WireClient
from tests.support.world import World

pytestmark = pytest.mark.both_paths

NAMES = "SELECT name FROM projects ORDER BY id"
LEFT = (
    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
    " UNION ALL SELECT count(*) FROM pg_cursors UNION ALL SELECT count(*) FROM projects WHERE name = 'left'"
)
PIPELINE = (
    parse(b"s", b"SELECT pg_advisory_lock(4711)")
    + bind(b"s")
    + execute()
    + SYNC_NOW
    + statement("SELECT 1/0")
    + SYNC_NOW
    + describe(b"s")
    + close(b"s")
    + statement("SELECT pg_advisory_unlock_all()")
    + SYNC_NOW
)
TRANSACTION = (
    query("BEGIN")
    + query("INSERT INTO projects (tenant_id, name) VALUES ('row1', 'left')")
    + query("DECLARE c CURSOR FOR SELECT 1")
    + query("SELECT pg_advisory_xact_lock(4711)")
    + query("ROLLBACK")
    + TERMINATE
)
COPY = query("BEGIN") + query("COPY projects (name) FROM STDIN") + data(b"left\n") * 2 + DONE + query("ROLLBACK")
COPY_EXTENDED = (
    query("BEGIN")
    + statement("COPY projects (name) FROM STDIN")
    + data(b"left\n")
    + DONE
    + SYNC_NOW
    + query("ROLLBACK")
)
COPY_OUT = (
    query("BEGIN")
    + query("COPY projects TO STDOUT")
    + statement("COPY projects TO STDOUT")
    + SYNC_NOW
    + query("ROLLBACK")
)


async def said(house: PortHouse, client: WireClient, sent: bytes, tenant: str) -> None:
    """Send it; returns when the relay has it."""
    traffic = house.listener.traffic[tenant]  # type: ignore[index]
    wanted = traffic.received + len(sent)
    client.send(sent)
    async with asyncio.timeout(PATIENCE):
        while traffic.received < wanted:  # noqa: ASYNC110 - a turn of the loop, not a time
            await asyncio.sleep(0)


def of(tenant: str) -> list[list[str | None]]:
    return [[f"{tenant} {n}"] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("tenant", "next_tenant", "script"),
    [
        pytest.param("row1", "row2", PIPELINE, id="a pipeline"),
        pytest.param("row1", "row2", TRANSACTION, id="a transaction"),
        pytest.param("database1", "database1", COPY, id="a COPY"),
        pytest.param("database1", "database1", COPY_EXTENDED, id="a COPY in the extended protocol"),
        pytest.param("row1", "row2", COPY_OUT, id="a COPY to the client"),
    ],
)
async def test_a_client_that_is_gone_after_any_byte_is_met_by_nobody(
    lasting: World, tenant: str, next_tenant: str, script: bytes
) -> None:
    """All on one backend: the next client of the same tenant, and one of another where they share it."""
    async with a_port(lasting, pools={"shared_size": 1, "max_size": 1}) as house:
        same, other = await house.client(tenant), await house.client(next_tenant)
        await same.query("SELECT 1")
        for cut in range(len(script) + 1):
            client = await WireClient.connect(house.number, tenant)
            await said(house, client, script[:cut], tenant)
            if cut % 2:
                client.abort()
            else:
                client.writer.close()
            for witness, whose in ((other, next_tenant), (same, tenant)):
                names = await witness.query(NAMES)
                assert names.rows == of(whose), f"after {cut} bytes"
                assert names.status == "I"
                left = await witness.query(LEFT)
                assert left.rows == [["0"], ["0"], ["0"]], f"after {cut} bytes"
        assert house.router.stats().resets["failed"] == 0


async def test_an_answer_too_many_of_a_failed_copy_is_not_the_next_clients(lasting: World) -> None:
    """The COPY fails before it reads the Sync that was sent with it, so that one is answered after all."""
    async with (
        lasting.database(lasting.tenants[-1]).connect() as admin,
        a_port(lasting, pools={"max_size": 1}) as house,
    ):
        tenant = lasting.tenants[-1].id
        await admin.execute(
            "CREATE TABLE trap (name text); GRANT ALL ON trap TO PUBLIC;"
            " CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_advisory_xact_lock(77); RAISE EXCEPTION ''sprung''; END';"
            " CREATE TRIGGER spring BEFORE INSERT ON trap FOR EACH STATEMENT EXECUTE FUNCTION spring();"
            " SELECT pg_advisory_lock(77)"
        )
        try:
            client, other = await house.client(tenant), await house.client(tenant)
            client.send(statement("COPY trap FROM STDIN") + SYNC_NOW)
            while (await client.message())[0] != frames.COPY_IN:
                pass
            await said(house, client, data() + DONE + SYNC_NOW, tenant)
            other.send(query("SELECT 'one'"))
            await admin.execute("SELECT pg_advisory_unlock(77)")
            assert (await client.answer()).sqlstate == "P0001"
            assert (await other.answer()).rows == [["one"]]
            client.abort()  # it may have got both answers, or one
            for witness in (other, await house.client(tenant)):
                for word in ("two", "three"):
                    assert (await witness.query(f"SELECT '{word}'")).rows == [[word]]
        finally:
            await admin.execute("SELECT pg_advisory_unlock_all(); DROP TABLE trap; DROP FUNCTION spring()")


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_client_that_pipelines_its_farewell_has_its_work_done(lasting: World, user: str) -> None:
    """As with a server of its own: what was sent before it is run."""
    open_to_all = {"unprotected": ["public.leavings"]}
    async with (
        a_port(lasting, pools={"max_size": 1}, row=open_to_all) as house,
        lasting.shared.connect() as admin,
    ):
        client = await house.client("row1", user)
        await client.query("SELECT 1")
        await admin.execute("CREATE TABLE leavings (said text); GRANT ALL ON leavings TO PUBLIC")
        try:
            client.send(query("INSERT INTO leavings VALUES ('well')") + frame(frames.TERMINATE))

            async def is_done() -> bool:
                return bool(await admin.fetchval("SELECT count(*) FROM leavings"))

            await until(is_done, "what was sent before the Terminate is done")
        finally:
            await admin.execute("DROP TABLE leavings")
