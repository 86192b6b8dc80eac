"""A hostile tenant owns its schema or database: does what it makes there reach the admin user or its neighbours?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.cli.backup import verify
from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.backup import (
    BackupFailed,
    BackupWriter,
    StoredBackup,
    backup_tenant,
    begin_run,
    content,
    restore_backup,
    run_all,
    verify_backup,
)
from tenantproxy.lifecycle.init.dsn import parse_dsn
from tenantproxy.lifecycle.init.folder import secret_files
from tenantproxy.lifecycle.init.plan import InitRequest
from tenantproxy.lifecycle.init.run import prepare
from tenantproxy.lifecycle.install import alone
from tenantproxy.lifecycle.migrate import Migrator, targets_of
from tenantproxy.lifecycle.migrate.journal import ensure_journal
from tenantproxy.lifecycle.move import MoveOptions, Mover
from tenantproxy.lifecycle.provision import Provisioner, ProvisioningFailed, Wanted, wanted
from tenantproxy.lifecycle.status import delete
from tenantproxy.lifecycle.turn_lock import leave_turn, take_turn
from tenantproxy.model import Isolation, Placement, Tenant, tenant_id
from tests.support.database import Database
from tests.support.lasting import lasting as kept
from tests.support.owners import CANARY, an_owner, own_world, settings_of
from tests.support.waiting import until
from tests.support.world import World


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    with kept(own_world()) as world:
        yield world


@pytest.fixture
def settings(house: World, tmp_path: Path) -> Settings:
    return settings_of(house, tmp_path)


async def test_a_role_that_is_set_for_a_database_runs_nothing_of_its_owner_as_the_admin_user(
    house: World, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1_x.sql").write_text("INSERT INTO things DEFAULT VALUES")
    settings = settings_of(house, tmp_path)
    newer = settings_of(house, tmp_path, migrations={"folder": str(tmp_path / "files")})
    async with an_owner(house, settings, Isolation.DATABASE) as (want, tenant, conn):
        await conn.execute(
            "CREATE TABLE things (n int); INSERT INTO things VALUES (1); CREATE INDEX ON things ((n + soft(1)));"
            " CREATE TRIGGER fires BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION fires()"
        )
        await conn.execute(f"ALTER DATABASE \"{want.database}\" SET role = '{want.role}'")
        await conn.execute(f'ALTER DATABASE "{want.database}" SET default_transaction_read_only = on')
        async with admin_connection(settings, "primary", want.database) as admin:
            assert await admin.fetchval("SELECT current_user = session_user")
            assert await admin.fetchval("SHOW transaction_read_only") == "off"
        with pytest.raises(BackupFailed, match=r"things_expr_idx calls public\.soft\(integer\), which belongs to"):
            await backup_tenant(settings, tenant)
        migrator = Migrator(newer)
        migrator.read()
        (outcome,) = await migrator.run(targets_of(newer, [tenant]))
        await migrator.close()
        assert "the tenant's own role" in (outcome.error or "")
        async with house.main.connect() as main:
            await main.execute("DELETE FROM tenantproxy.migration_runs")


WAYS_TO_END: Final = (
    "statement_timeout", "transaction_timeout", "lock_timeout", "idle_session_timeout",
    "idle_in_transaction_session_timeout",
)  # fmt: skip


@pytest.mark.parametrize("pooler", ["", "pgbouncer"])
async def test_no_setting_of_an_owner_ends_the_admin_user_or_becomes_its_own(
    house: World, tmp_path: Path, pooler: str
) -> None:
    """`pooler`: one is named, which the admin user goes past by the server's own address."""
    settings = settings_of(house, tmp_path)
    server = settings.servers["primary"].model_copy(update={"pooler": pooler})
    reached = settings.model_copy(update={"servers": {"primary": server}})
    async with an_owner(house, settings, Isolation.DATABASE) as (want, tenant, conn):
        await conn.execute(
            "CREATE FUNCTION pg_backend_pid() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM canary(); RETURN 1; END'"
        )
        for name in WAYS_TO_END:
            await conn.execute(f'ALTER DATABASE "{want.database}" SET {name} = 1')
        await conn.execute(f'ALTER DATABASE "{want.database}" SET search_path = public, pg_catalog')
        await conn.execute(f"ALTER DATABASE \"{want.database}\" SET role = '{want.role}'")
        await conn.execute(f'ALTER DATABASE "{want.database}" SET default_transaction_isolation = serializable')
        async with admin_connection(reached, "primary", want.database) as admin:
            shown = {name: await admin.fetchval(f"SHOW {name}") for name in WAYS_TO_END}
            assert shown.pop("lock_timeout") == "30s"
            assert set(shown.values()) == {"0"}
            assert await admin.fetchval("SHOW transaction_isolation") == "read committed"
            assert await admin.fetchval("SELECT current_user = session_user")
        if not pooler:
            await verify_backup(settings, await backup_tenant(settings, tenant))


