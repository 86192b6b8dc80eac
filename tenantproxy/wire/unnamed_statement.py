"""What is a client's statement without a name, now and if what was sent to replace it is skipped by an error?

Changed by `Prepared` alone. A server keeps the statement until it reads a Parse of another one (or a simple query, or a
Close), also where that Parse fails. What an error skips is not read: then the client still has the one before.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.wire.memory import FREE_BYTES, TenantMemory

__all__ = ["UnnamedStatement"]

_Former = tuple[bytes | None, int] | None
"""What the statement is if a Parse is skipped: its message and what it leaves; None: our own Parse, of the same one."""
_GONE: Final = (None, 0)


class UnnamedStatement:
    """`message` is that of the Parse which was sent last; None: the client has none.

    Invariant: `_former` has what is before each Parse or Close that is not answered, in order. In all FREE_BYTES of
    texts are kept there: a statement beyond that counts as gone if what replaces it is skipped.
    """

    __slots__ = ("_former", "_former_size", "_memory", "_size", "is_there", "leaves", "message", "segment")

    def __init__(self, memory: TenantMemory) -> None:
        self._memory = memory
        self._size = 0  # bytes of it that count
        self._former: list[_Former] = []
        self._former_size = 0
        self.message: bytes | None = None
        self.leaves = 0  # what it may leave in the session: see `leftovers`
        self.is_there = False  # it is the one on the backend
        self.segment = 0  # in which the last Parse of one was sent

    @property
    def is_settled(self) -> bool:
        """Whether everything that was sent of it is answered."""
        return not self._former

    @property
    def is_long(self) -> bool:
        """Whether its text counts as memory of the client's tenant."""
        return self._size > 0

    @property
    def is_kept(self) -> bool:
        """Whether it is the client's again if the next Parse of another one is skipped."""
        return self.message is not None and self._former_size + len(self.message) <= FREE_BYTES

    def parsing(self, message: bytes | None, segment: int) -> None:
        """A Parse was sent for it; None: of a text that is not kept. Raises OutOfMemory, and nothing has changed."""
        size = 0 if message is None else len(message)
        if size > FREE_BYTES or self._size:
            self._count(size)
        self._replace(message)
        self.is_there = True
        self.segment = segment

    def parsing_again(self, segment: int) -> bytes:
        """The same, of the client's statement, for it is not on this backend. What goes out."""
        assert self.message is not None
        self._former.append(None)
        self.is_there = True
        self.segment = segment
        return self.message

    def closing(self) -> None:
        """A Close was sent."""
        self._replace(None)
        self.is_there = False
        self._count(0)

    def _replace(self, message: bytes | None) -> None:
        before = self.message
        size = 0 if before is None else len(before)
        if size and self._former_size + size <= FREE_BYTES:
            self._former.append((before, self.leaves))
            self._former_size += size
        else:
            self._former.append(_GONE)
        self.message, self.leaves = message, 0

    def carried(self, message: bytes) -> None:
        """It was parsed elsewhere, where nothing was outstanding."""
        self.message, self.leaves = message, 0
        self.is_there = False

    def clear(self) -> None:
        """It is gone, whatever becomes of what is outstanding."""
        if self._former:
            self._former, self._former_size = [_GONE] * len(self._former), 0
        self.message = None
        self.is_there = False
        if self._size:
            self._count(0)

    def acknowledged(self) -> None:
        """The oldest Parse or Close that is outstanding was read."""
        self._former_size -= _size(self._former.pop(0))

    def skipped(self, count: int, *, is_failed: bool) -> None:
        """So many of the oldest were not, for an error came; `is_failed`: but for the first one, whose error it was."""
        skipped, self._former = self._former[:count], self._former[count:]
        self._former_size -= sum(map(_size, skipped))
        if not self._former:  # else a later one stands there
            self.is_there = False
        before = _GONE if is_failed else next((each for each in skipped if each is not None), None)
        if before is None:  # it is what it was
            return
        if not self._former:
            self.message, self.leaves = before
            if self._size:
                self._count(0)
        elif self._former[0] is not None:
            self._former_size += _size(before) - _size(self._former[0])
            self._former[0] = before

    def lost(self) -> None:
        """The backend is given up: what is outstanding has not happened."""
        self.skipped(len(self._former), is_failed=False)

    def _count(self, size: int) -> None:
        counted = size if size > FREE_BYTES else 0
        more = counted - self._size
        if more > 0:
            self._memory.take(more)
        else:
            self._memory.give(-more)
        self._size = counted


def _size(former: _Former) -> int:
    return 0 if former is None or former[0] is None else len(former[0])
