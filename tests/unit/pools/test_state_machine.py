"""Do the pools hold what they promise in ten thousand random steps? The same every time; a million in the benchmark."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.support.pool_machine import PoolMachine

TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