async def test_an_index_that_is_made_while_a_backup_waits_for_its_table_is_seen(
    house: World, settings: Settings
) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (_, tenant, conn), house.shared.connect() as looking:
        await conn.execute("CREATE TABLE things (n int); INSERT INTO things VALUES (1)")
        await conn.execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
        saving = asyncio.create_task(backup_tenant(settings, tenant))

        async def waits() -> bool:
            return bool(await looking.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waits, "a backup that waits for the table")
        await conn.execute("CREATE INDEX ON things ((n + soft(1))); COMMIT")
        with pytest.raises(BackupFailed, match=r"things_expr_idx calls .*soft\(integer\), which belongs to"):
            await saving


async def test_a_range_type_whose_values_are_told_apart_by_its_owner_is_not_saved(
    house: World, settings: Settings
) -> None:
    """ANALYZE calls that function as the owner of the table, which is the admin user while a backup is tried."""
    async with an_owner(house, settings, Isolation.SCHEMA) as (_, tenant, conn):
        await conn.execute("CREATE TYPE odd AS RANGE (subtype = int4, subtype_diff = apart)")
        with pytest.raises(BackupFailed, match=r"odd calls .*apart\(integer,integer\), which belongs to"):
            await backup_tenant(settings, tenant)


async def test_what_an_owner_makes_stops_no_backup_but_its_own(
    house: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(content._SETTINGS, "lock_timeout", "500ms")
    others = ["schema1", "row1"]
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, tenant, conn):
        tenants: dict[str, Tenant] = {want.id: tenant, **{each.id: each for each in house.tenants}}

        async def failed() -> dict[str, str | None]:
            writer = BackupWriter(settings)
            async with writer.open(), begin_run(writer.folder, [want.id, *others]) as run:
                return {each.tenant: each.error for each in await run_all(settings, writer, run, tenants)}

        await conn.execute('CREATE TABLE "a\nb" (n int); INSERT INTO "a\nb" VALUES (1)')
        assert await failed() == {want.id: None, "schema1": None, "row1": None}
        await conn.execute('CREATE INDEX later ON "a\nb" ((n + soft(1)))')
        assert {name for name, error in (await failed()).items() if error} == {want.id}
        await conn.execute('DROP INDEX later; BEGIN; LOCK TABLE "a\nb" IN ACCESS EXCLUSIVE MODE')
        assert {name for name, error in (await failed()).items() if error} == {want.id}
        await conn.execute("ROLLBACK")


