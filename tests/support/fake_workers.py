"""Workers for a supervisor that are no processes: they answer at once, hang or die as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, cast

import pytest

from tenantproxy.config import settled
from tenantproxy.sidecar.workers.child import Child
from tenantproxy.sidecar.workers.link import Handler, LinkLost
from tenantproxy.sidecar.workers.place import WorkerPlace
from tenantproxy.sidecar.workers.state import WorkerState
from tenantproxy.sidecar.workers.supervisor import Supervisor, WorkerPlan
from tests.support.waiting import PATIENCE


def values(**servers: Any) -> dict[str, Any]:
    primary = {"host": "127.0.0.1", "user": "app", "password": "p", "max_connections": 40, **servers}
    return {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": primary},
        "registry": {"source": "file"},
        "admin": {"listen": ""},
    }


class FakeChild:
    """A worker's process and link: it answers at once, as long as it is not hung."""

    pid = 7

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.link = self
        self.answers = dict(answers or {})
        self.asked: list[tuple[str, Any]] = []
        self.hangs = asyncio.Event()  # set: it does not
        self.hangs.set()
        self.was_killed = False

    async def ask(self, verb: str, body: Any = None, *, timeout: float | None = None) -> Any:
        self.asked.append((verb, body))
        await self.hangs.wait()
        if self.was_killed:
            raise LinkLost("gone")
        answer = self.answers.get(verb, body if verb == "resize" else None)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]

    def kill(self) -> None:
        self.was_killed = True
        self.hangs.set()


class KeptWorkers:
    """A supervisor of two fake workers. `values`: what it reads at a reload, when `may_read` is set."""

    def __init__(self) -> None:
        self.values = values()
        self.may_read = threading.Event()
        self.may_read.set()
        plan = WorkerPlan(workers=2, gather=self.gather, source="test.toml")
        self.supervisor = Supervisor(settled(self.values, source="test.toml"), self.values, plan=plan, sockets={})
        self.places = self.supervisor._staff.places

    def gather(self) -> Mapping[str, Any]:
        assert self.may_read.wait(PATIENCE)
        return self.values

    async def worker(self, answers: Mapping[str, Any] | None = None, *, is_ready: bool = True) -> FakeChild:
        """One more; it has said hello."""
        place = WorkerPlace(len(self.places) + 1, {"primary": 20})
        child = FakeChild(answers)
        place.child = cast(Child, child)
        self.places.append(place)
        await self.supervisor._answer(place, "hello", {"version": "1"})
        if is_ready:
            await self.get_ready()
        return child

    async def get_ready(self) -> None:
        """The last one says that it is."""
        await self.supervisor._answer(self.places[-1], "ready", "")


async def never(verb: str, body: Any = None, *, timeout: float | None = None) -> Any:
    raise LinkLost("the other process does not answer")


class BornWorkers:
    """A supervisor whose workers start, tell and end by themselves, numbered in the order in which they start.

    `said`: which of them said or was told what, in order. `failing`: those that will not start. `holds`: connections
    that one says it still holds when it is to have fewer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: int, max_connections: int) -> None:
        self.said: list[tuple[int, str]] = []
        self.failing: set[int] = set()
        self.holds: dict[int, int] = {}
        self._births = 0
        read = values(max_connections=max_connections)
        plan = WorkerPlan(workers=workers, gather=lambda: read, source="test.toml", drain_timeout=PATIENCE)
        self.supervisor = Supervisor(settled(read, source="test.toml"), read, plan=plan, sockets={})
        self.places = self.supervisor._staff.places
        monkeypatch.setattr(Child, "start", self._born)

    def _born(self, command: object, answer: Handler, **given: object) -> BornChild:
        self._births += 1
        return BornChild(self, self._births, answer)

    def in_state(self, state: WorkerState) -> set[int]:
        """Those that are."""
        return {cast(BornChild, place.child).number for place in self.places if place.state is state}


class BornChild(FakeChild):
    """One of them. It ends when it is told to drain."""

    def __init__(self, house: BornWorkers, number: int, answer: Handler) -> None:
        super().__init__()
        self.house = house
        self.number = number
        self.answer = answer
        self.ended = asyncio.Event()

    async def open(self) -> None:
        await self.answer("hello", {"version": "1"})
        if self.number in self.house.failing:
            await self.answer("failed", "it cannot start")
            self.ended.set()
            return
        self.house.said.append((self.number, "ready"))
        await self.answer("ready", "")

    async def wait(self) -> int:
        await self.ended.wait()
        return int(self.number in self.house.failing)

    async def ask(self, verb: str, body: Any = None, *, timeout: float | None = None) -> Any:
        self.house.said.append((self.number, verb))
        if verb == "drain":
            self.ended.set()
        if verb == "resize":
            return {name: max(limit, self.house.holds.get(self.number, 0)) for name, limit in body.items()}
        return await super().ask(verb, body)
