"""What did a client set in its session that its next backend must have too?

The rules are those of `wire.settings`: what the server reports is in force; a plain SET counts when its transaction
commits; in any doubt the backend is given back dirty, so what is believed of a backend is never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from tenantproxy.wire.commands import leaves_state
from tenantproxy.wire.settings import Settings, read_set, with_reported, with_set

__all__ = ["KeptSettings"]


class KeptSettings:
    """One client's. `now` is what its next backend gets; `start` what its startup packet asked for.

    `baseline`: what the pool's servers report of a session as at startup.
    """

    __slots__ = ("_asked", "_baseline", "_staged", "_start", "is_dirty", "now")

    def __init__(self, start: Settings, baseline: Mapping[bytes, bytes]) -> None:
        self.now = start
        self.is_dirty = False  # the session is not what it was, beyond what `now` says
        self._start = start
        self._baseline = baseline
        self._staged: list[tuple[bytes, bytes | None]] = []  # done, and in force when the transaction commits
        self._asked: list[tuple[bytes, bytes]] = []  # sent; its tag will say whether it is done

    def asked(self, sql: bytes, *, is_alone: bool) -> None:
        """A simple query that may set something was sent; `is_alone`: nothing else is unanswered."""
        found = read_set(sql) if is_alone else None
        if found is not None and found[1] is not None:  # a RESET is left to the reset of the backend
            self._asked.append((found[0], found[1]))

    def tagged(self, tag: bytes) -> None:
        """A command was completed, other than the commonest."""
        if tag == b"SET" and self._asked:
            self._staged.append(self._asked.pop())
        elif tag == b"ROLLBACK" and self._staged:
            self._staged.clear()
            self.is_dirty = True
        elif leaves_state(tag):
            self.is_dirty = True

    def failed(self) -> None:
        """The server said an error."""
        self._asked.clear()
        if self._staged:
            self._staged.clear()
            self.is_dirty = True

    def reported(self, name: bytes, value: bytes) -> None:
        """A ParameterStatus came."""
        self.now = with_reported(self.now, name, value, baseline=self._baseline)

    def ended(self) -> bool:
        """The transaction ended: returns whether the backend is dirty; if not, its session is `now`."""
        for name, value in self._staged:
            self.now = with_set(self.now, name, value, start=self._start)
        self._staged.clear()
        self._asked.clear()
        is_dirty, self.is_dirty = self.is_dirty, False
        return is_dirty
