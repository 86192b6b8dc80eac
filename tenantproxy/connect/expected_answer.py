"""Has the server answered what we asked as it must, byte for byte? Fed with what comes, however it is cut. No I/O.

To compare bytes costs less than to read them, and nothing that was not foreseen can pass for the answer.
"""

from __future__ import annotations

from typing import Final, Protocol

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import HEADER, length_of

__all__ = ["MAX_ANSWER", "AnswerListener", "ExpectedAnswer"]

MAX_ANSWER: Final = 65536
"""Bytes of one message: nothing that we ask is answered by more."""


class AnswerListener(Protocol):
    """Who asked."""

    def aside(self, kind: int, message: bytes) -> bool:
        """Whether a message is none of the answer, and may come between. May raise what ends the conversation."""
        ...

    def unexpected(self, kind: int, message: bytes, confirmed: int) -> None:
        """Another one came, after so much of the answer. Raises, unless it is to be read on."""
        ...


class ExpectedAnswer:
    """Changed by `feed` alone, which is not called again when it has returned True or raised."""

    __slots__ = ("_at", "_expected", "_partial")

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._at = 0  # so much of it has come
        self._partial = b""  # the beginning of a message

    def feed(self, data: bytes, listener: AnswerListener) -> bool:
        """Whether all has come now. Raises Unconfirmed, and what `listener` raises."""
        if data == self._expected and not self._partial and not self._at:
            return True
        try:
            self._read(self._partial + data, listener)
        except ProtocolError:
            raise Unconfirmed from None
        is_whole = self._at == len(self._expected)
        if is_whole and self._partial:  # a message that begins after the end of the answer belongs to nothing we asked
            raise Unconfirmed
        return is_whole

    def _read(self, data: bytes, listener: AnswerListener) -> None:
        at, size = 0, len(data)
        while size - at >= HEADER:
            length = length_of(data, at)
            if length > MAX_ANSWER:
                raise Unconfirmed(data[at])
            end = at + length
            if end > size:
                break
            kind, message = data[at], data[at:end]
            if not listener.aside(kind, message):
                if self._expected.startswith(message, self._at):
                    self._at += length
                else:
                    listener.unexpected(kind, message, self._at)
            at = end
        self._partial = data[at:]
