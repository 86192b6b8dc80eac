"""How is a process given a part of a processor, so that it alone is the limit of what is measured? By cgroups; Linux.

With it a machine of two processors shows what two workers do together: each has so little that the load, the server
and the second worker fit in as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["can_limit", "limited"]

_ROOT: Final = Path("/sys/fs/cgroup")
_OLD: Final = _ROOT / "cpu"  # version 1: the controller has a tree of its own
_PERIOD: Final = 20_000  # microseconds; the default of 100 ms is as long as a whole queue of requests


def can_limit() -> bool:
    """Whether this process may: as root, where the controller `cpu` is to be had."""
    if os.geteuid() != 0:
        return False
    if _OLD.is_dir():
        return (_OLD / "cpu.cfs_quota_us").exists() or any(_OLD.glob("*/cpu.cfs_quota_us"))
    with suppress(OSError):
        return "cpu" in (_ROOT / "cgroup.subtree_control").read_text().split()
    return False


@contextmanager
def limited(pids: Sequence[int], processors: float) -> Iterator[None]:
    """For the block each of `pids`, with all its threads, has so much of a processor at most. Raises OSError."""
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(_limit(pid, round(processors * _PERIOD)))
        yield


@contextmanager
def _limit(pid: int, quota: int) -> Iterator[None]:
    root = _OLD if _OLD.is_dir() else _ROOT
    group = root / f"tenantproxy-bench-{pid}"
    group.mkdir()
    try:
        if root is _OLD:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(OSError):  # it has ended
            (root / "cgroup.procs").write_text(str(pid))
        with suppress(OSError):
            group.rmdir()
