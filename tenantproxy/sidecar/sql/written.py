"""How is an answer to SQL over HTTP written without aiohttp? Its head as bytes, with its body. State: the Date."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from time import time
from typing import Final

__all__ = ["response"]

_STATUS: Final = {
    200: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n",
    400: b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n",
}


def response(code: int, body: bytes, headers: Sequence[tuple[str, str]], *, request: str, is_last: bool) -> bytes:
    """All of it. `code`: 200 or 400. `headers`: more. `request`: its id. `is_last`: the connection is closed."""
    more = b"Connection: close\r\n" if is_last else b""
    if headers:
        more += b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers)
    said = _STATUS[code], more, len(body), request.encode(), _date(), body
    return b"%b%bContent-Length: %d\r\nX-Request-Id: %b\r\n%b\r\n%b" % said


class _Clock:
    """The Date of answers, made once a second."""

    second = 0
    line = b""


def _date() -> bytes:
    now = int(time())
    if now != _Clock.second:
        _Clock.second, _Clock.line = now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _Clock.line
