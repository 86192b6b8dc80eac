"""Can one tenant reach another through the library? Hostile SQL of every known sort, and chance, on few backends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router, TenantScope
from tenantproxy.config import role_password
from tenantproxy.driver.guard import Guard
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantProxyError
from tenantproxy.isolation.proof import Signer
from tenantproxy.lifecycle.provisioner import ensure_role, provision_database, provision_schema
from tests.support.database import Database
from tests.support.leases import driver_statements, one_connection, own_rows, rows_of
from tests.support.standby import Replicated, a_replicated_world
from tests.support.world import APP_ROLE, OWN_PROJECTS, World, a_world, row_key

GENERIC: Final = "SET plan_cache_mode = force_generic_plan"
FETCH: Final = "FETCH ALL c"
PROVE: Final = "SELECT set_config('app.tenant_proof', %s, false)"
READ: Final = "SELECT name FROM projects"
SETS: Final = "SET app.current_tenant_id = 'row2'"
BOUND: Final = "SET app.tenant_proof = 'bound'"
FLIP: Final = "set_config('app.current_tenant_id', 'row2', false)"
FORGED: Final = f"v1.1.0000000000.{0:016d}.{10**16 - 1}." + "0" * 64

# Each runs as row1; nothing that comes back may be row2's. %(forged)s and the like are proofs that a thief might hold.
ATTACKS: Final[dict[str, tuple[str, ...]]] = {
    "the setting": (SETS, READ),
    "set_config": (f"SELECT {FLIP}", READ),
    "set_config in the transaction": ("BEGIN", f"SELECT {FLIP.replace('false', 'true')}", READ, "COMMIT"),
    "set_config in a CTE": (f"WITH x AS MATERIALIZED (SELECT {FLIP}) SELECT name FROM x, projects",),
    "set_config in a subquery": (f"SELECT name FROM projects WHERE (SELECT {FLIP}) = 'row2'",),
    "set_config in a lateral join": (f"SELECT p.name FROM (SELECT {FLIP} OFFSET 0) f, LATERAL (TABLE projects) p",),
    "set_config for each row": (f"SELECT name, {FLIP} FROM projects UNION ALL SELECT name, '' FROM projects",),
    "set_config in DO": (f"DO $$ BEGIN PERFORM {FLIP}; END $$", READ),
    "set_config in dynamic SQL": (f"DO $$ BEGIN EXECUTE 'SELECT {FLIP.replace(chr(39), chr(39) * 2)}'; END $$", READ),
    "set_config in EXPLAIN ANALYZE": (f"EXPLAIN ANALYZE SELECT {FLIP}", READ),
    "set_config in query_to_xml": (f"SELECT query_to_xml($q$SELECT {FLIP}$q$, true, true, '')", READ),
    "reading in query_to_xml": (f"SELECT {FLIP}", "SELECT query_to_xml('SELECT name FROM projects', true, true, '')"),
    "set_config with another spelling": (f'SELECT U&"\\0073et_config"{FLIP[10:]}', READ),
    "set_config in a prepared statement": (f"PREPARE p AS SELECT {FLIP}", "EXECUTE p", READ),
    "a prepared read": (f"PREPARE p AS {READ}", "EXECUTE p", f"SELECT {FLIP}", "EXECUTE p"),
    "a generic plan": (GENERIC, f"PREPARE p AS {READ}", f"SELECT {FLIP}", "EXECUTE p"),
    "a cursor": ("BEGIN", f"DECLARE c CURSOR FOR {READ}", f"SELECT {FLIP}", FETCH, "COMMIT"),
    "a cursor WITH HOLD": ("BEGIN", f"DECLARE c CURSOR WITH HOLD FOR {READ}", f"SELECT {FLIP}", "COMMIT", FETCH),
    "a savepoint": ("BEGIN", "SAVEPOINT s", f"SELECT {FLIP}", "ROLLBACK TO s", READ, f"SELECT {FLIP}", READ, "COMMIT"),
    "serializable": ("BEGIN ISOLATION LEVEL SERIALIZABLE", READ, f"SELECT {FLIP}", READ, "COMMIT"),
    "a forced parallel plan": ("SET debug_parallel_query = on", "SET parallel_setup_cost = 0", f"SELECT {FLIP}", READ),
    "RESET and the setting": ("RESET ALL", SETS, BOUND, READ),
    "DISCARD and the setting": ("DISCARD ALL", SETS, BOUND, READ),
    "no setting at all": ("RESET app.current_tenant_id", READ),
    "row_security off": ("SET row_security = off", READ),
    "search_path": ("SET search_path = pg_temp, public, tenantproxy", SETS, READ),
    "another role": ("SET ROLE tenantproxy_keeper", "SELECT * FROM tenantproxy.context_key"),
    "another user": ("SET SESSION AUTHORIZATION postgres", READ),
    "the keys": ("SELECT * FROM tenantproxy.context_key",),
    "the keys by COPY": ("COPY tenantproxy.context_key TO STDOUT",),
    "the fence": ("DELETE FROM tenantproxy.fenced_tenant", "SELECT * FROM tenantproxy.fenced_tenant"),
    "the sequences": ("SELECT setval('tenantproxy.tenant_mark', 1)",),
    "the sequences' values": ("SELECT currval('tenantproxy.tenant_mark')", "TABLE tenantproxy.tenant_mark"),
    "lastval": ("SELECT lastval()",),
    "the mark": ("SELECT tenantproxy.mark(1, 'row2')",),
    "proof_until": ("SELECT tenantproxy.proof_until('row2', %(forged)s)",),
    "replacing the function": ("CREATE OR REPLACE FUNCTION tenantproxy.bound_tenant() RETURNS text RETURN 'row2'",),
    "a function of the same name": ("CREATE FUNCTION public.bound_tenant() RETURNS text RETURN 'row2'", READ),
    "a function in pg_temp": ("CREATE FUNCTION pg_temp.set_config(text, text, bool) RETURNS text RETURN 'x'", READ),
    "dropping the policy": ("DROP POLICY tenantproxy ON projects", READ),
    "another policy": ("CREATE POLICY open ON projects USING (true)", READ),
    "switching it off": ("ALTER TABLE projects DISABLE ROW LEVEL SECURITY", READ),
    "a trigger": ("CREATE TRIGGER t BEFORE INSERT ON projects EXECUTE FUNCTION suppress_redundant_updates_trigger()",),
    "writing for another": ("INSERT INTO projects (tenant_id, name) VALUES ('row2', 'row1 was here')",),
    "moving a row": ("UPDATE projects SET tenant_id = 'row2'",),
    "changing others' rows": ("UPDATE projects SET name = 'row1 was here' WHERE tenant_id = 'row2' RETURNING name",),
    "deleting others' rows": ("DELETE FROM projects WHERE tenant_id <> 'row1' RETURNING name",),
    "MERGE": ("MERGE INTO projects p USING (VALUES ('row2')) v(t) ON p.tenant_id = v.t WHEN MATCHED THEN DELETE",),
    "ON CONFLICT": ("INSERT INTO projects (tenant_id, id, name) OVERRIDING SYSTEM VALUE VALUES ('row2', 4, 'x')"
                    " ON CONFLICT (tenant_id, id) DO UPDATE SET name = 'row1 was here' RETURNING name",),
    "TRUNCATE": ("TRUNCATE projects",),
    "COPY out": (f"SELECT {FLIP}", "COPY projects TO STDOUT"),
    "COPY from a program": ("COPY projects FROM PROGRAM 'echo'",),
    "statistics": ("SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE tablename = 'projects'",),
    "statistics of the table": ("SELECT stavalues1::text FROM pg_statistic",),
    "what others do": ("SELECT query FROM pg_stat_activity", "SELECT pg_stat_get_activity(NULL)"),
    "ending others": ("SELECT pg_terminate_backend(pid) FROM pg_locks",),
    "a file": ("SELECT pg_read_file('PG_VERSION')", "SELECT lo_import('/etc/passwd')"),
    "the whole database": ("SELECT database_to_xml(true, true, '')", "SELECT table_to_xml('projects', true, true, '')"),
    "text search": (f"SELECT * FROM ts_stat($q$SELECT to_tsvector({FLIP})$q$)", READ),
    "a forged proof": (SETS, PROVE % "%(forged)s", READ),
    "a proof of one's own": (SETS, PROVE % "%(own)s", READ),
    "an old proof": (SETS, PROVE % "%(old)s", READ),
    "a proof to come": (SETS, PROVE % "%(next)s", READ),
    "a stolen proof": (SETS, PROVE % "%(stolen)s", READ),
    "a proof for another database": (SETS, PROVE % "%(misnamed)s", READ),
    "a proof with another database's key": (SETS, PROVE % "%(foreign)s", READ),
    "binding with a forged proof": ("RESET ALL", "SELECT tenantproxy.bind('row2', %(forged)s)", READ),
    "binding with a proof of one's own": ("RESET ALL", "SELECT tenantproxy.bind('row2', %(own)s)", READ),
    "binding with an old proof": ("RESET ALL", "SELECT tenantproxy.bind('row2', %(old)s)", READ),
    "binding with a stolen proof": ("RESET ALL", "SELECT tenantproxy.bind('row2', %(stolen)s)", READ),
    "binding with a proof for any backend": ("RESET ALL", "SELECT tenantproxy.bind('row2', %(any)s)", READ),
    "binding with nothing": ("RESET ALL", "SELECT tenantproxy.bind('row2', NULL)", READ),
    "binding without a reset": ("SELECT tenantproxy.bind('row2', %(forged)s)", READ),
    "a binding rolled back": ("BEGIN", "SELECT tenantproxy.bind('row1', %(own)s)", "ROLLBACK", f"SELECT {FLIP}", READ),
}  # fmt: skip


def _proofs(world: World, pid: int) -> dict[str, str]:
    """What a thief might hold, in the order of how good it is. `own` is good, and row1's."""
    now = round(time.time() * 1_000_000)
    true, second = world.signer(), 1_000_000
    spread = {"from_us": now - 60 * second, "to_us": now + 60 * second}
    misnamed = Signer(row_key(world.shared.name), database="another")
    foreign = Signer(row_key("another"), database=world.shared.name)
    signed = {
        "own": true.sign("row1", pid=pid, **spread),
        "old": true.sign("row2", pid=pid, from_us=now - 60 * second, to_us=now - 30 * second),
        "next": true.sign("row2", pid=pid, from_us=now + 30 * second, to_us=now + 60 * second),
        "stolen": true.sign("row2", pid=pid + 1, **spread),
        "any": true.sign("row2", pid=0, **spread),
        "misnamed": misnamed.sign("row2", pid=pid, **spread),
        "foreign": foreign.sign("row2", pid=pid, **spread),
    }
    return {"forged": f"'{FORGED}'"} | {name: f"'{proof}'" for name, proof in signed.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            await admin.execute("ANALYZE projects")
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world16(postgres16: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres16) as made:
        yield made


async def _try(conn: Guard, statements: Iterable[str]) -> list[object]:
    """All that comes back, errors and notices too; an attacker goes on after an error."""
    seen: list[object] = []
    conn.add_log_listener(lambda _, message: seen.append(message.as_dict()))
    for statement in statements:
        try:
            if statement.startswith("COPY") and statement.endswith("STDOUT"):
                await conn.copy_from_query(f"TABLE {statement.split()[1]}", output=_collect(seen))
            elif ";" in statement or statement.split()[0] in ("BEGIN", "COMMIT", "DO"):
                seen.append(await conn.execute(statement))
            else:
                rows = await conn.fetch(statement)
                seen += [len(rows), *map(tuple, rows)]
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            seen.append(str(exc))
    return seen


def _collect(seen: list[object]) -> Any:
    async def sink(data: bytes) -> None:
        seen.append(data)

    return sink


async def _holds(world: World, router: Router, statements: Sequence[str]) -> None:
    async with router.tenant("row1").connection() as conn:
        proofs = _proofs(world, conn.get_server_pid())
        seen = await _try(conn, [statement % proofs if "%(" in statement else statement for statement in statements])
    assert seen
    assert "row2 " not in repr(seen)
    assert "\\x36" not in repr(seen), "a key was read"
    for tenant in ("row2", "row1"):
        assert await own_rows(router.tenant(tenant)) == rows_of(tenant)


@pytest.mark.parametrize("statements", ATTACKS.values(), ids=[name.replace(" ", "_") for name in ATTACKS])
async def test_hostile_sql_of_a_row_tenant_reaches_nobody_else(one_world: World, statements: Sequence[str]) -> None:
    async with one_connection(one_world) as router:
        await _holds(one_world, router, statements)


async def test_hostile_sql_of_a_row_tenant_reaches_nobody_else_on_postgresql_16(one_world16: World) -> None:
    async with one_connection(one_world16) as router:
        for statements in ATTACKS.values():
            await _holds(one_world16, router, statements)


async def test_a_good_proof_is_what_the_thief_lacks(one_world: World) -> None:
    """The attacks above would succeed with the real thing: they fail for what they lack, not by a mistake in them."""
    async with one_connection(one_world) as router, router.tenant("row1").connection() as conn:
        now = round(time.time() * 1_000_000)
        proof = one_world.signer().sign("row2", pid=conn.get_server_pid(), from_us=now - 10**6, to_us=now + 10**7)
        await conn.execute("RESET ALL")
        assert await conn.fetchval("SELECT tenantproxy.bind('row2', $1)", proof) == "row2"
        assert await own_rows(conn) == rows_of("row2")


async def test_dropping_all_that_the_role_owns_opens_nothing(postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, schemas=0, databases=0) as world, one_connection(world) as router:
        async with router.tenant("row1").connection() as conn:
            seen = await _try(conn, [f"DROP OWNED BY {APP_ROLE}", f"SELECT {FLIP}", READ])
        assert "row2 " not in repr(seen)
        assert await own_rows(router.tenant("row2")) == rows_of("row2")


async def test_a_proof_that_others_could_see_is_used_up(one_world: World) -> None:
    async with one_world.shared.connect() as admin, one_connection(one_world) as router:
        assert await own_rows(router.tenant("row2")) == rows_of("row2")
        async with router.tenant("row1").connection() as conn:  # it was another one's: a proof was sent
            seen = await admin.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", conn.get_server_pid())
            proof = re.search(r"SELECT tenantproxy\.enter\('row1'.*$", seen)
            assert proof is not None, seen
        async with router.tenant("row2").connection() as conn:
            await conn.execute("RESET ALL")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="proof of tenancy is not valid"):
                await conn.execute(proof[0])
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant"):
                await conn.execute(READ)


