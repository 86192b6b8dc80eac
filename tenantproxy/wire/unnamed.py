"""How does a client's every statement run as the one without a name? For where nothing stays prepared.

The text of a statement is said again ahead of each Bind or Describe that means another one than the last. Pure.
"""

from __future__ import annotations

import re
from collections import deque
from secrets import token_hex
from typing import Final

from tenantproxy.wire.frames import BIND, CLOSE, DESCRIBE, EXECUTE, HEADER, PARSE, PARSE_COMPLETE, frame
from tenantproxy.wire.segments import BEHIND_THE_END, ends

__all__ = ["UnnamedStatements", "end_of_names"]

_PLAIN_NAME: Final = re.compile(rb"[A-Za-z0-9_]{1,40}")
_FAILS: Final = frame(PARSE, b"\0" + BEHIND_THE_END + b"\0\0\0")  # and all up to the Sync with it


def end_of_names(bind: bytes) -> int:
    """Where the names of a Bind end that has come so far; -1: they have not come."""
    end_of_portal = bind.find(b"\0", HEADER)
    return -1 if end_of_portal < 0 else bind.find(b"\0", end_of_portal + 1)


class UnnamedStatements:
    """The statements of one lease. What is answered to what we say in addition is not its client's.

    A name that is unknown goes out in a text that fails: a pooler ends clients that name a statement it does not know.
    """

    __slots__ = ("_binds", "_current", "_has_ended", "_parses", "_texts")

    def __init__(self) -> None:
        self._texts: dict[bytes, bytes] = {}  # by name, as Parse has it behind that
        self._current: bytes | None = None  # whose text the statement without a name is
        self._parses: deque[bool] = deque()  # unanswered, in order: whether each is the client's
        self._binds: deque[bool] = deque()
        self._has_ended = False  # the transaction, and no Sync has come since

    def segment_begins(self) -> None:
        """A Sync or a simple query was answered, and something comes behind it."""
        self._has_ended = False

    def segment_ended(self, *, lasts: bool) -> None:
        """ReadyForQuery came: what is unanswered never will be. `lasts`: the session goes on to be the client's."""
        self._parses.clear()
        self._binds.clear()
        if not lasts:
            self._current = None

    def queried(self) -> None:
        """A simple query goes out, which ends the statement without a name."""
        self._current = None
        self._texts.pop(b"", None)

    def is_clients(self, kind: int) -> bool:
        """Whether the ParseComplete or BindComplete that has come is for its client."""
        waiting = self._parses if kind == PARSE_COMPLETE else self._binds
        return not waiting or waiting.popleft()

    def as_sent(self, message: bytes, length: int) -> bytes:
        """`message` as it goes out. Of a Bind its names are enough; `length`: of all of it."""
        kind = message[0]
        if self._has_ended and kind in (PARSE, BIND):
            self._parses.append(True)
            return _FAILS
        if kind == PARSE:
            return self._parse(message)
        if kind == BIND:
            return self._bind(message, length)
        if kind == DESCRIBE and message[HEADER : HEADER + 1] == b"S":
            name = message[HEADER + 1 : -1]
            return self._again(name) + frame(DESCRIBE, b"S\0") if name in self._texts else self._unknown(name)
        if kind == CLOSE and message[HEADER : HEADER + 1] == b"S":
            self._texts.pop(message[HEADER + 1 : -1], None)
            self._current = None
            return frame(CLOSE, b"S\0")
        return message

    def _parse(self, message: bytes) -> bytes:
        name, _, body = message[HEADER:].partition(b"\0")
        self._texts[name], self._current = body, name
        self._parses.append(True)
        return frame(PARSE, b"\0" + body)

    def _bind(self, message: bytes, length: int) -> bytes:
        end = end_of_names(message)
        portal_end = message.find(b"\0", HEADER)
        name = message[portal_end + 1 : end]
        if end < 0:
            return message  # the server says what is wrong
        if name not in self._texts:
            return self._unknown(name)
        self._has_ended = ends(self._texts[name])
        self._binds.append(True)
        head = bytes([BIND]) + (length - 1 - len(name)).to_bytes(4, "big") + message[HEADER : portal_end + 1]
        return self._again(name) + head + message[end:]

    def _again(self, name: bytes) -> bytes:
        if self._current == name:
            return b""
        self._current = name
        self._parses.append(False)
        return frame(PARSE, b"\0" + self._texts[name])

    def _unknown(self, name: bytes) -> bytes:
        """What fails with 26000, and with all up to the Sync; its text holds the name, and more that none can have."""
        self._current = None
        self._parses.append(False)
        self._binds.append(False)
        shown = name if _PLAIN_NAME.fullmatch(name) else b"unnamed"
        text = b'EXECUTE "%s_%s"' % (shown, token_hex(8).encode())
        return frame(PARSE, b"\0" + text + bytes(3)) + frame(BIND, bytes(8)) + frame(EXECUTE, bytes(5))
