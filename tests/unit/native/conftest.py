"""What do the tests of the compiled data path stand on? Its loop; where it is not built, there is nothing to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tenantproxy._native import why_not
from tests.support.paths import loops_of

_WHY_NOT = why_not()
collect_ignore_glob = [] if _WHY_NOT is None else ["test_[!w]*.py"]  # all but test_which_path.py


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The compiled path's loop."""
    return loops_of(item)
