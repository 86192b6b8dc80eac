"""What of a client's session has changed, as its server tells? Settings, what keeps its backend, the binding."""

from __future__ import annotations

from typing import Final

from tenantproxy.raw.backend import RawBackend
from tenantproxy.wire.commands import pins, unbinds
from tenantproxy.wire.frames import COMMAND_COMPLETE, ERROR, PARAMETER_STATUS, READY
from tenantproxy.wire.responses import is_unexpected
from tenantproxy.wire.session_settings import KeptSettings

__all__ = ["ClientSession"]

_READ_ONLY: Final = b"\0C25006\0"


class ClientSession:
    """One client's. `pin` is the tag of the command whose effect only its backend has; empty: it need not be kept."""

    __slots__ = ("_is_session", "_listens", "kept", "pin")

    def __init__(self, kept: KeptSettings, *, is_session: bool) -> None:
        self.kept = kept
        self.pin = b""
        self._is_session = is_session
        self._listens = 0  # how often it said LISTEN since it was pinned

    def note(self, events: list[tuple[int, bytes]], backend: RawBackend | None) -> bool:
        """What a response stream found, in order. Whether texts mean something else since."""
        means_more = False
        for kind, payload in events:
            if kind == COMMAND_COMPLETE:
                self._completed(payload, backend)
            elif kind == READY:
                self.kept.asked_for = None
            elif kind == PARAMETER_STATUS:
                name, _, value = payload.partition(b"\0")
                if backend is not None:
                    backend.parameters[name] = value
                means_more = self.kept.reported(name, value) or means_more
            elif kind == ERROR:
                if backend is not None and _READ_ONLY in payload:
                    backend.saw_read_only = True
                if not self._is_session and is_unexpected(payload):
                    self.kept.is_dirty = True
        return means_more

    def _completed(self, tag: bytes, backend: RawBackend | None) -> None:
        self.kept.tagged(tag)
        if backend is not None and backend.binding is not None and unbinds(tag):
            backend.bound = None
            backend.bound_until = 0.0
        if self._is_session:
            return
        if pins(tag):
            self._listens += tag == b"LISTEN"
            if self.pin != b"PREPARE":  # that one goes with DISCARD ALL only
                self.pin = tag
        elif tag == b"DISCARD ALL" or (tag == b"UNLISTEN" and self.pin == b"LISTEN" and self._listens == 1):
            self.unpin()  # of several channels it may have left one

    def unpin(self) -> None:
        """The backend is not kept any more."""
        self.pin = b""
        self._listens = 0
