"""How many bytes do clients make the port keep, and how many may they? Counters of the process and of each tenant.

Counted are the texts of statements, once for each tenant that has them, and what of a client's bytes must wait. A few
kilobytes of each client are not: the number of clients bounds those.
"""

from __future__ import annotations

from typing import Final

from tenantproxy.errors import OutOfMemory
from tenantproxy.wire.statements import Statement

__all__ = ["FREE_BYTES", "NAME_BYTES", "ProcessMemory", "TenantMemory"]

FREE_BYTES: Final = 4096
"""Of each thing that a client makes us keep; what is not larger is not counted, so that most messages cost nothing."""

NAME_BYTES: Final = 512
"""What a client's name of a statement counts, in addition to the text."""


class ProcessMemory:
    """What all tenants keep. `limit` and `per_tenant` in bytes; 0: no such limit. They may be changed at any time."""

    __slots__ = ("limit", "peak", "per_tenant", "refused", "refused_tenant", "used")

    def __init__(self, limit: int = 0, per_tenant: int = 0) -> None:
        self.limit = limit
        self.per_tenant = per_tenant
        self.used = 0
        self.peak = 0  # the most that was used since `has_fallen`
        self.refused = 0  # how often `limit` was met, since the start
        self.refused_tenant = 0  # the same of `per_tenant`

    def has_fallen(self, size: int) -> bool:
        """Whether so much less is used than was at the peak, which is then forgotten."""
        if self.peak - self.used < size:
            return False
        self.peak = self.used
        return True


class TenantMemory:
    """What one tenant's clients keep. Invariant: `process.used` is the sum of what all of them have `used`.

    A tenant gets no more than it leaves free: so one alone has half of the limit at most, and however many take what
    they can, one that has little finds as much free as each of them has.
    """

    __slots__ = ("__weakref__", "_names", "process", "used")

    def __init__(self, process: ProcessMemory | None = None) -> None:
        self.process = ProcessMemory() if process is None else process
        self.used = 0
        self._names: dict[Statement, int] = {}  # how many names of its clients each statement has

    def take(self, size: int) -> None:
        """Keep `size` bytes more. Raises OutOfMemory, and nothing has changed."""
        process = self.process
        wanted = self.used + size
        if process.per_tenant and wanted > process.per_tenant:
            process.refused_tenant += 1
            raise _out_of_memory("max_memory_per_tenant", process.per_tenant)
        if process.limit and wanted > process.limit - process.used - size:
            process.refused += 1
            raise _out_of_memory("max_memory", process.limit)
        self.used = wanted
        process.used += size
        if process.used > process.peak:
            process.peak = process.used

    def give(self, size: int) -> None:
        """`size` bytes are kept no longer."""
        self.used -= size
        self.process.used -= size

    def hold(self, statement: Statement) -> None:
        """One more name of a client means `statement`. Raises OutOfMemory, and nothing has changed."""
        self.take(NAME_BYTES if statement in self._names else NAME_BYTES + statement.size)
        self._named(statement)

    def swap(self, before: Statement, now: Statement) -> None:
        """A name means another statement of the same text: never refused, for nothing more is kept."""
        self.release(before)
        self.give(-(NAME_BYTES if now in self._names else NAME_BYTES + now.size))
        self._named(now)

    def _named(self, statement: Statement) -> None:
        self._names[statement] = self._names.get(statement, 0) + 1
        statement.names += 1

    def release(self, statement: Statement) -> None:
        """One name less."""
        names = self._names[statement] - 1
        if names:
            self._names[statement] = names
            self.give(NAME_BYTES)
        else:
            del self._names[statement]
            self.give(NAME_BYTES + statement.size)
        statement.names -= 1
        if not statement.names:
            statement.forget_text()


def _out_of_memory(name: str, limit: int) -> OutOfMemory:
    return OutOfMemory(
        "out of memory: the tenant's clients keep too much: prepared statements, messages and results under way",
        detail=f"[pg] {name} = {limit}",
        hint=f"close prepared statements and idle connections, read results, or raise [pg] {name}",
    )
