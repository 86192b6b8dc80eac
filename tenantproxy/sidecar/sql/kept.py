"""How many bytes does one request make us keep? Counted among those of its tenant's clients on the port."""

from __future__ import annotations

from typing import Final

from tenantproxy.wire.memory import FREE_BYTES, TenantMemory

__all__ = ["Kept"]

_OBJECTS: Final = 2  # times the bytes of rows that their texts take, at least


class Kept:
    """The bytes of one request, of its result and of its answer, until `end`. No other request changes it."""

    __slots__ = ("_counted", "_memory", "_wanted")

    def __init__(self, memory: TenantMemory) -> None:
        self._memory: TenantMemory | None = memory  # None: it has ended
        self._wanted = self._counted = 0

    def add(self, size: int) -> None:
        """So many bytes more. Raises OutOfMemory, and they are not counted."""
        self._grow(size)

    def add_rows(self, size: int) -> None:
        """So many bytes more of rows, which are kept as texts. Raises OutOfMemory, and they are not counted."""
        self._grow(_OBJECTS * size)

    def _grow(self, size: int) -> None:
        more = self._wanted + size - self._counted
        if self._memory is not None and more > FREE_BYTES:  # most requests cost nothing
            self._memory.take(more)
            self._counted += more
        self._wanted += size

    def end(self) -> None:
        """Nothing is kept any more. Safe to call again."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.give(self._counted)
