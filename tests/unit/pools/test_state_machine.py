"""Do the pools hold what they promise in thousands of random steps? The same every time; a million in the benchmark."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.pool_machine import PoolMachine, steps_done

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


@pytest.mark.timeout(300)  # it only computes: on a busy machine for as long as it gets no time
def test_thousands_of_random_steps_break_no_invariant() -> None:
    before = steps_done()
    run_state_machine_as_test(PoolMachine, settings=SAME_EVERY_TIME)
    assert steps_done() - before >= 4_000
