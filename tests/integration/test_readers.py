"""Can a session that is to read only write anything, by any statement, of a tenant of any kind?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy.cli.install import Request, run_install
from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import AccessDenied, ConfigurationError, ConnectFailed, IsolationError
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.prove.results import TrialState
from tenantproxy.lifecycle.prove.run import Options, prove
from tenantproxy.router import Router
from tests.support.database import Database
from tests.support.reading import FURNISH, WRITES

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT: Final = "a password of the operator"
KEY: Final = "the key that passwords of roles follow from"
TENANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "ones": {"isolation": "database", "database": "ones", "role": "t_ones"},
    "plain": {"isolation": "database", "database": "plain"},
    "twos": {"isolation": "schema", "database": "app", "schema": "twos", "role": "t_twos"},
    "threes": {"isolation": "row", "database": "rows", "role": "t_rows"},
    "fours": {"isolation": "row", "database": "rows", "role": "t_rows"},
}
ROLES: Final = Request(roles=True, all_with=("tenant_id",))


def settings(server: EmbeddedPostgres, *, readers: bool = True, **more: Any) -> Settings:
    primary = {"host": server.host, "port": server.port, "user": "shared_app", "password": ROOT, "ssl": "disable"}
    primary |= {"max_connections": 40, "admin": {"user": server.superuser, "password": server.password}}
    mapping = {
        "main": {"server": "primary", "database": "app"},
        "servers": {"primary": primary},
        "registry": {"source": "file"},
        "tenant_roles": {"key": KEY, "readers": readers},
        "row": {"key": "a key of thirty-two bytes or more, to sign with"},
        "tenants": TENANTS,
        "pools": {"acquire_timeout": 15.0},
    }
    return Settings.from_mapping(mapping | more)


async def build(server: EmbeddedPostgres) -> None:
    async with Database(server=server, name="postgres").connect() as root:
        for name in ("app", "ones", "plain", "rows"):
            await root.execute(f"CREATE DATABASE {name}")
    for name, schema in (("ones", "public"), ("plain", "public"), ("app", "twos"), ("rows", "public")):
        async with Database(server=server, name=name).connect() as root:
            await root.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}")
            if name != "rows":
                await root.execute("; ".join(FURNISH))
    async with Database(server=server, name="rows").connect() as root:
        await root.execute("CREATE TABLE deals (id int, tenant_id text, name text, PRIMARY KEY (tenant_id, id))")
        await root.execute("INSERT INTO deals VALUES (1, 'threes', 'untouched'), (1, 'fours', 'of another')")


async def installed(server: EmbeddedPostgres, configured: Settings | None = None) -> None:
    """The tenants, first without readers, in whose place nothing else serves."""
    await build(server)
    await run_install(settings(server, readers=False), ROLES)
    async with Router(settings(server)) as router:
        with pytest.raises(ConnectFailed, match="role that only reads cannot log in"):
            await router.tenant("ones", read_only=True).fetchval("SELECT 1")
    await run_install(configured or settings(server), ROLES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    with EmbeddedPostgres(durable=False) as started:
        await installed(started)
        yield started


@pytest.fixture
def placed(server: EmbeddedPostgres) -> Settings:
    return settings(server)


async def state(server: EmbeddedPostgres, database: str) -> list[Any]:
    async with Database(server=server, name=database).connect() as root:
        return [
            await root.fetch(
                "SELECT relname, relkind, relacl::text FROM pg_class WHERE relnamespace > 16000 OR"
                " relnamespace = 'public'::regnamespace ORDER BY 1"
            ),
            await root.fetch("SELECT count(*) FROM pg_largeobject_metadata"),
            await root.fetch("SELECT rolname, rolcreatedb, rolconfig FROM pg_roles ORDER BY 1"),
            await root.fetch("SELECT sequencename, last_value FROM pg_sequences"),
        ]


async def test_no_statement_of_a_reader_writes(server: EmbeddedPostgres, placed: Settings) -> None:
    kinds = (("ones", "ones"), ("plain", "plain"), ("twos", "app"))
    before = {name: await state(server, database) for name, database in kinds}
    async with Router(placed) as router:
        for tenant, _ in kinds:
            db = router.tenant(tenant, read_only=True)
            assert await db.fetchval("SELECT name FROM aims") == "untouched"
            for statement, wanted in WRITES.items():
                async with db.connection() as conn:
                    try:
                        await conn.execute(statement)
                        said = ""
                    except asyncpg.PostgresError as exc:
                        said = exc.sqlstate or ""
                assert not wanted or said == wanted, statement
            assert await db.fetchval("SELECT name FROM aims") == "untouched"
            assert await router.tenant(tenant).execute("UPDATE aims SET name = name") == "UPDATE 1"
    assert {name: await state(server, database) for name, database in kinds} == before


async def test_a_reader_of_rows_reads_its_own_alone(server: EmbeddedPostgres, placed: Settings) -> None:
    async with Router(placed) as router:
        db = router.tenant("threes", read_only=True)
        assert [tuple(row) for row in await db.fetch("SELECT name FROM deals")] == [("untouched",)]
        for statement in ("UPDATE deals SET name = 'x'", "DELETE FROM deals", "INSERT INTO deals VALUES (2, 'threes')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute(statement)
        assert await router.tenant("fours", read_only=True).fetchval("SELECT name FROM deals") == "of another"
        assert await router.tenant("threes").execute("UPDATE deals SET name = name") == "UPDATE 1"


async def test_no_role_change_gives_a_reader_more(placed: Settings) -> None:
    async with Router(placed) as router:
        db = router.tenant("ones", read_only=True)
        for statement in ("SET ROLE t_ones", "SET SESSION AUTHORIZATION t_ones", "SET ROLE shared_app"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute(statement)


async def test_a_second_installation_changes_nothing(placed: Settings) -> None:
    done = (await run_install(placed, Request(roles=True))).rows
    assert {row["installed"] for row in done} == {"signed context", "closed functions"}


async def test_tables_to_come_are_read_too(server: EmbeddedPostgres, placed: Settings) -> None:
    async with Database(server=server, name="ones").connect() as root:
        await root.execute("CREATE TABLE later (id int); INSERT INTO later VALUES (7)")
    async with Router(placed) as router:
        assert await router.tenant("ones", read_only=True).fetchval("SELECT id FROM later") == 7
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await router.tenant("ones", read_only=True).execute("INSERT INTO later VALUES (8)")


PLANTED: Final = (
    ("GRANT INSERT ON aims TO t_ones_reader", "table public.aims", "REVOKE INSERT ON aims FROM t_ones_reader"),
    ("GRANT UPDATE (name) ON aims TO PUBLIC", "column public.aims.name", "REVOKE UPDATE (name) ON aims FROM PUBLIC"),
    ("GRANT USAGE ON SEQUENCE counter TO PUBLIC", "sequence public.counter", "REVOKE ALL ON counter FROM PUBLIC"),
    ("ALTER VIEW aims_view OWNER TO t_ones_reader", "it owns this", "ALTER VIEW aims_view OWNER TO postgres"),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
    ("GRANT CREATE ON DATABASE ones TO PUBLIC", "database ones", "REVOKE CREATE ON DATABASE ones FROM PUBLIC"),
    ("GRANT t_ones TO t_ones_reader", "table public.aims", "REVOKE t_ones FROM t_ones_reader"),
    ("GRANT pg_write_all_data TO t_ones_reader", "pg_write_all_data", "REVOKE pg_write_all_data FROM t_ones_reader"),
    ("ALTER ROLE t_ones_reader CREATEDB", "role t_ones_reader", "ALTER ROLE t_ones_reader NOCREATEDB"),
    ("SELECT lo_create(77); GRANT UPDATE ON LARGE OBJECT 77 TO PUBLIC", "large object 77", "SELECT lo_unlink(77)"),
    ("GRANT ALTER SYSTEM ON PARAMETER work_mem TO PUBLIC", "parameter work_mem",
     "REVOKE ALL ON PARAMETER work_mem FROM PUBLIC"),
    ("CREATE FUNCTION f() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM aims'", "function public.f()",
     "DROP FUNCTION f"),
    ("GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC", "function lo_create(oid)",
     "REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC"),
)  # fmt: skip


async def test_a_reader_that_could_write_is_refused(server: EmbeddedPostgres, placed: Settings) -> None:
    async with Database(server=server, name="ones").connect() as root:
        for planted, told, undone in PLANTED:
            await root.execute(planted)
            async with Router(placed) as router:
                with pytest.raises(IsolationError, match="could write") as caught:
                    await router.tenant("ones", read_only=True).fetchval("SELECT 1")
                assert told in str(caught.value.detail), planted
                assert await router.tenant("ones").fetchval("SELECT 1") == 1
            await root.execute(undone)
    await run_install(placed, ROLES)  # the owner's grants went with the view
    async with Router(placed) as router:
        assert await router.tenant("ones", read_only=True).fetchval("SELECT 1") == 1


async def test_a_function_that_is_named_may_be_called(server: EmbeddedPostgres) -> None:
    made = "CREATE FUNCTION noted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 5'"
    async with Database(server=server, name="ones").connect() as root:
        await root.execute(made)
        roles = {"key": KEY, "readers": True, "reader_functions": ["public.noted()"]}
        async with Router(settings(server, tenant_roles=roles)) as router:
            assert await router.tenant("ones", read_only=True).fetchval("SELECT noted()") == 5
        await root.execute("DROP FUNCTION noted")


async def test_without_a_reader_nothing_else_serves(server: EmbeddedPostgres) -> None:
    without = settings(server, readers=False)
    async with Router(without) as router:
        with pytest.raises(AccessDenied, match="no roles that only read"):
            router.tenant("ones", read_only=True)
    for more in (
        {"auth": {"key": "k" * 32, "read_only_roles": ["viewer"]}},
        {"pg": {"users": {"bi": {"password": "x", "tenants": "*", "read_only": True}}}},
    ):
        with pytest.raises(ConfigurationError, match="needs roles that only read"):
            settings(server, readers=False, **more)


async def test_no_tenants_role_is_made_the_reader_of_another(server: EmbeddedPostgres) -> None:
    places = {"a": {"database": "ones", "role": "t_a"}, "b": {"database": "plain", "role": "t_a_reader"}}
    tenants = {name: {"isolation": "database", **place} for name, place in places.items()}
    with pytest.raises(ConfigurationError, match="would read all that the tenant a reads"):
        await run_install(settings(server, tenants=tenants), Request(roles=True))


async def test_a_reader_logs_in_with_its_own_password(server: EmbeddedPostgres, placed: Settings) -> None:
    secret = role_password(KEY.encode(), "primary", "t_ones_reader")
    async with Database(server=server, name="ones").connect("t_ones_reader", secret) as conn:
        assert await conn.fetchval("SELECT name FROM aims") == "untouched"


async def test_doctor_tells_of_a_reader_that_could_write_or_reads_too_little(
    server: EmbeddedPostgres, placed: Settings
) -> None:
    assert not {"TPD062", "TPD065", "TPD069", "TPD070"} & {each.code for each in (await examine(placed)).findings}
    async with Database(server=server, name="ones").connect() as root:
        await root.execute("GRANT INSERT ON aims TO t_ones_reader; REVOKE SELECT ON aims_view FROM t_ones_reader")
        found = {each.code: each for each in (await examine(placed)).findings if each.database == "ones"}
        assert found["TPD069"].sql == ("REVOKE INSERT ON public.aims FROM t_ones_reader",)
        assert found["TPD070"].sql == ("GRANT SELECT ON public.aims_view TO t_ones_reader",)
        for code in ("TPD069", "TPD070"):
            await root.execute(*found[code].sql)
    assert not {"TPD069", "TPD070"} & {each.code for each in (await examine(placed)).findings}


async def test_prove_tries_to_write_as_a_reader(server: EmbeddedPostgres, placed: Settings) -> None:
    only = Options(doors=("library",), checks=("writes of a reader",))
    proof = await prove(placed, only)
    found = {result.kind: result for result in proof.results if result.check == "writes of a reader"}
    assert set(found) == {"row, bound", "database", "schema"}
    assert all(result.state is TrialState.HELD and result.cases >= 4 for result in found.values()), found
    async with Database(server=server, name="ones").connect() as root:
        await root.execute("GRANT INSERT ON aims TO t_ones_reader")
        broken = await prove(placed, only)
        assert broken.exit_code == 1
        await root.execute("REVOKE INSERT ON aims FROM t_ones_reader")
