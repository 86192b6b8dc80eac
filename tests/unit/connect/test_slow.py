"""Which leases and statements are told as slow, and how often?"""

from __future__ import annotations

from tenantproxy.config import LogSettings
from tenantproxy.connect.slow import SlowWatch, watch_of
from tenantproxy.events import Event, SlowLease, SlowStatement, ignore
from tenantproxy.watch import LeaseOver, StatementOver


class Told:
    def __init__(self, **log: float) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        self.watch = SlowWatch(LogSettings.model_validate(log), self.events.append, lambda: self.now)

    def lease(self, waited: float, held: float) -> None:
        self.watch.lease(LeaseOver("primary", "acme", "acme", waited, held, "row"))

    def statement(self, seconds: float, text: str = "SELECT 'secret'") -> None:
        self.watch.statement(StatementOver("primary", "acme", "acme", text, seconds, "57014"))


def test_a_lease_is_slow_for_its_wait_or_for_its_hold() -> None:
    told = Told(slow_lease=1.0)
    for waited, held in ((0.9, 0.9), (1.0, 0.1), (0.0, 2.0)):
        told.lease(waited, held)
    told.statement(99.0)
    assert [(each.waited, each.held) for each in told.events if isinstance(each, SlowLease)] == [(1.0, 0.1), (0.0, 2.0)]
    assert len(told.events) == 2


def test_a_slow_statement_is_told_without_its_literals() -> None:
    told = Told(slow_statement=0.5)
    told.statement(0.4)
    told.statement(0.5)
    told.lease(99.0, 99.0)
    assert told.events == [
        SlowStatement(
            server="primary", pool="acme", tenant="acme", seconds=0.5, statement="SELECT ?", error="57014", untold=0
        )
    ]


def test_a_flood_of_slow_ones_is_told_ten_times_a_second_and_counted() -> None:
    told = Told(slow_lease=1.0)
    for _ in range(1000):
        told.lease(5.0, 0.0)
    assert len(told.events) == 10
    told.now += 1
    told.lease(5.0, 0.0)
    assert [each.untold for each in told.events if isinstance(each, SlowLease)] == [0] * 10 + [990]


def test_nothing_is_looked_at_unless_it_is_asked_for() -> None:
    assert watch_of(LogSettings(), ignore, lambda: 0.0, None) is None
    watch = Told(slow_lease=1.0).watch
    assert watch_of(LogSettings(), ignore, lambda: 0.0, watch) is watch


def test_a_watch_of_the_users_own_is_told_too() -> None:
    told = Told(slow_lease=1.0)
    events: list[Event] = []
    both = watch_of(LogSettings(slow_lease=1.0), events.append, lambda: 0.0, told.watch)
    assert both is not None
    both.lease(LeaseOver("primary", "acme", "acme", 2.0, 0.0, "row"))
    both.statement(StatementOver("primary", "acme", "acme", "SELECT 1", 9.0))
    assert (len(events), len(told.events)) == (1, 1)
