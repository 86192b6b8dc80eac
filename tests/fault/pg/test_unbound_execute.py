"""Can a client bring the server of all tenants down by what PostgreSQL itself does not survive? Not through the port.

PostgreSQL (15.18 and 18.6 do) leaves the portal of a simple query that failed in a transaction there, with its text and
its plan freed. An Execute of it ends the process by SIGSEGV, and with it every other session of the server.
"""

from __future__ import annotations

from typing import Final

import pytest

from tenantproxy.raw.exchange import query
from tests.support.model_server import SYNC, bind, execute, parse
from tests.support.port_house import a_port
from tests.support.wire_client import Answer, WireClient
from tests.support.world import World

pytestmark = pytest.mark.both_paths

UNBOUND: Final = b"E\0\0\0\x09\0\0\0\0\1" + SYNC
FAILED: Final = [query("BEGIN; SELECT 1"), query("EXECUTE s"), query("SELECT 1; SET LOCAL work_mem = '123kB'")]
BIND_FAILS: Final = [bind(b"s") + execute() + SYNC, query("SELECT 1; UNLISTEN *")]
CASES: Final = {
    "one by one": [*FAILED, *BIND_FAILS, UNBOUND],
    "at once": [b"".join((*FAILED, *BIND_FAILS, UNBOUND))],
    "behind a Parse": [*FAILED, *BIND_FAILS, parse(b"", b"ROLLBACK") + UNBOUND],
    "with another portal bound": [*FAILED, *BIND_FAILS, parse(b"", b"ROLLBACK") + bind(b"", portal=b"p") + UNBOUND],
    "as libpq sends it": [
        *FAILED, *BIND_FAILS, parse(b"", b"ROLLBACK") + bind(b"", portal=b"p") + b"D\0\0\0\x06P\0" + UNBOUND,
    ],
    "in a message that came in pieces": [*FAILED, *BIND_FAILS, UNBOUND[:3], UNBOUND[3:]],
}  # fmt: skip


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("messages", CASES.values(), ids=CASES)
async def test_an_execute_that_nothing_has_bound_ends_no_other_tenants_session(
    lasting: World, user: str, messages: list[bytes]
) -> None:
    async with a_port(lasting) as house:
        other = await house.client("database2")
        assert (await other.query("BEGIN")).status == "T"
        client = await house.client("database1", user)
        for data in messages:
            client.send(data)
        client.send(query("ROLLBACK"))
        assert (await _until(client, "ROLLBACK")).status in ("I", "")
        assert (await other.query("SELECT 1")).status == "T", "its transaction is still there"
        assert (await other.query("COMMIT")).tags == ["COMMIT"]


async def _until(client: WireClient, tag: str) -> Answer:
    """Of its answers the one with this tag, or its end."""
    while True:
        answer = await client.answer()
        if tag in answer.tags or not answer.status:
            return answer


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_portal_of_an_earlier_segment_is_executed_on(lasting: World, user: str) -> None:
    """Row by row, as drivers do that fetch: also where both are sent at once."""
    more = b"E\0\0\0\x09\0\0\0\0\1" + SYNC
    async with a_port(lasting) as house:
        client = await house.client("database1", user)
        await client.query("BEGIN")
        client.send(parse(b"", b"SELECT generate_series(1, 4)") + bind(b"") + more)
        assert (await client.answer()).rows == [["1"]]
        client.send(more)
        assert (await client.answer()).rows == [["2"]]
        client.send(more + more)
        assert [(await client.answer()).rows for _ in range(2)] == [[["3"]], [["4"]]]
        await client.query("SELECT 1/0")
        client.send(more)
        assert (await client.answer() if user == "all" else await client.rest()).errors
