"""Is it the first cases of a test that are measured, and no further ones?"""

from __future__ import annotations

import pytest
from coverage import Coverage

from tests.measured import CASES


@pytest.mark.parametrize("case", range(CASES + 2))
def test_the_first_cases_of_a_test_are_measured_and_no_further_ones(request: pytest.FixtureRequest, case: int) -> None:
    config = request.config
    if config.pluginmanager.hasplugin("tests.measured") and config.getoption("cov_source"):
        assert (Coverage.current() is not None) == (case < CASES)
