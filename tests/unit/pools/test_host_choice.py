"""Which host of a cluster serves? What each says of itself, and what libpq's words mean."""

from __future__ import annotations

import pytest

from tenantproxy.pools.host_choice import HostRefusal, HostState, Serves, choose, most_common_system


def state(
    kind: str = "primary", *, system: str = "7", timeline: int = 1, started: str = "1.5", lsn: int = 0
) -> HostState:
    """Of a `primary`, a `standby`, or one that is `read only`."""
    is_standby = kind == "standby"
    return HostState(
        standby=is_standby,
        read_only=kind == "read only",
        system=system,
        timeline=0 if is_standby else timeline,
        started=started,
        lsn=lsn,
    )


def chosen(
    *states: HostState | None, serves: Serves = "read-write", current: int | None = None, timeline: int = 0
) -> tuple[int | None, dict[int, HostRefusal]]:
    choice = choose(states, serves, current=current, system="7", timeline=timeline)
    return choice.host, dict(choice.refused)


PRIMARY, STANDBY, READ_ONLY = state(), state("standby"), state("read only")


@pytest.mark.parametrize(
    ("serves", "found"),
    [
        ("any", [0, 0, 0, 0]),
        ("read-write", [2, 1, None, None]),
        ("primary", [1, 1, 0, None]),
        ("read-only", [0, 0, 0, 0]),
        ("standby", [0, 0, None, 0]),
        ("prefer-standby", [0, 0, 0, 0]),
    ],
)
def test_each_word_of_libpq_finds_the_host_that_it_means(serves: Serves, found: list[int | None]) -> None:
    cases: list[list[HostState | None]] = [[STANDBY, READ_ONLY, PRIMARY], [STANDBY, PRIMARY]]
    cases += [[READ_ONLY], [STANDBY, None]]
    assert [chosen(*case, serves=serves)[0] for case in cases] == found


def test_the_host_that_serves_stays_while_it_fits() -> None:
    assert chosen(STANDBY, state("standby"), serves="standby", current=1)[0] == 1
    assert chosen(STANDBY, None, serves="standby", current=1)[0] == 0
    assert chosen(PRIMARY, STANDBY, serves="prefer-standby", current=0)[0] == 1


def test_a_former_primary_is_refused_also_when_it_is_the_only_one_that_answers() -> None:
    promoted = state(timeline=2, started="2.5")
    assert chosen(PRIMARY, promoted, current=0) == (1, {0: HostRefusal.FORMER})
    assert chosen(PRIMARY, None, timeline=2) == (None, {0: HostRefusal.FORMER})


def test_two_primaries_of_one_timeline_are_both_refused_unless_they_are_one_server() -> None:
    twin = state(started="2.5")
    assert chosen(PRIMARY, twin, current=0) == (None, {0: HostRefusal.SPLIT, 1: HostRefusal.SPLIT})
    assert chosen(PRIMARY, PRIMARY, current=1) == (1, {})


def test_a_host_of_another_cluster_is_refused_and_one_that_cannot_tell_is_not() -> None:
    foreign, silent = state(system="8", timeline=9, started="2.5"), state(system="")
    assert chosen(foreign, PRIMARY) == (1, {0: HostRefusal.CLUSTER})
    assert chosen(None, silent) == (1, {})


def test_of_two_clusters_the_one_with_more_hosts_or_the_first_counts() -> None:
    foreign = state(system="8")
    assert most_common_system([foreign, PRIMARY, STANDBY]) == "7"
    assert most_common_system([foreign, PRIMARY]) == "8"
    assert most_common_system([None, state(system="")]) == ""