async def test_a_table_that_looks_like_a_shared_one_is_not_touched_for_a_row_tenant(
    house: World, tmp_path: Path
) -> None:
    settings = settings_of(house, tmp_path, provision={"systems": ["crm"]})
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        crm = dict(want.systems)["crm"]
        await conn.execute(
            f"CREATE DOMAIN whose AS text CHECK ({want.schema}.holds(VALUE));"
            " CREATE TABLE looks (tenant_id whose); INSERT INTO looks VALUES ('x');"
            " ALTER TABLE looks ENABLE ROW LEVEL SECURITY; CREATE POLICY tenantproxy ON looks USING (tenant_id = 'x');"
            f" CREATE TABLE {crm}.looks (tenant_id text); ALTER TABLE {crm}.looks ENABLE ROW LEVEL SECURITY;"
            f" CREATE TRIGGER fires BEFORE DELETE ON {crm}.looks FOR EACH STATEMENT EXECUTE FUNCTION fires()"
        )
        async with Provisioner(settings).open() as making:
            for name in ("moved", "deleted"):
                await making.create(wanted(settings, name, isolation=Isolation.ROW))
        await delete(settings, "deleted", grace_days=0, no_backup=True)
        plain = settings_of(house, tmp_path)
        async with Mover(plain).open() as mover:
            await mover.move("moved", MoveOptions(isolation=Isolation.SCHEMA))
            assert (await mover.plan("moved", MoveOptions(isolation=Isolation.ROW))).isolation is Isolation.ROW
        await delete(settings, "moved", grace_days=0, no_backup=True)


async def test_nothing_that_an_owner_does_keeps_a_tenant_from_being_deleted(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, provision={"systems": ["crm"]})
    async with an_owner(house, settings, Isolation.DATABASE) as (want, _, conn):
        async with an_owner(house, settings, Isolation.SCHEMA) as (victim, _, own):
            await conn.execute(f'CREATE TABLE things (n int); GRANT SELECT ON things TO "{victim.role}"')
            await conn.execute(f'CREATE POLICY p ON things TO "{victim.role}" USING (true)')
            await conn.execute(f'GRANT CONNECT ON DATABASE "{want.database}" TO "{victim.role}"')
            crm = dict(victim.systems)["crm"]
            async with house.shared.connect() as admin:
                await admin.execute(f"CREATE TABLE {crm}.of_a_migration (n int)")
            await own.execute(f"COMMENT ON SCHEMA {crm} IS NULL")
        await conn.execute(f'ALTER DATABASE "{want.database}" IS_TEMPLATE true')
    async with house.shared.connect() as admin:
        names = f"SELECT count(*) FROM {{}} WHERE {{}} ~ '({want.id}|{victim.id})'"
        assert await admin.fetchval(names.format("pg_roles", "rolname")) == 0
        assert await admin.fetchval(names.format("pg_namespace", "nspname")) == 0
        assert await admin.fetchval(names.format("pg_database", "datname")) == 0


LOCKS: Final = ("tenantproxy grants on ' || current_database() || '", "tenantproxy install")


