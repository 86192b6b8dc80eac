"""Does any of the clients of two tenants on one backend get a wrong answer? A short run of `scripts/bench fuzz`."""

from __future__ import annotations

import pytest

from tests.support.relay_machine import Machine
from tests.support.relay_mutations import MUTATIONS, found_within

STEPS = 200_000  # all are found within a sixth of it


@pytest.mark.parametrize("seed", range(3))
async def test_no_client_gets_an_answer_that_is_foreign_missing_repeated_or_out_of_order(seed: int) -> None:
    await Machine(seed).play(15_000)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_without_any_one_rule_of_the_relay_that_is_seen(rule: str) -> None:
    assert found_within(rule, STEPS) is not None
