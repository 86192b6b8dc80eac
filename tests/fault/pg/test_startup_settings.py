"""What may a client begin its session with, and does all that goes along with it stay in force?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.model_server import SYNC, parse, run
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import Refused
from tests.support.world import World

SESSION = {"maintenance_work_mem": "123MB", "enable_seqscan": "off", "app.account": "alice"}


@pytest.fixture
async def house(lasting: World) -> AsyncIterator[PortHouse]:
    async with a_port(lasting) as house:
        yield house


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("tenant", ["row1", "database1"])
@pytest.mark.parametrize("at_startup", [False, True], ids=["by SET", "at startup"])
async def test_a_client_that_made_its_session_read_only_writes_nothing(
    house: PortHouse, tenant: str, user: str, at_startup: bool
) -> None:
    """Its row tenant is bound on other backends all the same, and the next client writes."""
    asked = {"default_transaction_read_only": "on"} if at_startup else {}
    write = "INSERT INTO projects (name) VALUES ('read only')"
    async with house.a_client(tenant, user, **asked) as client:
        if not at_startup:
            assert not (await client.query("SET default_transaction_read_only = on")).errors
        for _ in range(2):
            assert (await client.query(write)).sqlstate == "25006"
            client.send(parse(b"", write.encode()) + run() + SYNC)
            assert (await client.answer()).sqlstate == "25006"
            assert (await client.query("SELECT count(*) FROM projects")).value == "3"
        assert not (await client.query("RESET ALL")).errors
        assert (await client.query("SHOW default_transaction_read_only")).value == ("on" if at_startup else "off")
    async with house.a_client(tenant, user) as client:
        assert (await client.query("SHOW transaction_read_only")).value == "off"


async def test_what_is_often_set_for_a_session_goes_along_in_transaction_mode(house: PortHouse) -> None:
    said = {"work_mem": "12345kB", "synchronous_commit": "off", "default_transaction_deferrable": "on"}
    async with house.a_client("row1") as client, house.a_client("row1", work_mem="7MB") as other:
        for name, value in said.items():
            assert not (await client.query(f"SET {name} = '{value}'")).errors
        for _ in range(2):
            assert [(await client.query(f"SHOW {name}")).value for name in said] == list(said.values())
            assert (await other.query("SHOW work_mem")).value == "7MB"
            assert (await other.query("SHOW synchronous_commit")).value == "on"


@pytest.mark.parametrize("tenant", ["row1", "database1"])
async def test_a_session_begins_with_any_setting_that_its_role_may_set_and_returns_to_it(
    house: PortHouse, tenant: str
) -> None:
    async with house.a_client(tenant, "session", **SESSION) as client:
        for change in (
            "SELECT 1",
            "RESET ALL",
            "SET maintenance_work_mem = '1MB'; RESET ALL",
            "DISCARD ALL",
            "RESET app.account",
        ):
            assert not (await client.query(change)).errors
            for name, value in SESSION.items():
                assert (await client.query(f"SHOW {name}")).value == value
        await client.query("SET app.account = 'bob'; SET enable_seqscan = on")
        await client.query("RESET maintenance_work_mem")
        assert [(await client.query(f"SHOW {name}")).value for name in SESSION] == ["123MB", "on", "bob"]
    async with house.a_client(tenant, "session") as client:
        assert (await client.query("SHOW enable_seqscan")).value == "on"
        assert (await client.query("SELECT current_setting('app.account', true)")).value in (None, "")


async def test_in_transaction_mode_a_setting_that_would_not_go_along_is_refused(house: PortHouse) -> None:
    with pytest.raises(Refused, match="in transaction mode") as caught:
        await house.client("row1", "all", enable_seqscan="off")
    assert caught.value.sqlstate == "22023"
    assert "pool_mode" in caught.value.fields["H"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app.current_tenant_id", "row2"),
        ("App.Current_Tenant_Id", "row2"),
        ("app.tenant_proof", "v1"),
        ("role", "postgres"),
        ("session_authorization", "postgres"),
        ("row_security", "off"),
        ("transaction_read_only", "on"),
        ("no_such_setting", "1"),
        ("log_statement", "none"),
        ("maintenance_work_mem", "much"),
        ("max_connections", "7"),
        ("options", "-c app.current-tenant-id=row2"),
        ("options", "-c app.tenant_proof=x"),
    ],
)
async def test_what_says_whose_a_session_is_or_what_its_role_may_not_is_refused_at_its_start(
    house: PortHouse, name: str, value: str
) -> None:
    with pytest.raises(Refused) as caught:
        await house.client("row1", "session", **{name: value})
    assert caught.value.sqlstate in ("22023", "08P01")
    async with house.a_client("row1", "session") as client:  # its backends are what they were
        assert (await client.query("SELECT count(*) FROM projects")).value == "3"
    assert not any(house.router.stats().violations.values())
