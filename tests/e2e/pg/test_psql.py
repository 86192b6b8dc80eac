"""Can a person with only psql work at a seat as at a server of their own?"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE, wait_until

SECONDS: Final = 60


@pytest.fixture
def psql() -> str:
    """The one on PATH."""
    found = shutil.which("psql")
    if found is None:
        pytest.skip("needs psql: apt install postgresql-client")
    return found


def environment(seat: Seat, tenant: str = "", **more: str) -> dict[str, str]:
    """What psql is told of where to connect: nothing of the caller's."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return given | {
        "PGHOST": seat.host, "PGPORT": str(seat.port), "PGUSER": seat.user, "PGPASSWORD": seat.password,
        "PGDATABASE": tenant or seat.tenant, "PGCONNECT_TIMEOUT": "30", **more,
    }  # fmt: skip


def ask(psql: str, seat: Seat, *commands: str, tenant: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run each command, in one session."""
    given = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        [psql, "-X", "-At", "-v", "VERBOSITY=verbose", *given],
        env=environment(seat, tenant, **more), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def lines(psql: str, seat: Seat, *commands: str, **more: str) -> list[str]:
    """What they print, when all is well."""
    done = ask(psql, seat, *commands, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_psql_shows_the_rows_and_the_tables_of_its_tenant(psql: str, seat: Seat) -> None:
    said = lines(psql, seat, "SELECT name FROM projects ORDER BY name", r"\d projects", r"\dt")
    assert tuple(said[:3]) == seat.rows
    assert "name|text||not null|" in said
    tables = [line.split("|") for line in said if re.fullmatch(r"\w+\|(notes|projects)\|table\|\w+", line)]
    assert sorted(table[:2] for table in tables) == [[seat.schema, "notes"], [seat.schema, "projects"]]


def test_several_statements_in_one_command_are_one_transaction(psql: str, seat: Seat) -> None:
    mark = secrets.token_hex(6)
    insert, count = f"INSERT INTO notes (body) VALUES ('{mark}')", f"SELECT count(*) FROM notes WHERE body = '{mark}'"
    failed = ask(psql, seat, f"{insert}; SELECT 1/0; {insert}", count)
    assert "ERROR:  22012" in failed.stderr
    assert failed.stdout.splitlines()[-1] == "0"
    said = lines(psql, seat, "BEGIN", insert, "ROLLBACK", count, f"BEGIN; {insert}; COMMIT; {count}")
    assert [line for line in said if line.isdigit()] == ["0", "1"]
    assert lines(psql, seat, f"DELETE FROM notes WHERE body = '{mark}'") == ["DELETE 1"]


def test_psql_copies_both_ways(psql: str, seat: Seat, tmp_path: Path) -> None:
    mark = secrets.token_hex(6)
    given, back = tmp_path / "in.csv", tmp_path / "out.csv"
    given.write_text("".join(f'"{mark} {number:05d}, ""quoted"""\n' for number in range(5000)))
    where = f"WHERE body LIKE '{mark}%'"
    lines(
        psql, seat, rf"\copy {seat.copy_into} (body) FROM '{given}' WITH (FORMAT csv)",
        rf"\copy (SELECT body FROM notes {where} ORDER BY body) TO '{back}' WITH (FORMAT csv, FORCE_QUOTE *)",
        f"DELETE FROM notes {where}",
    )  # fmt: skip
    assert back.read_text() == given.read_text()


def test_psql_keeps_its_settings(psql: str, seat: Seat) -> None:
    said = lines(
        psql, seat,
        "SET TimeZone = 'Asia/Tokyo'", "SET extra_float_digits = 0", "SET application_name = 'mine'",
        "SHOW TimeZone", "SHOW extra_float_digits", "SHOW application_name", "SHOW statement_timeout",
        tenant=seat.crowded, PGOPTIONS="-c statement_timeout=54321ms",
    )  # fmt: skip
    assert said == ["SET", "SET", "SET", "Asia/Tokyo", "0", "mine", "54321ms"]


def test_psql_prepares_in_sql_and_listens(psql: str, seat: Seat) -> None:
    channel = f"channel_{secrets.token_hex(6)}"
    said = lines(psql, seat, "PREPARE plus AS SELECT $1::int + 1", "EXECUTE plus(41)", "DEALLOCATE plus")
    assert said == ["PREPARE", "42", "DEALLOCATE"]
    said = lines(psql, seat, f"LISTEN {channel}", f"NOTIFY {channel}, 'hello'", "SELECT 7")
    assert any(f'"{channel}" with payload "hello"' in line for line in said), said


def test_a_big_result_comes_in_parts(psql: str, seat: Seat) -> None:
    script = "\\set FETCH_COUNT 5\nSELECT repeat('x', 1048576) FROM generate_series(1, 50);\nSELECT 'and on';\n"
    done = subprocess.run(
        [psql, "-X", "-At"], env=environment(seat), input=script, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    *rows, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr, last) == (0, "", "and on")
    assert [len(row) for row in rows] == [1048576] * 50


def test_an_interrupt_cancels_what_runs(psql: str, seat: Seat) -> None:
    key = secrets.randbelow(2**40)
    process = subprocess.Popen(
        [psql, "-X", "-At", "-c", f"SELECT pg_advisory_xact_lock({key}), pg_sleep(60)"],
        env=environment(seat), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with psycopg.connect(conninfo(seat), autocommit=True) as probe:
            query = "SELECT pg_try_advisory_xact_lock(%s)"
            wait_until(lambda: probe.execute(query, (key,)).fetchone() == (False,), "the statement runs")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
            wait_until(lambda: probe.execute(query, (key,)).fetchone() == (True,), "it has ended")
    finally:
        process.kill()
        process.wait()
    assert out == ""
    assert "canceling statement due to user request" in err


def test_psql_is_refused_at_another_tenant_as_with_a_wrong_password(psql: str, seat: Seat) -> None:
    other = ask(psql, seat, "SELECT 1", tenant=seat.other)
    wrong = ask(psql, seat, "SELECT 1", PGPASSWORD="wrong")
    unknown = ask(psql, seat, "SELECT 1", tenant="unknown")
    said = {re.sub(r"^.*FATAL", "FATAL", done.stderr, flags=re.DOTALL) for done in (other, wrong, unknown)}
    assert said == {f'FATAL:  password authentication failed for user "{seat.user}"\n'}
    assert {done.returncode for done in (other, wrong, unknown)} == {2}


def test_a_read_of_anothers_rows_fails(psql: str, seat: Seat) -> None:
    done = ask(psql, seat, seat.trespass)
    assert done.stdout == ""
    assert seat.trespass_state in done.stderr
