"""Is what is believed of a session what its server has, and is nothing read that was not said plainly?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import InvalidSetting
from tenantproxy.wire import settings
from tenantproxy.wire.settings import (
    ALL,
    NO_SETTINGS,
    canonical,
    changes,
    checked,
    of,
    read_set,
    with_reported,
    with_set,
)
from tenantproxy.wire.values import CHECKS, MAX_VALUE, schemas
from tests.support.fuzzing import IS_TRIED

UTC = (b"TimeZone", b"UTC")
BERLIN = (b"TimeZone", b"Europe/Berlin")
DIGITS = (b"extra_float_digits", b"3")


def test_equal_settings_are_one_object_in_whatever_order_they_were_said() -> None:
    one = of([UTC, DIGITS])
    assert one is of([DIGITS, BERLIN, UTC])
    assert one is with_set(with_reported(NO_SETTINGS, *UTC), *DIGITS)
    assert of([]) == NO_SETTINGS


def test_what_a_server_reports_replaces_what_was_believed_before() -> None:
    now = with_reported(of([UTC, DIGITS]), *BERLIN)
    assert now == of([BERLIN, DIGITS])
    assert with_reported(now, *BERLIN) is now


def test_what_a_session_has_at_startup_is_nothing_to_put_right() -> None:
    assert with_reported(of([BERLIN]), *UTC, baseline={b"TimeZone": b"UTC"}) == NO_SETTINGS


@pytest.mark.parametrize("name", [b"in_hot_standby", b"is_superuser", b"server_version", b"session_authorization"])
def test_what_is_not_tracked_is_not_kept_when_it_is_reported(name: bytes) -> None:
    assert with_reported(NO_SETTINGS, name, b"x") is NO_SETTINGS


def test_a_reset_returns_to_what_the_startup_packet_asked_for() -> None:
    start = of([BERLIN])
    now = with_set(with_set(start, *UTC), *DIGITS)
    assert with_set(now, b"TimeZone", None, start=start) == of([BERLIN, DIGITS])
    assert with_set(now, b"TimeZone", None) == of([DIGITS])
    assert with_set(now, ALL, None, start=start) is start
    assert with_set(NO_SETTINGS, b"TimeZone", None) is NO_SETTINGS


def test_changes_are_what_differs_and_the_encoding_first() -> None:
    latin = (b"client_encoding", b"LATIN1")
    assert changes(of([UTC, DIGITS]), of([BERLIN, latin, DIGITS])) == (latin, BERLIN)
    assert changes(of([UTC, latin]), NO_SETTINGS) == ((b"client_encoding", None), (b"TimeZone", None))
    assert changes(of([UTC]), of([UTC])) == ()


def test_what_is_not_ascii_does_not_outlive_the_encoding_it_was_said_in() -> None:
    now = of([(b"search_path", '"größe"'.encode()), UTC])
    assert with_reported(now, b"client_encoding", b"LATIN1") == of([UTC, (b"client_encoding", b"LATIN1")])


@IS_TRIED
@given(st.lists(st.tuples(st.sampled_from(sorted(CHECKS)), st.binary(max_size=4))))
def test_changes_lead_from_any_settings_to_any_others(said: list[tuple[bytes, bytes]]) -> None:
    half = len(said) // 2
    applied, wanted = of(said[:half]), of(said[half:])
    on_backend = dict(applied)
    for name, value in changes(applied, wanted):
        if value is None:
            del on_backend[name]
        else:
            on_backend[name] = value
    assert of(on_backend.items()) == wanted


# --- values at startup ------------------------------------------------------------------------------------------------
GOOD = [
    (b"TIMEZONE", b"UTC", b"UTC"),
    (b"timezone", b"<+03>-3", b"<+03>-3"),
    (b"datestyle", b"mdy, iso", b"ISO, MDY"),
    (b"datestyle", b"iso", b"ISO"),
    (b"datestyle", b"European, Postgres", b"Postgres, DMY"),
    (b"intervalstyle", b"ISO_8601", b"iso_8601"),
    (b"statement_timeout", b"0", b"0"),
    (b"lock_timeout", b" 5 s ", b"5 s"),
    (b"statement_timeout", b"2147483647", b"2147483647"),
    (b"statement_timeout", b"1.5min", b"1.5min"),
    (b"extra_float_digits", b"-15", b"-15"),
    (b"extra_float_digits", b" +3", b"3"),
    (b"client_encoding", b"Unicode", b"UTF8"),
    (b"client_encoding", b"iso-8859-1", b"LATIN1"),
    (b"client_encoding", b"sql_ascii", b"SQL_ASCII"),
    (b"default_transaction_isolation", b"Repeatable Read", b"repeatable read"),
    (b"client_min_messages", b"WARNING", b"warning"),
    (b"search_path", b'a, "B""c" ,$user', b'a, "B""c" ,$user'),
    (b"search_path", b"", b""),
    (b"search_path", b'""', b'""'),
    (b"application_name", "größe".encode(), "größe".encode()),
    (b"jit", b"FALSE", b"off"),
    (b"standard_conforming_strings", b"1", b"on"),
]
BAD = [
    (b"TimeZone", b"UTC'; drop table x --"),
    (b"TimeZone", b""),
    (b"DateStyle", b"ISO, SQL"),
    (b"DateStyle", b"DMY, MDY"),
    (b"DateStyle", b"ISO,"),
    (b"statement_timeout", b"-1"),
    (b"statement_timeout", b"2147483648"),
    (b"statement_timeout", b"30d"),
    (b"statement_timeout", b"5 sec"),
    (b"statement_timeout", b""),
    (b"extra_float_digits", b"4"),
    (b"extra_float_digits", b"-010"),  # eight, to a server
    (b"statement_timeout", b"010"),
    (b"extra_float_digits", b"1e1"),
    (b"client_encoding", b"MULE_INTERNAL"),
    (b"client_encoding", b"utf16"),
    (b"default_transaction_isolation", b"chaos"),
    (b"search_path", b"a b"),
    (b"search_path", b"a,"),
    (b"search_path", b'"a'),
    (b"search_path", b"a; drop"),
    (b"jit", b"maybe"),
    (b"application_name", b"x" * (MAX_VALUE + 1)),
]


@pytest.mark.parametrize(("name", "value", "sent"), GOOD)
def test_a_good_value_is_taken_as_a_server_takes_it(name: bytes, value: bytes, sent: bytes) -> None:
    assert checked(name, value) == (canonical(name), sent)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_here_and_not_on_a_backend(name: bytes, value: bytes) -> None:
    with pytest.raises(InvalidSetting):
        checked(name, value)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (b"", ()),
        (b" ", ()),
        (b'""', (b"",)),
        (b"a,B , c", (b"a", b"b", b"c")),
        (b'"A", "b""c","d,e"', (b"A", b'b"c', b"d,e")),
        (b"$user, pg_temp", (b"$user", b"pg_temp")),
        (b"a,", None),
        (b",a", None),
        (b"a b", None),
        (b'"a', None),
        (b'"a"b', None),
        (b"a.b", None),
        (b"1a", None),
    ],
)
def test_the_schemas_in_a_search_path_are_those_that_the_server_sees(
    value: bytes, names: tuple[bytes, ...] | None
) -> None:
    assert schemas(value) == names


@IS_TRIED
@given(st.sampled_from(sorted(CHECKS)), st.binary(max_size=50) | st.text(max_size=30).map(str.encode))
def test_a_value_that_was_taken_is_taken_again_and_has_no_nul(name: bytes, value: bytes) -> None:
    try:
        pair = checked(name, value)
    except InvalidSetting:
        return
    assert b"\0" not in pair[1]
    assert checked(*pair) == pair


# --- the text of SET --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (b"SET extra_float_digits = 3", DIGITS),
        (b"set EXTRA_FLOAT_DIGITS=3;", DIGITS),
        (b" \n SET SESSION extra_float_digits TO 3 ; ", DIGITS),
        (b"SET extra_float_digits = -3", (b"extra_float_digits", b"-3")),
        (b"SET search_path TO a", (b"search_path", b"a")),
        (b'SET search_path = A, "B""c", \'d,e\'', (b"search_path", b'a, "B""c", "d,e"')),
        (b"SET search_path = ''", (b"search_path", b'""')),
        (b"SET statement_timeout = '5s'", (b"statement_timeout", b"5s")),
        (b"SET statement_timeout TO DEFAULT", (b"statement_timeout", None)),
        (b"SET application_name = 'it''s'", (b"application_name", b"it's")),
        (b"SET TIME ZONE 'UTC'", UTC),
        (b"SET TIME ZONE LOCAL", (b"TimeZone", None)),
        (b"SET TIME ZONE -7", (b"TimeZone", b"-7")),
        (b"SET timezone TO local", (b"TimeZone", b"local")),
        (b"SET NAMES 'UTF8'", (b"client_encoding", b"UTF8")),
        (b"SET datestyle TO ISO, DMY", (b"DateStyle", b"iso, dmy")),
        (b"SET jit = on", (b"jit", b"on")),
        (
            b"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            (b"default_transaction_isolation", b"serializable"),
        ),
        (
            b"set session characteristics as transaction isolation level Repeatable  Read;",
            (b"default_transaction_isolation", b"repeatable read"),
        ),
        (b"RESET statement_timeout", (b"statement_timeout", None)),
        (b"RESET TIME ZONE;", (b"TimeZone", None)),
        (b"reset all", (ALL, None)),
    ],
)
def test_a_plain_set_is_read(sql: bytes, found: tuple[bytes, bytes | None]) -> None:
    assert read_set(sql) == found


@pytest.mark.parametrize(
    "sql",
    [
        b"",
        b"SET",
        b"RESET",
        b"SELECT 1",
        b"SET LOCAL jit = on",
        b"SET LOCAL TIME ZONE 'UTC'",
        b"SET TRANSACTION READ ONLY",
        b"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        b"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        b"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL 'serializable'",
        b"SET SESSION AUTHORIZATION 'a'",
        b"SET ROLE a",
        b"SET app.current_tenant_id = 'b'",
        b"SET row_security = off",
        b"RESET row_security",
        b"RESET app.current_tenant_id",
        b"SET jit = on; SET jit = off",
        b"SET jit = on;; ",
        b"SET jit = on -- really",
        b"SET /* now */ jit = on",
        b"SET jit TO on, off",
        b"SET jit",
        b"SET jit =",
        b"SET search_path = a,",
        b"SET search_path = a b",
        b"SET search_path = 1",
        b"SET search_path = 'a;b'",
        b"SET application_name = 'it\\'s'",
        b"SET application_name = 'a\\nb'",
        b"SET application_name = E'a'",
        b"SET application_name = U&'a'",
        b"SET application_name = $$a$$",
        b"SET application_name = 'a' 'b'",
        b"SET application_name = 'a",
        b"SET application_name = 'a\0b'",
        b"SET TIME ZONE INTERVAL '1' HOUR",
        b"SET application_name = '" + b"x" * MAX_VALUE + b"y'",
        b"SET search_path = '" + b'"' * (MAX_VALUE - 2) + b"'",
        b"\xff\xfe",
    ],
)
def test_what_is_not_one_plain_set_of_a_tracked_setting_is_not_read(sql: bytes) -> None:
    assert read_set(sql) is None


@IS_TRIED
@given(st.binary(max_size=100) | st.text("SETR sesion jt=,;'\"\\\0-/*\n", max_size=60).map(str.encode))
def test_any_text_is_read_or_not(sql: bytes) -> None:
    found = read_set(sql)
    assert found is None or found[0] in {*CHECKS, ALL}


@IS_TRIED
@given(st.sampled_from([b" ", b"'", b'"', b",", b"a ,", b"''", b'""']), st.integers(0, 2000))
def test_a_long_text_is_read_in_no_time(piece: bytes, times: int) -> None:
    for head in (b"SET search_path = ", b"SET ", b"RESET ", b"SET SESSION "):
        read_set(head + piece * times + b"x\0")


def test_a_client_cannot_make_us_keep_much() -> None:
    for number in range(5000):
        of([(b"application_name", b"%d" % number)])
    assert settings._interned.cache_info().currsize <= 2048
