"""Do the processes of one host share without a main database, and what of the dead?"""

from __future__ import annotations

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

    def say(
        self, number: int, *, used: int = 0, want: float = 0.0, pids: tuple[int, ...] = (), seen: int | None = None
    ) -> Share:
        member = self.members[number]
        share = member.shares["one"]
        census = () if seen is None else (Census(server="one", epoch=share.epoch, pids=tuple(range(seen))),)
        report = member.report(0.0, {"one": Holding(total=used, want=want, pids=pids)}, census=census)
        member.hear(report.seq, answer(self.state, report, frozenset(self.alive)), now=0.0)
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
