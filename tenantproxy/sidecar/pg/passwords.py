"""Is this the password of a verifier? PBKDF2 takes milliseconds to a third of a second: in threads, so many at once.

Where the client proves itself by SCRAM it does that work, and not we; a password that is sent as it is, in a connection
string of SQL over HTTP and in the WebSocket, is ours to hash. State: what runs and waits.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from tenantproxy.auth.trust import Trust
from tenantproxy.auth.workqueue import WorkQueue
from tenantproxy.wire.scram import Verifier

__all__ = ["PasswordChecks"]

_MOST_THREADS: Final = 4
_MAX_WAITING: Final = 128  # a quarter of a second of work for one thread, with PostgreSQL's 4096 iterations


class PasswordChecks:
    """`threads` at once, by default one for each two processors, for the event loop needs one too.

    `max_waiting` behind them, half of them for anyone: one more raises TooManyAttempts at once.
    """

    def __init__(self, *, threads: int | None = None, max_waiting: int = _MAX_WAITING) -> None:
        threads = threads if threads is not None else min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 2))
        self._queue = WorkQueue(threads=threads, max_waiting=max_waiting, name="tenantproxy-verifier")

    async def is_right(self, verifier: Verifier, password: str, trust: Trust) -> bool:
        """Whether it was made of this password. Raises TooManyAttempts. Cancelled, a wait leaves the queue."""
        return await self._queue.run(partial(verifier.matches, password), trust)

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._queue.close()
