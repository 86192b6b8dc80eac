"""What do looks and new connections say of the hosts of a server, and which of them is believed?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tenantproxy.config import Server
from tenantproxy.connect.host_look import HostMoved
from tenantproxy.connect.hosts import ChosenHost, Cluster, Hosts
from tenantproxy.events import Event, HostRefused, ServerMovedTo
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.host_choice import HostState, Serves

PRIMARY = HostState(standby=False, read_only=False, system="7", timeline=3, started="1.5", lsn=1000)
STANDBY = replace(PRIMARY, standby=True, timeline=0, started="2.5")
FOREIGN = replace(PRIMARY, system="8", started="3.5")


class Watched:
    """The hosts of one server, by a clock that is set; what each look finds is told to `hosts.report`."""

    def __init__(self, *names: str, serves: Serves = "read-write", cluster: Cluster | None = None) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        server = Server.model_validate({"hosts": list(names), "user": "app", "password": "secret"})
        self.budget = ServerBudget("primary", limit=10, clock=lambda: self.now, observer=self.events.append)
        self.hosts = Hosts(
            "primary",
            server,
            serves=serves,
            cluster=cluster or Cluster(),
            clock=lambda: self.now,
            observer=self.events.append,
        )
        self.hosts.budget = self.budget

    def look(self, *found: HostState) -> None:
        """One look at each host."""
        for number, state in enumerate(found):
            self.hosts.report(number, state)

    async def connect(self, answers: HostState) -> bool:
        """A new connection to the host that serves, where that `answers`; whether it is used."""
        chosen: ChosenHost = await self.hosts.pick("shared")
        try:
            self.hosts.confirm(chosen, answers)
        except HostMoved:
            return False
        return True

    @property
    def moves(self) -> list[str]:
        return [event.host for event in self.events if isinstance(event, ServerMovedTo)]


# --- a name that leads to two servers in turn ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "other", [STANDBY, FOREIGN, replace(PRIMARY, timeline=2)], ids=["standby", "foreign", "former"]
)
async def test_a_name_that_alternates_leaves_the_look_at_the_primary_where_it_is(other: HostState) -> None:
    watched = Watched("proxy:5000")
    watched.look(PRIMARY)
    for number in range(20):
        assert await watched.connect([PRIMARY, other][number % 2]) is (number % 2 == 0)
        assert not watched.hosts.looks_by.is_doubted(0), "a new look would lead to the wrong server half of the time"
        watched.look(PRIMARY)
        watched.now += 0.2
    assert watched.moves == ["proxy:5000"]


async def test_a_name_that_has_left_the_primary_for_good_is_looked_up_again() -> None:
    watched = Watched("proxy:5000")
    watched.look(PRIMARY)
    while not watched.hosts.looks_by.is_doubted(0):
        assert not await watched.connect(STANDBY)
        watched.look(PRIMARY)
        watched.now += 0.1
        assert watched.now < 103.0


async def test_a_name_that_leads_to_a_newer_primary_is_looked_up_again_at_once() -> None:
    watched = Watched("proxy:5000")
    watched.look(PRIMARY)
    assert not await watched.connect(replace(PRIMARY, timeline=4, started="9.5"))
    assert watched.hosts.looks_by.is_doubted(0)


# --- a server that lies ----------------------------------------------------------------------------------------------
async def test_no_connection_is_used_whose_server_is_not_what_the_look_was_told() -> None:
    """As by something between that answers looks with a higher timeline than the server has."""
    watched = Watched("one:5432", "two:5432")
    watched.look(PRIMARY, STANDBY)
    lie = replace(STANDBY, standby=False, timeline=9)
    watched.look(PRIMARY, lie)
    for truth in (STANDBY, replace(lie, timeline=3), replace(lie, started="4.5"), replace(lie, system="8"), PRIMARY):
        assert not await watched.connect(truth)


async def test_a_host_that_claims_a_higher_timeline_is_told_of_before_anything_goes_there() -> None:
    watched = Watched("one:5432", "two:5432")
    watched.look(PRIMARY, STANDBY)
    before = await watched.hosts.pick("shared")
    watched.look(PRIMARY, replace(STANDBY, standby=False, timeline=9))
    watched.look(PRIMARY)
    assert watched.moves == ["one:5432", "two:5432"]
    assert watched.budget.stats().failovers == 1
    assert [event.host for event in watched.events if isinstance(event, HostRefused)] == ["one:5432"]
    with pytest.raises(HostMoved):
        watched.hosts.check(before)


# --- how far behind a replica is -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "refused",
    [replace(PRIMARY, timeline=2, started="4.5", lsn=50), replace(FOREIGN, lsn=50)],
    ids=["former", "foreign"],
)
def test_what_a_refused_host_has_written_says_nothing_of_the_lag_of_a_replica(refused: HostState) -> None:
    cluster = Cluster(system="7")
    primary, replica = Watched("one:5432", "two:5432", cluster=cluster), Watched("three:5432", serves="standby")
    for _ in range(3):
        primary.look(PRIMARY, refused)
        primary.now += 10.0
        primary.look(replace(PRIMARY, lsn=2000), refused)
        replica.look(replace(STANDBY, lsn=1000))
        lag = primary.hosts.lag_of(replica.hosts)
        assert lag is not None
        assert lag >= 10.0
