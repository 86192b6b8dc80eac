"""How hard does the suite try a parser? The same inputs on every machine, and none too slow for a busy one."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

__all__ = ["IS_TRIED"]

IS_TRIED: Final = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""Above `@given`. More inputs, and other ones each time, are for a bench."""
