"""Is what a client set in force on its next backend, and is nothing believed of a backend that is not so?"""

from __future__ import annotations

from tenantproxy.wire import settings
from tenantproxy.wire.session_settings import KeptSettings

START = settings.of([(b"application_name", b"app"), (b"statement_timeout", b"5s")])


def kept(start: settings.Settings = settings.NO_SETTINGS) -> KeptSettings:
    return KeptSettings(start, {b"TimeZone": b"UTC"})


def ran(session: KeptSettings, sql: bytes, tag: bytes) -> None:
    session.asked(sql, is_alone=True)
    session.tagged(tag)


def test_a_plain_set_is_kept_and_needs_no_reset() -> None:
    session = kept()
    ran(session, b"SET lock_timeout = '3s'", b"SET")
    assert session.ended() is False
    assert dict(session.now) == {b"lock_timeout": b"3s"}


def test_a_set_that_was_not_alone_in_flight_is_a_reset() -> None:
    session = kept()
    session.asked(b"SET lock_timeout = '3s'", is_alone=False)
    session.tagged(b"SET")
    assert session.ended() is True
    assert session.now == ()


def test_a_set_that_nobody_read_is_a_reset() -> None:
    session = kept()
    ran(session, b"SET some.setting = 'x'", b"SET")
    assert session.ended() is True


def test_a_set_local_leaves_nothing_behind() -> None:
    session = kept()
    ran(session, b"SET LOCAL lock_timeout = '3s'", b"SET")
    assert session.ended() is False
    assert session.now == ()


def test_a_set_in_a_transaction_that_is_rolled_back_is_not_kept() -> None:
    session = kept()
    ran(session, b"SET lock_timeout = '3s'", b"SET")
    session.tagged(b"ROLLBACK")
    assert session.ended() is True
    assert session.now == ()


def test_a_set_before_an_error_is_not_kept() -> None:
    session = kept()
    ran(session, b"SET lock_timeout = '3s'", b"SET")
    session.failed()
    assert session.ended() is True
    assert session.now == ()


def test_a_set_that_failed_is_not_taken_for_the_next_one() -> None:
    session = kept()
    session.asked(b"SET lock_timeout = '3s'", is_alone=True)
    session.failed()
    session.tagged(b"SET")
    assert session.ended() is True
    assert session.now == ()


def test_a_reset_goes_back_to_what_the_client_wished_at_its_start() -> None:
    session = kept(START)
    ran(session, b"SET statement_timeout = '1s'", b"SET")
    assert session.ended() is False
    ran(session, b"RESET statement_timeout", b"RESET")
    assert session.ended() is True, "the backend went back to what it had, not to the client's wish"
    assert session.now == START


def test_what_the_server_reports_is_kept_unless_it_is_what_every_session_has() -> None:
    session = kept()
    session.reported(b"TimeZone", b"Asia/Tokyo")
    assert dict(session.now) == {b"TimeZone": b"Asia/Tokyo"}
    session.reported(b"TimeZone", b"UTC")
    assert session.now == ()


def test_a_command_that_leaves_state_is_told_once() -> None:
    session = kept()
    session.tagged(b"CREATE TABLE")
    assert session.ended() is True
    assert session.ended() is False
