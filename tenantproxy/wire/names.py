"""Which statement does each name of a client mean, while some that gave or took names are not answered yet?

A name means what the last message that was sent makes of it. When an error skips some of them, it means again what the
answered ones have made of it. All of it costs the same, however much is outstanding.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.statements import Statement

__all__ = ["ClientNames"]

_KEPT: Final = 2000  # bytes that a statement counts in addition to its text


class ClientNames:
    """The names of one client. Each `give`, `take` and `take_all` is settled by one call, in the order of sending.

    Invariant: `_pending` holds what is not settled, with the number of its message, and `_takes` counts it.
    """

    __slots__ = ("_known", "_last_take", "_memory", "_number", "_pending", "_takes", "size")

    def __init__(self, memory: TenantMemory) -> None:
        self._memory = memory
        self.size = 0  # bytes that all of these statements count
        self._known: dict[bytes, Statement] = {}
        self._pending: dict[bytes, deque[tuple[int, Statement | None]]] = {}
        self._takes = 0  # messages that took all names; the number of the last one:
        self._last_take = 0
        self._number = 0

    def get(self, name: bytes) -> Statement | None:
        """What `name` means when all that was sent succeeds."""
        if not self._number:  # nothing is pending: most
            return self._known.get(name)
        changes = self._pending.get(name)
        if changes is not None:
            number, statement = changes[-1]
            if not self._takes or number > self._last_take:
                return statement
        return None if self._takes else self._known.get(name)

    def give(self, name: bytes, statement: Statement) -> None:
        """A message was sent that gives `name` to `statement`. Raises OutOfMemory, and nothing has changed."""
        self._hold(statement)
        self._change(name, statement)

    def take(self, name: bytes) -> None:
        """A message was sent that takes `name` away."""
        self._change(name, None)

    def take_all(self) -> None:
        """A message was sent that takes all names away."""
        self._number += 1
        self._takes += 1
        self._last_take = self._number

    def _change(self, name: bytes, statement: Statement | None) -> None:
        self._number += 1
        changes = self._pending.get(name)
        if changes is None:
            changes = self._pending[name] = deque()
        changes.append((self._number, statement))

    def settle(self, name: bytes, *, is_done: bool) -> None:
        """The oldest message that gave or took `name` succeeded, or was skipped."""
        changes = self._pending[name]
        statement = changes.popleft()[1]
        if not changes:
            del self._pending[name]
        if is_done:
            self.forget(name)
            if statement is not None:
                self._known[name] = statement
        elif statement is not None:
            self._release(statement)
        self._settled()

    def settle_all(self, *, is_done: bool) -> None:
        """The oldest message that took all names succeeded, or was skipped."""
        self._takes -= 1
        if is_done:
            self.clear()
        self._settled()

    def _settled(self) -> None:
        if not self._pending and not self._takes:
            self._number = 0

    def forget(self, name: bytes) -> bool:
        """The name is gone, if it was there; of what is pending nothing changes."""
        statement = self._known.pop(name, None)
        if statement is not None:
            self._release(statement)
        return statement is not None

    def set(self, name: bytes, statement: Statement) -> None:
        """The name means this, as far as all is answered. Raises OutOfMemory: then it means nothing."""
        self.forget(name)
        self._hold(statement)
        self._known[name] = statement

    def swap(self, name: bytes, statement: Statement) -> None:
        """The name means this one of the same content; nothing changes where that is pending."""
        if name in self._known and name not in self._pending:
            self._memory.swap(self._known[name], statement)
            self._known[name] = statement

    def clear(self) -> None:
        """All names are gone but those that are pending."""
        for statement in self._known.values():
            self._release(statement)
        self._known.clear()

    def close(self) -> None:
        """The client has gone: nothing is pending any more."""
        self.clear()
        for changes in self._pending.values():
            for _, statement in changes:
                if statement is not None:
                    self._release(statement)
        self._pending.clear()
        self._number = self._takes = 0

    def _hold(self, statement: Statement) -> None:
        self._memory.hold(statement)
        self.size += _size_of(statement)

    def _release(self, statement: Statement) -> None:
        self.size -= _size_of(statement)
        self._memory.release(statement)

    def __len__(self) -> int:
        return len(self._known) + len(self._pending)


def _size_of(statement: Statement) -> int:
    return statement.size + _KEPT
