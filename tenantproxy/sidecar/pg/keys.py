"""Which worker has the client that was told this process id? Its number is in the id. Pure, but for the random part."""

from __future__ import annotations

import secrets
from typing import Final

from tenantproxy.sidecar.pg.signals import FIRST_TOLD

__all__ = ["MOST_WORKERS", "new_pid", "request_name", "worker_of"]

MOST_WORKERS: Final = 256
"""Numbers of workers, 0 included: that of a process that is alone."""

_RANDOM: Final = (2**31 - FIRST_TOLD) // MOST_WORKERS  # 23 bits, next to the 32 of the secret


def new_pid(worker: int) -> int:
    """An id that no server has, for a client of `worker`."""
    return FIRST_TOLD + secrets.randbelow(_RANDOM) * MOST_WORKERS + worker


def request_name(pid: int) -> str:
    """What stands for the id of a request in log lines about the client that was told `pid`."""
    return f"pg-{pid}"


def worker_of(pid: int) -> int | None:
    """Whose client was told `pid`; None: it is a server's own id, of a client in session mode."""
    return (pid - FIRST_TOLD) % MOST_WORKERS if pid >= FIRST_TOLD else None
