"""What does a client hear that no test machine has? `python -m tests.e2e.pg.by_hand COMMAND...` runs its program.

It gets its seats as the programs of other languages do. Its lines are printed; 0 when every check passed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tenantproxy.embedded import EmbeddedPostgres
from tests.e2e.pg.programs import all_seats, run_program
from tests.e2e.pg.seats import build
from tests.support.sidecar import a_sidecar


def main(command: list[str]) -> int:
    """The exit code."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(version=18, durable=False, max_connections=120) as server,
    ):
        config = asyncio.run(build(server, Path(name)))
        with a_sidecar(config, Path(name) / "log") as served:
            host, _, port = served.pg.rpartition(":")
            said = run_program(command, given=all_seats(host, int(port)))
    for (place, check), why in said.items():
        print(f"{place} {check}: {why or 'ok'}")
    return 1 if not said or any(said.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
