"""Has a tenant that was made its first account, its entries, its systems, and may it dump what is its own?"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres, all_binaries
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.install import isolate_table
from tenantproxy.lifecycle.provision import LOCKED, Provisioner, ProvisioningFailed, first_admin, wanted
from tenantproxy.lifecycle.provision.admin import ensure_admin
from tenantproxy.model import Isolation
from tests.support.lasting import lasting as kept
from tests.support.logins import HASH, OWN_USERS, PASSWORD, SHARED_USERS, directory, failure, login_settings
from tests.support.world import OWN_PROJECTS, ROLE_SECRET, SERVER, World, a_world

INSERT: Final = (
    "insert into users ({}id, email, password_hash, role) values ({}'u1', $1, $2, 'admin') returning id as user_id"
)
OWN: Final = INSERT.format("", "")
SHARED: Final = INSERT.format("tenant_id, ", "$3, ")
FILE: Final = f"{OWN_PROJECTS};\n{OWN_USERS};\nINSERT INTO projects (name) VALUES ('the first');"


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(
        a_world(request.getfixturevalue("postgres"), rows=1, schemas=0, databases=0, furnish=shared_users)
    ) as made:
        yield made


async def shared_users(world: World) -> None:
    async with world.shared.connect() as conn:
        await conn.execute(f"{SHARED_USERS}; GRANT SELECT, INSERT ON users TO app")
        await isolate_table(conn, "users")


def settings_of(world: World, folder: Path, query: str = OWN, **changes: Any) -> Settings:
    """Its names have a number that no other run's have: the server is shared."""
    (folder / "schema.sql").write_text(FILE)
    mark = world.main.name.removeprefix("main_")
    provision = {
        "shared_database": world.shared.name, "sql_files": [str(folder / "schema.sql")], "admin_query": query,
        "role": f"t{mark}_{{id}}", "database": f"t{mark}_{{id}}", "template": False,
    }  # fmt: skip
    given = {"provision": provision | changes.pop("provision", {}), "audit": {"table": True}, **changes}
    return login_settings(world, lookup=False, registry="postgres", **given)


def making(settings: Settings, world: World) -> Provisioner:
    async def connect(_: str, database: str) -> asyncpg.Connection:
        return await asyncpg.connect(**world.server.connect_args(database))

    return Provisioner(settings, connect)


@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_first_account_logs_in_and_the_main_database_knows_of_it(
    house: World, tmp_path: Path, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path, SHARED if kind is Isolation.ROW else OWN)
    name, address = f"first_{kind}", f"Boss@{kind}.example"
    async with making(settings, house).open() as provisioner:
        saga = await provisioner.create(wanted(settings, name, isolation=kind), admin=first_admin(address, HASH))
    assert saga.admin is None, "what is not needed any more is not kept"
    assert (name, "u1") in await directory(house.main)
    async with Router(settings) as router:
        (account,) = await router.login(address, PASSWORD)
        assert (account.tenant, account.user, account.claims["role"]) == (name, "u1", "admin")
    async with house.main.connect() as conn:
        row = await conn.fetchrow(
            "SELECT kind, user_id, detail::text FROM tenantproxy.audit_log WHERE tenant = $1", name
        )
        assert row is not None
        assert (row["kind"], row["user_id"]) == ("tenant_provisioned", "u1")
        assert json.loads(row["detail"])["isolation"] == kind
        assert "oss@" not in str(await conn.fetch("SELECT s::text FROM tenantproxy.sagas s"))


async def test_an_account_that_is_there_is_not_made_twice(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path)
    async with making(settings, house).open() as provisioner:
        await provisioner.create(wanted(settings, "again"), admin=first_admin("boss@again.example", HASH))
    async with Router(settings) as router:
        scope = router.tenant("again")
        users = await asyncio.gather(
            *(ensure_admin(scope, settings, first_admin("BOSS@again.example", HASH)) for _ in range(3))
        )
        assert users == ["u1"] * 3
        assert await scope.fetchval("SELECT count(*) FROM users") == 1


