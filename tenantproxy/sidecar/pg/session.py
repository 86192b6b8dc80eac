"""What of a client's session has changed, as its server tells? Settings, what keeps its backend, the binding."""

from __future__ import annotations

import asyncio
from typing import Final

from tenantproxy.errors import ServerMoved
from tenantproxy.model import Binding
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.bind import WRITTEN
from tenantproxy.wire.commands import pins, unbinds
from tenantproxy.wire.definition_changes import MAY_CHANGE, DefinitionChanges
from tenantproxy.wire.frames import COMMAND_COMPLETE, ERROR, PARAMETER_STATUS, READY
from tenantproxy.wire.leftovers import ANYTHING, CUSTOM, RELEASES, RESETS_ALL
from tenantproxy.wire.responses import is_unexpected
from tenantproxy.wire.session_features import SessionFeatures
from tenantproxy.wire.session_settings import KeptSettings

__all__ = ["ClientSession"]

LISTENING: Final = 32
PREPARED: Final = 64  # in SQL
_RELEASING: Final = (b"DROP", b"CLOSE", b"DISCARD", b"RESET", b"SET")
_READ_ONLY: Final = b"\0C25006\0"
_PROMOTION: Final = (b"in_hot_standby", b"off", b"on")  # a report, and what it was before: PostgreSQL 14 and later


class ClientSession:
    """One client's. `pin` is what only its backend has: some of `leftovers`, LISTENING, PREPARED; 0: it may go.

    `features` has a place for it while the first of these keep it.
    """

    __slots__ = ("_is_session", "_listens", "_unlisted", "changes", "features", "kept", "pin")

    def __init__(
        self, kept: KeptSettings, features: SessionFeatures, changes: DefinitionChanges, *, is_session: bool
    ) -> None:
        self.kept = kept
        self.changes = changes
        self.features = features
        self.pin = 0
        self._is_session = is_session
        self._unlisted = 0  # CUSTOM, where that may be left
        self._listens = 0  # how often it said LISTEN since it was pinned

    def note(self, events: list[tuple[int, bytes]], backend: RawBackend | None) -> bool:
        """What a response stream found, in order. Whether texts mean something else since."""
        means_more = False
        for kind, payload in events:
            if kind == COMMAND_COMPLETE:
                self._completed(payload, backend)
            elif kind == READY:
                self.kept.asked_for = None
                if self.changes.is_heard:
                    self.changes.ready(payload)
            elif kind == PARAMETER_STATUS:
                name, _, value = payload.partition(b"\0")
                if backend is not None:
                    if (name, value, backend.parameters.get(name)) == _PROMOTION:
                        _end_all(backend)
                    backend.parameters[name] = value
                means_more = self.kept.reported(name, value) or means_more
            elif kind == ERROR:
                self.kept.failed()
                if backend is not None and _READ_ONLY in payload:
                    backend.saw_read_only = True
                if not self._is_session and is_unexpected(payload):
                    self.kept.is_dirty = True
        return means_more

    def _completed(self, tag: bytes, backend: RawBackend | None) -> None:
        self.kept.tagged(tag)
        if tag[:2] in MAY_CHANGE:
            self.changes.tagged(tag)
        if backend is not None and backend.binding is not None and unbinds(tag):
            self._unbound(tag, backend, backend.binding)
        if self._is_session:
            return
        if pins(tag):
            self._listens += tag == b"LISTEN"
            self.pin |= LISTENING if tag == b"LISTEN" else PREPARED  # that goes with DISCARD ALL only
        elif not self.pin:
            return
        elif tag == b"DISCARD ALL":
            self.unpin()
        elif tag == b"UNLISTEN" and self._listens == 1:  # of several channels it may have left one
            self.pin &= ~LISTENING
            self._listens = 0
            self.kept.left |= RELEASES
        elif tag.startswith(_RELEASING):
            self.kept.left |= RELEASES

    def _unbound(self, tag: bytes, backend: RawBackend, binding: Binding) -> None:
        """The backend may be without its tenant. After a RESET ALL it is, and without all that was set besides."""
        backend.bound_until = 0.0
        if tag == b"RESET" and self.kept.left & RESETS_ALL and binding.proof in WRITTEN and not self._is_session:
            backend.lost_tenant = True
        else:
            backend.bound = None
            self.kept.is_dirty = True

    def must_look(self, left: int) -> bool:
        """Whether the server must be asked what is left, when this may have changed. It is not while a notification may
        come; then all of it keeps the backend."""
        if not left or not (self.features.is_pinning and (left & ANYTHING or self.pin & ANYTHING)):
            return False
        if self.pin & LISTENING:
            self.pin |= left & ANYTHING
            return False
        self._unlisted = (left | (0 if left & RESETS_ALL else self.pin)) & CUSTOM
        return True

    def found(self, left: int) -> int:
        """The server says that this is left. Returns all that is."""
        left |= self._unlisted
        self.pin = (self.pin & ~ANYTHING) | left
        if not left:
            self.features.give()
        return left

    def unpin(self) -> None:
        """The backend is not kept any more."""
        self.pin = 0
        self._listens = 0
        self.features.give()


def _end_all(backend: RawBackend) -> None:
    """Its replica is none any more: what a client would write there, its former primary never sees.

    Not before what was heard is dealt with. A client in a transaction hears 57P01.
    """
    error = ServerMoved(
        "terminating connection: the replica was promoted",
        hint="it is read elsewhere then: try again",
    )
    asyncio.get_running_loop().call_soon(backend.pool.budget.promoted, error)
