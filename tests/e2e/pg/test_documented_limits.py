"""Is it true what docs/clients.md says lasts, and what does not?"""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.seats import Seat


@pytest.mark.parametrize(
    ("said", "setting", "value"),
    [
        ("SET work_mem = '7MB'", "work_mem", "7MB"),
        ("SET app.user_id = 'me'", "app.user_id", "me"),
        ("SET default_transaction_read_only = on", "default_transaction_read_only", "on"),
        ("SELECT 1; SET lock_timeout = '53s'", "lock_timeout", "53s"),
    ],
    ids=lambda each: each.split(" = ")[0].replace(" ", "_"),
)
def test_a_setting_that_is_not_listed_lasts_and_never_for_the_next_client(
    said: str, setting: str, value: str, seat: Seat
) -> None:
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as conn:
        conn.execute(said.encode())
        found = conn.execute("SELECT current_setting(%s, true)", (setting,)).fetchone()
        assert found == (value,)
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as conn:  # and never for the next client
        found = conn.execute("SELECT current_setting(%s, true)", (setting,)).fetchone()
        assert found != (value,)


def test_what_is_set_for_a_transaction_is_had_in_it_and_no_longer(seat: Seat) -> None:
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as conn:
        with conn.transaction():
            conn.execute("SET LOCAL work_mem = '7MB'")
            conn.execute("SELECT set_config('app.user_id', 'me', true)")
            found = conn.execute("SELECT current_setting('work_mem'), current_setting('app.user_id')").fetchone()
            assert found == ("7MB", "me")
        found = conn.execute("SELECT current_setting('work_mem'), current_setting('app.user_id', true)").fetchone()
        assert found is not None
        assert found[0] != "7MB"
        assert not found[1]


def test_several_settings_of_one_query_last(seat: Seat) -> None:
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as one:
        with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as other:
            one.execute("SET statement_timeout = '54s'; SET lock_timeout = '53s'")
            shown = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            for _ in range(3):
                assert other.execute(shown).fetchone() != ("54s", "53s")
                assert one.execute(shown).fetchone() == ("54s", "53s")


def test_several_settings_the_server_reports_last_though_they_came_in_one_query(seat: Seat) -> None:
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as one:
        with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as other:
            one.execute("SET TimeZone = 'Asia/Tokyo'; SET application_name = 'mine'")
            one.execute("SELECT set_config('DateStyle', 'German', false)")
            shown = (
                "SELECT current_setting('TimeZone'), current_setting('application_name'), current_setting('DateStyle')"
            )
            for _ in range(3):
                found = other.execute(shown).fetchone()
                assert found is not None
                assert found[0] != "Asia/Tokyo"
                assert one.execute(shown).fetchone() == ("Asia/Tokyo", "mine", "German, DMY")
