"""Does any of the clients of two tenants on one backend get a wrong answer? A short run of `scripts/bench fuzz`."""

from __future__ import annotations

import pytest

from tests.support.relay_machine import Machine


@pytest.mark.parametrize("seed", range(3))
async def test_no_client_gets_an_answer_that_is_foreign_missing_repeated_or_out_of_order(seed: int) -> None:
    await Machine(seed).play(15_000)
