"""Which heads of `POST /sql` are read past aiohttp? Only such as both read alike."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantproxy.sidecar.sql.head import REQUEST_LINE, read_head

STRAIGHT = b"Host: db.example.com\r\nContent-Length: 20"


def test_a_straight_head_is_read_with_the_length_of_its_body() -> None:
    found = read_head(STRAIGHT + b"\r\nNeon-Array-Mode:true \r\nconnection: Keep-Alive")
    assert found is not None
    assert found.length == 20
    assert found.headers["neon-array-mode"] == "true"


@pytest.mark.parametrize(
    "more",
    [
        b"Transfer-Encoding: chunked", b"transfer-encoding: identity", b"Transfer-Encoding : chunked",
        b" Transfer-Encoding: chunked", b"X: 1\n Transfer-Encoding: chunked", b"X: 1\r Transfer-Encoding: chunked",
        b"Content-Length: 20", b"Content-Length: 21", b"Host: other", b"Connection: close", b"Connection: upgrade",
        b"Connection: keep-alive, close", b"Upgrade: websocket", b"Expect: 100-continue", b"Content-Encoding: gzip",
        b"Proxy-Connection: close",
        b"Trailer: X", b"TE: trailers", b"traceparent: 00-0af7-b7ad-01", b"X: a\0b", b"X: a\x7fb", b"X : 1", b": 1",
        b"no colon", b"",
        b"\xc3\xa4: 1", b"\r\n".join(b"X-%d: 1" % number for number in range(64)),
    ],
)  # fmt: skip
def test_a_head_that_could_be_read_in_two_ways_is_not_straight(more: bytes) -> None:
    assert read_head(STRAIGHT + b"\r\n" + more) is None
    assert read_head(more + b"\r\n" + STRAIGHT) is None


@pytest.mark.parametrize(
    "length", [b"", b"+1", b"-1", b"0x10", b"1_0", b"01", b"1 1", b"20, 20", b"\xd9\xa1", b"99999999"]
)
def test_a_length_that_is_no_plain_number_is_not_straight(length: bytes) -> None:
    assert read_head(b"Host: x\r\nContent-Length: " + length) is None
    assert read_head(b"Host: x") is None


def parsed(data: bytes) -> tuple[dict[str, str], bool] | None:
    """What aiohttp makes of the same bytes: its headers, and whether the request ends with them."""

    async def parse() -> Any:
        parser = HttpRequestParser(Mock(_reading_paused=False), asyncio.get_running_loop(), 2**16, max_headers=64)
        messages, upgraded, tail = parser.feed_data(data)
        assert not upgraded
        assert not tail
        ((message, payload),) = messages
        return dict(message.headers.items()), payload.is_eof()

    try:
        found: tuple[dict[str, str], bool] = asyncio.run(parse())
    except HttpProcessingError:
        return None
    return found


names = st.sampled_from([b"Content-Length", b"Host", b"X-A", b"Transfer-Encoding", b"Connection", b"X B", b" X", b"TE"])
values = st.one_of(
    st.sampled_from(
        [b"0", b"5", b"x", b"chunked", b"keep-alive", b"close", b" 5 ", b"\t5", b"5\r\nX-C: 1", b"a\nb: c"]
    ),
    st.binary(max_size=6).filter(lambda value: b"\r\n\r\n" not in value),
)
lines = st.lists(st.tuples(names, st.sampled_from([b":", b": ", b" :", b""]), values), max_size=5)


@settings(max_examples=300, deadline=None)
@given(lines, st.booleans())
def test_what_is_straight_is_the_same_request_to_aiohttp(
    found: list[tuple[bytes, bytes, bytes]], is_plain: bool
) -> None:
    head = b"\r\n".join([*([STRAIGHT] if is_plain else []), *(name + sign + value for name, sign, value in found)])
    if b"\r\n\r\n" in b"\r\n" + head + b"\r\n":
        return
    straight = read_head(head)
    if straight is not None:
        theirs = parsed(REQUEST_LINE + head + b"\r\n\r\n" + bytes(straight.length))
        assert theirs == (dict(straight.headers.items()), True)