async def test_locks_that_a_tenant_holds_stop_no_other_from_being_made(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (_, _, conn):
        for lock in LOCKS:
            await conn.execute(f"SELECT pg_advisory_lock(hashtextextended('{lock}', 0))")
        async with asyncio.timeout(10), an_owner(house, settings, Isolation.SCHEMA):
            pass


async def test_locks_that_a_tenant_holds_stop_no_operator_and_those_of_operators_do(
    house: World, settings: Settings
) -> None:
    names = ["tenantproxy install", "tenantproxy migrations", "tenantproxy migrates schema1"]
    take = "SELECT {}(hashtextextended($1, 0))"
    async with an_owner(house, settings, Isolation.SCHEMA) as (_, _, conn):
        for number, name in enumerate(names):
            lock = "pg_advisory_lock_shared" if number else "pg_advisory_lock"
            await conn.execute(take.format(lock), name)
        await conn.execute("BEGIN")
        await conn.execute(take.format("pg_advisory_xact_lock"), "prepared")
        await conn.execute("PREPARE TRANSACTION 'holds'")
        async with house.shared.connect() as first, house.shared.connect() as second, asyncio.timeout(10):
            async with alone(first, 5.0):
                await ensure_journal(first, is_own=False)
            for name in [*names, "prepared"]:
                assert not await take_turn(first, name, patience=5.0, in_session=True)
            assert await take_turn(first, "free", patience=5.0, in_session=True)
            with pytest.raises(
                asyncpg.LockNotAvailableError, match="another session does the same at this moment: free"
            ):
                await take_turn(second, "free", patience=0.1)
            waiting = asyncio.create_task(take_turn(second, "free", patience=60.0, in_session=True))
            await leave_turn(first, "free")
            assert await waiting


ODD: Final = r"""
CREATE SCHEMA "o
""dd\restrict y";
CREATE TABLE "o
""dd\restrict y"."t -- Name: z; Type: ACL" (n serial, "a.b" text);
INSERT INTO "o
""dd\restrict y"."t -- Name: z; Type: ACL" ("a.b") VALUES (E'\\.\n\\.');
CREATE FUNCTION "o
""dd\restrict y"."f $x$ ;"(schema int, pg_catalog int) RETURNS text LANGUAGE sql AS $q$
  SELECT $x$ $b$ ; \restrict $x$ $q$;
REVOKE ALL ON FUNCTION "o
""dd\restrict y"."f $x$ ;" FROM PUBLIC;
COMMENT ON FUNCTION "o
""dd\restrict y"."f $x$ ;" IS E'\n\\connect postgres\n\\! id\n-- Name: x; Type: EVENT TRIGGER; Schema: -; Owner: x';
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE kinds (a positive, b int, g int GENERATED ALWAYS AS (b * 2) STORED);
INSERT INTO kinds VALUES (1, 2);
CREATE STATISTICS many ON a, b FROM kinds;
CREATE RULE never AS ON UPDATE TO kinds WHERE new.b < 0 DO INSTEAD NOTHING;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.english);
CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE COLLATION plainly (provider = libc, locale = 'C');
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
"""
FOUND: Final = r"""
SELECT 'operator', oprname::text FROM pg_operator WHERE oid > 16383 UNION ALL
SELECT 'dictionary', dictname FROM pg_ts_dict WHERE oid > 16383 UNION ALL
SELECT 'configuration', cfgname FROM pg_ts_config WHERE oid > 16383 UNION ALL
SELECT 'conversion', conname FROM pg_conversion WHERE oid > 16383 UNION ALL
SELECT 'collation', collname FROM pg_collation WHERE oid > 16383 UNION ALL
SELECT 'statistics', stxname FROM pg_statistic_ext UNION ALL
SELECT 'rule', rulename FROM pg_rewrite WHERE rulename = 'never' UNION ALL
SELECT 'schema', nspname FROM pg_namespace WHERE oid > 16383 UNION ALL
SELECT 'comment', description FROM pg_description WHERE objoid > 16383 UNION ALL
SELECT 'default', defaclobjtype::text FROM pg_default_acl WHERE defaclnamespace = 0 UNION ALL
SELECT 'closed', p.prosrc FROM pg_proc p WHERE proname LIKE 'f %'
  AND NOT has_function_privilege('public', p.oid, 'EXECUTE') UNION ALL
SELECT 'rows', (SELECT count(*) FROM public.kinds)::text
"""


async def test_what_is_odd_comes_back_as_it_was(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.DATABASE) as (want, tenant, conn):
        await conn.execute(ODD)
        saved = await verify_backup(settings, await backup_tenant(settings, tenant))
        again = (await restore_backup(settings, saved, as_id="again")).saga.wanted
        found = []
        for name in (want.database, again.database):
            async with Database(server=house.server, name=name).connect() as admin:
                found.append(sorted(tuple(row) for row in await admin.fetch(FOUND)))
        assert found[0] == found[1]
        assert {kind for kind, _ in found[0]} >= {"closed", "comment", "statistics", "rule", "operator", "default"}
        await delete(settings, "again", grace_days=0, no_backup=True)


async def test_more_large_objects_than_a_transaction_can_lock_come_back(house: World, settings: Settings) -> None:
    """To change the owner of one is to lock it, and this server has room for some 2,000 locks."""
    many = "DO $$DECLARE o oid; BEGIN FOR i IN 1..{0} LOOP o := lo_from_bytea(0, 'x'); EXECUTE format('ALTER LARGE"
    many += ' OBJECT %s OWNER TO "{1}"\', o); END LOOP; END$$'
    async with an_owner(house, settings, Isolation.DATABASE) as (want, tenant, _):
        async with house.database(tenant).connect() as admin:
            for _ in range(6):
                await admin.execute(many.format(500, want.role))
        saved = await backup_tenant(settings, tenant)
        again = (await restore_backup(settings, saved, as_id=f"{want.id}-again")).saga.wanted
        async with Database(server=house.server, name=again.database).connect() as conn:
            owners = "SELECT count(*) FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) = $1"
            assert await conn.fetchval(owners, again.role) == 3_000
        await delete(settings, again.id, grace_days=0, no_backup=True)


# To read the text of the first policy is to run the domain's check, as the role that makes the policy.
NAMING: Final = r"""
CREATE FUNCTION sly(int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN RAISE 'as %', session_user; END IF;
  RETURN true;
END$$;
CREATE DOMAIN planted AS int CHECK (sly(VALUE));
CREATE TABLE things (n int); INSERT INTO things VALUES (1), (2);
ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things FORCE ROW LEVEL SECURITY;
CREATE POLICY "own; TO x (USING)" ON things TO "{role}", "{other}" USING (n = ANY ('{{1,2}}'::planted[]) AND 1.5 > 1);
COMMENT ON POLICY "own; TO x (USING)" ON things IS 'TO all';
CREATE POLICY less ON things AS RESTRICTIVE FOR SELECT TO "{role}" USING (n < 2);
CREATE POLICY mighty ON things FOR INSERT TO "{boss}", pg_monitor WITH CHECK (false);
CREATE POLICY theirs ON things FOR INSERT TO "{other}" WITH CHECK (true);
COMMENT ON POLICY theirs ON things IS 'of another';
CREATE POLICY anyone ON things FOR DELETE USING (true);
CREATE TABLE "a
""b%s;--\.'POLICY c ON d" ("e%""f
" int); INSERT INTO "a
""b%s;--\.'POLICY c ON d" VALUES (7);
CREATE POLICY "p
%(q)s" ON "a
""b%s;--\.'POLICY c ON d" TO "{role}" USING ("e%""f
" > 0);
COMMENT ON POLICY "p
%(q)s" ON "a
""b%s;--\.'POLICY c ON d" IS E'\x01\x1b[31m\r\n\u2028\u0085\\connect postgres\n\\.\n%s';
COMMENT ON TABLE "a
""b%s;--\.'POLICY c ON d" IS E'\x7f\x08; -- \n\\!id';
"""
SAID: Final = """
SELECT d.description FROM pg_description d LEFT JOIN pg_policy p ON p.oid = d.objoid
JOIN pg_class c ON c.oid = coalesce(p.polrelid, d.objoid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND d.description ~ '[[:cntrl:]]'
"""
NAMED: Final = "SELECT policyname::text, roles::text[] FROM pg_policies WHERE schemaname = $1"


async def test_policies_of_a_restored_tenant_are_for_its_role_and_no_others_gain(
    house: World, settings: Settings
) -> None:
    boss = house.server.superuser

    async def restored(saved: StoredBackup, name: str) -> tuple[Wanted, dict[str, set[str]], str]:
        assert (await verify_backup(settings, saved)).verified_at is not None
        done = await restore_backup(settings, saved, as_id=name)
        want = done.saga.wanted
        async with Router(settings) as router:
            assert [row[0] for row in await router.tenant(name).fetch("SELECT n FROM things")] == [1]
        async with Database(server=house.server, name=want.database).connect() as admin:
            rows = await admin.fetch(NAMED, want.schema)
            said = {row[0] for row in await admin.fetch(SAID, want.schema)}
        assert said == {"\x7f\b; -- \n\\!id", "\x01\x1b[31m\r\n\u2028\x85\\connect postgres\n\\.\n%s"}
        return want, {row[0]: set(row[1]) for row in rows}, "; ".join(done.notes)

    async with an_owner(house, settings, Isolation.SCHEMA) as (other, _, _):
        async with an_owner(house, settings, Isolation.SCHEMA) as (want, tenant, conn):
            await conn.execute(NAMING.format(role=want.role, other=other.role, boss=boss))
            saved = await backup_tenant(settings, tenant)
            again, policies, notes = await restored(saved, f"{want.id}-again")
            assert policies["own; TO x (USING)"] == {again.role, other.role}
            assert policies["less"] == policies["p\n%(q)s"] == {again.role}
            assert policies["mighty"] == {boss, "pg_monitor"}
            assert (policies["theirs"], policies["anyone"]) == ({other.role}, {"public"})
            assert "policy" not in notes
    third, policies, notes = await restored(saved, f"{want.id}-third")
    assert policies["own; TO x (USING)"] == policies["less"] == policies["p\n%(q)s"] == {third.role}
    assert policies.keys() == {"own; TO x (USING)", "less", "p\n%(q)s", "mighty", "anyone"}
    assert f"and not for them any more: {other.role}" in notes
    for made in (again, third):
        await delete(settings, made.id, grace_days=0, no_backup=True)


# Ends nowhere but at home, and takes no cancellation for an answer.
ENDLESS: Final = """
CREATE FUNCTION endless(int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN
  IF current_database() = '{home}' AND current_schema() = '{schema}' THEN RETURN true; END IF;
  LOOP
    BEGIN PERFORM pg_catalog.pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
  END LOOP;
END$$;
CREATE TABLE checked (n int CHECK (endless(n)));
INSERT INTO checked VALUES (1);
"""
LEFT: Final = r"""
SELECT datname FROM pg_database WHERE datname LIKE 'tenantproxy\_scratch%' UNION ALL
SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenantproxy\_load%' UNION ALL
SELECT usename FROM pg_stat_activity WHERE application_name = 'tenantproxy backup'
"""


async def test_a_tenant_whose_checks_never_end_keeps_no_backup_behind_it(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, backup={"timeout": 1})
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, tenant, conn), house.main.connect() as admin:
        await conn.execute(ENDLESS.format(home=want.database, schema=want.schema))
        saved = await backup_tenant(settings, tenant)
        await backup_tenant(settings, house.of(Isolation.SCHEMA)[0])
        mine, next_one = await verify(settings, [], into=None, key_files=(), dry_run=False)
        assert f"trying the backup {saved.id} was ended: it took longer than 1 s" in mine["error"]
        assert next_one["verified_at"] is not None
        assert await admin.fetch(LEFT) == []
        with pytest.raises(ProvisioningFailed, match=r"restoring the backup .* was ended.*made for it is gone"):
            await restore_backup(settings, saved, as_id=f"{want.id}-again")
        assert await admin.fetch(LEFT) == []


