"""Does each of many clients on the compiled path see exactly what it would see alone, however bytes are cut?

The scripts are those of the relay's model test, with more of what is carried.
"""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy._native.loop import NativeLoop
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.fuzzing import IS_TRIED
from tests.support.model_server import SYNC, query
from tests.support.native_desk import NativeBackend, NativeClient, NativeLender, new_desk, turn
from tests.support.native_machine import MUTATIONS, STRAIGHT, a_game, found_within, together
from tests.support.relay_scripts import scripts

MIXED: Final = st.lists(st.one_of(st.sampled_from(STRAIGHT).map(lambda one: [one]), scripts()), max_size=6).map(
    lambda parts: [step for part in parts for step in part]
)
TRIES: Final = 400  # all are found within two thirds of it


@pytest.mark.parametrize("rule", MUTATIONS)
def test_without_any_one_rule_of_how_a_client_is_handed_over_that_is_seen(rule: str) -> None:
    assert found_within(rule, TRIES) is not None


@IS_TRIED
@given(
    given_scripts=st.lists(MIXED, min_size=1, max_size=3),
    size=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    limit=st.sampled_from((3, 500)),
)
def test_each_client_sees_what_it_would_see_alone(
    given_scripts: list[list[bytes]], size: int, seed: int, limit: int
) -> None:
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        runner.run(together(given_scripts, size=size, seed=seed, limit=limit))


@pytest.mark.parametrize("seed", range(40))
def test_each_client_sees_it_where_they_wait_in_lanes_and_the_pool_changes(seed: int) -> None:
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        runner.run(a_game(seed))


@pytest.mark.parametrize("asked", [pg.describe(b"s"), pg.close(b"s"), pg.run(b"end"), pg.run(b"s")])
def test_what_was_prepared_before_a_transaction_failed_is_there_in_it(asked: bytes) -> None:
    """The transaction is carried up to what Python has to look into."""
    script = [
        pg.parse(b"s", b"SET") + pg.parse(b"end", b"rollback") + SYNC,
        *(query(b"begin"), pg.shown(b"s") + SYNC, query(b"fail"), asked + SYNC),
    ]
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        runner.run(together([script], size=1, seed=1, limit=500))


@pytest.mark.parametrize(
    "behind",
    [pg.parse(b"s", b"bad") + pg.parse(b"", b"rows 3"), pg.parse(b"", b"fail") + pg.run() + pg.parse(b"", b"rows 3")],
)
def test_a_statement_without_a_name_that_was_carried_stays_where_the_next_one_is_skipped(behind: bytes) -> None:
    carried = pg.parse(b"", b"rows 2") + pg.shown(b"") + SYNC
    script = [carried, carried, behind + SYNC, pg.run() + SYNC, query(b"rows 1"), pg.run() + SYNC]
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        runner.run(together([script, [carried, query(b"rows 1")] * 3], size=1, seed=1, limit=500))


def test_most_of_what_is_straight_was_carried() -> None:
    """Else the test above tries nothing."""
    straight = [query(b"rows 1"), pg.parse(b"", b"rows 2") + pg.shown(b"") + SYNC] * 20
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        desks = [runner.run(together([straight] * 3, size=2, seed=seed, limit=500)) for seed in range(5)]
    assert sum(desk.transactions for desk in desks) > 5 * 3 * len(straight) / 4


def test_many_waited_in_a_lane_where_they_may() -> None:
    straight = [query(b"rows 1"), pg.parse(b"", b"rows 2") + pg.shown(b"") + SYNC] * 20
    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        desks = [runner.run(together([straight] * 4, size=1, seed=seed, limit=500, most=9)) for seed in range(5)]
    assert sum(desk.waited for desk in desks) > 5 * 4 * len(straight) / 8


@IS_TRIED
@given(
    answers=st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                (
                    b"Z\0\0\0\5I",
                    b"1\0\0\0\4",
                    b"2\0\0\0\4",
                    pg.G,
                    pg.row(b"x"),
                    pg.tag(b"SET"),
                    pg.tag(b""),
                    pg.tag(b"SELECT 1"),
                )
            ),
            st.sampled_from(
                (pg.error(b"0A000"), pg.STALE_PLAN, pg.error(b"57P01", severity=b"FATAL"), b"E\xff\xff\xff\xff")
            ),
        ),
        max_size=8,
    ),
    request=st.sampled_from(STRAIGHT),
    cut=st.integers(0, 8),
)
def test_no_garbage_of_a_server_raises_anything(answers: list[bytes], request: bytes, cut: int) -> None:
    """Nor does it give back a backend that may owe something: the lender says so."""

    async def case() -> None:
        uncaught: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
        lender = NativeLender()
        client = NativeClient(lender, statements=Statements(), desk=new_desk(lender))
        backend = lender.backends[0]
        assert isinstance(backend, NativeBackend)
        client.sending = request
        client.push()
        await turn()
        backend.model.feed = lambda received: b""  # type: ignore[method-assign] # it says what follows, and nothing else
        for n, answer in enumerate(answers):
            if n == cut:
                assert client.relay.backend is None or not client.relay.backend.is_closed
            if backend.is_leased:  # else the pool ends it at once
                backend.far.send(answer)
            await turn()
        await client.leave()
        assert not uncaught
        lender.close()
        await turn()

    with asyncio.Runner(loop_factory=NativeLoop) as runner:
        runner.run(case())
