"""Do statements that stay prepared on a backend answer what one without a name would, and show no one another's?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantproxy.model import tenant_id
from tenantproxy.sidecar.sql import texts
from tests.fault.sql.test_sql_straight import asking, connected
from tests.support.sql_house import SqlHouse, a_sql_house
from tests.support.waiting import until
from tests.support.world import World

pytestmark = pytest.mark.asyncio

NAMES = "SELECT name FROM projects ORDER BY id"
OWN = "database1"
ADD = "INSERT INTO told VALUES ($1) RETURNING n::text"
USURP = """
CREATE FUNCTION usurp() RETURNS int LANGUAGE plpgsql AS $$
DECLARE known text;
BEGIN
    FOR known IN SELECT name FROM pg_prepared_statements LOOP
        EXECUTE format('DEALLOCATE %I', known);
        EXECUTE format('PREPARE %I AS SELECT ''of another''', known);
    END LOOP;
    RETURN 1;
END $$;
CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$
"""


SEE = "EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement()"


@pytest.fixture
async def house(lasting: World) -> AsyncIterator[SqlHouse]:
    """One backend for each pool, whose sessions may see what is prepared in them: tenants may not."""
    tenant = next(each for each in lasting.tenants if each.id == tenant_id(OWN))
    async with lasting.database(tenant).connect() as own, lasting.shared.connect() as shared:
        for admin in (own, shared):
            await admin.execute(f"GRANT {SEE} TO PUBLIC")
        try:
            async with a_sql_house(lasting, pools={"shared_size": 1, "max_size": 1}) as house:
                yield house
        finally:
            for admin in (own, shared):
                await admin.execute(f"REVOKE {SEE} FROM PUBLIC")


@pytest.fixture
async def admin(lasting: World) -> AsyncIterator[asyncpg.Connection]:
    """Changes tables past everyone; what it makes is gone at the end."""
    tenant = next(each for each in lasting.tenants if each.id == tenant_id(OWN))
    async with lasting.database(tenant).connect() as admin:
        await admin.execute("CREATE TABLE told (n date); GRANT ALL ON told TO PUBLIC")
        await admin.execute(f'ALTER TABLE told OWNER TO "{lasting.role_of(tenant)}"')
        await admin.execute(USURP)
        try:
            yield admin
        finally:
            await admin.execute("DROP TABLE IF EXISTS told; DROP FUNCTION usurp(); DROP FUNCTION forget()")


async def prepared(house: SqlHouse, tenant: str = OWN) -> list[str | None]:
    """What its session has; a batch leaves nothing there."""
    found = await house.batch("SELECT statement FROM pg_prepared_statements ORDER BY 1", tenant=tenant)
    return [row[0] for row in found.body["results"][0]["rows"]]


async def added(house: SqlHouse, value: str) -> str | None:
    return (await house.ask(ADD, [value], tenant=OWN)).value


async def test_a_text_that_comes_again_is_prepared_and_no_other(house: SqlHouse) -> None:
    for number in range(4):
        assert (await house.ask("SELECT $1::text", [f"{number}"], tenant=OWN)).value == f"{number}"
        assert (await house.ask(f"SELECT {number}", tenant=OWN)).value == f"{number}"
        assert (await house.ask("SET statement_timeout = 0", tenant=OWN)).status == 200
        assert (await house.ask("SELECT pg_advisory_lock(1)", tenant=OWN)).status == 200
        assert (await house.ask("SELECT nowhere", tenant=OWN)).code == "42703"
    assert await prepared(house) == [], "its session was reset"
    for number in range(4):
        assert (await house.ask("SELECT $1::text", [f"{number}"], tenant=OWN)).value == f"{number}"
        assert (await house.ask("SELECT nowhere", tenant=OWN)).code == "42703"
    assert await prepared(house) == ["SELECT $1::text"]


async def test_what_is_prepared_for_one_tenant_no_other_sees_or_runs(house: SqlHouse) -> None:
    for tenant, other in (("row1", "row2"), ("row2", "row1")):
        for _ in range(3):
            assert (await house.ask(NAMES, tenant=tenant)).rows == [[f"{tenant} {n}"] for n in (1, 2, 3)]
        assert await prepared(house, tenant) == [NAMES]
        assert await prepared(house, other) == []
        assert (await house.ask(NAMES, tenant=other)).rows == [[f"{other} {n}"] for n in (1, 2, 3)]
    assert house.port.router.stats().resets["failed"] == 0


async def test_a_table_that_has_changed_is_answered_as_it_is_now(house: SqlHouse, admin: asyncpg.Connection) -> None:
    """By someone past this process. PostgreSQL says: cached plan must not change result type."""
    ask = "SELECT * FROM told"
    for _ in range(3):
        assert len((await house.ask(ask, tenant=OWN)).body["fields"]) == 1
    assert ask in await prepared(house)
    await admin.execute("ALTER TABLE told ADD more int")
    for _ in range(3):
        assert len((await house.ask(ask, tenant=OWN)).body["fields"]) == 2
    await admin.execute("DROP TABLE told")
    for _ in range(2):
        assert (await house.ask(ask, tenant=OWN)).code == "42P01"
    await admin.execute("CREATE TABLE told (n date, a int, b int); GRANT ALL ON told TO PUBLIC")
    assert len((await house.ask(ask, tenant=OWN)).body["fields"]) == 3


@pytest.mark.parametrize("by", ["a request", "a batch", "a client of the port", "someone else, a while ago"])
async def test_a_value_is_read_as_the_type_that_its_column_has_now(
    house: SqlHouse, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A parameter that stayed a date would lose the time of day without a word."""
    for _ in range(3):
        assert await added(house, "2026-01-01") == "2026-01-01"
    assert ADD in await prepared(house)
    change = "ALTER TABLE told ALTER n TYPE timestamp"
    if by == "a request":
        assert (await house.ask(change, tenant=OWN)).status == 200
    elif by == "a batch":
        assert (await house.batch(change, "SELECT 1", tenant=OWN)).status == 200
    elif by == "a client of the port":
        async with house.port.a_client(OWN) as client:
            assert (await client.query(change)).tags == ["ALTER TABLE"]
    else:
        await admin.execute(change)
        monkeypatch.setattr(texts, "TRUSTED_SECONDS", 0.0)
    for _ in range(3):
        assert await added(house, "2026-01-01 12:30") == "2026-01-01 12:30:00"