async def test_a_lock_that_is_never_let_go_keeps_no_backup_behind_it(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, backup={"timeout": 1})
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, tenant, conn), house.main.connect() as admin:
        await conn.execute("CREATE VIEW late AS SELECT 1 AS n")
        await conn.execute("BEGIN; LOCK TABLE late IN ACCESS EXCLUSIVE MODE")
        others: dict[str, Tenant] = {want.id: tenant, **{each.id: each for each in house.tenants}}
        writer = BackupWriter(settings)
        async with writer.open(), begin_run(writer.folder, [want.id, "schema1"]) as run:
            errors = {each.tenant: each.error for each in await run_all(settings, writer, run, others)}
        assert f"saving the tenant {want.id} was ended: it took longer than" in (errors[want.id] or "")
        assert errors["schema1"] is None

        async def is_gone() -> bool:
            return await admin.fetch(LEFT) == []

        await until(is_gone, "the end of pg_dump's session, while the lock is kept")
        await conn.execute("ROLLBACK")


async def test_a_row_tenant_is_served_whatever_a_neighbour_makes_in_its_own_schema(
    house: World, settings: Settings
) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute("CREATE TABLE projects (tenant_id text, name text); GRANT ALL ON projects TO PUBLIC")
        await conn.execute(f"CREATE FUNCTION {want.schema}.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        async with Router(settings) as router:
            assert await router.tenant("row1").fetchval("SELECT count(*) FROM projects") == 3
            assert await router.tenant("schema1").fetchval("SELECT count(*) FROM projects") == 3


FORBIDDEN: Final = (
    "CREATE PUBLICATION p FOR ALL TABLES",
    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)",
    "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
    "CREATE TABLESPACE t LOCATION '/tmp'",
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION fires()",
    "CREATE EXTENSION dblink",
    "CREATE FOREIGN DATA WRAPPER w",
    "CREATE TYPE shell",
    "CREATE CAST (int AS text) WITH FUNCTION holds(text)",
    "SELECT lo_create(0)",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "CREATE FUNCTION c() RETURNS int LANGUAGE c AS 'x'",
)


