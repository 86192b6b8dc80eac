"""Is this the password of a verifier? PBKDF2 takes milliseconds to a third of a second: in threads, so many at once.

Where the client proves itself by SCRAM it does that work, and not we; a password that is sent as it is, in a connection
string of SQL over HTTP and in the WebSocket, is ours to hash. State: what runs and waits, and what was right of late.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Final

from cachetools import TTLCache

from tenantproxy.auth.trust import Trust
from tenantproxy.auth.workqueue import WorkQueue
from tenantproxy.wire.scram import Verifier

__all__ = ["PasswordChecks"]

_MOST_THREADS: Final = 4
_MAX_WAITING: Final = 128  # a quarter of a second of work for one thread, with PostgreSQL's 4096 iterations
_SECONDS: Final = 60.0  # for which a password that was right is
_MOST_RIGHT: Final = 1000
_KEY_BYTES: Final = 32


class PasswordChecks:
    """`threads` at once, by default one for each two processors, for the event loop needs one too.

    `max_waiting` behind them, half of them for anyone: one more raises TooManyAttempts at once. A password that was
    right within the last minute is right without work, for as long as its verifier is the same: a function that runs
    for each request logs in for each. Of one that is wrong nothing is remembered.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        max_waiting: int = _MAX_WAITING,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        threads = threads if threads is not None else min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 2))
        self._queue = WorkQueue(threads=threads, max_waiting=max_waiting, name="tenantproxy-verifier")
        self._key = secrets.token_bytes(_KEY_BYTES)  # what is remembered is of no use without this process
        self._right: TTLCache[bytes, None] = TTLCache(_MOST_RIGHT, _SECONDS, timer=clock)
        self._under_way: dict[bytes, asyncio.Task[bool]] = {}

    async def is_right(self, verifier: Verifier, password: str, trust: Trust) -> bool:
        """Whether it was made of this password. Raises TooManyAttempts.

        Checked once for all who ask the same at once; it goes on where one of them is cancelled.
        """
        mark = self._mark(verifier, password)
        if mark in self._right:
            return True
        check = self._under_way.get(mark)
        if check is None:
            work = self._checked(mark, verifier, password, trust)
            check = self._under_way[mark] = asyncio.get_running_loop().create_task(work, context=Context())
            check.add_done_callback(partial(self._ended, mark))
        return await asyncio.shield(check)

    async def _checked(self, mark: bytes, verifier: Verifier, password: str, trust: Trust) -> bool:
        is_right = await self._queue.run(partial(verifier.matches, password), trust)
        if is_right:
            self._right[mark] = None
        return is_right

    def _ended(self, mark: bytes, check: asyncio.Task[bool]) -> None:
        self._under_way.pop(mark, None)
        if not check.cancelled():
            check.exception()  # those who wait have heard it

    def _mark(self, verifier: Verifier, password: str) -> bytes:
        """A keyed hash of both. The key is this object's; the parts of the verifier have one length each."""
        shown = verifier.stored_key + verifier.server_key + password.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(shown, key=self._key, digest_size=32).digest()

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._queue.close()
