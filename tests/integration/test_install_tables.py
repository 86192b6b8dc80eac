"""Does `tenantproxy install --table` leave each tenant its own rows of an ordinary table, whatever it was before?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.cli.install import Mode, Report, Request, run_install
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.lifecycle.tables import TableRequest, install_tables
from tenantproxy.model import Isolation, Placement, Tenant, tenant_id
from tenantproxy.registry.memory import MemoryRegistry
from tenantproxy.router import Router
from tests.support.database import Database, psql
from tests.support.world import APP_PASSWORD, APP_ROLE, ROW_SECRET

PROJECTS: Final = (
    "CREATE TABLE projects (id serial PRIMARY KEY, tenant_id text NOT NULL, name text NOT NULL);"
    "INSERT INTO projects (tenant_id, name) VALUES ('acme', 'a'), ('globex', 'g')"
)
DENIED: Final = asyncpg.InsufficientPrivilegeError
ONE: Final = ("acme", "globex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A database with row tenants, and a configuration that knows its superuser."""

    database: Database

    def settings(
        self,
        tenants: Sequence[str] | None = None,
        *,
        row: Mapping[str, Any] | None = None,
        registry: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
        **server: Any,
    ) -> Settings:
        host = self.database.server
        primary = {"host": host.host, "port": host.port, "user": APP_ROLE, "password": APP_PASSWORD, "ssl": "disable"}
        primary |= {"max_connections": 20, "admin": {"user": host.superuser, "password": host.password}}
        entry = {"isolation": "row", "database": self.database.name}
        return Settings.from_mapping(
            {
                "main": {"server": "primary", "database": self.database.name},
                "servers": {"primary": primary | server},
                "registry": registry or {"source": "file"},
                "row": {"key": ROW_SECRET.decode()} if row is None else row,
                "tenants": dict.fromkeys(ONE if tenants is None else tenants, entry) | dict(more or {}),
                "pools": {"acquire_timeout": 15.0},
            }
        )

    async def run(self, sql: str) -> None:
        async with self.database.connect() as conn:
            await conn.execute(sql)

    async def value(self, sql: str) -> Any:
        async with self.database.connect() as conn:
            return await conn.fetchval(sql)


@pytest.fixture
async def site(each_database: Database) -> Site:
    async with each_database.connect() as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
    return Site(database=each_database)


def tables(*names: str, column: str = "tenant_id", mode: Mode = Mode.RUN, **more: Any) -> Request:
    return Request(tables=tuple((name, column) for name in names), mode=mode, **more)


def of_tables(report: Report) -> list[str]:
    """What was changed, without the installation of our own things."""
    own = {"signed context", "closed functions", "registry", "sessions and login directory"}
    said = [row["installed"] if "installed" in row else row["would_install"] for row in report.rows]
    return [what for what in said if what not in own]


async def names(router: Router, tenant: str, table: str = "projects") -> list[str]:
    return [row["name"] for row in await router.tenant(tenant).fetch(f"SELECT name FROM {table} ORDER BY name")]


async def test_a_table_without_a_policy_is_closed_to_other_tenants(site: Site) -> None:
    await site.run(f"{PROJECTS}; GRANT ALL ON projects TO {APP_ROLE}")
    settings = site.settings()
    await run_install(settings, tables("public.projects"))
    async with Router(settings) as router:
        acme = router.tenant("acme")
        assert await names(router, "acme") == ["a"]
        assert await names(router, "globex") == ["g"]
        assert await acme.execute("DELETE FROM projects WHERE tenant_id = 'globex'") == "DELETE 0"
        with pytest.raises(DENIED):
            await acme.execute("TRUNCATE projects")
        with pytest.raises(DENIED, match="row-level security"):
            await acme.execute("INSERT INTO projects (tenant_id, name) VALUES ('globex', 'x')")
        await acme.execute("INSERT INTO projects (name) VALUES ('mine')")  # the default, and the sequence
        assert await names(router, "acme") == ["a", "mine"]
        assert await names(router, "globex") == ["g"]