async def test_an_owner_makes_nothing_that_reaches_out_of_its_database(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.DATABASE) as (_, _, conn):
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)


async def test_a_database_is_not_moved_when_its_owner_takes_its_own_rights_away(
    house: World, settings: Settings
) -> None:
    """It could give them back to itself while it is moved."""
    async with an_owner(house, settings, Isolation.DATABASE) as (want, tenant, conn):
        await conn.execute("DROP FUNCTION canary, soft, fires, holds, apart")
        await conn.execute(f'REVOKE ALL ON DATABASE "{want.database}" FROM CURRENT_USER')
        await conn.execute("REVOKE CREATE ON SCHEMA public FROM CURRENT_USER, pg_database_owner")
        async with Mover(settings).open() as mover:
            with pytest.raises(ConfigurationError, match="belong to the tenant's own role"):
                await mover.move(tenant.id, MoveOptions(isolation=Isolation.SCHEMA))


async def test_nothing_of_a_deleted_owner_is_left_in_the_shared_database(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;"
            " CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);"
            " CREATE COLLATION plainly (provider = libc, locale = 'C');"
            " CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.english)"
        )
    async with house.shared.connect() as admin:
        left = await admin.fetchval("SELECT count(*) FROM pg_default_acl WHERE defaclnamespace = 0")
        assert left == 0
        assert await admin.fetchval("SELECT to_regnamespace($1)", want.schema) is None


