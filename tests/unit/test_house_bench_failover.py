"""Does the benchmark of failovers tell a loss from what no standby ever received?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import patroni_cluster
from benchmarks.failover_patroni import Round, Way, verdicts_of
from benchmarks.failover_writers import Kept, Position, kept_of

BRANCH = Position(1, 1000)
BEFORE, BEHIND, NEW = Position(1, 900), Position(1, 1000), Position(2, 1500)


def kept(
    acknowledged: dict[tuple[int, int], Position],
    *there: tuple[int, int],
    is_synchronous: bool = False,
    twice: tuple[int, int] | None = None,
) -> tuple[int, int, int, int]:
    rows = dict.fromkeys(there, 1)
    if twice is not None:
        rows[twice] = 2
    found = kept_of(acknowledged, rows, BRANCH, is_synchronous=is_synchronous)
    return found.lost, found.doubled, found.never_received, found.at_the_edge


def test_a_write_that_the_new_primary_acknowledged_and_lost_is_a_loss() -> None:
    assert kept({(1, 1): BEFORE, (1, 2): NEW}, (1, 1)) == (1, 0, 0, 0)


def test_a_write_before_the_branch_is_a_loss_unless_it_was_its_writers_last() -> None:
    writes = {(1, 1): Position(1, 800), (1, 2): BEFORE, (1, 3): NEW}
    assert kept(writes, (1, 2), (1, 3)) == (1, 0, 0, 0)
    assert kept(writes, (1, 1), (1, 3)) == (0, 0, 0, 1)


def test_a_write_behind_the_branch_was_never_received_and_is_a_loss_where_commits_wait() -> None:
    writes = {(1, 1): BEFORE, (1, 2): BEHIND}
    assert kept(writes, (1, 1)) == (0, 0, 1, 0)
    assert kept(writes, (1, 1), is_synchronous=True) == (1, 0, 0, 0)
    assert kept(writes, is_synchronous=True) == (2, 0, 0, 0)


def test_a_write_that_is_there_twice_is_doubled_also_when_no_caller_heard_of_it() -> None:
    assert kept({(1, 1): BEFORE}, (1, 1), twice=(2, 9)) == (0, 1, 0, 0)


def met(way: Way = "hosts", *, lost: int = 0, seconds: float = 1.0, idle: int = 0) -> list[bool]:
    one = Round(
        fault="switchover", way=way, is_synchronous=True, acknowledged=10, errors=0, stale=0, down_seconds=1.0,
        kept=Kept(lost=lost, doubled=0, never_received=0, at_the_edge=0), library_seconds=0.1, port_seconds=seconds,
        idle_errors=idle,
    )  # fmt: skip
    watched = replace(one, way="hosts", library_seconds=0.1, port_seconds=0.1, idle_errors=0)
    return [each.met for each in verdicts_of([one, watched], 10)]


def test_a_loss_a_slow_side_and_an_idle_clients_error_each_miss_a_target() -> None:
    assert met() == [True, True, True]
    assert met(lost=1) == [True, False, True]
    assert met(seconds=2.1) == [False, True, True]
    assert met(idle=1) == [True, True, False]
    assert met("HAProxy, host", lost=1, seconds=2.1, idle=1) == [True, False, True]


def test_what_the_cluster_is_made_of_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patroni_cluster, "_PATH", "")
    assert patroni_cluster.missing().startswith("apt-get install patroni etcd-server haproxy")
