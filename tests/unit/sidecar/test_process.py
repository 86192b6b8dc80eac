"""Does a process that is told to drain, by a signal or over the admin listener, end and say who told it?"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator

import pytest

from tenantproxy.errors import NotSupported
from tenantproxy.events import Event, ServiceCommanded
from tenantproxy.sidecar.process import Process
from tenantproxy.sidecar.service import UpgradeFailed
from tests.support.waiting import PATIENCE, until


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """What a process freezes is this process's own here."""
    yield
    gc.unfreeze()


class FakeService:
    """What a process runs; `said` is what became of it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.told: list[Event] = []

    async def open(self, *, is_successor: bool = False) -> None:
        self.said.append("open")

    def start_draining(self) -> None:
        self.said.append("draining")

    async def close(self) -> None:
        self.said.append("closed")

    async def reload(self) -> list[str]:
        raise NotSupported("nothing to read")

    def tell(self, event: Event) -> None:
        self.told.append(event)


async def test_a_process_ends_that_is_told_to_drain_and_is_told_no_more_then() -> None:
    process, service, ready = Process(), FakeService(), asyncio.Event()
    with pytest.raises(UpgradeFailed, match="starting"):
        process.drain()
    running = asyncio.create_task(process.run(service, ready.set))  # type: ignore[arg-type]
    await ready.wait()
    process.drain()
    await asyncio.wait_for(running, PATIENCE)
    assert service.said == ["open", "draining", "closed"]
    with pytest.raises(UpgradeFailed):
        process.drain()


async def test_the_service_hears_of_each_signal_and_how_what_it_asked_for_ended() -> None:
    process, service, ready = Process(), FakeService(), asyncio.Event()
    running = asyncio.create_task(process.run(service, ready.set))  # type: ignore[arg-type]
    await ready.wait()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: service.told, "the reload has failed")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, PATIENCE)
    assert service.told == [
        ServiceCommanded(by="SIGHUP", change="reload", outcome="failed"),
        ServiceCommanded(by="SIGTERM", change="drain", outcome="done"),
    ]