async def test_no_statement_that_is_kept_holds_a_proof(one_world: World) -> None:
    async with one_connection(one_world) as router:
        async with router.tenant("row1").connection() as conn:
            texts = driver_statements(conn).values()
            assert any("tenantproxy.hello()" in text for text in texts)
            assert not any(re.search("[0-9a-f]{32}", text) for text in texts)
            assert await conn.fetchval("SELECT current_setting('app.tenant_proof')") == "bound"


SECRET: Final = "4711 of row1"
PREPARED: Final = f"SELECT count(*) FROM projects WHERE name <> '{SECRET}'"
READ_TEXTS: Final = (
    "SELECT statement FROM pg_prepared_statements", "SELECT statement FROM pg_prepared_statement()", "TABLE pg_cursors",
    "SELECT tenantproxy.prepared_check(0)", "SELECT tenantproxy.prepared_check(999)", "TABLE pg_stat_activity",
    "SELECT pg_stat_get_backend_activity(1)", "TABLE pg_backend_memory_contexts",
)  # fmt: skip


def _explain(names: Iterable[str]) -> str:
    """Tells the plans of all statements prepared under `names`, with the literals in them."""
    array = ", ".join(f"'{name}'" for name in names)
    return f"""DO $$ DECLARE name text; line text; BEGIN
      FOREACH name IN ARRAY ARRAY[{array}] LOOP
        BEGIN
          FOR line IN EXECUTE format('EXPLAIN EXECUTE %I', name) LOOP RAISE NOTICE '%', line; END LOOP;
        EXCEPTION WHEN others THEN
        END;
      END LOOP;
    END $$"""


