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
    assert session.ended() is False
    assert session.now == START
    assert dict(session.applied) == {b"application_name": b"app"}, "the backend went back to what it had"


def greeted(start: settings.Settings, told: dict[bytes, bytes]) -> KeptSettings:
    """Of a client that was greeted with `told`, at a server that tells others of UTC and UTF8."""
    baseline = {b"TimeZone": b"UTC", b"client_encoding": b"UTF8"}
    return KeptSettings(start, baseline, greeted=baseline | told)


def test_a_reset_of_all_leaves_what_every_backend_has_at_its_start() -> None:
    session = greeted(
        settings.of([(b"TimeZone", b"Asia/Tokyo"), (b"client_encoding", b"UTF8")]), {b"TimeZone": b"Asia/Tokyo"}
    )
    ran(session, b"SELECT 1; RESET ALL", b"RESET")
    assert session.has_returned
    assert session.ended() is False
    assert dict(session.now) == {b"client_encoding": b"UTF8", b"TimeZone": b"Asia/Tokyo"}
    assert dict(session.applied) == {b"client_encoding": b"UTF8"}


def test_a_reset_changes_nothing_for_a_client_that_wished_what_every_backend_has() -> None:
    session = greeted(settings.of([(b"client_encoding", b"UTF8")]), {})
    ran(session, b"SELECT pg_advisory_unlock_all();CLOSE ALL;UNLISTEN *;RESET ALL;", b"UNLISTEN")
    session.tagged(b"RESET")
    assert not session.has_returned
    assert session.ended() is False
    assert session.now is session.applied


def test_what_is_set_behind_a_reset_is_in_force_there_too() -> None:
    session = greeted(START, {})
    ran(session, b"RESET ALL; SET lock_timeout = '3s'", b"RESET")
    session.tagged(b"SET")
    assert session.ended() is False
    assert dict(session.now) == dict(START) | {b"lock_timeout": b"3s"}
    assert dict(session.applied) == {b"lock_timeout": b"3s"}


def test_a_reset_to_another_value_than_every_session_had_leaves_it_dirty() -> None:
    session = greeted(settings.of([(b"client_encoding", b"UTF8")]), {})
    ran(session, b"RESET ALL", b"RESET")
    session.reported(b"client_encoding", b"LATIN1")  # the database has another one since
    assert session.ended() is True


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
