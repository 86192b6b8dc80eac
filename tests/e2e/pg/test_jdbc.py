"""Does JDBC find at its seat what it would find at a server of its own?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.pg.checks import CHECKS
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.programs import expect_all, run_program
from tests.e2e.pg.seats import MODES, Mode, seats
from tests.support.waiting import PATIENCE

SOURCE: Final = Path(__file__).parent / "jdbc" / "Matrix.java"
DRIVER: Final = Path("/usr/share/java/postgresql.jar")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", MODES)
def test_jdbc_finds_what_a_server_of_its_own_would_give(mode: Mode, pg_port: Port, tmp_path: Path) -> None:
    javac, java = shutil.which("javac"), shutil.which("java")
    if javac is None or java is None or not DRIVER.exists():
        pytest.skip("needs Java and its driver: apt install default-jdk-headless libpostgresql-jdbc-java")
    subprocess.run([javac, "-d", str(tmp_path), "-cp", str(DRIVER), str(SOURCE)], check=True, timeout=PATIENCE)
    # One seat a line: Java has no reader of JSON.
    given = "".join(
        "\t".join(f"{key}\t{value}" for key, value in seat.as_dict().items() if isinstance(value, str | int)) + "\n"
        for seat in seats(mode, pg_port.host, pg_port.port)
    )
    command = [java, "-XX:TieredStopAtLevel=1", "-cp", f"{tmp_path}:{DRIVER}", "Matrix"]
    said = run_program(command, given=given)
    expect_all(said, [*CHECKS, "batch", "modes"])
