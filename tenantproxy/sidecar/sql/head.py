"""Where does a straight `POST /sql` end, and who sent it? Reads heads that can be understood in one way only. Pure.

A head with anything in it that servers have been seen to read in two ways is none here: aiohttp reads it, or refuses.
So is one that is a part of a trace, which has more to be told of it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from multidict import CIMultiDict

__all__ = ["REQUEST_LINE", "StraightHead", "read_head"]

REQUEST_LINE: Final = b"POST /sql HTTP/1.1\r\n"

_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_MOST_HEADERS: Final = 64
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,6}")
_UNTAKEN: Final = (
    "Transfer-Encoding",
    "Content-Encoding",
    "Upgrade",
    "Expect",
    "Trailer",
    "TE",
    "HTTP2-Settings",
    "Proxy-Connection",
    "traceparent",
)


class StraightHead(NamedTuple):
    """Of one request. `length`: bytes of its body."""

    length: int
    headers: CIMultiDict[str]


def read_head(head: bytes) -> StraightHead | None:
    """What stands between `REQUEST_LINE` and the empty line, without both; None: it is not straight."""
    lines = head.split(b"\r\n")
    if len(lines) > _MOST_HEADERS:
        return None
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            return None
        headers.add(found[1].decode(), found[2].rstrip(b" \t").decode("utf-8", "surrogateescape"))
    if len(headers.getall("Host", ())) != 1 or any(name in headers for name in _UNTAKEN):
        return None
    if any(value.lower() != "keep-alive" for value in headers.getall("Connection", ())):
        return None
    lengths = headers.getall("Content-Length", ())
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None:
        return None
    return StraightHead(int(lengths[0]), headers)