def _guesses() -> Iterable[str]:
    """The last names that the driver gives when it is left to itself: it counts."""
    driver: Any = asyncpg.connection
    return (f"__asyncpg_stmt_{n:x}__" for n in range(max(0, driver._uid - 3000), driver._uid + 1))


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_no_text_of_a_statement_that_was_prepared_for_another_tenant_can_be_read(
    each_world: World, reset: Any
) -> None:
    async with one_connection(each_world, reset=reset) as router:
        async with router.tenant("row1").connection() as conn:
            pid = conn.get_server_pid()
            assert await conn.fetchval(PREPARED) == 3
        async with router.tenant("row2").connection() as conn:
            assert conn.get_server_pid() == pid
            names = {text: name for name, text in driver_statements(conn).items()}
            seen = await _try(conn, [*READ_TEXTS, _explain(_guesses())])
            assert SECRET not in repr(seen)
            assert seen[:2] == ["permission denied for function pg_prepared_statement"] * 2
            # It can be read by every session that knows its name, so all rests on a name that cannot be guessed.
            assert SECRET in repr(await _try(conn, [_explain([names[PREPARED]])]))
        assert await own_rows(router.tenant("row1")) == rows_of("row1")


# --- read replicas: carried proofs -----------------------------------------------------------------------------------
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_replicated() -> AsyncIterator[Replicated]:
    async with a_replicated_world(rows=2, schemas=0, databases=0) as made:
        yield made


