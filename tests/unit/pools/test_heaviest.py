"""Are the heaviest keys of very many always among the few that are kept, with bounds that hold?"""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.pools.heaviest import Heaviest

KEYS = st.sampled_from([f"t{number}" for number in range(30)])
STREAM = st.lists(st.tuples(KEYS, st.integers(min_value=1, max_value=100)), max_size=300)
CAPACITY = st.integers(min_value=1, max_value=12)


def summary(stream: list[tuple[str, int]], capacity: int) -> tuple[Heaviest, Counter[str]]:
    heaviest, true = Heaviest(capacity), Counter[str]()
    for key, weight in stream:
        heaviest.add(key, weight)
        true[key] += weight
        assert len(heaviest) <= capacity
    return heaviest, true


@given(STREAM, CAPACITY)
def test_a_weight_is_never_too_low_and_its_error_bounds_the_excess(stream: list[tuple[str, int]], most: int) -> None:
    heaviest, true = summary(stream, most)
    for each in heaviest.ranked():
        assert each.certain <= true[each.key] <= each.weight


@given(STREAM, CAPACITY)
def test_every_key_above_its_share_of_the_weight_is_kept(stream: list[tuple[str, int]], most: int) -> None:
    heaviest, true = summary(stream, most)
    kept = {each.key for each in heaviest.ranked()}
    assert {key for key, weight in true.items() if weight > sum(true.values()) / most} <= kept


@given(STREAM, CAPACITY)
def test_the_kept_weights_sum_up_to_all_that_was_added(stream: list[tuple[str, int]], most: int) -> None:
    heaviest, true = summary(stream, most)
    assert sum(each.weight for each in heaviest.ranked()) == sum(true.values())


@given(STREAM, STREAM, CAPACITY, KEYS)
def test_the_bounds_hold_after_fading_and_forgetting(
    before: list[tuple[str, int]], after: list[tuple[str, int]], most: int, gone: str
) -> None:
    heaviest, true = summary(before, most)
    heaviest.fade(0.5)
    heaviest.forget(gone)
    weights = {key: weight / 2 for key, weight in true.items() if key != gone}
    for key, weight in after:
        heaviest.add(key, weight)
        weights[key] = weights.get(key, 0) + weight
        assert len(heaviest) <= most
    for each in heaviest.ranked():
        assert each.certain <= weights[each.key] + 0.01 * len(true)


def test_to_add_to_kept_keys_does_not_touch_the_heap() -> None:
    heaviest = Heaviest(100)
    for _ in range(50):
        for number in range(100):
            heaviest.add(f"t{number}", 1)
    assert len(heaviest._heap) == 100


def test_what_faded_away_is_forgotten() -> None:
    heaviest = Heaviest(3)
    heaviest.add("a", 1)
    heaviest.add("b", 100)
    heaviest.fade(0.001)
    assert [each.key for each in heaviest.ranked()] == ["b"]