async def test_a_second_install_changes_nothing_and_takes_no_lock(site: Site) -> None:
    await site.run(PROJECTS)
    settings = site.settings()
    first = await run_install(settings, tables("public.projects"))
    assert of_tables(first) == [
        "public.projects: permissive policy tenantproxy",
        "public.projects: row-level security, for its owner too",
        'public.projects: "tenant_id" is the session\'s tenant by default',
        'public.projects: index on "tenant_id"',
        'public.projects: "app" may SELECT, INSERT, UPDATE, DELETE',
        'public.projects_id_seq: "app" may use it',
    ]
    async with site.database.connect() as reader, reader.transaction():
        await reader.fetch("SELECT * FROM projects")
        assert of_tables(await run_install(settings, tables("public.projects"))) == []


async def test_every_table_with_the_column_is_isolated_and_no_other(site: Site) -> None:
    await site.run(
        f"{PROJECTS}; CREATE SCHEMA crm; CREATE TABLE crm.leads (tenant_id uuid, name text);"
        "CREATE TABLE countries (name text); CREATE SCHEMA initech; CREATE TABLE initech.notes (tenant_id text)"
    )
    mine = "6f2b5e0c-2f0e-4f0b-9a53-1d2f6f0a7c11"
    initech = {"isolation": "schema", "database": site.database.name, "schema": "initech"}
    settings = site.settings([mine], more={"initech": initech})
    await run_install(settings, Request(all_with=("tenant_id",)))
    found = await site.value("SELECT array_agg(c.oid::regclass::text ORDER BY 1) FROM pg_class c WHERE relrowsecurity")
    assert sorted(found) == ["crm.leads", "projects"]
    async with Router(settings) as router:
        await router.tenant(mine).execute("INSERT INTO crm.leads (name) VALUES ('l')")
        assert await names(router, mine, "crm.leads") == ["l"]


async def test_a_dry_run_says_what_the_install_does_and_changes_nothing(site: Site) -> None:
    await site.run(PROJECTS)
    settings = site.settings()
    before = await site.value("SELECT array_agg(relname ORDER BY oid) FROM pg_class")
    shown = await run_install(settings, tables("projects", mode=Mode.DRY))
    assert {row["would_install"] for row in shown.rows} >= {"signed context", "closed functions"}
    assert await site.value("SELECT array_agg(relname ORDER BY oid) FROM pg_class") == before
    assert of_tables(await run_install(settings, tables("projects"))) == of_tables(shown)


async def test_the_printed_sql_does_all_of_it_and_holds_no_secret(site: Site) -> None:
    await site.run(PROJECTS)
    settings = site.settings()
    shown = await run_install(settings, tables("projects", mode=Mode.SQL))
    assert "INSERT INTO tenantproxy.context_key" not in "".join(shown.sql)
    full = await run_install(settings, tables("projects", mode=Mode.SQL, with_keys=True))
    await psql(site.database, "\n".join(full.sql))
    assert of_tables(await run_install(settings, tables("projects", mode=Mode.DRY))) == []
    async with Router(settings) as router:
        assert await names(router, "acme") == ["a"]


IDS: Final[Mapping[str, Sequence[str]]] = {
    "uuid": ("6f2b5e0c-2f0e-4f0b-9a53-1d2f6f0a7c11", "00000000-0000-0000-0000-000000000001"),
    "bigint": ("1", "22"),
    "integer": ("1", "22"),
    "smallint": ("1", "22"),
    "numeric": ("1", "22"),
    "text": ONE,
    "varchar(20)": ONE,
    "char(12)": ONE,
    "name": ONE,
    "key_text": ONE,
    "key_uuid": ("6f2b5e0c-2f0e-4f0b-9a53-1d2f6f0a7c11", "00000000-0000-0000-0000-000000000001"),
    '"Odd kind"': ONE,
}


