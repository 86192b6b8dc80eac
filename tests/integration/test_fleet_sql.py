"""Does the main database keep a fleet's budget as the model does, and only for those who have the fleet's key?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.fleet import values
from tenantproxy.fleet.values import Claim, FleetReport, Terms
from tenantproxy.lifecycle.fleet import install_fleet
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.support.database import Database
from tests.support.fleet_sql import KEY, SqlFleet
from tests.support.fleet_world import TTL, play, random_steps
from tests.support.world import APP_PASSWORD, APP_ROLE

MIXES = ((), ("lag", "failover"), ("abort", "stop", "crash"), ("cut", "jump", "report", "late"), ("empty",))


@pytest.fixture
def fleet(postgres: EmbeddedPostgres, database: Database) -> Iterator[SqlFleet]:
    made = SqlFleet(postgres, database.name)
    yield made
    made.close()


def report(seq: int = 1, process: UUID | None = None) -> FleetReport:
    terms = Terms(cap=20)
    claim = Claim(server="one", used=0, want=3.0, keep=0, lowers=False, terms=terms, epoch=-1)
    return FleetReport(process=process or uuid4(), seq=seq, claims=(claim,))


def test_the_sql_answers_each_call_as_the_model_does(fleet: SqlFleet) -> None:
    rng = random.Random(5)
    for mix in MIXES:
        world = fleet.world(size=rng.choice((2, 3, 4)), cap=rng.choice((10, 20, 40)))
        for step in random_steps(rng, 120, mix):
            world.apply(step)
    assert fleet.calls > 200


def test_a_rule_that_is_left_out_of_the_sql_is_found(postgres: EmbeddedPostgres, database: Database) -> None:
    part = "least(b.target - b.charge, b.free - b.before)"
    fleet = SqlFleet(postgres, database.name, change=lambda text: text.replace(part, "b.target - b.charge"))
    rng = random.Random(5)
    world = fleet.world(size=4, cap=10)
    with pytest.raises(AssertionError):
        play(world, random_steps(rng, 300, ("grab",)))
    fleet.close()


def test_only_one_who_has_the_key_is_heard(fleet: SqlFleet) -> None:
    fleet.world(size=1, cap=20)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        fleet.sync(report(), key=b"x" * 32)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        fleet.sync(report(), fleet="another")


def test_what_was_heard_once_is_not_heard_again(fleet: SqlFleet) -> None:
    fleet.world(size=1, cap=20)
    said = report(seq=7)
    assert fleet.sync(said)[0][8] != "stale"
    assert fleet.sync(said)[0][8] == "stale"
    assert fleet.sync(report(seq=6, process=said.process))[0][8] == "stale"


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT * FROM tenantproxy.fleet_share",
        "UPDATE tenantproxy.fleet_share SET granted = 0",
        "SELECT ipad FROM tenantproxy.fleet_key",
        "SELECT tenantproxy.fleet_rebalance('fleet0', 0)",
        "SELECT tenantproxy.fleet_verified('fleet0', gen_random_uuid(), 1, '', '')",
        "DO $$ BEGIN LOCK TABLE tenantproxy.fleet_share; END $$",
        "CREATE FUNCTION tenantproxy.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
        "SET ROLE tenantproxy_keeper",
    ],
)
def test_the_application_role_reaches_the_budget_by_its_function_alone(fleet: SqlFleet, attempt: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        fleet.app.execute(attempt.encode())
    assert refused.value.sqlstate == "42501"


def test_names_in_pg_temp_are_not_used(fleet: SqlFleet) -> None:
    fleet.world(size=1, cap=20)
    fleet.app.execute("CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT ''\\x00''::bytea'")
    fleet.app.execute("CREATE TEMP TABLE fleet_key (fleet text)")
    assert fleet.sync(report())[0][8] != "stale"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        fleet.sync(report(), key=b"x" * 32)


def test_another_ttl_is_refused(fleet: SqlFleet) -> None:
    fleet.world(size=1, cap=20)
    fleet.main.execute("UPDATE tenantproxy.fleet SET ttl_ms = %s", (2 * TTL,))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        fleet.sync(report())


def test_another_protocol_is_refused(fleet: SqlFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.world(size=1, cap=20)
    monkeypatch.setattr(values, "PROTOCOL", 2)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        fleet.sync(report())


async def test_a_key_that_was_replaced_is_taken_for_a_day(each_database: Database) -> None:
    async with each_database.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        await install_fleet(admin, app_role=APP_ROLE, key=KEY)
        await install_fleet(admin, app_role=APP_ROLE, key=b"n" * 32)
        days = await admin.fetch("SELECT not_after <= now() + interval '1 day' AS ends FROM tenantproxy.fleet_key")
        assert sorted(row["ends"] for row in days) == [False, True]
        await install_fleet(admin, app_role=APP_ROLE, key=KEY)
        assert await admin.fetchval("SELECT count(*) FROM tenantproxy.fleet_key WHERE not_after = 'infinity'") == 1


async def test_a_newer_release_is_not_replaced(each_database: Database) -> None:
    async with each_database.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        await install_fleet(admin, app_role=APP_ROLE, key=KEY)
        await admin.execute("UPDATE tenantproxy.fleet SET version = 2")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="newer release"):
            await install_fleet(admin, app_role=APP_ROLE, key=KEY)


def test_the_pads_are_not_in_the_view(fleet: SqlFleet) -> None:
    fleet.world(size=1, cap=20)
    fleet.sync(report())
    cursor = fleet.app.execute("SELECT * FROM tenantproxy.fleet_view('fleet0')")
    assert [column.name for column in cursor.description or ()][:3] == ["server", "process", "granted"]
    assert len(cursor.fetchall()) == 1
