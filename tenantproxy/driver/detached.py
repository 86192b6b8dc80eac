"""How does a short internal coroutine run without the cost of a Task? Stepped by the futures it awaits.

A Task costs two rounds of the event loop and several microseconds; a reset after each release awaits one future.
The coroutine has no `current_task()`: nothing in it may use `asyncio.timeout`, and it must handle its own exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

__all__ = ["Detached"]


class Detached:
    """Runs `coroutine` in an empty context, now or from the next round of the loop on, whenever its awaited is done."""

    __slots__ = ("_context", "_coroutine", "_done", "_future", "_is_cancelled")

    def __init__(self, coroutine: Coroutine[Any, Any, None], *, later: asyncio.AbstractEventLoop | None = None) -> None:
        self._coroutine = coroutine
        # One for each: a context can be entered by one thread at a time, and every thread may run a loop.
        self._context = Context()
        self._future: asyncio.Future[Any] | None = None
        self._done = False
        self._is_cancelled = False
        if later is None:
            self._context.run(self._step)
        else:
            later.call_soon(self._step, context=self._context)

    def _step(self, _: object = None) -> None:
        try:
            if self._is_cancelled:  # too late for what it awaited, or it never began
                future = self._coroutine.throw(asyncio.CancelledError())
            else:
                future = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._done = True
            return
        # What asyncio.Task does with a future that `__await__` yields; see "Future" in the asyncio sources.
        future._asyncio_future_blocking = False
        self._future = future
        future.add_done_callback(self._step, context=self._context)

    def done(self) -> bool:
        """Whether it ran to its end."""
        return self._done

    def cancel(self) -> None:
        """Cancel what it awaits; the coroutine sees CancelledError there, and gets no further even if that is done."""
        self._is_cancelled = True
        if self._future is not None:
            self._future.cancel()
