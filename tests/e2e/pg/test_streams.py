"""Does a result that is too big for any memory pass through, however slowly it is read?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg

from tests.e2e.pg.checks import BIG
from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.seats import Seat
from tests.support.waiting import wait_until

MAY_GROW: Final = BIG // 2
QUERY: Final = "COPY (SELECT repeat('x', 1048575) FROM generate_series(1, 50)) TO STDOUT"


def peak(port: Port, *, reset: bool = False) -> int:
    """The most memory that the sidecar had, in bytes; `reset`: from now on."""
    folder = Path("/proc") / str(port.process.pid)
    if reset:
        (folder / "clear_refs").write_text("5")
    (line,) = (line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_result_that_is_not_read_waits_at_the_server(seat: Seat, pg_port: Port) -> None:
    with psycopg.connect(conninfo(seat)) as conn, psycopg.connect(conninfo(seat)) as other:
        before = peak(pg_port, reset=True)
        with conn.cursor() as cursor, cursor.copy(QUERY.encode()) as copy:
            size = len(copy.read())
            with psycopg.connect(_superuser(pg_port), autocommit=True) as watch:
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND query = %s"
                wait_until(lambda: watch.execute(waits, (QUERY,)).fetchone() == (1,), "the server waits")
            assert other.execute("SELECT 7").fetchone() == (7,)  # the others do not wait
            while block := copy.read():
                size += len(block)
        assert size == BIG
        assert peak(pg_port) - before < MAY_GROW


def _superuser(port: Port) -> str:
    server = port.server
    return psycopg.conninfo.make_conninfo(
        host=server.host, port=server.port, user=server.superuser, password=server.password, dbname="postgres"
    )
