"""What does SQL over HTTP answer? Statements, parameters, batches, errors, limits: on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.database import Database
from tests.support.sql_house import a_sql_house, connection_string
from tests.support.waiting import until
from tests.support.world import World

pytestmark = pytest.mark.asyncio


async def test_a_statement_is_answered_as_neons_clients_read_it(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        found = await house.ask("SELECT 1")
        for tenant in ("row1", "schema1", "database1"):
            found = await house.ask("SELECT id, name, NULL AS none FROM projects WHERE id = $1", ["1"], tenant=tenant)
            assert found.status == 200, found.body
            assert found.body["rows"] == [["1", f"{tenant} 1", None]]
            assert (found.body["command"], found.body["rowCount"], found.body["rowAsArray"]) == ("SELECT", 1, True)
            first = found.body["fields"][0]
            assert first.keys() == {
                "name", "dataTypeID", "tableID", "columnID", "dataTypeSize", "dataTypeModifier", "format",
            }  # fmt: skip
            assert (first["name"], first["dataTypeID"], first["dataTypeSize"], first["format"]) == ("id", 20, 8, "text")
            assert first["tableID"] > 0
            assert first["columnID"] > 0
        assert found.headers["Content-Type"].startswith("application/json")
        assert found.headers["Cache-Control"] == "no-store"
        assert found.headers["X-Request-ID"]


async def test_without_the_two_modes_rows_are_objects_of_values(lasting: World) -> None:
    query = (
        "SELECT true AS b, 7::int4 AS i, 9007199254740993::int8 AS big, 1.5::float8 AS f, 'NaN'::float8 AS nan,"
        " '{\"a\": [1, null]}'::jsonb AS j, ARRAY[1, NULL]::int4[] AS list, ARRAY['x,\"y', NULL] AS texts, 1.10 AS n"
    )
    plain = {"Neon-Raw-Text-Output": None, "Neon-Array-Mode": None}
    async with a_sql_house(lasting) as house:
        found = await house.ask(query, headers=plain)
        assert found.body["rows"] == [
            {
                "b": True, "i": 7, "big": "9007199254740993", "f": 1.5, "nan": "NaN", "j": {"a": [1, None]},
                "list": [1, None], "texts": ['x,"y', None], "n": "1.10",
            }
        ]  # fmt: skip
        assert found.body["rowAsArray"] is False


async def test_parameters_are_values_of_json_or_texts(lasting: World) -> None:
    query = "SELECT $1::int, $2::text, $3::bool, $4::jsonb ->> 'a', ($5::text[])[2], $6::text, $7::numeric, $8::bytea"
    async with a_sql_house(lasting) as house:
        body = '{"query": %s, "params": ["7", "it\'s ü", true, {"a": "b\\""}, ["x", "y,\\"\\\\"], null,'
        body += ' 12345678901234567890.5, "\\\\x00ff"]}'
        found = await house.post((body % json.dumps(query)).encode())
        assert found.rows == [["7", "it's ü", "t", 'b"', 'y,"\\', None, "12345678901234567890.5", "\\x00ff"]]


async def test_an_error_has_the_fields_of_the_servers_own(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        wrong = await house.ask("SELECT * FROM nowhere")
        assert wrong.status == 400
        assert wrong.code == "42P01"
        assert wrong.body["message"] == 'relation "nowhere" does not exist'
        assert wrong.body["severity"] == "ERROR"
        assert wrong.body["position"] == "15"
        assert wrong.body["routine"]
        assert wrong.body["detail"] is None
        double = await house.ask(
            "INSERT INTO projects (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'x')", tenant="database1"
        )
        assert (double.code, double.body["constraint"], double.body["table"]) == ("23505", "projects_pkey", "projects")
        again = await house.ask("SELECT 1")
        assert again.value == "1"


async def test_several_statements_in_one_text_are_refused_and_none_runs(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        refused = await house.ask("CREATE TABLE two (x int); SELECT 1", tenant="database1")
        assert refused.code == "42601"
        assert (await house.ask("SELECT to_regclass('two')", tenant="database1")).value is None


# --- batches ---------------------------------------------------------------------------------------------------------
async def test_a_batch_is_one_transaction_with_the_modes_that_it_asks_for(lasting: World) -> None:
    modes = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    async with a_sql_house(lasting) as house:
        headers = {
            "Neon-Batch-Isolation-Level": "Serializable", "Neon-Batch-Read-Only": "true",
            "Neon-Batch-Deferrable": "true",
        }  # fmt: skip
        found = await house.batch(
            modes, ("SELECT $1::int + 1", ["41"]), "SELECT current_setting('transaction_deferrable')", headers=headers
        )
        assert [each["rows"] for each in found.body["results"]] == [[["serializable", "on"]], [["42"]], [["on"]]]
        assert {name: found.headers[name] for name in headers} == headers
        plain = await house.batch(modes, "SELECT txid_current_if_assigned() IS NULL")
        assert plain.body["results"][0]["rows"] == [["read committed", "off"]]
        assert "Neon-Batch-Read-Only" not in plain.headers
        wrong = await house.batch(modes, headers={"Neon-Batch-Isolation-Level": "Chaos"})
        assert (wrong.status, wrong.code) == (400, "22023")
        assert (await house.batch()).body == {"results": []}


@pytest.fixture
async def told(lasting: World) -> AsyncIterator[None]:
    """A table of database1, whose uniqueness is looked at when a transaction ends."""
    (tenant,) = (each for each in lasting.tenants if each.id == "database1")
    async with Database(server=lasting.server, name=tenant.placement.database).connect() as admin:
        await admin.execute(
            "CREATE TABLE told (x int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON told TO PUBLIC"
        )
        yield
        await admin.execute("DROP TABLE told")


@pytest.mark.usefixtures("told")
async def test_the_first_error_of_a_batch_rolls_all_of_it_back(lasting: World) -> None:
    insert = "INSERT INTO projects (name) VALUES ('of a batch')"
    count = "SELECT count(*) FROM projects WHERE name = 'of a batch'"
    async with a_sql_house(lasting) as house:
        failed = await house.batch(insert, "SELECT 1/0", insert, tenant="database1")
        assert failed.code == "22012"
        assert (await house.ask(count, tenant="database1")).value == "0"
        deferred = await house.batch("SELECT 1", "INSERT INTO told VALUES (1), (1)", tenant="database1")
        assert deferred.code == "23505", "the COMMIT failed, and it was answered as if it had not"


async def test_a_batch_that_ends_its_own_transaction_is_told_so(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        ended = await house.batch("SELECT 1", "COMMIT", "SELECT 2")
        assert ended.code == "0A000"
        assert "ended its transaction" in ended.body["message"]


async def test_a_request_leaves_no_transaction_open(lasting: World) -> None:
    async with a_sql_house(lasting, pools={"shared_size": 1}) as house:
        begun = await house.ask("BEGIN")
        assert begun.code == "0A000"
        assert "batch" in begun.body["hint"]
        assert (await house.ask("SELECT pg_current_xact_id_if_assigned() IS NULL")).value == "t"
        with_error = await house.batch("SAVEPOINT a", "SELECT 1/0")
        assert with_error.code == "22012"


# --- limits ----------------------------------------------------------------------------------------------------------
async def test_what_is_beyond_a_limit_is_refused_with_the_key_that_says_so(lasting: World) -> None:
    limits = {"max_parameters": 10, "max_batch": 2, "max_statement": 100, "max_body": 2000}
    async with a_sql_house(lasting, sql=limits) as house:
        many = await house.ask("SELECT 1", [str(n) for n in range(11)])
        batch = await house.batch("SELECT 1", "SELECT 2", "SELECT 3")
        text = await house.ask("SELECT 1 -- " + "x" * 100)
        body = await house.post(b'{"query": "' + b"x" * 3000 + b'"}')
        for refused, key in (
            (many, "max_parameters"),
            (batch, "max_batch"),
            (text, "max_statement"),
            (body, "max_body"),
        ):
            assert (refused.status, refused.code) == (400, "54000")
            assert key in refused.body["detail"]
            assert key in refused.body["hint"]
        assert (await house.ask("SELECT 1")).value == "1"


async def test_ten_thousand_and_one_parameters_are_too_many(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        refused = await house.ask("SELECT 1", [None] * 10_001)
        assert refused.code == "54000"
        assert "10001" in refused.body["detail"]


@pytest.mark.parametrize("query", ["SELECT generate_series(1, 100000000)", "SELECT repeat('x', 3000000)"])
async def test_a_result_without_end_is_cut_with_an_error_and_its_statement_cancelled(
    lasting: World, query: str
) -> None:
    async with a_sql_house(lasting, sql={"max_rows": 1000, "max_result": 1_000_000}, pools={"shared_size": 1}) as house:
        refused = await house.ask(query)
        assert refused.code == "54000"
        assert "max_rows = 1000, max_result = 1000000" in refused.body["detail"]
        assert "LIMIT" in refused.body["hint"]
        assert (await house.ask("SELECT 1")).value == "1"
        batch = await house.batch("SELECT 1", query)
        assert batch.code == "54000"
        just = await house.ask("SELECT generate_series(1, 1000)")
        assert len(just.rows) == 1000


@pytest.fixture
async def loud(lasting: World) -> AsyncIterator[None]:
    """A table of database1 that says more when a transaction ends than a result may have."""
    (tenant,) = (each for each in lasting.tenants if each.id == "database1")
    async with Database(server=lasting.server, name=tenant.placement.database).connect() as admin:
        await admin.execute(
            "CREATE TABLE loud (x int); GRANT ALL ON loud TO PUBLIC; CREATE FUNCTION shout() RETURNS trigger"
            " LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..2000 LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP;"
            " RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER shouts AFTER INSERT ON loud DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION shout()"
        )
        yield
        await admin.execute("DROP TABLE loud; DROP FUNCTION shout")


@pytest.mark.usefixtures("loud")
async def test_what_is_said_while_a_transaction_is_committed_does_not_take_it_back(lasting: World) -> None:
    async with a_sql_house(lasting, sql={"max_result": 10_000}) as house:
        batch = await house.batch("INSERT INTO loud VALUES (1)", tenant="database1")
        assert batch.status == 200, batch.body
        assert (await house.ask("SELECT count(*) FROM loud", tenant="database1")).value == "1"


@pytest.mark.usefixtures("told")
async def test_what_a_statement_changed_before_its_result_was_too_large_is_told(lasting: World) -> None:
    async with a_sql_house(lasting, sql={"max_rows": 2}) as house:
        refused = await house.ask("INSERT INTO told SELECT generate_series(1, 5) RETURNING x", tenant="database1")
        kept = (await house.ask("SELECT count(*) FROM told", tenant="database1")).value != "0"
        assert refused.code == "54000"
        assert ("what it changed is kept" in refused.body["detail"]) is kept


async def test_a_statement_that_takes_too_long_is_cancelled(lasting: World) -> None:
    async with a_sql_house(lasting, sql={"statement_timeout": 0.2}, pools={"shared_size": 1}) as house:
        late = await house.ask("SELECT pg_sleep(60)")
        assert late.code == "57014"
        assert "statement_timeout = 0.2 s" in late.body["detail"]
        assert (await house.ask("SELECT 1")).value == "1"
        batch = await house.batch("SELECT 1", "SELECT pg_sleep(60)")
        assert batch.code == "57014"
        stuck = await house.ask(
            "SELECT strpos(repeat('a', 20000000), repeat('a', 10000000) || 'b') + pg_sleep(0)::text::int"
        )
        assert stuck.status == 400


async def test_copy_is_refused_and_the_next_request_is_served(lasting: World) -> None:
    async with a_sql_house(lasting, pools={"shared_size": 1}) as house:
        for copy in ("COPY (SELECT 1) TO STDOUT", "COPY projects FROM STDIN"):
            refused = await house.ask(copy, tenant="database1")
            assert refused.code == "0A000", copy
            assert (await house.ask("SELECT 1", tenant="database1")).value == "1"


async def test_text_that_is_not_utf8_is_refused_and_its_connection_not_used_again(lasting: World) -> None:
    async with a_sql_house(lasting, pools={"max_size": 1}) as house:
        refused = await house.batch("SET LOCAL client_encoding = 'LATIN1'", "SELECT chr(252)", tenant="database1")
        assert refused.code == "0A000"
        assert (await house.ask("SELECT 'ü'", tenant="database1")).value == "ü"


# --- exhaustion ------------------------------------------------------------------------------------------------------
async def test_an_exhausted_tenant_hears_53300_and_when_to_come_again(lasting: World) -> None:
    pools = {"max_size": 1, "acquire_timeout": 0.2}
    async with a_sql_house(lasting, pools=pools) as house, house.port.a_client("database1") as holder:
        await holder.query("BEGIN")
        refused = await house.ask("SELECT 1", tenant="database1")
        assert (refused.status, refused.code) == (400, "53300")
        assert refused.body["hint"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await house.ask("SELECT 1", tenant="database2")).value == "1"
        await holder.query("ROLLBACK")
        assert (await house.ask("SELECT 1", tenant="database1")).value == "1"


async def test_what_an_operator_does_to_a_tenant_holds_for_its_requests(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        tenant = next(each.id for each in lasting.tenants if each.id == "database1")
        running = asyncio.create_task(house.ask("SELECT pg_sleep(60)", tenant=tenant))
        await until(lambda: any(guest.holds_backend for guest in house.port.listener.guests), "it runs")
        house.port.listener.kill(tenant)
        ended = await running
        assert ended.code == "57P01"
        paused = await house.ask("SELECT 1", tenant=tenant)
        assert paused.code == "57P03"
        house.port.listener.resume(tenant)
        assert (await house.ask("SELECT 1", tenant=tenant)).value == "1"


async def test_the_host_and_port_of_the_connection_string_do_not_matter(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        text = connection_string("row1", host="[::1]:1").replace("postgresql:", "postgres:")
        text += "?sslmode=require&channel_binding=require&options=endpoint%3Dcool-wind"
        assert (await house.ask("SELECT 1", headers={"Neon-Connection-String": text})).value == "1"
