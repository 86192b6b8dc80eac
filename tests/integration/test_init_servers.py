"""Does `tenantproxy init` do what it says on real servers: managed ones, odd databases, other layouts, and back?"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from tenantproxy.cli.install import Request, run_install
from tenantproxy.cli.main import app
from tenantproxy.config import Settings, load
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError, TenantProxyError
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.init.dsn import GivenServer, parse_dsn
from tenantproxy.lifecycle.init.folder import CONFIG, secret_files, sql_files, write_plan
from tenantproxy.lifecycle.init.plan import InitPlan, InitRequest
from tenantproxy.lifecycle.init.run import apply_folder, prepare
from tenantproxy.lifecycle.init.shape import TableState
from tenantproxy.lifecycle.init.sql_file import runs
from tenantproxy.lifecycle.prove import Options, TrialState, prove
from tenantproxy.model import Isolation
from tenantproxy.router import Router
from tests.conftest import EVERY_VERSION
from tests.support import workshop
from tests.support.database import Database
from tests.support.pooler import PGBOUNCER, a_pooler


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database with roles of its own on a server that others use, and a folder. `mark` is in all their names."""

    server: EmbeddedPostgres
    mark: str
    folder: Path

    @property
    def database(self) -> str:
        return f"db_{self.mark}"

    @property
    def app(self) -> str:
        return f"app_{self.mark}"

    def given(self, user: str | None = None, password: str | None = None) -> GivenServer:
        """As the superuser, or as `user`."""
        server = self.server
        user, password = (server.superuser, server.password) if user is None else (user, password)
        return parse_dsn(
            f"postgresql://{user}:{password}@{server.host}:{server.port}/{self.database}?sslmode=disable", {}
        )

    async def planned(self, given: GivenServer | None = None, **asked: Any) -> InitPlan:
        """Looked at, and written."""
        given = given or self.given()
        known = secret_files(self.folder, given)
        plan = await prepare(given, InitRequest(**{"prefix": f"p_{self.mark}"} | asked), known)
        write_plan(self.folder, plan, known)
        return plan

    def settings(self) -> Settings:
        return load(self.folder / CONFIG)

    @asynccontextmanager
    async def connect(self, user: str | None = None, database: str = "") -> AsyncIterator[asyncpg.Connection]:
        """As the superuser, or as `user` with the password of the tests."""
        there = Database(server=self.server, name=database or self.database)
        async with there.connect(user, workshop.PASSWORD if user else None) as conn:
            yield conn

    async def codes(self) -> set[str]:
        """What doctor finds in this place, beyond notes."""
        report = await examine(self.settings())
        return {each.code for each in report.findings if each.rule.severity.value != "note"}


@asynccontextmanager
async def a_place(server: EmbeddedPostgres, folder: Path, *more: str) -> AsyncIterator[Place]:
    """An empty database of `app_...`, dropped with all that the test made. `more`: other databases of the test."""
    place = Place(server=server, mark=secrets.token_hex(4), folder=folder / "made")
    async with place.connect(database="postgres") as root:
        await root.execute(f"CREATE ROLE {place.app} LOGIN PASSWORD '{workshop.PASSWORD}'")
        await root.execute(f"CREATE DATABASE {place.database} OWNER {place.app}")
    try:
        yield place
    finally:
        async with place.connect(database="postgres") as root:
            for name in await root.fetch("SELECT datname FROM pg_database WHERE datname LIKE '%' || $1", place.mark):
                await root.execute(f'DROP DATABASE "{name[0]}" WITH (FORCE)')
            roles = await root.fetch("SELECT rolname FROM pg_roles WHERE strpos(rolname, $1) > 0", place.mark)
            for name in roles:
                await root.execute(f'DROP OWNED BY "{name[0]}" CASCADE')
            for name in roles:
                await root.execute(f'DROP ROLE "{name[0]}"')


