"""Does a driver get all that its transport received, in order, and no more than a slice of it in one turn?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.driver.reading import SlicedReading
from tests.support.turns import SliceClock, counting_turns
from tests.support.waiting import until

DATA = bytes(range(256)) * 256


class FakeTransport(asyncio.Transport):
    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.is_paused = False
        self.is_aborted = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        self.is_aborted = True


class FakeDriver(asyncio.Protocol):
    """Needs as much time for each piece as for `pieces` in a slice."""

    def __init__(self, clock: SliceClock, pieces: int = 2) -> None:
        self.clock = clock
        self.pieces = pieces
        self.got = b""
        self.calls = 0
        self.ends: list[object] = []
        self.error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.clock.work(1 / self.pieces)
        self.got += data
        self.calls += 1

    def eof_received(self) -> bool | None:
        self.ends.append("eof")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(SliceClock(monkeypatch))


@pytest.fixture
def transport(driver: FakeDriver) -> FakeTransport:
    return FakeTransport(driver)


async def test_a_mass_of_data_is_read_in_slices_and_in_order(driver: FakeDriver, transport: FakeTransport) -> None:
    reading = SlicedReading(transport)
    assert transport.protocol is reading
    with counting_turns(lambda: driver.calls) as turns:
        reading.data_received(DATA)
        reading.data_received(b"more, although it was asked to pause")
        await until(lambda: not transport.is_paused, "all is read")
    assert driver.got == DATA + b"more, although it was asked to pause"
    assert turns.most == 2


async def test_nothing_more_is_read_until_the_driver_has_it_all(driver: FakeDriver, transport: FakeTransport) -> None:
    reading = SlicedReading(transport)
    reading.data_received(DATA)
    while driver.got != DATA:
        assert transport.is_paused
        await asyncio.sleep(0)
    assert not transport.is_paused


async def test_little_data_is_read_at_once(driver: FakeDriver, transport: FakeTransport) -> None:
    SlicedReading(transport).data_received(b"little")
    assert driver.got == b"little"
    assert not transport.is_paused


async def test_the_driver_reads_everything_before_it_hears_of_the_end(
    driver: FakeDriver, transport: FakeTransport
) -> None:
    reading = SlicedReading(transport)
    reading.data_received(DATA)
    assert not reading.eof_received()
    assert (driver.got, driver.ends) == (DATA, ["eof"])
    reading.connection_lost(None)
    assert driver.ends == ["eof", None]


async def test_the_driver_reads_everything_that_came_before_a_connection_broke(
    driver: FakeDriver, transport: FakeTransport
) -> None:
    reading = SlicedReading(transport)
    reading.data_received(DATA)
    error = ConnectionResetError()
    reading.connection_lost(error)
    assert (driver.got, driver.ends) == (DATA, [error])


async def test_after_it_stopped_the_transport_gives_to_the_driver_itself(
    driver: FakeDriver, transport: FakeTransport
) -> None:
    reading = SlicedReading(transport)
    reading.data_received(DATA)
    reading.stop()
    assert driver.got == DATA
    assert transport.protocol is driver
    assert not transport.is_paused
    await asyncio.sleep(0)
    assert driver.got == DATA


async def test_a_driver_that_was_left_gets_nothing_more(driver: FakeDriver, transport: FakeTransport) -> None:
    reading = SlicedReading(transport)
    reading.data_received(DATA)
    other = asyncio.Protocol()
    transport.set_protocol(other)
    before = driver.got
    await asyncio.sleep(0)
    reading.stop()
    assert driver.got == before
    assert transport.protocol is other


async def test_a_driver_that_fails_ends_the_connection(driver: FakeDriver, transport: FakeTransport) -> None:
    reading = SlicedReading(transport)
    driver.error = ValueError("not understood")
    with pytest.raises(ValueError, match="not understood"):
        reading.data_received(DATA)
    assert transport.is_aborted
