"""Do handshakes take turns, and does what passes after one arrive as it was sent?"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import pytest

from tenantproxy.connect import tls
from tenantproxy.connect.tls import Handshake, HandshakeTurns
from tenantproxy.connect.tls_records import first_flight


class Costly:
    """A step of a handshake that takes so many milliseconds, by the clock of the turns."""

    def __init__(self, clock: list[float], milliseconds: float, log: list[int], number: int) -> None:
        self._clock = clock
        self._seconds = milliseconds / 1000
        self._log = log
        self._number = number

    def go_on(self) -> None:
        self._clock[0] += self._seconds
        self._log.append(self._number)


@pytest.mark.parametrize(("milliseconds", "each"), [(2.0, 1), (0.4, 3), (1.0, 1)])
async def test_one_step_of_the_loop_does_a_millisecond_of_handshakes_in_their_order(
    milliseconds: float, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log = [100.0], list[int]()
    monkeypatch.setattr(tls, "perf_counter", lambda: clock[0])
    turns = HandshakeTurns()
    for number in range(7):
        turns.add(cast("Handshake", Costly(clock, milliseconds, log, number)))
    done = []
    while len(log) < 7:
        await asyncio.sleep(0)
        done.append(len(log))
    assert done[0] == each
    assert all(after - before <= each for before, after in pairwise(done))
    assert log == list(range(7))


async def test_a_step_that_fails_does_not_stop_the_others() -> None:
    log: list[int] = []
    turns = HandshakeTurns()

    class Broken:
        def go_on(self) -> None:
            raise RuntimeError("a defect")

    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    turns.add(cast("Handshake", Broken()))
    turns.add(cast("Handshake", Costly([0.0], 0.1, log, 1)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert log == [1]
    assert [str(each) for each in told] == ["a defect"]


def record(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(payload).to_bytes(2, "big") + payload


def test_a_change_of_ciphers_is_read_with_the_record_that_it_precedes() -> None:
    """OpenSSL has no answer to it alone: asking it would cost as much as a query."""
    change, finished, more = record(20, b"\1"), record(23, b"x" * 50), record(23, b"y")
    assert first_flight(bytearray(change + finished + more)) == len(change + finished)
    assert first_flight(bytearray(finished + change + more)) == len(finished)
    for cut in range(len(change + finished)):
        assert first_flight(bytearray((change + finished)[:cut])) == 0, "not all there"
    assert first_flight(bytearray(change + b"what is no record")) == len(change) + 17, "OpenSSL says what is wrong"