def _flipped(proof: str, tenant: str) -> list[str]:
    return [
        f"SET app.current_tenant_id = '{tenant}'; SET app.tenant_proof = '{proof}'",
        READ,
    ]


async def _proof_of(conn: Guard) -> str:
    proof: str = await conn.fetchval("SELECT current_setting('app.tenant_proof')")
    assert proof.startswith("v1.1.")
    return proof


async def test_a_carried_proof_is_of_no_use_to_another_tenant_or_on_another_backend(one_replicated: Replicated) -> None:
    servers = one_replicated.servers()
    async with one_connection(one_replicated.world, servers=servers, pools={"max_size": 2, "shared_size": 2}) as router:
        one, two = (router.tenant(name, replica=True) for name in ("row1", "row2"))
        async with one.connection() as thief, two.connection() as victim:
            assert await own_rows(thief) == rows_of("row1")
            assert await own_rows(victim) == rows_of("row2")
            own, stolen = await _proof_of(thief), await _proof_of(victim)
            assert "row2 " not in repr(await _try(thief, _flipped(own, "row2")))
            assert "row2 " not in repr(await _try(thief, _flipped(stolen, "row2")))
            assert "row2 " not in repr(
                await _try(thief, ["RESET ALL", f"SELECT tenantproxy.bind('row2', '{stolen}')", READ])
            )
            assert await own_rows(victim) == rows_of("row2")
        for scope in (one, two, one):
            assert await own_rows(scope) == rows_of(scope.id)


