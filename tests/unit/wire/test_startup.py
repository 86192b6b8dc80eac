"""What is read of a client's first bytes, and what of its wishes is granted?"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import AuthError, InvalidSetting, NotSupported, ProtocolError
from tenantproxy.wire.server_auth import startup_message
from tenantproxy.wire.startup import (
    GSS_REQUEST,
    MAX_PACKET,
    SSL_REQUEST,
    CancelRequest,
    GssRequest,
    SessionWish,
    SslRequest,
    Startup,
    negotiate,
    options,
    read_first,
    wanted,
)
from tests.support.fuzzing import IS_TRIED

SSL = struct.pack("!II", 8, 80877103)
GSS = struct.pack("!II", 8, 80877104)


def packet(*texts: bytes, version: int = 3 << 16) -> bytes:
    body = b"".join(text + b"\0" for text in texts) + b"\0"
    return struct.pack("!II", 8 + len(body), version) + body


def startup(*texts: bytes, version: int = 3 << 16) -> Startup:
    first = read_first(packet(*texts, version=version))
    assert isinstance(first, Startup)
    return first


def wish(*texts: bytes) -> SessionWish:
    return wanted(startup(b"user", b"billing", *texts))


# --- the first packet -------------------------------------------------------------------------------------------------
def test_a_startup_packet_is_read_with_its_size_and_what_stands_behind_it_is_left() -> None:
    bytes_of_it = packet(b"user", b"billing", b"database", b"acme")
    first = read_first(bytes_of_it + b"p\0\0\0\x05x")
    assert first == Startup((3, 0), ((b"user", b"billing"), (b"database", b"acme")), len(bytes_of_it))


@pytest.mark.parametrize(("request_bytes", "request_value"), [(SSL, SSL_REQUEST), (GSS, GSS_REQUEST)])
def test_a_request_for_encryption_is_taken_once_and_alone(
    request_bytes: bytes, request_value: SslRequest | GssRequest
) -> None:
    assert read_first(request_bytes) == request_value
    with pytest.raises(ProtocolError, match="twice"):
        read_first(request_bytes, answered=(request_value,))
    with pytest.raises(ProtocolError, match="wrong length"):
        read_first(b"\0\0\0\x09" + request_bytes[4:] + b"\0")


@pytest.mark.parametrize("behind", [b"\0", packet(b"user", b"mallory"), SSL])
@pytest.mark.parametrize("request_bytes", [SSL, GSS])
def test_nothing_is_accepted_that_was_sent_behind_a_request_for_encryption_before_its_answer(
    request_bytes: bytes, behind: bytes
) -> None:
    with pytest.raises(ProtocolError, match="without waiting"):
        read_first(request_bytes + behind)


def test_each_kind_of_encryption_may_be_asked_for_after_the_other() -> None:
    assert read_first(GSS, answered=(SSL_REQUEST,)) == GSS_REQUEST
    assert isinstance(read_first(packet(b"user", b"a"), answered=(SSL_REQUEST, GSS_REQUEST)), Startup)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_a_cancel_request_may_have_a_key_of_4_to_256_bytes(size: int) -> None:
    secret = bytes(range(size % 256)) or bytes(256)
    first = read_first(struct.pack("!III", 12 + len(secret), 80877102, 7) + secret)
    assert first == CancelRequest(7, secret)
    assert repr(first) == "CancelRequest(pid=7)"


@pytest.mark.parametrize("size", [0, 3, 257])
def test_a_cancel_request_with_a_key_of_another_length_is_refused_before_it_has_come(size: int) -> None:
    with pytest.raises(ProtocolError, match="cancel request"):
        read_first(struct.pack("!II", 12 + size, 80877102))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x16\x03\x01", "TLS without an SSLRequest"),
        (b"\x16", "TLS without an SSLRequest"),
        (b"GET / HTTP/1.1\r\n", "not an HTTP port"),
        (b"p\0\0\0\x08abc\0", "before a startup packet"),
        (b"Q\0\0\0\x0dselect 1\0", "not a startup packet"),
        (b"\0\0\0\0", "not a startup packet"),
        (b"\0\0\0\x07", "not a startup packet"),
        (b"\xff\xff\xff\xff", "not a startup packet"),
        (struct.pack("!I", MAX_PACKET + 1), "not a startup packet"),
        (struct.pack("!II", 9, 2 << 16), "unsupported frontend protocol 2.0"),
        (struct.pack("!II", 9, 4 << 16), "unsupported frontend protocol 4.0"),
        (struct.pack("!II", 9, 80877105), "unknown request"),
    ],
)
def test_what_cannot_become_a_startup_packet_is_refused_at_once(sent: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        read_first(sent)


@pytest.mark.parametrize(
    "body",
    [
        b"user\0a\0",  # no end
        b"user\0a\0\0\0",
        b"user\0a\0\0x",
        b"user\0\0",
        b"user",
        b"",
        b"\0a\0\0",
        b"user\0\xff\0\0",
        b"user\0a\0user\0b\0\0",
        b"user\0a\0database\0b\0database\0b\0\0",
        b"user\0a\0options\0b\0options\0b\0\0",
    ],
)
def test_a_startup_packet_of_another_layout_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_first(struct.pack("!II", 8 + len(body), 3 << 16) + body)


def test_the_longest_packet_is_read_and_one_byte_more_is_refused() -> None:
    room = MAX_PACKET - len(packet(b"user", b""))
    assert startup(b"user", b"a" * room).size == MAX_PACKET
    with pytest.raises(ProtocolError):
        startup(b"user", b"a" * (room + 1))


@IS_TRIED
@given(st.binary(max_size=60) | st.builds(lambda tail: SSL + tail, st.binary(max_size=4)))
def test_any_bytes_are_a_packet_or_too_few_or_an_error_of_the_protocol(sent: bytes) -> None:
    try:
        read_first(sent)
    except ProtocolError:
        pass


@IS_TRIED
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), max_size=8), st.data())
def test_a_packet_means_the_same_however_it_is_cut(values: list[str], data: st.DataObject) -> None:
    texts = [text for n, value in enumerate(values) for text in (b"name%d" % n, value.encode())]
    whole = packet(*texts)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert read_first(whole[:cut]) is None
    first = read_first(bytearray(whole))
    assert isinstance(first, Startup)
    assert [text for pair in first.parameters for text in pair] == texts


# --- negotiation ------------------------------------------------------------------------------------------------------
def test_a_client_of_3_0_is_told_nothing() -> None:
    assert negotiate(startup(b"user", b"a")) == b""


@pytest.mark.parametrize("minor", [2, 9999])
def test_a_client_of_a_newer_minor_version_is_told_that_we_speak_3_0(minor: int) -> None:
    assert negotiate(startup(b"user", b"a", version=(3 << 16) + minor)) == (b"v" + struct.pack("!III", 12, 3 << 16, 0))


def test_protocol_options_are_named_as_unknown_and_are_no_settings() -> None:
    asked = startup(b"user", b"a", b"_pq_.command_progress", b"1", b"_pq_.x", b"")
    names = b"_pq_.command_progress\0_pq_.x\0"
    assert negotiate(asked) == b"v" + struct.pack("!III", 12 + len(names), 3 << 16, 2) + names
    assert wanted(asked).settings == ()


# --- options ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"", ()),
        (b"  ", ()),
        (b"-c a=b", ((b"a", b"b"),)),
        (b"-ca=b --c-d=e\t-c  f=", ((b"a", b"b"), (b"c_d", b"e"), (b"f", b""))),
        (rb"-c a=b\ c\\d\-e", ((b"a", rb"b c\d-e"),)),
        (rb"-c a=b" + b"\\", ((b"a", b"b"),)),
        (b"-c a=b=c", ((b"a", b"b=c"),)),
    ],
)
def test_options_are_read_as_a_server_reads_them(value: bytes, found: tuple[tuple[bytes, bytes], ...]) -> None:
    assert options(value) == found


@pytest.mark.parametrize("value", [b"-c", b"-c a", b"-c =b", b"--", b"--a", b"-d 5", b"tenant=acme", b"-", b"x -c a=b"])
def test_other_switches_are_refused(value: bytes) -> None:
    with pytest.raises(InvalidSetting):
        options(value)


@IS_TRIED
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b_c", b"d.e"]), st.binary(max_size=20)), max_size=5))
def test_whatever_is_escaped_comes_out_of_the_options_as_it_was(pairs: list[tuple[bytes, bytes]]) -> None:
    def escaped(value: bytes) -> bytes:
        return b"".join(b"\\" + bytes([byte]) for byte in value)

    assert options(b" ".join(b"-c " + name + b"=" + escaped(value) for name, value in pairs)) == tuple(pairs)


@IS_TRIED
@given(st.binary(max_size=60))
def test_any_options_are_settings_or_an_error(value: bytes) -> None:
    try:
        options(value)
    except InvalidSetting:
        pass


# --- what is wanted ---------------------------------------------------------------------------------------------------
def test_the_database_is_named_as_the_user_when_none_is_named() -> None:
    assert wish().database == b"billing"
    assert wish(b"database", b"").database == b"billing"
    assert wish(b"database", b"acme").database == b"acme"


@pytest.mark.parametrize("texts", [(), (b"user", b""), (b"database", b"acme")])
def test_without_a_user_nobody_comes_in(texts: tuple[bytes, ...]) -> None:
    with pytest.raises(AuthError, match="no PostgreSQL user name") as caught:
        wanted(startup(*texts))
    assert caught.value.sqlstate == "28000"


def test_every_tenant_that_is_named_is_kept_once() -> None:
    assert wish(b"options", b"-c tenant=acme -c tenant=b", b"tenant", b"acme").tenants == (b"acme", b"b")
    assert wish().tenants == ()


def test_settings_have_their_own_names_and_a_parameter_counts_more_than_an_option() -> None:
    asked = wish(b"options", b"-c timezone=UTC -c statement-timeout=5s", b"TIMEZONE", b"Europe/Berlin")
    assert asked.settings == ((b"TimeZone", b"Europe/Berlin"), (b"statement_timeout", b"5s"))


def test_the_encoding_that_drivers_quote_is_understood_and_comes_first() -> None:
    asked = wish(b"application_name", b"psql", b"client_encoding", b"'utf-8'")
    assert asked.settings == ((b"client_encoding", b"UTF8"), (b"application_name", b"psql"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"app.current_tenant_id", b"b"),
        (b"row_security", b"off"),
        (b"role", b"postgres"),
        (b"session_authorization", b"postgres"),
        (b"APP.Current_Tenant_Id", b"b"),
        (b"app.tenant_proof", b"b"),
        (b"tenantproxy.anything", b"b"),
        (b"local_preload_libraries", b"x"),
        (b"transaction_read_only", b"on"),
        (b"work_mem;x", b"1MB"),
        (b"x" * 64, b"1"),
    ],
)
@pytest.mark.parametrize("is_option", [False, True])
def test_a_setting_that_no_client_may_begin_with_is_refused_and_the_list_is_told(
    name: bytes, value: bytes, is_option: bool
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        wish(b"options", b"-c " + name + b"=" + value) if is_option else wish(name, value)
    assert "statement_timeout" in str(caught.value.hint)
    assert caught.value.sqlstate == "22023"


def test_a_setting_that_is_not_tracked_is_for_those_who_keep_their_backend() -> None:
    asked = wish(b"options", b"-c Maintenance-Work-Mem=1GB", b"User", b"x", b"app.user", b"alice")
    assert asked.settings == ()
    assert asked.others == ((b"maintenance_work_mem", b"1GB"), (b"user", b"x"), (b"app.user", b"alice"))


@pytest.mark.parametrize("value", [b"true", b"on", b"database", b"1", b""])
def test_replication_is_refused(value: bytes) -> None:
    with pytest.raises(NotSupported) as caught:
        wish(b"replication", value)
    assert caught.value.sqlstate == "0A000"


def test_no_replication_may_be_asked_for() -> None:
    assert wish(b"replication", b"false") == wish()


# --- our own ----------------------------------------------------------------------------------------------------------
def test_our_own_startup_packet_is_one_that_we_would_read() -> None:
    parameters = {"user": "app", "database": "größe", "search_path": '"a b"', "app.tenant_proof": ""}
    first = read_first(startup_message(parameters))
    assert isinstance(first, Startup)
    assert {name.decode(): value.decode() for name, value in first.parameters} == parameters


@pytest.mark.parametrize(
    "parameters", [{"user": "a\0database\0b"}, {"us\0er": "a"}, {"": "a"}, {"user": "a" * MAX_PACKET}]
)
def test_our_own_startup_packet_never_says_more_than_it_should(parameters: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        startup_message(parameters)
