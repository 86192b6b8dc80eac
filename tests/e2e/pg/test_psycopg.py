"""Does what only psycopg does work at every seat: its pipelines, its cursors on the server, its way to prepare?"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import ConnectionPool

from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.seats import Seat

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def conn(seat: Seat) -> Iterator[Connection]:
    """As people open it: transactions begin by themselves."""
    with psycopg.connect(conninfo(seat)) as conn:
        yield conn


def test_a_pipeline_answers_each_of_its_statements(conn: Connection) -> None:
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int", (n,), prepare=n % 2 == 0) for n in range(200)]
        conn.execute("SET LOCAL statement_timeout = '40s'")
        last = conn.execute("SELECT current_setting('statement_timeout')")
    assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(200)]
    assert last.fetchone() == ("40s",)
    conn.commit()
    assert conn.execute("SELECT 7").fetchone() == (7,)


def test_an_error_in_a_pipeline_ends_what_was_sent_behind_it_and_no_more(conn: Connection) -> None:
    mark = secrets.token_hex(6)
    divide = "SELECT 2 / %s::int"
    with pytest.raises(psycopg.errors.DivisionByZero), conn.pipeline():  # noqa: PT012 - raised at the end
        conn.execute("INSERT INTO notes (body) VALUES (%s)", (mark,), prepare=True)
        conn.execute(divide, (0,), prepare=True)
        conn.execute(divide, (1,), prepare=True)
    conn.rollback()
    assert conn.execute("SELECT count(*) FROM notes WHERE body = %s", (mark,), prepare=True).fetchone() == (0,)
    assert conn.execute(divide, (1,), prepare=True).fetchone() == (2,)


def test_many_rows_are_written_in_one_pipeline(conn: Connection) -> None:
    mark = secrets.token_hex(6)
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO notes (body) VALUES (%s) RETURNING id", [(mark,)] * 500, returning=True)
        ids = [cursor.fetchone() for _ in cursor.results()]
    assert len(set(ids)) == 500
    conn.rollback()
    assert conn.execute("SELECT count(*) FROM notes WHERE body = %s", (mark,)).fetchone() == (0,)


def test_a_cursor_on_the_server_is_read_in_parts_and_both_ways(conn: Connection) -> None:
    with conn.cursor("mine", scrollable=True) as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(row[0] for row in cursor if isinstance(row[0], int)) == 500_500
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)
    conn.commit()


def test_a_cursor_with_hold_outlives_its_transaction(conn: Connection) -> None:
    conn.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)")
    conn.commit()
    assert len(conn.execute("FETCH ALL FROM held").fetchall()) == 10
    conn.rollback()
    assert conn.execute("SELECT 7").fetchone() == (7,)


def test_statements_are_prepared_at_the_threshold_and_given_up_beyond_the_limit(seat: Seat) -> None:
    # Beyond prepared_max the driver sends DEALLOCATE with a name that it believes is the server's.
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as one:
        with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as other:
            for conn in (one, other):
                conn.prepare_threshold, conn.prepared_max = 2, 3
            for turn in range(6):
                for text in range(6):
                    for number, conn in enumerate((one, other)):
                        query = sql.SQL("SELECT %s::int + {}").format(sql.Literal(100 * text + 1000 * number))
                        found = conn.execute(query, (turn,)).fetchone()
                        assert found == (turn + 100 * text + 1000 * number,)


def test_deallocate_all_and_discard_all_forget_ones_own_statements_only(seat: Seat) -> None:
    with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as one:
        with psycopg.connect(conninfo(seat, seat.crowded), autocommit=True) as other:
            for ending in ("DEALLOCATE ALL", "DISCARD ALL"):
                for conn in (one, other):
                    assert conn.execute("SELECT %s::int", (7,), prepare=True).fetchone() == (7,)
                one.execute(ending)
                for conn in (other, one):
                    assert conn.execute("SELECT %s::int", (8,), prepare=True).fetchone() == (8,)
                    assert conn.execute("SELECT count(*) FROM projects", prepare=True).fetchone() == (3,)


def test_a_copy_that_the_client_gives_up_leaves_nothing(conn: Connection, seat: Seat) -> None:
    mark = secrets.token_hex(6)
    into = f"COPY {seat.copy_into} (body) FROM STDIN".encode()
    out_of = b"COPY (SELECT repeat('x', 10000) FROM generate_series(1, 3000)) TO STDOUT"
    with conn.cursor() as cursor:
        with pytest.raises(KeyError), cursor.copy(into) as copy:  # noqa: PT012 - raised in the middle
            copy.write_row((mark,))
            raise KeyError
        conn.rollback()
        with pytest.raises(KeyError), cursor.copy(out_of) as copy:  # noqa: PT012
            assert len(copy.read()) > 0
            raise KeyError
    conn.rollback()
    assert conn.execute("SELECT count(*) FROM notes WHERE body = %s", (mark,)).fetchone() == (0,)


def test_what_a_startup_packet_asks_for_is_had_in_every_transaction(seat: Seat) -> None:
    given = conninfo(seat, seat.crowded)
    options = "-c TimeZone=Asia/Tokyo -c statement_timeout=54s -c default_transaction_isolation=serializable"
    names = ("TimeZone", "statement_timeout", "transaction_isolation", "application_name")
    with psycopg.connect(given, options=options, application_name="one", autocommit=True) as one:
        with psycopg.connect(given, autocommit=True) as other:
            for _ in range(3):
                said = [one.execute(f"SHOW {name}".encode()).fetchone() for name in names]
                assert said == [("Asia/Tokyo",), ("54s",), ("serializable",), ("one",)]
                assert other.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
            assert one.info.parameter_status("TimeZone") == "Asia/Tokyo"
            assert one.info.parameter_status("client_encoding") == "UTF8"


def test_a_pool_of_its_own_works_over_ours(seat: Seat) -> None:
    with ConnectionPool(
        conninfo(seat, seat.crowded), min_size=2, max_size=2, check=ConnectionPool.check_connection
    ) as pool:
        for n in range(20):
            with pool.connection() as conn:
                assert conn.execute("SELECT %s::int FROM projects LIMIT 1", (n,)).fetchone() == (n,)


def test_a_transaction_can_be_read_only_and_serializable(conn: Connection) -> None:
    conn.isolation_level, conn.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
    assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("DELETE FROM notes")
    conn.rollback()
    conn.isolation_level = conn.read_only = None
    assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