@pytest.mark.parametrize("hidden", ["forget", "usurp"])
async def test_what_code_does_to_prepared_statements_no_request_is_answered_with(
    house: SqlHouse, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """No tag shows it. Another statement under the name of one is not trusted for longer than any is."""
    for _ in range(3):
        assert (await house.ask("SELECT 'its own'", tenant=OWN)).value == "its own"
    assert (await house.ask(f"SELECT {hidden}()", tenant=OWN)).value == "1"
    if hidden == "usurp":
        monkeypatch.setattr(texts, "TRUSTED_SECONDS", 0.0)
    for _ in range(3):
        assert (await house.ask("SELECT 'its own'", tenant=OWN)).value == "its own"
    assert house.port.router.stats().resets["failed"] == 0


async def test_a_value_that_is_wrong_is_told_as_without_a_name(house: SqlHouse) -> None:
    ask = "SELECT $1::int"
    told = (await house.ask(ask, ["x"], tenant=OWN)).body
    assert told["code"] == "22P02"
    for number in range(3):
        assert (await house.ask(ask, [number], tenant=OWN)).value == f"{number}"
        assert (await house.ask(ask, ["x"], tenant=OWN)).body == told
    assert (await house.ask("SELECT 1 / $1::int", [0], tenant=OWN)).code == "22012"


async def test_a_prepared_statement_whose_client_goes_is_cancelled_and_works_on(house: SqlHouse) -> None:
    ask = "SELECT pg_sleep($1)"
    for _ in range(3):
        assert (await house.ask(ask, [0])).status == 200
    _, writer = await connected(house)
    writer.write(asking(ask, params=[60]))
    await until(lambda: any(guest.holds_backend for guest in house.port.listener.guests), "it runs")
    writer.transport.abort()
    await until(lambda: not house.port.listener.guests and house.port.is_quiet, "it has ended", timeout=25)
    found = await asyncio.gather(*(house.ask(ask, [0], tenant=tenant) for tenant in ("row1", "row2", "row1")))
    assert [each.status for each in found] == [200] * 3