async def test_without_a_password_no_password_logs_in(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path)
    async with making(settings, house).open() as provisioner:
        await provisioner.create(wanted(settings, "locked"), admin=first_admin("boss@locked.example", LOCKED))
    async with Router(settings) as router:
        for password in (PASSWORD, LOCKED, "x"):
            assert await failure(router.login("boss@locked.example", password)) == "InvalidCredentials"


async def test_a_statement_that_fails_undoes_the_tenant_and_says_so_in_the_audit(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, OWN.replace("returning id as user_id", ""))
    async with making(settings, house).open() as provisioner:
        with pytest.raises(ProvisioningFailed, match="returns no user_id"):
            await provisioner.create(wanted(settings, "nameless"), admin=first_admin("boss@x.example", HASH))
    async with house.main.connect() as conn:
        assert not await conn.fetchval("SELECT true FROM tenantproxy.tenants WHERE id = 'nameless'")
        kinds = await conn.fetch("SELECT kind FROM tenantproxy.audit_log WHERE tenant = 'nameless'")
        assert [row[0] for row in kinds] == ["tenant_provisioning_undone"]
    assert not any(tenant == "nameless" for tenant, _ in await directory(house.main))


async def test_what_is_missing_for_a_first_account_is_told_before_anything_is_begun(
    house: World, tmp_path: Path
) -> None:
    without = dict.fromkeys(("account_query", "list_query", "rehash_query"))
    settings = settings_of(house, tmp_path, "", login=without)
    async with making(settings, house).open() as provisioner:
        with pytest.raises(ConfigurationError) as told:
            await provisioner.create(wanted(settings, "early"), admin=first_admin("a@b.example", HASH))
        assert await provisioner.store.unfinished() == []
    assert {problem.key for problem in told.value.problems} == {"provision.admin_query", "login.account_query"}
    with pytest.raises(ConfigurationError, match="no e-mail address"):
        first_admin("boss", HASH)


async def test_a_schema_tenant_has_a_schema_for_each_of_its_systems(house: World, tmp_path: Path) -> None:
    (tmp_path / "crm").mkdir()
    (tmp_path / "crm" / "1_leads.sql").write_text("CREATE TABLE leads (n int)")
    settings = settings_of(
        house,
        tmp_path,
        provision={"systems": ["crm", "billing"]},
        migrations={"system_folders": {"crm": str(tmp_path / "crm")}},
    )
    async with making(settings, house).open() as provisioner:
        await provisioner.create(wanted(settings, "tenant-001", isolation=Isolation.SCHEMA))
    async with Router(settings) as router:
        await router.tenant("tenant-001", system="crm").execute("INSERT INTO leads VALUES (1)")
        schema = await router.tenant("tenant-001", system="crm").fetchval("SELECT current_schema()::text")
        assert schema.startswith("tenant_tenant_001_")
        assert schema.endswith("_crm")
        assert await router.tenant("tenant-001", system="billing").fetchval("SELECT to_regclass('leads')") is None


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.SCHEMA])
async def test_a_tenants_role_dumps_what_is_its_own(house: World, tmp_path: Path, kind: Isolation) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "1_numbers.sql").write_text("CREATE SEQUENCE invoices; SELECT nextval('invoices')")
    settings = settings_of(house, tmp_path, migrations={"folder": str(folder)})
    async with making(settings, house).open() as provisioner:
        saga = await provisioner.create(wanted(settings, f"dumper_{kind}", isolation=kind))
    want = saga.wanted
    assert want.role is not None
    of_schema = [f"--schema={want.schema}"] if want.schema is not None else []
    text = await pg_dump(house.server, want.database, want.role, *of_schema)
    assert "the first" in text
    assert ".projects_id_seq', 1, true)" in text
    assert ".invoices', 1, true)" in text


async def pg_dump(server: EmbeddedPostgres, database: str, role: str, *arguments: str) -> str:
    """What it writes as that role. Its version is the server's."""
    found = next(each for each in all_binaries() if each.version == server.version)
    given = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    if found.libraries is not None:
        given["LD_LIBRARY_PATH"] = str(found.libraries)
    to = {
        "PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": role, "PGDATABASE": database,
        "PGPASSWORD": role_password(ROLE_SECRET, SERVER, role), "PGSSLMODE": "disable",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        str(found.bin_dir / "pg_dump"), *arguments, env=given | to, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()
