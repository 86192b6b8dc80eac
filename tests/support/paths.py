"""On which loop does a test of the port run? That of the default data path; those that attack it, on those of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
import uvloop

from tenantproxy._native import why_not

__all__ = ["BOTH", "loops_of"]

BOTH: Final = "both_paths"
"""A test, or a module by `pytestmark`, with this marker runs on both data paths."""


def loops_of(item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """By data path. Where the compiled one is not built, Python's alone."""
    python = {"python": uvloop.new_event_loop}
    if why_not() is not None:
        return python
    from tenantproxy._native.loop import NativeLoop

    compiled = {"compiled": NativeLoop}
    return {**compiled, **python} if item.get_closest_marker(BOTH) is not None else compiled