async def test_names_in_another_encoding_than_that_of_the_admin_come_back(house: World, settings: Settings) -> None:
    async with house.main.connect() as admin:
        await admin.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        await admin.execute("CREATE ROLE examiner")
    latin = Database(server=house.server, name="latin")
    async with latin.connect() as conn:
        await conn.execute(
            "CREATE TABLE straße (größe text); INSERT INTO straße VALUES ('ä');"
            " GRANT SELECT ON straße TO examiner; ALTER TABLE straße OWNER TO examiner;"
            " CREATE POLICY für ON straße TO examiner USING (größe = 'ä')"
        )
    place = Placement(isolation=Isolation.DATABASE, server="primary", database="latin")
    saved = await backup_tenant(settings, Tenant(id=tenant_id("latin"), placement=place))
    assert (await verify_backup(settings, saved)).verified_at is not None
    again = (await restore_backup(settings, saved, as_id="latin-again")).saga.wanted
    async with Database(server=house.server, name=again.database).connect() as conn:
        assert await conn.fetchval("SELECT roles::text[] FROM pg_policies") == ["examiner"]
        assert await conn.fetchval("SELECT größe FROM straße") == "ä"
    await delete(settings, "latin-again", grace_days=0, no_backup=True)
    async with house.main.connect() as admin:
        await admin.execute("DROP DATABASE latin WITH (FORCE)")
        await admin.execute("DROP ROLE examiner")


