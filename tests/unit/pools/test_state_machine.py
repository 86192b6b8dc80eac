"""Do the pools hold what they promise in thousands of random steps? The same every time; a million in the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tenantproxy.pools import openings
from tenantproxy.pools.endings import Endings
from tenantproxy.pools.handover import Handover
from tenantproxy.pools.openings import Openings
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.resets import Resets
from tenantproxy.pools.slots import SLOT, Slot, State
from tests.support.pool_machine import PAUSES, PoolMachine, steps_done

SAME_EVERY_TIME = settings(
    max_examples=120,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


class WatchedSlot(Slot[Any]):
    """Notes from which state to which it goes."""

    seen: ClassVar[set[tuple[State, State]]] = set()
    _now: State

    @property
    def state(self) -> State:
        """Where it is."""
        return self._now

    @state.setter
    def state(self, then: State) -> None:
        if hasattr(self, "_now"):
            self.seen.add((self._now, then))
        self._now = then


@pytest.fixture(scope="module")
def steps() -> int:
    """Thousands of random steps, and how many they were."""
    before = steps_done()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openings, "Slot", WatchedSlot)
        run_state_machine_as_test(PoolMachine, settings=SAME_EVERY_TIME)
    return steps_done() - before


@pytest.mark.timeout(300)  # it only computes: on a busy machine for as long as it gets no time
def test_thousands_of_random_steps_break_no_invariant(steps: int) -> None:
    assert steps >= 4_000


def test_a_connection_goes_along_every_drawn_arrow_and_no_other(steps: int) -> None:
    assert WatchedSlot.seen == {(state, then) for (state, _), then in SLOT.items()}


def a_machine(*, first: bool = False, hold: float = 0.0) -> PoolMachine:
    machine = PoolMachine()
    machine.begin(one=8, two=5, guaranteed=1, hang=False, first=first, hold=hold)
    return machine


def a_pool_of_others() -> None:
    a_machine(first=True).a_shared_pool_is_left_to_another_tenant([0, 0, 2], 1, 2)


def a_tenant_at_its_limit() -> None:
    machine = a_machine()
    machine.a_tenant_waits_at_its_limit_while_a_connection_is_idle(0, 1)
    machine.world.poison(0)
    machine.connections_have_ended(0, False, 1)


def a_long_lease() -> None:
    machine = a_machine(hold=0.5)
    machine.a_tenants_callers_ask(2, 1)
    machine.connects_succeed(0, 1)
    machine.a_tenants_callers_ask(2, 1)
    machine.time_passes(PAUSES.index(2.5), True)


def random_steps() -> None:
    many = settings(SAME_EVERY_TIME, max_examples=1_000, phases=(Phase.generate,))  # it ends with the first failure
    run_state_machine_as_test(PoolMachine, settings=many)


@pytest.mark.parametrize("steps", [a_pool_of_others, a_tenant_at_its_limit, a_long_lease])
def test_steps_that_show_a_missing_rule_break_no_invariant_with_it(steps: Callable[[], None]) -> None:
    steps()


RULES: list[tuple[type, str, object, Callable[[], None]]] = [
    (Handover, "serve_waiters", None, random_steps),
    (Handover, "lend_idle", None, a_tenant_at_its_limit),
    (Handover, "reset_idle", None, a_pool_of_others),
    (Resets, "begin_first", False, random_steps),
    (Resets, "watch", None, random_steps),
    (Resets, "expired", [], random_steps),
    (Resets, "in_the_way", [], random_steps),
    (Endings, "sweep_idle", None, random_steps),
    (Endings, "long_leases", [], a_long_lease),
    (Openings, "look_again", None, random_steps),
    (Pool, "_fail_waiters", None, random_steps),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("part", "rule", "answer", "steps"), RULES, ids=[rule for _, rule, *_ in RULES])
def test_the_invariants_notice_that_a_rule_is_taken_out(
    monkeypatch: pytest.MonkeyPatch, part: type, rule: str, answer: object, steps: Callable[[], None]
) -> None:
    monkeypatch.setattr(part, rule, lambda *_, **__: answer)
    with pytest.raises(AssertionError):
        steps()
