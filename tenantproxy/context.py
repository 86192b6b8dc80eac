"""The tenant that the running code works for: `current`, and `use` to set it.

State: two context variables, set by `use` and by the middlewares alone.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from types import FrameType, TracebackType
from typing import Final, Self

from tenantproxy.errors import AccessDenied, TenantMissing
from tenantproxy.scope import TenantScope

__all__ = ["REQUEST_ID", "SERVED_TENANT", "begin", "current", "end", "use"]


class _Block:
    """One `use` block, or one request. `generator` is set while the block stands in a generator's own frame."""

    __slots__ = ("below", "generator", "has_ended", "is_over_suspended", "is_plain", "scope", "task")

    def __init__(self, scope: TenantScope, below: _Block | None, generator: FrameType | None) -> None:
        self.scope = scope
        self.below = below
        self.generator = generator
        self.has_ended = False  # in a context other than the one in which it began
        self.is_over_suspended = below is not None and below.is_suspended()
        # Then it can be believed as it is: no generator is involved.
        self.is_plain: bool = generator is None and (below is None or below.is_plain)
        self.task = None if self.is_plain else _task()

    def is_suspended(self) -> bool:
        """Its generator waits to be resumed, or has ended: this is its caller's code, not the block's.

        So is every other task and thread: whether it was started by the generator or by its caller cannot be told.
        """
        if self.has_ended:
            return True
        return self.generator is not None and (self.task is not _task() or self.generator not in _stack())

    def is_running(self) -> bool:
        """Its generator is being run, by this task."""
        return self.generator is not None and self.task is _task() and self.generator in _stack()


_CURRENT: Final[ContextVar[_Block | None]] = ContextVar("tenantproxy_current")
REQUEST_ID: Final[ContextVar[str]] = ContextVar("tenantproxy_request_id", default="")
"""The id of the HTTP request that is being answered; empty outside of one. Set by the middlewares alone."""
SERVED_TENANT: Final[ContextVar[str]] = ContextVar("tenantproxy_served_tenant", default="")
"""Whose request the sidecar answers, for its log alone; empty until that is known. No code may act on it."""


def current() -> TenantScope:
    """The scope of this request or job. Raises TenantMissing where no tenant is set: there is never a default."""
    block = _CURRENT.get(None)
    if block is not None and not block.is_plain:
        block = _innermost(block)
    if block is None:
        raise TenantMissing(
            "no tenant is set for this request or job",
            hint="use the middleware, or `with tenantproxy.use(router.tenant(...)):`",
        )
    return block.scope


def _innermost(block: _Block) -> _Block | None:
    """The block in which the running code stands, where generators were suspended inside of theirs.

    Raises AccessDenied where a generator was resumed inside a block that its caller entered in between, or where a task
    that was started in such a block could be the generator's: the variable names the caller's tenant, and the code may
    have been written for another.
    """
    held: _Block | None = block
    while held is not None and held.is_suspended():
        held = held.below
    for above in _chain(held):
        foreign = above.is_over_suspended and above.task is not _task()
        if foreign or (above.is_over_suspended and any(each.is_running() for each in _chain(above.below))):
            raise AccessDenied(
                "a generator was resumed inside a `use` block that was entered after its own",
                hint="leave one block before the other is resumed or starts tasks, or enter `use` around each step",
            )
    return held


def _may_resume(held: _Block | None) -> bool:
    """Whether a generator of this task stands in one of the blocks."""
    here = _task()
    return any(each.generator is not None and each.task is here for each in _chain(held))


def _chain(block: _Block | None) -> Iterator[_Block]:
    while block is not None:
        yield block
        block = block.below


class use(ContextDecorator):  # noqa: N801 - read as a function: `with tenantproxy.use(scope):`
    """Make a scope the current one for the block, and for the tasks started in it.

    Raises AccessDenied inside the block of another tenant: code that runs for one must leave it first. In a generator
    the block is the generator's own: while that is suspended, its caller has the tenant that it had before, and tasks
    started meanwhile have none: each enters `use` itself. A function
    with `yield` that is run in threads (a sync dependency of FastAPI) sets it there alone: write it as `async def`.
    """

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope
        self._token: Token[_Block | None] | None = None
        self._block: _Block | None = None

    def _recreate_cm(self) -> Self:  # each call of a decorated function has a block of its own
        return type(self)(self._scope)

    def __enter__(self) -> TenantScope:
        if self._block is not None:
            raise RuntimeError("this use() was entered already; call use() for each block")
        held = _CURRENT.get(None)
        seen = held if held is None or held.is_plain else _innermost(held)
        if seen is not None and seen.scope.id != self._scope.id:
            raise AccessDenied(
                "this block runs for another tenant already",
                detail=f"it is {seen.scope.id}'s, and {self._scope.id}'s was asked for",
                hint="leave the outer `use(...)` block first",
            )
        below = seen if held is seen or not _may_resume(held) else held
        self._block = _Block(self._scope, below, _generator_of(sys._getframe(1)))
        self._token = _CURRENT.set(self._block)
        return self._scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block, token = self._block, self._token
        assert block is not None
        assert token is not None
        self._block = self._token = None
        if _CURRENT.get(None) is block:
            try:
                _CURRENT.reset(token)
            except ValueError:  # this context is a copy of the one in which it began
                _CURRENT.set(block.below)
            else:
                return
        # It ends in another context (a generator that is closed by another task), or below a block of its caller.
        block.has_ended = True
        block.is_plain = False


def _generator_of(frame: FrameType | None) -> FrameType | None:
    """The generator that a caller iterates and in whose own code the block stands, entered at `frame`.

    A generator that contextlib drives, and an exit stack, are part of the code that enters them.
    """
    while frame is not None:
        if not _is_of_contextlib(frame):
            if not _yields(frame):
                return None
            if not _is_of_contextlib(frame.f_back):
                return frame if _task() is not None else None
        frame = frame.f_back
    return None


def _is_of_contextlib(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") == "contextlib"


def _yields(frame: FrameType) -> bool:
    flags = frame.f_code.co_flags
    generates = bool(flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR))
    return generates and not flags & inspect.CO_ITERABLE_COROUTINE


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None


def begin(scope: TenantScope | None) -> Token[_Block | None]:
    """For middleware: a request begins, and is `scope`'s or no tenant's, whatever was current where its task was made.

    `end` takes the token.
    """
    return _CURRENT.set(None if scope is None else _Block(scope, None, None))


def end(token: Token[_Block | None]) -> None:
    """The request of `begin` is over; in the same context."""
    _CURRENT.reset(token)
