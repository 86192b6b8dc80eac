"""Do the processes of one host share without a main database, and what of the dead?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

from tenantproxy.fleet.host import HostSlot
from tenantproxy.fleet.ledger import HostLedger, answer
from tenantproxy.fleet.member import Member
from tenantproxy.fleet.share import Holding, Share
from tenantproxy.fleet.values import Census, Terms

TERMS = Terms(cap=20)


class Host:
    """Members that report to one state."""

    def __init__(self, count: int) -> None:
        self.state: dict[str, Any] = {}
        self.members = [Member({"one": TERMS}) for _ in range(count)]
        self.alive = {member.process for member in self.members}
        self.awaited: set[UUID] = set()

    def say(
        self, number: int, *, used: int = 0, want: float = 0.0, pids: tuple[int, ...] = (), seen: int | None = None
    ) -> Share:
        member = self.members[number]
        share = member.shares["one"]
        census = () if seen is None else (Census(server="one", epoch=share.epoch, pids=tuple(range(seen))),)
        report = member.report(0.0, {"one": Holding(total=used, want=want, pids=pids)}, census=census)
        member.hear(report.seq, answer(self.state, report, frozenset(self.alive), self.awaited), now=0.0)
        return share

    @property
    def granted(self) -> int:
        return sum(member.shares["one"].limit for member in self.members)


def test_together_they_never_have_more_than_the_cap_and_each_gets_its_part() -> None:
    host = Host(3)
    for _ in range(5):
        for number in range(3):
            limit = host.members[number].shares["one"].limit
            host.say(number, used=limit, want=30)
            assert host.granted <= 20
    host.say(0, used=0, want=0)
    assert host.say(0, used=0, want=0).limit < 7
    assert host.say(1, used=6, want=30).limit > 7


def test_what_a_dead_process_had_is_reserved_until_it_was_counted() -> None:
    host = Host(2)
    first = host.say(0, want=15).limit
    assert first > 12
    host.alive.discard(host.members.pop(0).process)
    share = host.say(0, want=30)
    assert share.limit <= 20 - first
    assert share.is_witness
    share = host.say(0, used=share.limit, want=30, seen=3)
    assert (share.limit, share.ghosts) == (17, 3)
    share = host.say(0, used=17, want=30, seen=0)
    assert (share.limit, share.ghosts, share.is_counted) == (20, 0, False)


def test_a_process_that_ends_keeps_no_more_than_what_it_has_left() -> None:
    host = Host(2)
    assert host.say(0, want=15).limit > 12
    last, _ = host.members[0].end(0.0, {"one": 2})
    assert answer(host.state, last, frozenset(host.alive), host.awaited) == []
    assert host.say(1, want=30).limit == 18
    host.alive.discard(last.process)
    share = host.say(1, used=18, want=30, seen=18)
    share = host.say(1, used=18, want=30, pids=tuple(range(18)), seen=18)
    assert (share.limit, share.ghosts) == (20, 0), "what it had left is gone"


async def test_the_file_is_of_all_processes_and_of_those_that_run(tmp_path: Path) -> None:
    slots = [HostSlot(str(tmp_path), "f") for _ in range(2)]
    ledgers = [HostLedger(str(tmp_path), "f", slot) for slot in slots]
    members = [Member({"one": TERMS}) for _ in range(2)]
    for ledger, member in zip(ledgers, members, strict=True):
        report = member.report(0.0, {"one": Holding(total=0, want=5)})
        member.hear(report.seq, await ledger.sync(report, timeout=5.0), now=0.0)
    assert members[1].shares["one"].processes == 2
    slots[0].forget()  # as the kernel does when it was killed
    report = members[1].report(0.0, {"one": Holding(total=0, want=5)})
    grants = await ledgers[1].sync(report, timeout=5.0)
    assert (grants[0].processes, grants[0].counted) == (1, True)
    assert slots[1].alive() == {members[1].process}
    assert UUID(str(members[0].process)) in slots[1].dead
    told = await ledgers[1].processes(timeout=5.0)
    assert [(each.server, UUID(each.process), each.state, each.wanted) for each in told] == [
        ("one", members[0].process, "dead", 5.0),
        ("one", members[1].process, "live", 5.0),
    ]


def test_after_the_file_is_lost_nothing_is_raised_before_all_have_said_what_they_have() -> None:
    host = Host(3)
    for _ in range(5):
        for number in range(3):
            host.say(number, used=host.members[number].shares["one"].limit, want=30)
    before = [member.shares["one"].limit for member in host.members]
    host.state.clear()
    host.awaited = set(host.alive)
    for number in range(3):
        host.say(number, used=before[number], want=30)
        assert host.granted <= 20
    assert [member.shares["one"].limit for member in host.members] == before
    assert not host.awaited


async def test_when_the_folder_is_lost_the_first_to_report_is_not_given_what_the_other_still_has(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "fleet"
    slots = [HostSlot(str(folder), "f") for _ in range(2)]
    ledgers = [HostLedger(str(folder), "f", slot) for slot in slots]
    members = [Member({"one": TERMS}) for _ in range(2)]

    async def say(number: int, used: int) -> int:
        report = members[number].report(0.0, {"one": Holding(total=used, want=30)})
        members[number].hear(report.seq, await ledgers[number].sync(report, timeout=5.0), now=0.0)
        return members[number].shares["one"].limit

    had = [0, 0]
    for _ in range(5):
        had = [await say(number, min(10, members[number].shares["one"].limit)) for number in range(2)]
    assert sum(had) > 15
    shutil.rmtree(folder)
    for _ in range(3):
        assert await say(0, had[0]) <= had[0], "the other one has not said what it has"
    assert await say(1, had[1]) + members[0].shares["one"].limit <= 20
