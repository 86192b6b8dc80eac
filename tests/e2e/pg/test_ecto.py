"""Does Ecto hear at its seats what PostgreSQL itself would answer? What it has sent, sent once more.

No Hex is to be had where these tests run: `elixir/day.exs` was recorded with Ecto 3.13.6, ecto_sql 3.13.5, Postgrex
0.21.1 and Elixir 1.14.0 at PostgreSQL 18, by `recorder.py`. Who has Ecto runs `elixir/ecto.exs` too: see docs/ecto.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import frame
from tenantproxy.wire.responses import shape_of
from tenantproxy.wire.rows import values_of
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.recorder import UNTOLD
from tests.e2e.pg.seats import PASSWORD, Seat
from tests.support.wire_client import WireClient, raw, startup

TRACE: Final = [json.loads(line) for line in (Path(__file__).parent / "elixir/day.jsonl").read_text().splitlines()]
_FIRST_OWN_OID: Final = 16384
_UNASKED: Final = frozenset(map(ord, "SNA"))
_Heard = list[tuple[str, object]]


class Place(NamedTuple):
    """Where a client logs in, and as whom."""

    port: int
    user: str
    password: str
    database: str


def meaning(kind: int, payload: bytes) -> object:
    """What may be compared of an answer: no places of tables, and no lines of PostgreSQL's source."""
    if kind == frames.ERROR:
        error = read_error(payload)
        return error["C"], error["M"]
    if kind == frames.ROW_DESCRIPTION:
        return shape_of(frame(kind, payload))
    return payload


def oid_of(row: bytes) -> int:
    """The number in its first column."""
    first, *_ = values_of(row)
    return int(first or 0)


async def turn(client: WireClient, sent: str, heard: str) -> _Heard:
    """Say it, and hear as much as was heard when it was recorded."""
    client.send(sent.encode("latin-1"))
    told: _Heard = []
    left = list(heard)
    is_of_types = "FROM pg_type AS t" in sent
    while left:
        kind, payload = await client.message()
        if kind in _UNASKED:
            continue
        if chr(kind) not in UNTOLD:
            assert chr(kind) == left.pop(0), (sent, told, meaning(kind, payload))
        if not is_of_types:
            told.append((chr(kind), meaning(kind, payload)))
        elif kind == frames.DATA_ROW and oid_of(payload) < _FIRST_OWN_OID:  # databases have types of their own
            told.append(("D", payload))
    return told


async def day(place: Place) -> list[_Heard]:
    """All connections of the trace, one after the other."""
    said: list[_Heard] = []
    for each in TRACE:
        client = WireClient(*await raw(place.port))
        try:
            client.send(startup(place.user, place.database, **each["startup"]))
            await client.log_in(place.password)
            said += [await turn(client, one["sent"], one["heard"]) for one in each["turns"]]
            await client.close()
        finally:
            client.abort()
    return said


async def test_ecto_hears_what_a_server_of_its_own_would_answer(seat: Seat, pg_port: Port) -> None:
    server = pg_port.server
    at_the_server = await day(Place(server.port, server.superuser, server.password, "database_mine"))
    at_the_port = await day(Place(seat.port, seat.user, PASSWORD, seat.crowded))
    assert sum(len(each) for each in at_the_server) > 500, "types, and all that was asked"
    for one, expected in zip(at_the_port, at_the_server, strict=True):
        assert one == expected
