"""Do clients of Go, PHP, Ruby and Perl, and ODBC, find at their seats what they would find at a server of their own?

One program for each language, in one process for all seats. What they need comes from Debian's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.pg.checks import CHECKS
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.programs import all_seats, expect_everywhere, run_program
from tests.support.waiting import PATIENCE

HERE: Final = Path(__file__).parent
GO: Final = Path("/usr/share/gocode")
COMMON: Final = frozenset(CHECKS) - {"late_cancel"}
ODBC: Final = COMMON - {"cancel", "copy", "listen"}  # ODBC has no words for them, or DBI none


@pytest.mark.timeout(240)
def test_clients_of_go_find_what_a_server_of_their_own_would_give(pg_port: Port, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None or not all((GO / "src/github.com" / each).is_dir() for each in ("jackc/pgx/v4", "lib/pq")):
        pytest.skip("needs Go: apt install golang-go golang-github-jackc-pgx-v4-dev golang-github-lib-pq-dev")
    env = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO), "GOFLAGS": ""}
    program, sources = str(tmp_path / "matrix"), map(str, sorted((HERE / "go").glob("*.go")))
    subprocess.run([go, "build", "-o", program, *sources], check=True, timeout=6 * PATIENCE, env=env)
    for client, checks in (("pgx", COMMON | {"pipelines", "copy_out"}), ("pq", COMMON)):
        expect_everywhere(run_program([program, client], given=all_seats(pg_port.host, pg_port.port)), checks)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("command", "probe", "packages", "checks"),
    [
        (
            ["php", "pdo.php"],
            ["-r", "exit((int) !extension_loaded('pdo_pgsql'));"],
            "php-cli php-pgsql",
            COMMON - {"cancel"},
        ),
        (["ruby", "ruby_pg.rb"], ["-e", "require 'pg'"], "ruby-pg", COMMON | {"pipelines"}),
        (["perl", "dbi.pl", "Pg"], ["-MDBD::Pg", "-e", "1"], "libdbd-pg-perl", COMMON),
        (["perl", "dbi.pl", "ODBC"], ["-MDBD::ODBC", "-e", "1"], "libdbd-odbc-perl odbc-postgresql", ODBC),
    ],
    ids=["PDO", "ruby-pg", "DBD::Pg", "psqlODBC"],
)
def test_a_client_of_debian_finds_what_a_server_of_its_own_would_give(
    command: list[str], probe: list[str], packages: str, checks: frozenset[str], pg_port: Port
) -> None:
    language = shutil.which(command[0])
    if language is None or subprocess.run([language, *probe], capture_output=True, check=False).returncode:
        pytest.skip(f"needs its driver: apt install {packages}")
    program = [language, str(HERE / "scripted" / command[1]), *command[2:]]
    expect_everywhere(run_program(program, given=all_seats(pg_port.host, pg_port.port)), checks)
