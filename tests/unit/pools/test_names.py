"""Do the tenants that matter now have series, as few as allowed, whose increases Prometheus reads right?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantproxy.pools.counters import Counters
from tenantproxy.pools.names import TenantNames

REVIEW = 16.0
ZERO = 61.0  # longer than a new name stands at 0
MOST = 3
TENANTS = [f"t{number}" for number in range(12)]


def named(names: TenantNames) -> set[str]:
    return set(names)


def filled() -> TenantNames:
    """Whose three places were taken by those that came first."""
    names = TenantNames(MOST)
    names.review(1.0)
    for tenant in TENANTS[:MOST]:
        assert names.note(tenant) == tenant
    return names


def test_a_tenant_that_matters_now_takes_the_place_of_the_first_that_came() -> None:
    names = filled()
    names.note("t1", 50)
    names.note("t2", 50)
    assert names.note("late", 1000) == "_other"
    assert names.review(REVIEW) == ["t0"]
    assert named(names) == {"t1", "t2", "late"}


def test_what_happened_long_ago_does_not_keep_a_name() -> None:
    names = filled()
    for tenant in TENANTS[:MOST]:
        names.note(tenant, 10_000)
    names.review(5_000.0)
    names.note("late", 100)
    names.review(5_000.0 + REVIEW)
    assert "late" in names


def test_tenants_that_matter_alike_do_not_take_places_in_turns() -> None:
    names = filled()
    for number in range(1, 50):
        for tenant in TENANTS[:6]:
            names.note(tenant, 10)
        assert names.review(1.0 + number * REVIEW) == []


def test_a_flood_of_other_tenants_changes_few_names_at_once() -> None:
    names = TenantNames(100)
    names.review(1.0)
    for number in range(100):
        names.note(f"first{number}")
    for number in range(300):
        names.note(f"late{number}", 1000)
    assert len(names.review(REVIEW)) == 5


def test_a_name_that_another_lost_stands_at_zero_for_a_while() -> None:
    counters = Counters(max_tenants=1)
    counters.review(1.0)
    counters.count("t0", "ok")
    for _ in range(9):
        counters.count("late", "timeout")
    counters.review(1.0 + REVIEW)
    counters.count("late", "ok")
    assert counters.acquires["late"] == dict.fromkeys(counters.acquires["late"], 0)
    counters.review(1.0 + REVIEW + ZERO)
    counters.count("late", "ok")
    assert counters.acquires["late"]["ok"] == 1


def test_callers_of_a_tenant_that_may_not_exist_give_no_new_name() -> None:
    counters = Counters(max_tenants=5)
    counters.exhausted("made-up", "registry")
    assert set(counters.exhaustions_by_label) == {"_other"}
    assert counters.exhaustions_by_label["_other"]["registry"] == 1


def test_the_first_limit_that_a_new_tenant_meets_is_under_its_name() -> None:
    counters = Counters(max_tenants=5)
    counters.exhausted("acme", "queue_full")
    assert counters.exhaustions_by_label["acme"]["queue_full"] == 1


def increase(samples: list[float | None]) -> float:
    """As Prometheus computes it over all samples; None: the series was not there."""
    there = [sample for sample in samples if sample is not None]
    pairs = itertools.pairwise(there)
    return sum(later - former if later >= former else later for former, later in pairs)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ok"), st.sampled_from(TENANTS), st.integers(1, 500)),
        st.tuples(st.just("timeout"), st.sampled_from(TENANTS), st.integers(1, 50)),
        st.tuples(st.just("forget"), st.sampled_from(TENANTS), st.just(0)),
        st.tuples(st.just("time"), st.just(""), st.sampled_from([5, 15, 40, 120, 900])),
    ),
    max_size=80,
)


def play(events: list[tuple[str, str, int]], look: Callable[[Counters, int], None]) -> None:
    """Let them happen, with a scrape each 15 seconds of time that passes; `look` is told how many there were."""
    counters, now, so_far = Counters(max_tenants=MOST), 1.0, 0
    counters.review(now)
    look(counters, 0)
    for kind, tenant, number in events:
        if kind == "time":
            end = now + number
            while now < end:
                now += 5
                counters.review(now)
                look(counters, so_far)
        elif kind == "forget":
            counters.forget(tenant)
        else:
            counters.count(tenant, kind, number)  # type: ignore[arg-type]
            counters.exhausted(tenant, "tenant_limit")
            so_far += number
    look(counters, so_far)


@given(EVENTS)
@settings(max_examples=150)
def test_series_are_bounded_and_their_total_is_exact_and_never_goes_back(events: list[tuple[str, str, int]]) -> None:
    def look(counters: Counters, so_far: int) -> None:
        by_label = counters.acquires
        assert len(by_label.keys() - {"_other"}) <= MOST
        assert len(counters.exhaustions_by_label.keys() - {"_other"}) <= MOST
        total = sum(sum(counts.values()) for counts in (*by_label.values(), counters.former_acquires))
        assert total == so_far
        met = (*counters.exhaustions_by_label.values(), counters.former_exhaustions)
        assert sum(counts["tenant_limit"] for counts in met) == counters.exhaustions["tenant_limit"]

    play(events, look)


@given(EVENTS)
@settings(max_examples=150)
def test_prometheus_never_reads_an_increase_that_did_not_happen(events: list[tuple[str, str, int]]) -> None:
    scrapes: list[dict[str, float]] = []
    play(
        events,
        lambda counters, _: scrapes.append({label: each["ok"] for label, each in counters.acquires.items()}),
    )
    true = Counter[str]()
    for kind, tenant, number in events:
        if kind == "ok":
            true[tenant] += number
    for tenant in TENANTS:
        assert increase([scrape.get(tenant) for scrape in scrapes]) <= true[tenant]
    read = sum(increase([scrape.get(label) for scrape in scrapes]) for label in {*TENANTS, "_other"})
    assert read <= sum(true.values())
    others = [scrape.get("_other", 0) for scrape in scrapes]
    assert others == sorted(others)
