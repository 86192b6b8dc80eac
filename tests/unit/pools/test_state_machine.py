"""Do the pools hold what they promise in thousands of random steps? The same every time; a million in the benchmark."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tenantproxy.pools.endings import Endings
from tenantproxy.pools.handover import Handover
from tenantproxy.pools.openings import Openings
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.resets import Resets
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


RULES: list[tuple[type, str, object]] = [
    (Handover, "serve_waiters", None),
    (Handover, "lend_idle", None),
    (Handover, "reset_idle", None),
    (Resets, "begin_first", False),
    (Resets, "watch", None),
    (Resets, "expired", []),
    (Resets, "in_the_way", []),
    (Endings, "sweep_idle", None),
    (Endings, "long_leases", []),
    (Openings, "look_again", None),
    (Pool, "_fail_waiters", None),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("part", "rule", "answer"), RULES, ids=[rule for _, rule, _ in RULES])
def test_random_steps_notice_that_a_rule_is_taken_out(
    monkeypatch: pytest.MonkeyPatch, part: type, rule: str, answer: object
) -> None:
    monkeypatch.setattr(part, rule, lambda *_, **__: answer)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(PoolMachine, settings=settings(SAME_EVERY_TIME, phases=(Phase.generate,)))