# Each is called by who reads the table, casts to the type of its column, or is no superuser and under its policy.
TO_READ: Final = """
CREATE TABLE indexed (name text); INSERT INTO indexed VALUES ('x');
CREATE INDEX ON indexed ((name || soft(1)));
CREATE TABLE counted (name text, n int); INSERT INTO counted VALUES ('x', 1);
CREATE STATISTICS counts ON (n + soft(1)), name FROM counted;
CREATE TABLE parts (name text, n int) PARTITION BY RANGE ((n + soft(1)));
CREATE DOMAIN whose AS text CHECK (holds(VALUE)); CREATE DOMAIN whose_else AS whose;
CREATE TABLE typed (tenant_id whose_else);
CREATE TYPE odd AS (a int);
CREATE FUNCTION text(odd) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM mine.canary(); END';
CREATE CAST (odd AS text) WITH FUNCTION text(odd);
CREATE TABLE made (tenant_id odd); INSERT INTO made VALUES (ROW(1));
CREATE TABLE secured (name text); INSERT INTO secured VALUES ('x');
ALTER TABLE secured ENABLE ROW LEVEL SECURITY; ALTER TABLE secured FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON secured USING (holds(name)); GRANT SELECT ON secured TO PUBLIC; GRANT USAGE ON SCHEMA mine TO PUBLIC;
CREATE TABLE held (name text);
"""


@pytest.mark.parametrize("is_super", [True, False], ids=["superuser", "managed"])
async def test_init_runs_nothing_of_a_role_that_owns_a_schema(house: World, tmp_path: Path, is_super: bool) -> None:
    server, name = house.server, f"fresh_{is_super}".lower()
    boss, password = (server.superuser, server.password) if is_super else ("boss", "boss")
    fresh = Database(server=server, name=name)
    async with house.main.connect() as admin:
        await admin.execute(
            "CREATE ROLE evil LOGIN PASSWORD 'evil'; CREATE ROLE boss LOGIN CREATEROLE CREATEDB PASSWORD 'boss'"
        )
        try:
            await admin.execute(f"CREATE DATABASE {name}")
            async with fresh.connect() as owner:
                await owner.execute(
                    "CREATE SCHEMA mine AUTHORIZATION evil; CREATE TABLE tenants (id text PRIMARY KEY);"
                    " INSERT INTO tenants VALUES ('a'); CREATE TABLE things (tenant_id text REFERENCES tenants);"
                    " GRANT SELECT ON ALL TABLES IN SCHEMA public TO boss"
                )
            async with fresh.connect("evil", "evil") as evil:
                is_boss = "rolsuper OR rolname = 'boss'"
                await evil.execute("SET search_path = mine, public")
                await evil.execute(CANARY.format(schema="mine").replace("SELECT rolsuper", f"SELECT {is_boss}"))
                await evil.execute(TO_READ)
                await evil.execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
                given = parse_dsn(f"postgresql://{boss}:{password}@{server.host}:{server.port}/{name}", {})
                plan = await prepare(given, InitRequest(), secret_files(tmp_path, given))
                assert plan.shape.layout.column == "tenant_id"
                async with fresh.connect() as owner:  # no table lists them: those that rows name are looked for
                    await owner.execute("DROP TABLE tenants CASCADE")
                await prepare(given, InitRequest(), secret_files(tmp_path, given))
        finally:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await admin.execute("DROP ROLE evil; DROP ROLE boss")