@pytest.mark.parametrize("kind", IDS)
async def test_the_tenant_is_cast_to_the_type_of_the_column(site: Site, kind: str) -> None:
    mine, other = IDS[kind]
    await site.run(
        "CREATE DOMAIN key_text AS text CHECK (value <> ''); CREATE DOMAIN key_uuid AS uuid;"
        "CREATE TYPE \"Odd kind\" AS ENUM ('acme', 'globex');"
        f'CREATE TABLE t ("the Tenant" {kind}, name text);'
        f"INSERT INTO t VALUES ('{mine}', 'mine'), ('{other}', 'other')"
    )
    settings = site.settings([mine, other])
    await run_install(settings, tables("t", column="the Tenant"))
    assert of_tables(await run_install(settings, tables("t", column="the Tenant"))) == []
    async with Router(settings) as router:
        assert await names(router, mine, "t") == ["mine"]
        await router.tenant(mine).execute("INSERT INTO t (name) VALUES ('new')")
        assert await names(router, mine, "t") == ["mine", "new"]
        assert await names(router, other, "t") == ["other"]


@pytest.mark.parametrize(
    ("kind", "tenants", "said"),
    [
        ("uuid", ONE, ["acme (not a uuid)", "globex (not a uuid)"]),
        ("bigint", ("1", "x9", "99999999999999999999"), ["x9 (not a bigint)", "99999999999999999999 (not a bigint)"]),
        ("integer", ("1", "01"), ["01 and 1 (the same integer)"]),
        ("varchar(4)", ("acme", "globex"), ["globex (longer than 4)"]),
        ("even", ("1", "2"), ["1 (not a public.even)"]),
    ],
)
async def test_registered_tenants_that_the_column_cannot_name_are_listed(
    site: Site, kind: str, tenants: tuple[str, ...], said: list[str]
) -> None:
    await site.run(f"CREATE DOMAIN even AS int CHECK (value % 2 = 0); CREATE TABLE t (tenant_id {kind})")
    with pytest.raises(ConfigurationError) as caught:
        await run_install(site.settings(tenants), tables("t"))
    assert all(each in str(caught.value) for each in said)
    assert await site.value("SELECT to_regnamespace('tenantproxy')") is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("CREATE TABLE t (tenant_id boolean)", "is boolean, which cannot name a tenant"),
        ("CREATE TABLE t (tenant_id jsonb)", "is jsonb, which cannot name a tenant"),
        ("CREATE TABLE t (tenant_id text[])", "cannot name a tenant"),
        ("CREATE TABLE t (tenant_id int GENERATED ALWAYS AS IDENTITY)", "is numbered by PostgreSQL itself"),
        ("CREATE TABLE t (agency_id int)", "has no column tenant_id; name one of its own: agency_id"),
        ("CREATE VIEW t AS SELECT 1 AS tenant_id", "is a view"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS tenant_id", "is a materialized view"),
        ('CREATE TABLE "T" (tenant_id text)', 'public."T" does'),
        (f"CREATE TABLE t (tenant_id text); ALTER TABLE t OWNER TO {APP_ROLE}", "ALTER TABLE public.t OWNER TO"),
        (
            "CREATE TABLE whole (tenant_id text) PARTITION BY LIST (tenant_id);"
            "CREATE TABLE t PARTITION OF whole DEFAULT",
            "is a part of public.whole",
        ),
    ],
)
async def test_what_cannot_be_isolated_is_refused_and_says_why(site: Site, make: str, said: str) -> None:
    await site.run(make)
    with pytest.raises(ConfigurationError) as caught:
        await run_install(site.settings(["1"]), tables("t"))
    assert said in str(caught.value)
    assert await site.value("SELECT to_regnamespace('tenantproxy')") is None


async def test_a_collation_that_ignores_case_is_refused(site: Site) -> None:
    try:
        await site.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except asyncpg.FeatureNotSupportedError:
        return  # built without ICU, so there is no such collation
    await site.run("CREATE TABLE t (tenant_id text COLLATE loose)")
    with pytest.raises(ConfigurationError, match="calls different texts equal"):
        await run_install(site.settings(), tables("t"))


