"""Does everyone get a fair part of a server, and the neediest first?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.fleet.balance import Asker, raises, targets


def asker(key: int, *, want: float = 0.0, charge: int = 0, floor: int = 1, weight: float = 1.0) -> Asker:
    return Asker(key=key, granted=charge, charge=charge, want=want, floor=floor, weight=weight, joined=key)


kinds = st.tuples(st.floats(0, 60), st.integers(0, 30), st.integers(0, 3))
askers = st.lists(kinds, min_size=1, max_size=6).map(
    lambda many: [asker(key, want=w, charge=c, floor=f) for key, (w, c, f) in enumerate(many)]
)


@given(askers, st.integers(0, 80))
def test_targets_never_sum_up_to_more_than_is_available(many: list[Asker], available: int) -> None:
    assert sum(targets(many, available).values()) <= available


@given(askers, st.integers(0, 80))
def test_one_that_wants_no_more_than_its_part_gets_it(many: list[Asker], available: int) -> None:
    found, part = targets(many, available), available // len(many)
    for each in many:
        if max(each.want, each.floor) <= part - 3:
            assert found[each.key] >= each.want


@given(askers, st.integers(0, 80), st.integers(-5, 80))
def test_no_more_is_granted_than_is_free(many: list[Asker], available: int, free: int) -> None:
    granted = raises(many, targets(many, available), free)
    assert sum(granted[each.key] - each.charge for each in many if each.key in granted) <= max(0, free)


def test_half_of_what_is_not_wanted_stays_free() -> None:
    assert targets([asker(1), asker(2)], 42) == {1: 11, 2: 11}


def test_one_below_its_floor_is_raised_before_the_neediest() -> None:
    many = [asker(1, want=40, charge=10), asker(2, charge=0)]
    assert raises(many, {1: 39, 2: 1}, 1) == {2: 1}


def test_weights_decide_only_when_not_all_wants_are_met() -> None:
    heavy, light = asker(1, want=30, weight=3.0), asker(2, want=30, weight=1.0)
    assert targets([heavy, light], 42)[1] > 2 * targets([heavy, light], 42)[2]
    assert targets([heavy, light], 80) == {1: 35, 2: 35}