async def test_a_carried_session_goes_to_the_next_tenant_clean(one_replicated: Replicated) -> None:
    async with one_connection(one_replicated.world, servers=one_replicated.servers()) as router:
        one, two = (router.tenant(name, replica=True) for name in ("row1", "row2"))
        async with one.connection() as conn:
            pid, own = conn.get_server_pid(), await _proof_of(conn)
            await conn.execute("SET app.evil = 'x'; SELECT setseed(0.5)")
            foreseen = await conn.fetchval("SELECT random()")
            await conn.execute("SELECT setseed(0.5)")
        async with two.connection() as conn:
            assert conn.get_server_pid() == pid
            assert await conn.fetchval("SELECT random()") != foreseen
            assert await _proof_of(conn) != own
            assert await own_rows(conn) == rows_of("row2")


_FENCE: Final = "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ('row1', 'a test')"
_UNFENCE: Final = "DELETE FROM tenantproxy.fenced_tenant"
_END_KEY: Final = "UPDATE tenantproxy.context_key SET not_after = now()"
_RENEW_KEY: Final = "UPDATE tenantproxy.context_key SET not_after = 'infinity'"


@pytest.mark.parametrize(("stop", "go_on"), [(_FENCE, _UNFENCE), (_END_KEY, _RENEW_KEY)])
async def test_a_carried_proof_outlives_neither_its_tenants_fence_nor_its_key(
    one_replicated: Replicated, stop: str, go_on: str
) -> None:
    world, servers = one_replicated.world, one_replicated.servers()
    async with world.shared.connect() as admin, one_connection(world, servers=servers) as router:
        async with router.tenant("row1", replica=True).connection() as conn:
            assert await own_rows(conn) == rows_of("row1")
            await admin.execute(stop)
            try:
                await one_replicated.standby.catch_up()
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant context"):
                    await own_rows(conn)
            finally:
                await admin.execute(go_on)
                await one_replicated.standby.catch_up()