async def test_partitions_and_children_are_isolated_and_indexed_too(site: Site) -> None:
    await site.run(
        "CREATE TABLE t (tenant_id text, name text) PARTITION BY LIST (name);"
        "CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a') PARTITION BY LIST (tenant_id);"
        "CREATE TABLE t_a1 PARTITION OF t_a DEFAULT; CREATE TABLE t_rest PARTITION OF t DEFAULT;"
        "CREATE TABLE base (tenant_id text, name text); CREATE TABLE child () INHERITS (base);"
        "INSERT INTO t VALUES ('acme', 'a'), ('globex', 'a'), ('globex', 'g');"
        "INSERT INTO child VALUES ('acme', 'a'), ('globex', 'g');"
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {APP_ROLE}"
    )
    settings = site.settings()
    await run_install(settings, tables("t", "base"))
    assert of_tables(await run_install(settings, tables("t", "base"))) == []
    async with Router(settings) as router:
        for table in ("t", "t_a", "t_a1", "base", "child"):
            assert await names(router, "acme", table) == ["a"]
        assert await names(router, "acme", "t_rest") == []
        assert await names(router, "globex", "t") == ["a", "g"]
        await router.tenant("acme").execute("INSERT INTO t_rest (name) VALUES ('direct')")
        assert await names(router, "acme", "t") == ["a", "direct"]
    indexes = await site.value(
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE indisvalid AND c.relnamespace = 'public'::regnamespace"
    )
    assert indexes == 6


async def test_policies_on_the_plain_setting_stay_with_a_restrictive_one_beside_them(site: Site) -> None:
    await site.run(
        f"{PROJECTS}; ALTER TABLE projects ENABLE ROW LEVEL SECURITY; GRANT SELECT ON projects TO {APP_ROLE};"
        "CREATE POLICY old ON projects USING (tenant_id = current_setting('app.current_tenant_id', true));"
        "CREATE POLICY open ON projects FOR SELECT USING (true)"
    )
    settings = site.settings()
    report = await run_install(settings, tables("projects"))
    assert "public.projects: restrictive policy tenantproxy_signed" in of_tables(report)
    assert any("the policy open is open to everything" in note["note"] for note in report.notes)
    async with Router(settings) as router:
        async with router.tenant("acme").connection() as conn:
            assert [row["name"] for row in await conn.fetch("SELECT name FROM projects")] == ["a"]
            await conn.execute("SELECT set_config('app.current_tenant_id', 'globex', false)")
            with pytest.raises(DENIED):
                await conn.fetch("SELECT name FROM projects")


async def test_a_policy_for_another_role_alone_does_not_close_the_table_to_tenants(site: Site) -> None:
    await site.run(f"{PROJECTS}; DROP ROLE IF EXISTS installs_reports; CREATE ROLE installs_reports")
    await site.run("GRANT SELECT ON projects TO installs_reports")
    try:
        await site.run("CREATE POLICY old ON projects TO installs_reports USING (true)")
        settings = site.settings()
        report = await run_install(settings, tables("projects"))
        assert any("also granted to installs_reports" in note["note"] for note in report.notes)
        async with Router(settings) as router:
            assert await names(router, "acme") == ["a"]
    finally:
        await site.run("DROP OWNED BY installs_reports; DROP ROLE installs_reports")


async def test_unsigned_rows_get_policies_on_the_plain_setting(site: Site) -> None:
    await site.run(f"{PROJECTS}; CREATE TABLE t (tenant_id uuid, name text)")
    settings = site.settings(row={"signed": False, "setting": "my.tenant"})
    await run_install(settings, tables("projects"))
    assert await site.value("SELECT to_regnamespace('tenantproxy')") is None
    assert of_tables(await run_install(settings, tables("projects"))) == []
    async with Router(settings) as router:
        assert await names(router, "acme") == ["a"]
        await router.tenant("acme").execute("INSERT INTO projects (name) VALUES ('mine')")
        assert await names(router, "acme") == ["a", "mine"]
        assert await names(router, "globex") == ["g"]


async def test_signing_later_replaces_the_policies_on_the_plain_setting(site: Site) -> None:
    await site.run(PROJECTS)
    await run_install(site.settings(row={"signed": False}), tables("projects"))
    settings = site.settings()
    await run_install(settings, tables("projects"))
    assert await site.value("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy") == (
        "(tenant_id = ( SELECT tenantproxy.bound_tenant() AS bound_tenant))"
    )
    async with Router(settings) as router:
        assert await names(router, "acme") == ["a"]


