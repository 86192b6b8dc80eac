"""Do our own messages say what they should, to the byte, and is a server's error read whatever it sends?"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import PoolFull, PoolTimeout, ProtocolError, TenantNotFound, TenantProxyError
from tenantproxy.wire import answers
from tenantproxy.wire.answers import (
    backend_key_data,
    command_complete,
    data_row,
    error_response,
    notice,
    parameter_status,
    read_error,
    ready_for_query,
    row_description,
)
from tenantproxy.wire.frames import HEADER, IN_TRANSACTION, MAX_FRAME, frame, length_of
from tests.support.fuzzing import IS_TRIED


def payload(message: bytes, kind: bytes) -> bytes:
    """What is in one message of this kind; its length is right and nothing stands behind it."""
    assert message[:1] == kind
    assert length_of(message, 0) == len(message)
    return message[HEADER:]


def test_an_error_has_severity_state_message_detail_and_hint() -> None:
    error = TenantNotFound("no such tenant", detail="a", hint="b")
    assert payload(error_response(error), b"E") == b"SERROR\0VERROR\0C3D000\0Mno such tenant\0Da\0Hb\0\0"
    assert payload(error_response(error, fatal=True), b"E").startswith(b"SFATAL\0VFATAL\0")


def test_the_words_that_tools_know_from_pgbouncer_are_kept() -> None:
    timed_out = read_error(payload(error_response(PoolTimeout("no connection became free")), b"E"))
    assert timed_out["M"].startswith("query_wait_timeout")
    assert "query_wait_timeout" not in error_response(PoolFull("too many wait")).decode()


@IS_TRIED
@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_an_error_is_read_as_it_was_written(message: str, detail: str, hint: str) -> None:
    fields = read_error(payload(error_response(TenantProxyError(message, detail=detail, hint=hint)), b"E"))
    assert fields["C"] == "XX000"
    for key, value in {"M": message, "D": detail, "H": hint}.items():
        assert fields.get(key, "") == value.replace("\0", "").encode("utf-8", "replace").decode()


def test_a_long_message_is_cut_between_two_characters() -> None:
    fields = read_error(payload(error_response(TenantProxyError("x" + "ß" * 10_000)), b"E"))
    assert fields["M"] == "x" + "ß" * ((answers.MAX_TEXT - 1) // 2)


def test_a_notice_is_no_error() -> None:
    fields = read_error(payload(notice("hello", hint="x"), b"N"))
    assert fields == {"S": "NOTICE", "V": "NOTICE", "C": "00000", "M": "hello", "H": "x"}


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        (b"", {"C": "XX000", "M": ""}),
        (b"\0", {"C": "XX000", "M": ""}),
        (b"SERROR\0Mno state\0\0", {"S": "ERROR", "C": "XX000", "M": "no state"}),
        (b"C57P01\0Mcut o", {"C": "57P01", "M": "cut o"}),
        (b"C57P0\0Mx\0\0", {"C": "57P0", "M": "x"} | {"C": "XX000"}),
        (b"C57P0\xff\0\0", {"C": "XX000", "M": ""}),
        (b"C57'01\0\0", {"C": "XX000", "M": ""}),
        (b"C\0M\0\0", {"C": "XX000", "M": ""}),
        (b"M\xff\xfe\0\0", {"C": "XX000", "M": "\ufffd\ufffd"}),
        (b"Mone\0Mtwo\0\0", {"C": "XX000", "M": "one"}),
        (b"C42501\0\0Mhidden\0\0", {"C": "42501", "M": ""}),
    ],
)
def test_a_hostile_servers_error_is_an_error_all_the_same(sent: bytes, fields: dict[str, str]) -> None:
    assert read_error(sent) == fields


def test_an_endless_error_is_read_to_a_limit() -> None:
    fields = read_error(b"C57P01\0M" + b"x" * 5_000_000)
    assert fields["C"] == "57P01"
    assert len(fields["M"]) == answers.MAX_TEXT
    assert sum(map(len, read_error(b"".join(b"%cx\0" % (n % 255 + 1) for n in range(100_000))).values())) < 1000


@IS_TRIED
@given(st.binary(max_size=100))
def test_any_bytes_are_an_error_with_a_state(sent: bytes) -> None:
    fields = read_error(sent)
    assert len(fields["C"]) == 5
    assert isinstance(fields["M"], str)


def test_a_session_begins_with_what_a_client_needs() -> None:
    assert answers.AUTHENTICATION_OK == b"R\0\0\0\x08\0\0\0\0"
    assert payload(parameter_status(b"TimeZone", b"UTC"), b"S") == b"TimeZone\0UTC\0"
    assert payload(backend_key_data(7, b"abcd"), b"K") == b"\0\0\0\x07abcd"
    assert ready_for_query() == b"Z\0\0\0\x05I"
    assert ready_for_query(IN_TRANSACTION) == b"Z\0\0\0\x05T"


def test_a_nul_does_not_end_a_text_of_ours_too_early() -> None:
    assert payload(parameter_status(b"a\0b", b"c\0"), b"S") == b"ab\0c\0"
    assert payload(command_complete("SHOW\0"), b"C") == b"SHOW\0"


def test_rows_are_text_and_none_is_null() -> None:
    described = payload(row_description(["name", "größe"]), b"T")
    assert described[:2] == b"\0\x02"
    assert described[2:].startswith(b"name\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0) + "größe\0".encode())
    assert payload(data_row(["", None, "ß"]), b"D") == b"\0\x03" + b"\0\0\0\0" + b"\xff" * 4 + b"\0\0\0\x02\xc3\x9f"


def test_more_columns_than_postgresql_has_are_refused() -> None:
    with pytest.raises(ProtocolError):
        data_row([None] * 70_000)
    with pytest.raises(ProtocolError):
        row_description(["x"] * 1601)


class Endless(bytes):
    """Says that it is longer than any message can be, without being so."""

    def __len__(self) -> int:
        return 2**32


def test_a_length_never_wraps_round() -> None:
    assert MAX_FRAME < 2**31
    with pytest.raises(ProtocolError):
        frame(0x44, Endless())