# --- schemas and databases with a role of their own ------------------------------------------------------------------
ROLE_SECRET: Final = b"the secret all passwords of roles come from"


@pytest_asyncio.fixture
async def walled(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """A world where each schema and database tenant also has a login role; the others' are closed to it."""
    async with a_world(postgres, rows=0, schemas=0, databases=0) as world:
        async with world.shared.connect() as admin:
            for name in ("s1", "s2", "d1", "d2"):
                await ensure_role(admin, f"only_{name}", password=role_password(ROLE_SECRET, "primary", f"only_{name}"))
            await admin.execute(
                f'GRANT CONNECT ON DATABASE "{world.shared.name}" TO only_s1, only_s2;'
                f' REVOKE CONNECT ON DATABASE "{world.shared.name}" FROM {APP_ROLE}'
            )

        async def connect(name: str) -> asyncpg.Connection:
            return await Database(server=world.server, name=name).open()

        for name in ("s1", "s2"):
            statements = [OWN_PROJECTS, f"INSERT INTO projects (name) VALUES ('{name} 1')"]
            await provision_schema(
                connect, database=world.shared.name, schema=name, role=f"only_{name}", statements=statements
            )
        for name in ("d1", "d2"):
            statements = [OWN_PROJECTS, f"INSERT INTO projects (name) VALUES ('{name} 1')"]
            await provision_database(
                connect, database=f"{world.shared.name}_{name}", role=f"only_{name}", statements=statements
            )
        try:
            yield world
        finally:
            async with world.main.connect() as admin:
                for name in ("d1", "d2"):
                    await admin.execute(f'DROP DATABASE "{world.shared.name}_{name}" WITH (FORCE)')
            async with world.shared.connect() as admin:
                for name in ("s1", "s2"):
                    await admin.execute(f"DROP SCHEMA {name} CASCADE; DROP OWNED BY only_{name}; DROP ROLE only_{name}")
                await admin.execute("DROP ROLE only_d1; DROP ROLE only_d2")


def _walled_tenants(world: World) -> dict[str, dict[str, str]]:
    shared = world.shared.name
    schemas = {n: {"isolation": "schema", "database": shared, "schema": n, "role": f"only_{n}"} for n in ("s1", "s2")}
    return schemas | {
        n: {"isolation": "database", "database": f"{shared}_{n}", "role": f"only_{n}"} for n in ("d1", "d2")
    }


async def test_schema_and_database_tenants_with_roles_of_their_own_reach_only_their_own(walled: World) -> None:
    extra: dict[str, Any] = {"tenants": _walled_tenants(walled), "tenant_roles": {"key": ROLE_SECRET.decode()}}
    attacks = (
        "SET search_path = s1, s2", READ, "SELECT name FROM s1.projects", "SELECT name FROM s2.projects",
        "INSERT INTO s2.projects (name) VALUES ('x')", "SET ROLE only_s2", "SET SESSION AUTHORIZATION only_s2",
        "RESET ROLE", f"SET ROLE {APP_ROLE}", READ, "CREATE SCHEMA mine", "CREATE TABLE public.mine (n int)",
        "SELECT table_to_xml('s2.projects', true, true, '')", "ALTER ROLE only_s2 PASSWORD 'mine'",
        "ALTER SCHEMA s2 RENAME TO mine", "GRANT USAGE ON SCHEMA s2 TO only_s1", "SELECT query FROM pg_stat_activity",
    )  # fmt: skip
    async with one_connection(walled, **extra) as router:
        for name in ("s1", "s2", "d1", "d2"):
            assert await own_rows(router.tenant(name)) == [f"{name} 1"]
        for thief, victim in (("s1", "s2"), ("s2", "s1"), ("d1", "d2"), ("d1", "s1")):
            async with router.tenant(thief).connection() as conn:
                seen = await _try(conn, [attack.replace("s2", victim) for attack in attacks])
            assert f"{victim} 1" not in repr(seen)
            assert await own_rows(router.tenant(victim)) == [f"{victim} 1"]
            assert await own_rows(router.tenant(thief)) == [f"{thief} 1"]
    for role, place in (("only_d1", "d2"), ("only_d2", "d1"), ("only_s1", "d1")):
        database = Database(server=walled.server, name=f"{walled.shared.name}_{place}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
            await database.open(role, role_password(ROLE_SECRET, "primary", role))


async def test_a_schema_tenant_finds_nothing_outside_its_schema_without_naming_it(one_world: World) -> None:
    async with one_connection(one_world) as router, router.tenant("schema1").connection() as conn:
        assert await conn.fetchval("SHOW search_path") == '"schema1"'
        await conn.execute("RESET ALL")
        assert await conn.fetchval("SHOW search_path") == '"schema1"'
        with pytest.raises(asyncpg.UndefinedTableError):
            await conn.fetch("SELECT * FROM no_such_table")
        assert await own_rows(conn) == rows_of("schema1")


@pytest.mark.parametrize("size", [2, 6])
async def test_sessions_that_one_tenant_soiled_cost_the_next_one_no_more_than_their_replacement(
    postgres: EmbeddedPostgres, size: int
) -> None:
    async with a_world(postgres, rows=2, schemas=0, databases=0) as world:
        pools = {"max_size": size, "shared_size": size, "acquire_timeout": 20.0}
        async with one_connection(world, reset="on_tenant_change", pools=pools) as router:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(size):
                    conn = await stack.enter_async_context(router.tenant("row1").connection())
                    await conn.execute("DO $$ BEGIN EXECUTE 'PRE' || 'PARE mine AS SELECT 1'; END $$")
            assert await own_rows(router.tenant("row2")) == rows_of("row2")
            assert router.stats().resets["failed"] == size, "one with leftovers served it, or was not tried"


# --- chance ----------------------------------------------------------------------------------------------------------
TENANTS: Final = 20
LEASES: Final = 2_400
POISONS: Final = (
    "SET app.current_tenant_id = 'row7'", "SET search_path = pg_catalog", "SET statement_timeout = '1ms'",
    "PREPARE mine AS SELECT 1", "DO $$ BEGIN EXECUTE 'PRE' || 'PARE mine AS SELECT 1'; END $$", "RESET ALL",
    "DISCARD ALL", "LISTEN news", "BEGIN; SET LOCAL app.current_tenant_id = 'row3'", "DEALLOCATE ALL",
    "SET standard_conforming_strings = off", "SELECT pg_advisory_lock(1)", "SET row_security = off",
    "DO $$ BEGIN EXECUTE 'DISC' || 'ARD SEQUENCES'; END $$",
)  # fmt: skip


class Monkey:
    """Does at random what tenants do, and notes every row that came to the wrong one."""

    def __init__(self, router: Router, dice: random.Random, reset: str) -> None:
        self._router = router
        self._dice = dice
        self._acts = (
            [self._read] * 8 + [self._write] * 3 + [self._poison] * 4
            + [self._fail, self._time_out, self._leave, self._cancel, self._end, self._linger]
        )  # fmt: skip
        self.wrong: list[tuple[str, str]] = []
        self.leases = 0
        self.own_wounds = 0
        # A tenant that hides a DISCARD SEQUENCES or a RESET ALL from us is without a tenant next time; where
        # sessions are kept for their tenant, its search_path and statement_timeout are too.
        self._self_inflicted = {"42501", "55000"} | ({"42P01", "57014"} if reset == "on_tenant_change" else set())
        self.refused: list[str] = []

    async def run(self, leases: int) -> None:
        for _ in range(leases):
            scope = self._router.tenant(f"row{self._dice.randint(1, TENANTS)}")
            try:
                await self._dice.choice(self._acts)(scope)
            except TenantProxyError as exc:
                self.refused.append(f"{type(exc).__name__}: {exc}")
            except asyncpg.PostgresError as exc:
                if exc.sqlstate not in self._self_inflicted:
                    raise
                self.own_wounds += 1
            self.leases += 1

    def _look(self, scope: TenantScope, rows: Iterable[Any]) -> None:
        self.wrong += [(scope.id, row["name"]) for row in rows if not row["name"].startswith(f"{scope.id} ")]

    async def _read(self, scope: TenantScope) -> None:
        rows = await scope.fetch(READ)
        assert len(rows) >= 3, scope
        self._look(scope, rows)

    async def _write(self, scope: TenantScope) -> None:
        async with scope.transaction() as conn:
            self._look(scope, await conn.fetch("UPDATE projects SET name = name RETURNING name"))
            await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, $2)", scope.id, f"{scope.id} more")

    async def _poison(self, scope: TenantScope) -> None:
        async with scope.connection() as conn:
            self._look(scope, await conn.fetch(READ))
            for poison in self._dice.sample(POISONS, self._dice.randint(1, 3)):
                with contextlib.suppress(asyncpg.PostgresError):
                    await conn.execute(poison)
                    self._look(scope, await conn.fetch(READ))

    async def _fail(self, scope: TenantScope) -> None:
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            async with scope.transaction() as conn:
                self._look(scope, await conn.fetch(READ))
                await conn.execute("SELECT 1/0")

    async def _time_out(self, scope: TenantScope) -> None:
        async with scope.connection() as conn:
            with pytest.raises(TimeoutError):
                await conn.fetch("SELECT pg_sleep(60), name FROM projects", timeout=0.002)

    async def _leave(self, scope: TenantScope) -> None:
        async with scope.connection() as conn:
            await conn.transaction().start()
            self._look(scope, [row async for row in conn.cursor(READ, prefetch=1)])

    async def _cancel(self, scope: TenantScope) -> None:
        task = asyncio.create_task(scope.fetch(READ))
        for _ in range(self._dice.randint(0, 6)):
            await asyncio.sleep(0)
        task.cancel()
        try:
            self._look(scope, await task)
        except asyncio.CancelledError:
            pass

    async def _end(self, scope: TenantScope) -> None:
        async with scope.connection() as conn:
            self._look(scope, await conn.fetch(READ))
            conn.terminate()

    async def _linger(self, scope: TenantScope) -> None:
        async with scope.connection() as conn:
            for _ in range(5):
                self._look(scope, await conn.fetch(READ))


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_no_row_of_another_tenant_in_thousands_of_mixed_leases(postgres: EmbeddedPostgres, reset: Any) -> None:
    dice = random.Random(20)
    async with a_world(postgres, rows=TENANTS, schemas=0, databases=0) as world:
        pools = {"max_size": 3, "shared_size": 3, "acquire_timeout": 20.0}
        async with one_connection(world, reset=reset, pools=pools) as router:
            monkeys = [Monkey(router, random.Random(dice.random()), reset) for _ in range(8)]
            async with asyncio.TaskGroup() as group:
                for monkey in monkeys:
                    group.create_task(monkey.run(LEASES // len(monkeys)))
            stats = router.stats()
        assert [wrong for monkey in monkeys for wrong in monkey.wrong] == []
        assert [refused for monkey in monkeys for refused in monkey.refused] == []
        assert sum(monkey.leases for monkey in monkeys) == LEASES
        assert sum(monkey.own_wounds for monkey in monkeys) < LEASES / 10, "most leases were of use"
        assert stats.resets["ok"] > 0
        async with world.shared.connect() as admin:
            misplaced = "SELECT count(*) FROM projects WHERE NOT starts_with(name, tenant_id || ' ')"
            assert await admin.fetchval(misplaced) == 0