@pytest.fixture
async def place(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(postgres, tmp_path) as made:
        yield made


async def fill(place: Place, user: str | None = None) -> None:
    """The workshop's tables and rows, made by the application's role."""
    async with place.connect(user or place.app) as app:
        for name in ("workshop.sql", "workshop_rows.sql"):
            await app.execute(Path(workshop.__file__).with_name(name).read_text())


async def orders_of(place: Place, *tenants: str) -> list[list[int]]:
    """The companies whose orders each of the tenants sees."""
    async with Router(place.settings()) as router:
        return [
            [row[0] for row in await router.tenant(tenant).fetch("select distinct company_id from orders")]
            for tenant in tenants
        ]


# --- managed ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", EVERY_VERSION)
async def test_a_role_without_superuser_makes_all_but_what_it_says(version: int, tmp_path: Path) -> None:
    """As on a managed server: it has CREATEROLE and CREATEDB, made the application's role, and owns the database."""
    with EmbeddedPostgres(version=version, durable=False) as server:
        await _managed(server, tmp_path)


async def _managed(server: EmbeddedPostgres, tmp_path: Path) -> None:
    async with a_place(server, tmp_path) as place:
        master, second = f"master_{place.mark}", f"second_{place.mark}"
        async with place.connect(database="postgres") as root:
            await root.execute(f"DROP DATABASE {place.database}")
            await root.execute(f"DROP ROLE {place.app}")
            await root.execute(f"CREATE ROLE {master} LOGIN CREATEROLE CREATEDB PASSWORD '{workshop.PASSWORD}'")
        async with place.connect(master, database="postgres") as conn:
            await conn.execute(f"CREATE ROLE {place.app} LOGIN PASSWORD '{workshop.PASSWORD}'")
            await conn.execute(f"CREATE DATABASE {place.database}")
        async with place.connect(master) as conn:
            await conn.execute(f"CREATE ROLE {second} LOGIN PASSWORD '{workshop.PASSWORD}'")
            await conn.execute(f"GRANT CREATE ON SCHEMA public TO {place.app}, {second}")
        await fill(place)
        async with place.connect(second) as conn:  # of which master is no member, before and after
            await conn.execute(
                "CREATE TABLE of_second (company_id bigint NOT NULL); INSERT INTO of_second VALUES (1), (2)"
            )
        given = place.given(master, workshop.PASSWORD)
        known = secret_files(place.folder, given)
        blind = await prepare(given, InitRequest(), known)
        assert [ask.sql for ask in blind.asks if ask.needed] == [f'GRANT "{place.app}" TO "{master}"']
        async with place.connect(master) as conn:
            await conn.execute(blind.asks[0].sql)
        plan = await place.planned(given)
        assert [ask.needed for ask in plan.asks] == [False]
        applied = await apply_folder(given, place.folder)
        assert {each.file: each.state for each in applied if each.state != "done"} == {
            "60_server.sql": "left out: let a superuser, or the provider, run it"
        }
        assert await orders_of(place, "1", "2") == [[1], [2]]
        for user, table, rows in ((place.app, "orders", workshop.COMPANIES), (second, "of_second", 2)):
            async with place.connect(user) as conn:
                assert await conn.fetchval(f"SELECT count(*) FROM {table}") == rows
        async with place.connect(master) as conn:
            assert not await conn.fetchval("SELECT pg_has_role($1, 'USAGE')", second)
        later = {"TPD060", "TPD064", "TPD100"}  # as the page says: functions, other databases; the keys are for later
        assert await place.codes() <= later | {"TPD031"}
        async with place.connect() as root:
            await root.execute((place.folder / "sql/60_server.sql").read_text())
            await root.execute((place.folder / "sql/70_keys.sql").read_text())
        assert await place.codes() <= {"TPD031"}


async def test_what_is_needed_first_is_asked_for_and_enough(place: Place) -> None:
    """The application's own role is all that there is: it may create nothing, and run nothing before it is granted."""
    await fill(place)
    given = place.given(place.app, workshop.PASSWORD)
    plan = await place.planned(given)
    needed = [ask.sql for ask in plan.asks if ask.needed]
    assert needed == [f'ALTER ROLE "{place.app}" CREATEROLE']
    with pytest.raises(TenantProxyError, match=r"10_roles.sql failed, and has changed nothing: permission denied"):
        await apply_folder(given, place.folder)
    async with place.connect() as root:
        await root.execute(needed[0])
        keeper = await root.fetchval("SELECT true FROM pg_roles WHERE rolname = 'tenantproxy_keeper'")
        if keeper:  # another test of this server made it, so that who creates roles may not act for it
            await root.execute(f'GRANT tenantproxy_keeper TO "{place.app}" WITH ADMIN OPTION')
    try:
        await apply_folder(given, place.folder)
        assert await orders_of(place, "1") == [[1]]
    finally:
        async with place.connect() as root:
            await root.execute(
                f'DROP SCHEMA IF EXISTS tenantproxy CASCADE; REVOKE tenantproxy_keeper FROM "{place.app}" CASCADE'
            )


# --- back, and twice -------------------------------------------------------------------------------------------------
_STATE = (Path(__file__).parents[1] / "support" / "init_state.sql").read_text()


_BREAK_INDEX = """
UPDATE pg_index SET indisvalid = false
WHERE indexrelid = (SELECT min(oid::int8)::oid FROM pg_class WHERE relname ~ '_tenant_[0-9a-f]{8}$')
"""


async def test_every_file_may_be_run_twice_and_its_undo_leaves_nothing(
    each_own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with a_place(each_own_postgres, tmp_path) as place:
        await fill(place)
        async with place.connect(place.app) as app:
            await app.execute(
                "CREATE FUNCTION total() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM orders'"
            )
            await app.execute(
                "ALTER TABLE tags ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON tags USING (company_id > 0)"
            )
        async with place.connect() as root:
            before = [tuple(row) for row in await root.fetch(_STATE)]
        plan = await place.planned(shared=("countries",))
        assert [file.number for file in plan.files] == [10, 20, 30, 40, 50, 55, 60, 70, 80, 90]
        await apply_folder(place.given(), place.folder)
        async with place.connect() as root:
            await root.execute(_BREAK_INDEX)  # as a build that was interrupted leaves it
        await apply_folder(place.given(), place.folder)
        async with place.connect() as root:
            assert await root.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
        paths = [path for _, path in sql_files(place.folder)]
        async with place.connect() as root:
            for path in (*paths[-3:], *paths[-3:]):
                await root.execute(path.read_text())
            changed = [tuple(row) for row in await root.fetch(_STATE)]
            assert changed != before
            for path in [*reversed(paths), paths[0]]:
                text = path.with_name(path.name.replace(".sql", ".undo.sql")).read_text()
                for part in runs(text):
                    await root.execute(part)
            assert [tuple(row) for row in await root.fetch(_STATE)] == before


async def test_a_file_that_cannot_have_its_lock_is_named_and_goes_on_later(place: Place) -> None:
    await fill(place)
    await place.planned()
    held = place.folder / "sql/20_ownership.sql"
    held.write_text(held.read_text().replace("lock_timeout = '5s'", "lock_timeout = '50ms'"))  # what is there is run
    async with place.connect(place.app) as app, app.transaction():
        await app.execute("LOCK TABLE tasks IN ACCESS SHARE MODE")
        with pytest.raises(TenantProxyError, match=r"20_ownership.sql failed, and has changed nothing: .*lock timeout"):
            await apply_folder(place.given(), place.folder)
        assert (
            await app.fetchval(
                "SELECT count(*) FROM pg_tables WHERE tableowner <> $1 AND schemaname = 'public'", place.app
            )
            == 0
        )
    assert {each.state for each in await apply_folder(place.given(), place.folder)} == {"done"}
    assert await orders_of(place, "1") == [[1]]


# --- an odd database -------------------------------------------------------------------------------------------------
ODD = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Or""ders" ("tenantId" text NOT NULL, "Sel;ect" int);
CREATE TABLE "Odd Schema"."{long}" ("tenantId" varchar(20) NOT NULL, v int);
CREATE TABLE own ("tenantId" text NOT NULL, v int);
ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE POLICY theirs ON own USING ("tenantId" = current_setting('app.tenant', true));
CREATE TABLE strange ("tenantId" jsonb, v int);
CREATE TABLE gaps ("tenantId" text, v int);
CREATE TABLE bulletin (id int);
GRANT SELECT ON bulletin TO PUBLIC;
GRANT ALL ON gaps TO PUBLIC;
INSERT INTO "Odd Schema"."Or""ders" VALUES ('a', 1), ('b', 2);
INSERT INTO "Odd Schema"."{long}" VALUES ('a', 1), ('b', 2);
INSERT INTO gaps VALUES ('a', 1), (NULL, 2);
GRANT USAGE ON SCHEMA "Odd Schema" TO {reader};
GRANT SELECT ON "Odd Schema"."Or""ders" TO {reader};
"""


async def test_odd_names_types_owners_and_policies_are_told_or_closed(place: Place) -> None:
    reader, second, long = f"reader_{place.mark}", f"Second {place.mark}", "ü" * 31 + "x"
    async with place.connect() as root:
        for name in (reader, second):
            await root.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{workshop.PASSWORD}'")
        await root.execute(f'GRANT CREATE ON SCHEMA public TO "{second}"')
    async with place.connect(place.app) as app:
        await app.execute(ODD.format(long=long, reader=reader))
    async with place.connect(second) as other:
        await other.execute(
            "CREATE TABLE of_second (\"tenantId\" text NOT NULL); INSERT INTO of_second VALUES ('a'), ('b')"
        )
    plan = await place.planned()
    states = {table.label: table.state for table in plan.shape.tables}
    assert states == {
        '"Odd Schema"."Or""ders"': TableState.TENANTS, f'"Odd Schema"."{long}"': TableState.TENANTS,
        "public.gaps": TableState.TENANTS, "public.of_second": TableState.TENANTS, "public.own": TableState.LATER,
        "public.strange": TableState.REFUSED, "public.bulletin": TableState.CLOSED,
    }  # fmt: skip
    said = "\n".join(plan.notes)
    for part in (f'"Odd Schema"."Or""ders": {reader} may use it now', "public.gaps: there are rows whose",
                 f"{second}, {place.app} own",
                 "no table lists the tenants: the 2"):  # fmt: skip
        assert part in said
    await apply_folder(place.given(), place.folder)
    async with Router(place.settings()) as router:
        tenant = router.tenant("a")
        for table in ('"Odd Schema"."Or""ders"', f'"Odd Schema"."{long}"', "gaps", "of_second"):
            assert [row[0] for row in await tenant.fetch(f'SELECT "tenantId" FROM {table}')] == ["a"]
        for closed in ("SELECT FROM own", "SELECT FROM strange", "SELECT FROM bulletin", "TRUNCATE gaps"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await tenant.fetch(closed)
    for user, table, rows in ((reader, '"Odd Schema"."Or""ders"', 2), (place.app, "gaps", 2), (second, "of_second", 2),
                              (reader, "gaps", 2), (reader, "bulletin", 0)):  # fmt: skip
        async with place.connect(user) as conn:
            assert await conn.fetchval(f"SELECT count(*) FROM {table}") == rows
    async with place.connect(place.app) as app:
        await app.execute("INSERT INTO gaps (v) VALUES (3)")


async def test_tenants_neither_read_nor_write_the_table_that_lists_them(place: Place) -> None:
    """It has their column, as its key: the router reads it past the policy that closes it to them."""
    async with place.connect(place.app) as app:
        await app.execute(
            "CREATE TABLE tenants (tenant_id text PRIMARY KEY, plan text, status text);"
            "CREATE TABLE orders (id bigserial, tenant_id text NOT NULL REFERENCES tenants,"
            " PRIMARY KEY (tenant_id, id));"
            "INSERT INTO tenants VALUES ('a', 'free', 'active'), ('b', 'free', 'active');"
            "INSERT INTO orders (tenant_id) VALUES ('a'), ('b')"
        )
    await place.planned()
    await apply_folder(place.given(), place.folder)
    async with Router(place.settings()) as router:
        tenant = router.tenant("a")
        assert [row[0] for row in await tenant.fetch("SELECT tenant_id FROM orders")] == ["a"]
        assert await tenant.execute("INSERT INTO orders DEFAULT VALUES") == "INSERT 0 1"
        for closed in ("SELECT FROM tenants", "UPDATE tenants SET plan = 'paid'", "DELETE FROM tenants"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await tenant.execute(closed)
        assert [each.id async for each in router.tenants()] == ["a", "b"]
    assert await place.codes() == set()


# --- other layouts ---------------------------------------------------------------------------------------------------
async def test_the_schemas_of_django_tenants_become_schema_tenants(place: Place) -> None:
    async with place.connect(place.app) as app:
        await app.execute(
            "CREATE TABLE customers_client (id serial PRIMARY KEY, schema_name varchar(63) UNIQUE NOT NULL, name text);"
            "CREATE TABLE customers_domain (id serial PRIMARY KEY, domain text,"
            " tenant_id int REFERENCES customers_client);"
            "INSERT INTO customers_client (schema_name, name) VALUES ('public', 'all'), ('one', 'One'), ('two', 'Two');"
        )
        for schema in ("one", "two"):
            await app.execute(
                f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.notes (id int); INSERT INTO {schema}.notes VALUES (1)"
            )
    plan = await place.planned()
    assert plan.shape.layout.isolation is Isolation.SCHEMA
    await apply_folder(place.given(), place.folder)
    await _with_roles(place, "one", "two", table="notes")


async def test_a_database_for_each_agency_becomes_database_tenants(place: Place) -> None:
    databases = [f"agency_{name}_{place.mark}" for name in ("one", "two")]
    async with place.connect(database="postgres") as root:
        for name in databases:
            await root.execute(f"CREATE DATABASE {name} OWNER {place.app}")
    for name in databases:
        async with place.connect(place.app, name) as app:
            await app.execute("CREATE TABLE notes (id int); INSERT INTO notes VALUES (1)")
    async with place.connect(place.app) as app:
        await app.execute("CREATE TABLE agencies (id uuid DEFAULT gen_random_uuid(), database_name text, status text)")
        rows = [(name, "active") for name in databases] + [("agency_that_is_gone", "archived")]
        await app.executemany("INSERT INTO agencies (database_name, status) VALUES ($1, $2)", rows)
    plan = await place.planned()
    assert plan.shape.layout.isolation is Isolation.DATABASE
    await apply_folder(place.given(), place.folder)
    await _with_roles(place, *databases, table="notes")


async def _with_roles(place: Place, *tenants: str, table: str) -> None:
    """The next step that is named: a role for each tenant, by which it is served."""
    try:
        await run_install(place.settings(), Request(roles=True))
        assert await place.codes() <= {"TPD064"}  # functions in each tenant's database: doctor --fix closes them
        proof = await prove(place.settings(), Options(timeout=120, doors=("library",)))
        assert [each for each in proof.results if each.state not in (TrialState.HELD, TrialState.NOTHING)] == []
        async with Router(place.settings()) as router:
            for tenant in tenants:
                assert await router.tenant(tenant).fetchval(f"SELECT count(*) FROM {table}") == 1
            with pytest.raises(TenantProxyError):
                await router.tenant("public").fetchval("SELECT 1")
    finally:
        async with place.connect(database="postgres") as root:
            for name in (place.database, *tenants):
                if await root.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                    await root.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for tenant in tenants:
                await root.execute(f'DROP ROLE IF EXISTS "tenant_{tenant}"')


# --- bad input -------------------------------------------------------------------------------------------------------
async def _refused(given: GivenServer) -> str:
    with pytest.raises(ConfigurationError) as refused:
        await prepare(given, InitRequest(), secret_files(Path("nowhere"), given))
    assert workshop.PASSWORD not in str(refused.value)
    return str(refused.value)


async def test_a_dsn_that_leads_nowhere_says_which_part_is_wrong(place: Place) -> None:
    good = place.given(place.app, workshop.PASSWORD)
    dsn = "postgresql://{user}:{password}@{host}:{port}/{database}"
    parts = {
        "user": good.user,
        "password": good.password,
        "host": good.host,
        "port": good.port,
        "database": good.database,
    }
    for changed, said in (
        ({"password": "wrong"}, "refused by the server"),
        ({"database": "no_such_database"}, "names what is not there"),
        ({"port": 1}, "leads to no PostgreSQL server"),
    ):
        assert said in await _refused(parse_dsn(dsn.format(**parts | changed), {}))
    assert "no tenants are recognised" in await _refused(good)


async def test_a_database_with_our_things_and_a_pooler_are_refused(place: Place) -> None:
    await fill(place)
    if PGBOUNCER is None:
        pytest.skip("install pgbouncer")
    with a_pooler(place.server, users={place.app: workshop.PASSWORD}) as pooler:
        dsn = f"postgresql://{place.app}:{workshop.PASSWORD}@127.0.0.1:{pooler.port}/{place.database}"
        assert "connection pooler" in await _refused(parse_dsn(dsn, {}))
    await place.planned()
    await apply_folder(place.given(), place.folder)
    assert "installed already" in await _refused(place.given())


async def test_files_of_others_are_never_overwritten(place: Place, tmp_path: Path) -> None:
    await fill(place)
    await place.planned()
    again = await place.planned()  # the same, so that nothing is written
    assert write_plan(place.folder, again, secret_files(place.folder, place.given())) == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place.folder / "secrets").iterdir()}
    assert set(modes.values()) == {0o600}
    config = place.folder / CONFIG
    config.write_text("# mine\n")
    with pytest.raises(ConfigurationError, match=r"tenantproxy.toml.*says something else"):
        await place.planned()
    assert config.read_text() == "# mine\n"
    config.unlink()
    config.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"tenantproxy.toml"):
        await place.planned()
    assert not (tmp_path / "elsewhere").exists()


# --- the command -----------------------------------------------------------------------------------------------------
async def command(*args: str) -> Result:
    """`tenantproxy ...`, in this process, on a thread that has a loop for itself."""
    return await asyncio.to_thread(CliRunner().invoke, app, args)


async def test_the_command_writes_nothing_dry_and_says_what_is_needed_first(place: Place) -> None:
    await fill(place)
    given = place.given()
    head = f"@{given.host}:{given.port}/{place.database}?sslmode=disable"
    into = ("--into", str(place.folder), "--prefix", f"p_{place.mark}", "--json")
    poor = (f"postgresql://{place.app}:{workshop.PASSWORD}{head}", *into)
    dry = await command("init", *poor, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    said = json.loads(dry.stdout)
    assert (said["tenants"], said["column"], said["registry"]) == ("row", "company_id", "public.companies")
    assert not place.folder.exists()
    refused = await command("init", *poor, "--apply")
    assert (refused.exit_code, json.loads(refused.stdout)["applied"]) == (1, [])
    rich = (f"postgresql://{given.user}:{given.password}{head}", *into)
    applied = await command("init", *rich, "--apply")  # the files that are there, which nothing has run yet
    assert applied.exit_code == 0, applied.stderr
    assert [each["state"] for each in json.loads(applied.stdout)["applied"]] == ["done"] * 7
    wrong = await command(
        "init", f"postgresql://{given.user}:{given.password}@{given.host}:{given.port}/postgres", *into, "--apply"
    )
    assert wrong.exit_code == 1
    assert f"the folder is of {place.database}" in wrong.stderr
    for args in (("init",), ("init", "x", "--tenants", "table"), ("init", "x", "--no-such")):
        assert (await command(*args)).exit_code == 2