async def test_an_index_whose_build_failed_is_built_again(site: Site) -> None:
    await site.run(f"{PROJECTS}; CREATE INDEX broken ON projects (tenant_id)")
    await site.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass")
    await run_install(site.settings(), tables("projects"))
    valid = await site.value(
        "SELECT array_agg(indexrelid::regclass::text) FROM pg_index WHERE indisvalid AND NOT indisprimary"
        " AND indrelid = 'projects'::regclass"
    )
    assert valid == ["projects_tenant_id_idx"]


async def test_tables_that_stay_open_to_tenants_are_told(site: Site) -> None:
    await site.run(
        f"{PROJECTS}; CREATE TABLE left_open (tenant_id text); CREATE VIEW seen AS SELECT * FROM projects;"
        f"GRANT SELECT ON left_open, seen TO {APP_ROLE}"
    )
    settings = site.settings()
    for mode in (Mode.DRY, Mode.RUN):
        report = await run_install(settings, tables("projects", mode=mode))
        told = " | ".join(note["note"] for note in report.notes)
        assert "tenantproxy install --table public.left_open --column tenant_id" in told
        assert "ALTER VIEW public.seen SET (security_invoker = true)" in told
    await site.run("ALTER VIEW seen SET (security_invoker = true)")
    report = await run_install(settings, tables("left_open"))
    assert [note["note"] for note in report.notes if "open to every row tenant" in note["note"]] == []
    async with Router(settings) as router:
        assert await names(router, "acme", "seen") == ["a"]


async def test_an_old_transaction_delays_the_index_alone(site: Site) -> None:
    await site.run(PROJECTS)
    settings = site.settings()
    await run_install(settings, Request())
    wanted = TableRequest(
        tables=(("projects", "tenant_id"),), roles=(APP_ROLE,), comparison=Comparison(signed=True, setting="app.t")
    )
    async with site.database.connect() as admin, site.database.connect() as old:
        async with old.transaction(isolation="repeatable_read"):
            await old.fetch("SELECT 1")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await install_tables(admin, wanted, index_timeout=0.05)
        async with Router(settings) as router:
            assert await names(router, "acme") == ["a"]  # it is closed already
        await install_tables(admin, wanted)
        assert (await install_tables(admin, wanted)).changes == ()
        assert await admin.fetchval("SHOW lock_timeout") == "0"


async def test_an_admin_without_the_rights_is_told_the_grants(site: Site) -> None:
    await site.run(f"{PROJECTS}; DROP ROLE IF EXISTS installs_weak; CREATE ROLE installs_weak LOGIN PASSWORD 'weak'")
    try:
        settings = site.settings(admin={"user": "installs_weak", "password": "weak"})
        with pytest.raises(ConfigurationError) as caught:
            await run_install(settings, tables("projects"))
        said = str(caught.value)
        assert 'GRANT "postgres" TO "installs_weak"' in said
        assert f'GRANT CREATE ON DATABASE "{site.database.name}" TO "installs_weak"' in said
        assert 'ALTER ROLE "installs_weak" CREATEROLE' in said
        shown = await run_install(settings, tables("projects", mode=Mode.SQL))  # another user may run it
        assert "CREATE POLICY tenantproxy ON public.projects" in "".join(shown.sql)
    finally:
        await site.run("DROP ROLE installs_weak")


class OwnRegistry(MemoryRegistry):
    """One of an operator's own, named in [registry] source."""

    def __init__(self, settings: Settings) -> None:
        place = Placement(isolation=Isolation.ROW, server="primary", database=settings.main.database)
        super().__init__([Tenant(id=tenant_id(name), placement=place) for name in ONE])


async def test_the_tenants_of_a_registry_of_ones_own_are_isolated_too(site: Site) -> None:
    await site.run(PROJECTS)
    settings = site.settings([], registry={"source": f"{__name__}:OwnRegistry"})
    await run_install(settings, tables("projects"))
    async with Router(settings) as router:
        assert await names(router, "acme") == ["a"]
        assert await names(router, "globex") == ["g"]


async def test_tables_without_a_row_tenant_ask_for_the_database(site: Site) -> None:
    with pytest.raises(ConfigurationError, match="--database"):
        await run_install(site.settings([]), tables("projects"))
