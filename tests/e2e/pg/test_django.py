"""Does Django's ORM, with an alias for each tenant, find what it would find at a server of its own?"""

from __future__ import annotations

import json
import sys

import pytest

from tests.e2e.pg.conftest import Port
from tests.e2e.pg.django_program import CHECKS
from tests.e2e.pg.programs import expect_all, run_program
from tests.e2e.pg.seats import MODES, Mode, seats


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", MODES)
def test_djangos_orm_finds_what_a_server_of_its_own_would_give(mode: Mode, pg_port: Port) -> None:
    places = [seat.as_dict() for seat in seats(mode, pg_port.host, pg_port.port)]
    said = run_program([sys.executable, "-m", "tests.e2e.pg.django_program"], given=json.dumps({"seats": places}))
    expect_all(said, CHECKS)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", MODES)
def test_django_tenants_keeps_its_schemas_apart_within_a_tenant(mode: Mode, pg_port: Port) -> None:
    """It sets search_path for each of its tenants, in a database that is one tenant's here."""
    (seat,) = (each.as_dict() for each in seats(mode, pg_port.host, pg_port.port) if each.kind == "database")
    command = [sys.executable, "-m", "tests.e2e.pg.django_tenants_program"]
    assert run_program(command, given=json.dumps({"seats": [seat]})) == {("database", "tenants"): ""}
