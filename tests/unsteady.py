"""`python -m tests.unsteady`: writes which tests failed in the last run, for scripts/test to run them again.

Exits with 1 when they are too many for chance, or when what failed was no single test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

MOST: int = 5
CACHE: Path = Path(".pytest_cache")


def unsteady(failed: Iterable[str]) -> list[str]:
    """Those of `failed`, ids of pytest's, that may run again: all, or none."""
    tests = list(failed)
    single = all("::" in test and test.isprintable() for test in tests)
    return tests if single and len(tests) <= MOST else []


def main(cache: Path = CACHE) -> int:
    """The exit code; writes `cache`/unsteady, a test in a line."""
    last_failed = cache / "v/cache/lastfailed"
    tests = unsteady(json.loads(last_failed.read_text())) if last_failed.exists() else []
    if not tests:
        return 1
    (cache / "unsteady").write_text("\n".join(tests) + "\n")
    sys.stdout.write("== failed, and run again, alone:\n" + "\n".join(tests) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
