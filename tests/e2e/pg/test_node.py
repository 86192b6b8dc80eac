"""Do Node's clients find at their seats what they would find at a server of their own?"""

from __future__ import annotations

import json
import shutil
from typing import Final

import pytest

from tests.e2e.pg.checks import CHECKS
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.programs import NODE, all_seats, expect_all, expect_everywhere, run_program
from tests.e2e.pg.seats import MODES, Mode, seats

IN_NODE: Final = frozenset(CHECKS) - {"late_cancel"}  # no client of Node asks for it
OF_AN_ORM: Final = frozenset({"own_rows", "transactions", "prepared", "errors"})
ORMS: Final = ("kysely", "knex", "sequelize", "typeorm", "prisma")
NEON: Final = {
    "neon": frozenset(
        ("queries", "modes", "batches", "errors", "pools", "clients", "drizzle_http", "drizzle_websocket", "kysely")
    ),
    "prisma_neon": frozenset(("websocket", "http")),
}
QUEUES: Final = ("graphile_worker", "pg_boss")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("program", "checks"),
    [("node_postgres", IN_NODE), ("postgres_js", IN_NODE | {"pipelines"}), ("drizzle", OF_AN_ORM)],
    ids=["node-postgres", "postgres.js", "drizzle"],
)
def test_a_client_of_node_finds_what_a_server_of_its_own_would_give(
    program: str, checks: frozenset[str], mode: Mode, pg_port: Port
) -> None:
    node = _node()
    places = [seat.as_dict() for seat in seats(mode, pg_port.host, pg_port.port)]
    expect_all(run_program([node, str(NODE / f"{program}.mjs")], given=json.dumps({"seats": places})), checks)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", ORMS)
def test_an_orm_of_node_finds_what_a_server_of_its_own_would_give(program: str, pg_port: Port) -> None:
    said = run_program([_node(), str(NODE / f"{program}.mjs")], given=all_seats(pg_port.host, pg_port.port))
    expect_everywhere(said, OF_AN_ORM | {"other_tenants"})


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", QUEUES)
def test_a_queue_of_node_makes_its_tables_at_a_tenant_and_runs_jobs(program: str, pg_port: Port) -> None:
    """They bring a schema of their own, so they are for tenants with a database of their own."""
    said = run_program([_node(), str(NODE / f"{program}.mjs")], given=all_seats(pg_port.host, pg_port.port))
    assert said == {(f"{mode}-database", "jobs"): "" for mode in MODES}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("program", "checks"), NEON.items(), ids=list(NEON))
def test_neons_clients_work_unmodified_over_http_and_a_websocket(
    program: str, checks: frozenset[str], pg_port: Port
) -> None:
    places = [seat.as_dict() | {"public": pg_port.public} for seat in seats("transaction", pg_port.host, pg_port.port)]
    said = run_program([_node(), str(NODE / f"{program}.mjs")], given=json.dumps({"seats": places}))
    expect_all({(kind.removeprefix("transaction-"), check): why for (kind, check), why in said.items()}, checks)


def _node() -> str:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "kysely-neon").is_dir():
        pytest.skip(f"needs node, and its clients: npm ci --prefix tests/e2e/pg/{NODE.name}")
    return node
