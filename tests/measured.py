"""Pytest plugin: which tests are measured? Where cases take the same lines the first two; others run undisturbed.

Tracing costs a test up to four times its time. In `tests/unit` cases take other lines, but for state machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from coverage import Coverage

CASES: Final = 2
_PROCESSES: Final = "COVERAGE_PROCESS_CONFIG"  # with it, a Python that a test starts measures itself
_FURTHER: Final = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By their order in the files: the same ones in every run and worker."""
    cases = Counter[str]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        item.stash[_FURTHER] = cases[test] > CASES and not _differ(item)


def _differ(item: pytest.Item) -> bool:
    """Outside, cases are versions of a server, kinds of tenants and data paths."""
    return "unit" in item.path.parts and not item.path.stem.endswith(("_machine", "_measured"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Nor are the processes measured that a further case starts."""
    if not item.stash[_FURTHER]:
        return (yield)
    with _unmeasured():
        return (yield)


@contextmanager
def _unmeasured() -> Iterator[None]:
    """Stops all that measure: in a worker pytest-cov has begun twice, and its own `no_cover` stops one of them."""
    stopped = []
    while (measuring := Coverage.current()) is not None:
        measuring.stop()
        stopped.append(measuring)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(_PROCESSES, raising=False)
            yield
    finally:
        for measuring in reversed(stopped):
            measuring.start()
