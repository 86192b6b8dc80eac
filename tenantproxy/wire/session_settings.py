"""What did a client set in its session that its next backend must have too?

The rules are those of `wire.settings`: what the server reports is in force; a plain SET counts when its transaction
commits; in any doubt the backend is given back dirty, so what is believed of a backend is never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantproxy.wire.commands import is_local, leaves_state
from tenantproxy.wire.settings import Settings, is_tracked, read_set, with_reported, with_set

__all__ = ["KeptSettings"]


_LOCAL: Final = (b"", None)  # its effect ends with the transaction
_TAGS: Final = (b"SET", b"RESET")
_NO_SETTINGS: Final = (b"in_hot_standby",)  # what a server reports of itself, and no reset changes


class KeptSettings:
    """One client's. `now` is what its next backend gets; `start` what its startup packet asked for.

    `baseline`: what the pool's servers report of a session as at startup.
    """

    __slots__ = ("_baseline", "_staged", "_start", "asked_for", "is_dirty", "now")

    def __init__(self, start: Settings, baseline: Mapping[bytes, bytes]) -> None:
        self.now = start
        self.is_dirty = False  # the session is not what it was, beyond what `now` says
        self._start = start
        self._baseline = baseline
        self._staged: list[tuple[bytes, bytes | None]] = []  # done, and in force when the transaction commits
        self.asked_for: tuple[bytes, bytes | None] | None = None  # sent; the very next tag says whether it is done

    def asked(self, sql: bytes, *, is_alone: bool) -> None:
        """A simple query that may set something was sent; `is_alone`: nothing else is unanswered."""
        found = read_set(sql) if is_alone else None
        self.asked_for = _LOCAL if found is None and is_alone and is_local(sql) else found

    def tagged(self, tag: bytes) -> None:
        """A command was completed, other than the commonest."""
        found, self.asked_for = self.asked_for, None
        if tag in _TAGS and found is not None:
            if found is not _LOCAL:
                self._staged.append(found)
        elif tag == b"ROLLBACK" and self._staged:
            self._staged.clear()
            self.is_dirty = True
        elif leaves_state(tag):
            self.is_dirty = True

    def failed(self) -> None:
        """The server said an error."""
        self.asked_for = None
        if self._staged:
            self._staged.clear()
            self.is_dirty = True

    def reported(self, name: bytes, value: bytes) -> None:
        """A ParameterStatus came. What does not go along with the client must not stay behind for the next one."""
        if not is_tracked(name, value) and name not in _NO_SETTINGS:
            self.is_dirty = True
        self.now = with_reported(self.now, name, value, baseline=self._baseline)

    def ended(self) -> bool:
        """The transaction ended: returns whether the backend is dirty; if not, its session is `now`."""
        if not (self._staged or self.is_dirty):  # most
            return False
        for name, value in self._staged:
            self.now = with_set(self.now, name, value, start=self._start)
            if value is None:  # to what the client wished at its start, which is not what the backend went back to
                self.is_dirty = True
        self._staged.clear()
        self.asked_for = None
        is_dirty, self.is_dirty = self.is_dirty, False
        return is_dirty
