"""Does a tenant come to its new place whole, whatever dies on the way, and lose no write while it is moved?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantPaused
from tenantproxy.lifecycle.change_store import ChangeHeld
from tenantproxy.lifecycle.install import ensure_keeper
from tenantproxy.lifecycle.move import Moved, MoveFailed, MoveOptions, Mover, MoveState, structure
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.lifecycle.status import delete
from tenantproxy.model import Isolation, Placement, tenant_id
from tenantproxy.notifications import ROLL_CALL, Listener
from tests.conftest import EVERY_VERSION
from tests.support.database import Database
from tests.support.lasting import lasting as kept
from tests.support.made_tenants import everything
from tests.support.mortal import Mortality
from tests.support.waiting import PATIENCE, until
from tests.support.world import APP_PASSWORD, APP_ROLE, OWN_PROJECTS, ROLE_SECRET, World, a_world

DATABASE, SCHEMA, ROW = Isolation.DATABASE, Isolation.SCHEMA, Isolation.ROW
EVERY: Final = int(os.environ.get("TENANTPROXY_TEST_EVERY", "23"))
FILE: Final = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mood mood DEFAULT 'sad',
  doc jsonb, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project bigint NOT NULL REFERENCES projects,
  at timestamptz);
CREATE INDEX tasks_project ON tasks (project);
CREATE VIEW happy AS SELECT * FROM projects WHERE mood = 'happy';
CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM projects';
INSERT INTO projects (name, mood, doc)
  SELECT 'p' || n, 'happy', jsonb_build_object('n', n) FROM generate_series(1, 50) n;
INSERT INTO tasks (project, at) SELECT id, now() FROM projects;
"""


def served_by(server: EmbeddedPostgres) -> dict[str, Any]:
    """The configuration of a server."""
    place: dict[str, Any] = {"host": server.host, "port": server.port, "user": APP_ROLE, "password": APP_PASSWORD}
    admin = {"user": server.superuser, "password": server.password}
    return {**place, "ssl": "disable", "max_connections": 20, "admin": admin}


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """The world's server, and a second one, which has a database for schema tenants too."""

    world: World
    second: EmbeddedPostgres
    names: Iterator[str]

    def settings(self, folder: Path, text: str = FILE, *, servers: Mapping[str, Any] | None = None) -> Settings:
        return Settings.from_mapping(self.mapping(folder, text, servers=servers))

    def mapping(
        self, folder: Path, text: str = FILE, *, servers: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        path = folder / "schema.sql"
        path.write_text(text)
        provision = {"shared_database": self.world.shared.name, "sql_files": [str(path)]}
        others = {"second": served_by(self.second), **(servers or {})}
        return self.world.mapping(registry="postgres", provision=provision, servers=others, main={"max_size": 3})

    async def everything(self) -> dict[str, set[str]]:
        async with Database(server=self.second, name="postgres").connect() as conn:
            found = {
                "second databases": {row[0] for row in await conn.fetch("SELECT datname FROM pg_database")},
                "second roles": {row[0] for row in await conn.fetch("SELECT rolname FROM pg_roles")},
                "second subscriptions": {row[0] for row in await conn.fetch("SELECT subname FROM pg_subscription")},
            }
        async with self.world.main.connect() as conn:
            found["slots"] = {row[0] for row in await conn.fetch("SELECT slot_name FROM pg_replication_slots")}
        return await everything(self.world) | found


@asynccontextmanager
async def two_servers() -> AsyncIterator[Two]:
    logical = {"wal_level": "logical", "max_wal_senders": "8", "max_replication_slots": "8"}
    logical["max_prepared_transactions"] = "2"
    with (
        EmbeddedPostgres(version=18, durable=False, max_connections=80, settings=logical) as first,
        EmbeddedPostgres(version=18, durable=False, max_connections=60) as second,
    ):
        async with a_world(first, rows=1, schemas=0, databases=0) as world:
            async with Database(server=second, name="postgres").connect() as conn:
                await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
                await ensure_keeper(conn)
                await conn.execute(f'CREATE DATABASE "{world.shared.name}"')
                await conn.execute(f'REVOKE ALL ON DATABASE "{world.shared.name}" FROM PUBLIC')
            yield Two(world=world, second=second, names=iter(f"m{number}" for number in range(10_000)))


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with kept(two_servers()) as both:
        yield both


@pytest.fixture
async def unchanged(two: Two) -> AsyncIterator[None]:
    before = await two.everything()
    yield
    assert await two.everything() == before


@pytest.fixture
def settings(two: Two, tmp_path: Path) -> Settings:
    return two.settings(tmp_path)


async def a_tenant(two: Two, settings: Settings, kind: Isolation) -> str:
    name = next(two.names)
    async with Provisioner(settings).open() as making:
        await making.create(wanted(settings, name, isolation=kind))
    return name


async def moved(settings: Settings, name: str, **options: Any) -> Any:
    async with Mover(settings).open() as mover:
        return await mover.move(name, MoveOptions(**{"drop_old": True, **options}))


async def heard(router: Router, name: str, place: Placement) -> None:
    """The router knows of the move: the announcement may come behind its end."""
    await until(
        lambda: (known := router.registry.peek(name)) is None or known.placement == place, "the move was heard of"
    )


async def remove(settings: Settings, name: str) -> None:
    await delete(settings, name, grace_days=0, no_backup=True)


CONTENT: Final = """
SELECT (SELECT md5(string_agg(p::text, '|' ORDER BY id)) FROM projects p), (SELECT count(*) FROM tasks),
  (SELECT count(*) FROM happy), how_many(), (SELECT count(*) FROM tasks t JOIN projects p ON p.id = t.project)
"""

ROUNDS: Final = [
    pytest.param(DATABASE, [{"server": "second"}, {"server": "primary"}], id="database to server and back"),
    pytest.param(SCHEMA, [{"isolation": DATABASE}, {"isolation": SCHEMA}], id="schema to database and back"),
    pytest.param(
        SCHEMA,
        [{"server": "second"}, {"isolation": DATABASE, "server": "primary"}, {"isolation": SCHEMA, "server": "second"}],
        id="schema to server, to a database of the first, to a schema of the second",
    ),
]


@pytest.mark.parametrize(("kind", "moves"), ROUNDS)
async def test_a_tenant_has_the_same_rows_and_goes_on_at_each_new_place(
    two: Two, settings: Settings, unchanged: None, kind: Isolation, moves: list[dict[str, Any]]
) -> None:
    name = await a_tenant(two, settings, kind)
    async with Router(settings) as router:
        await router.listener.listening.wait()
        scope = router.tenant(name)
        for number, options in enumerate(moves):
            before = await scope.fetchrow(CONTENT)
            result = await moved(settings, name, **options)
            assert (result.rows, result.left) == (100 + 2 * number, ())
            await heard(router, name, result.placement)
            assert await scope.fetchrow(CONTENT) == before
            last = await scope.fetchval("SELECT max(id) FROM projects")
            made = await scope.fetchval("INSERT INTO projects (name) VALUES ('new') RETURNING id")
            assert made > last, "its sequence goes on"
            await scope.execute("INSERT INTO tasks (project) VALUES ($1)", made)
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await scope.execute("INSERT INTO tasks (project) VALUES (-1)")
    await remove(settings, name)


ROUND_OF_ROWS: Final[list[dict[str, Any]]] = [
    {"isolation": SCHEMA, "server": "second"},
    {"isolation": DATABASE, "server": "primary"},
    {"isolation": ROW},
    {"isolation": SCHEMA},
]


async def test_rows_leave_shared_tables_and_come_back_to_them(two: Two, tmp_path: Path, unchanged: None) -> None:
    settings = two.settings(tmp_path, f"{OWN_PROJECTS}; INSERT INTO projects (name) VALUES ('of the file');")
    name = await a_tenant(two, settings, ROW)
    names = "SELECT array_agg(name ORDER BY id) FROM projects"
    async with Router(settings) as router:
        await router.listener.listening.wait()
        scope = router.tenant(name)
        await scope.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'one'), ($1, 'two')", name)
        expected = ["one", "two"]
        for number, options in enumerate(ROUND_OF_ROWS):
            result = await moved(settings, name, **options)
            assert (result.rows, result.left) == (len(expected), ())
            await heard(router, name, result.placement)
            assert await scope.fetchval(names) == expected
            whose = ", tenant_id" if options["isolation"] is ROW else ""
            value = f", '{name}'" if whose else ""
            await scope.execute(f"INSERT INTO projects (name{whose}) VALUES ('new {number}'{value})")
            expected.append(f"new {number}")
            assert await scope.fetchval(names) == expected
        async with two.world.shared.connect() as shared:
            assert await shared.fetchval("SELECT count(*) FROM projects WHERE tenant_id = 'row1'") == 3
            await shared.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'former')", name)
            with pytest.raises(ConfigurationError, match=r"holds something .*: rows in public\.projects"):
                await moved(settings, name, isolation=ROW)
            await shared.execute("DELETE FROM projects WHERE tenant_id = $1", name)
        await scope.execute("INSERT INTO projects (id, name) OVERRIDING SYSTEM VALUE VALUES (99999999, 'wide')")
    other = two.settings(tmp_path, "CREATE TABLE elsewhere (id int)")
    row = await a_tenant(two, other, ROW)
    async with two.world.shared.connect() as shared:
        await shared.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'mine')", row)
    with pytest.raises(MoveFailed, match="the new place has none of: projects"):
        await moved(other, row, isolation=SCHEMA)
    async with Router(settings) as router:
        assert await router.tenant(row).fetchval(names) == ["mine"]
    await remove(settings, row)
    await remove(settings, name)


class Writers:
    """Several that insert numbered rows, each for itself, and remember what was acknowledged."""

    def __init__(self, router: Router, tenant: str) -> None:
        self.acknowledged: list[str] = []
        self.uncertain: list[str] = []
        self._scope = router.tenant(tenant)
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def _write(self, number: int) -> None:
        count = 0
        while not self._is_over:
            count += 1
            name = f"w{number} {count}"
            try:
                await self._scope.execute("INSERT INTO projects (name) VALUES ($1)", name)
            except TenantPaused:
                continue
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self.uncertain.append(name)
            else:
                self.acknowledged.append(name)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        self._tasks = [asyncio.ensure_future(self._write(number)) for number in range(4)]
        await until(lambda: len(self.acknowledged) > 50, "they write")
        try:
            yield
            now = len(self.acknowledged)
            await until(lambda: len(self.acknowledged) > now + 50, "they go on writing")
        finally:
            self._is_over = True
            await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("replicate", [True, False], ids=["followed", "copied"])
async def test_no_acknowledged_write_is_lost_or_doubled_while_a_tenant_is_moved(
    two: Two, settings: Settings, unchanged: None, replicate: bool, figure: Callable[[str, object], None]
) -> None:
    name = await a_tenant(two, settings, DATABASE)
    async with Router(settings) as router:
        await router.listener.listening.wait()
        writers = Writers(router, name)
        async with writers.writing():
            result = await moved(settings, name, server="second", replicate=replicate)
        assert result.followed is replicate
        await heard(router, name, result.placement)
        figure("paused_seconds", result.paused_seconds)
        rows = await router.tenant(name).fetch(
            "SELECT name, count(*) AS n FROM projects WHERE name LIKE 'w%' GROUP BY 1"
        )
        assert all(row["n"] == 1 for row in rows), "doubled"
        found = {row["name"] for row in rows}
        assert set(writers.acknowledged) <= found, "lost"
        assert found <= {*writers.acknowledged, *writers.uncertain}
        assert await router.tenant(name).fetchval("SELECT inet_server_port()") == two.second.port
    await remove(settings, name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(DATABASE, {"server": "second"}, id="followed"),
        pytest.param(SCHEMA, {"isolation": DATABASE}, id="copied"),
    ],
)
async def test_a_process_that_dies_behind_any_statement_leaves_the_old_place_serving(
    two: Two, settings: Settings, kind: Isolation, options: Mapping[str, Any]
) -> None:
    name = await a_tenant(two, settings, kind)
    before, last, deaths = await two.everything(), 0, 0
    while True:
        last += EVERY
        dying = Mortality(two.world, last, others={"second": two.second})
        try:
            async with Mover(settings, dying.connect()).open() as mover:
                await mover.move(name, MoveOptions(**options))
        except (MoveFailed, OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        if not dying.is_dead:
            break
        deaths += 1
        async with two.world.main.connect() as conn:
            await conn.execute("UPDATE tenantproxy.sagas SET seen_at = now() - interval '5 minutes'")
            where = await conn.fetchrow("SELECT server, status FROM tenantproxy.tenants WHERE id = $1", name)
        async with Mover(settings).open() as mover:
            was_begun = await mover.abort(name)
        assert where is not None
        if not was_begun and await two.everything() != before:
            break  # it died behind its last step
        assert await two.everything() == before
        async with Router(settings) as router:
            assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == 50
            await router.tenant(name).execute("UPDATE projects SET name = name")
    assert deaths > 3
    await remove(settings, name)


async def test_a_move_that_cannot_be_is_refused_before_anything_is_begun(
    two: Two, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(two, settings, DATABASE)
    async with Database(server=two.second, name="postgres").connect() as conn, Mover(settings).open() as mover:
        for options, told in (
            (MoveOptions(), "is a database tenant on primary already"),
            (MoveOptions(server="elsewhere"), r"there is no \[servers.elsewhere\]"),
        ):
            with pytest.raises(ConfigurationError, match=told):
                await mover.move(name, options)
        await conn.execute(f"CREATE DATABASE tenant_{name}")
        with pytest.raises(ConfigurationError, match=f"holds something under its name already: database tenant_{name}"):
            await mover.move(name, MoveOptions(server="second"))
        assert await conn.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", f"tenant_{name}") == 1
        await conn.execute(f"DROP DATABASE tenant_{name}")
        await delete(settings, name, grace_days=3)
        with pytest.raises(ConfigurationError, match="is being deleted"):
            await mover.move(name, MoveOptions(server="second"))
    await remove(settings, name)


async def test_what_was_closed_to_a_tenant_is_closed_at_its_new_place_too(
    two: Two, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(two, settings, SCHEMA)
    async with two.world.main.connect() as conn:
        row = await conn.fetchrow("SELECT schema, role FROM tenantproxy.tenants WHERE id = $1", name)
    assert row is not None
    schema, role = row
    async with two.world.shared.connect() as conn:
        await conn.execute(
            f"SET search_path = {schema}; REVOKE UPDATE, DELETE ON projects FROM {role};"
            f" REVOKE USAGE ON SEQUENCE projects_id_seq FROM {role};"
            " CREATE FUNCTION liked(mood) RETURNS bool LANGUAGE sql AS 'SELECT $1 = $1';"
            " CREATE FUNCTION liked(text) RETURNS bool LANGUAGE sql AS 'SELECT true';"
            " REVOKE EXECUTE ON FUNCTION liked(mood) FROM PUBLIC;"
            f" CREATE POLICY own ON projects AS RESTRICTIVE TO {role} USING (name <> ' TO x')"
        )
    for options, where in (
        ({"isolation": DATABASE}, two.world.server),
        ({"server": "second"}, two.second),
    ):
        place = (await moved(settings, name, **options)).placement
        async with Database(server=where, name=place.database).connect() as conn:
            may = "SELECT {0} FROM unnest($2::text[]) WITH ORDINALITY AS p (p, n) ORDER BY n"
            tables = await conn.fetch(
                may.format("has_table_privilege($1, 'projects', p)"), place.role,
                ["SELECT", "INSERT", "UPDATE", "DELETE"],
            )  # fmt: skip
            assert [row[0] for row in tables] == [True, True, False, False]
            sequences = await conn.fetch(
                may.format("has_sequence_privilege($1, 'projects_id_seq', p)"), place.role, ["USAGE", "SELECT"]
            )
            assert [row[0] for row in sequences] == [False, True]
            functions = await conn.fetch(
                may.format("has_function_privilege($1, p, 'EXECUTE')"), place.role,
                ["liked(mood)", "liked(text)", "how_many()"],
            )  # fmt: skip
            assert [row[0] for row in functions] == [False, True, True]
            assert await conn.fetchval("SELECT roles::text[] FROM pg_policies") == [place.role]
    await remove(settings, name)


async def test_what_belongs_to_the_tenants_own_role_does_not_become_the_admin_users(
    two: Two, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(two, settings, SCHEMA)
    async with two.world.main.connect() as conn:
        row = await conn.fetchrow("SELECT schema, role FROM tenantproxy.tenants WHERE id = $1", name)
    assert row is not None
    schema, role = row
    async with two.world.shared.connect() as conn:
        await conn.execute(f"ALTER FUNCTION {schema}.how_many() OWNER TO {role}")
        for options in ({"server": "second"}, {"isolation": ROW}):
            with pytest.raises(ConfigurationError, match=f"belong to the tenant's own role .{role}."):
                await moved(settings, name, **options)
        await conn.execute(
            f"CREATE ROLE {name}_maker; ALTER FUNCTION {schema}.how_many() OWNER TO {name}_maker;"
            f" ALTER FUNCTION {schema}.how_many() SECURITY DEFINER"
        )
        with pytest.raises(ConfigurationError, match=r"would run as a superuser: .*how_many\(\)"):
            await moved(settings, name, server="second")
        await conn.execute(f"DROP FUNCTION {schema}.how_many(); DROP ROLE {name}_maker")
        await conn.execute(f"GRANT CREATE ON SCHEMA {schema} TO {role}")
        with pytest.raises(ConfigurationError, match=f"lets the tenant's role create things in SCHEMA {schema}"):
            await moved(settings, name, server="second")
    await remove(settings, name)


async def test_rows_do_not_leave_while_a_prepared_transaction_may_write_some_later(
    two: Two, tmp_path: Path, unchanged: None
) -> None:
    settings = two.settings(tmp_path, OWN_PROJECTS)
    name = await a_tenant(two, settings, ROW)
    async with two.world.shared.connect() as conn:
        await conn.execute("BEGIN")
        await conn.execute("SELECT pg_current_xact_id()")
        await conn.execute("PREPARE TRANSACTION 'later'")
        with pytest.raises(MoveFailed, match="has prepared transactions"):
            await moved(settings, name, isolation=SCHEMA)
        await conn.execute("ROLLBACK PREPARED 'later'")
    await remove(settings, name)


async def test_a_tenant_that_is_being_moved_is_not_deleted(two: Two, settings: Settings, unchanged: None) -> None:
    name = await a_tenant(two, settings, DATABASE)
    asked: list[MoveState] = []

    async def refused(state: MoveState) -> None:
        asked.append(state)
        if state is not MoveState.ACTIVE:
            with pytest.raises(ConfigurationError, match="is being moved"):
                await delete(settings, name, grace_days=0, no_backup=True)

    async with Mover(settings, told=refused).open() as mover:
        await mover.move(name, MoveOptions(server="second", drop_old=True))
    assert asked[-1] is MoveState.ACTIVE
    await remove(settings, name)


async def test_rows_that_differ_at_the_new_place_undo_the_move(two: Two, settings: Settings, unchanged: None) -> None:
    name = await a_tenant(two, settings, DATABASE)

    async def meddle(state: MoveState) -> None:
        if state is MoveState.COPIED:
            async with Database(server=two.second, name=f"tenant_{name}").connect() as conn:
                await conn.execute("UPDATE projects SET doc = '{}' WHERE id = 7")

    async with Mover(settings, told=meddle).open() as mover:
        with pytest.raises(MoveFailed, match=r'rows differ .*"public"\."projects"'):
            await mover.move(name, MoveOptions(server="second"))
    async with Router(settings) as router:
        assert await router.tenant(name).fetchval("SELECT doc FROM projects WHERE id = 7") == '{"n": 7}'
        await router.tenant(name).execute("UPDATE projects SET name = name")
    await remove(settings, name)


async def test_a_lock_that_is_never_let_go_keeps_no_move(
    two: Two, settings: Settings, unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "_PATIENCE", 1.0)
    name = await a_tenant(two, settings, DATABASE)
    async with Database(server=two.world.server, name=f"tenant_{name}").connect() as conn:
        await conn.execute("BEGIN; LOCK TABLE happy IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(MoveFailed, match=r"could not be read within 1 s"):
            await moved(settings, name, server="second")
        await conn.execute("ROLLBACK")
    async with Router(settings) as router:
        assert await router.tenant(name).fetchval("SELECT count(*) FROM happy") == 50
    await remove(settings, name)


async def test_the_old_place_is_closed_to_a_process_that_hears_of_nothing(
    two: Two, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(two, settings, DATABASE)
    role = f"tenant_{name}"
    result = await moved(settings, name, server="second", drop_old=False)
    assert result.left == (f"database primary/tenant_{name}", f"role {role}")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await Database(server=two.world.server, name=role).open(role, role_password(ROLE_SECRET, "primary", role))
    async with two.world.main.connect() as conn:
        await conn.execute(f"DROP DATABASE tenant_{name}")
        await conn.execute(f"DROP ROLE {role}")
    await remove(settings, name)


async def test_requests_wait_for_a_pause_and_are_told_when_it_lasts(two: Two, settings: Settings) -> None:
    name = await a_tenant(two, settings, SCHEMA)
    long, short = (
        settings.model_copy(update={"pools": settings.pools.model_copy(update={"acquire_timeout": seconds})})
        for seconds in (PATIENCE, 1.0)
    )
    async with Router(long) as patient, Router(short) as hasty, two.world.main.connect() as conn:
        for router in (patient, hasty):
            await router.listener.listening.wait()
            await router.tenant(name).fetchval("SELECT 1", timeout=PATIENCE)
        set_to = "UPDATE tenantproxy.tenants SET status = $2 WHERE id = $1"
        await conn.execute(set_to, name, "paused")
        await until(lambda: patient.routes.is_paused(tenant_id(name)), "it was heard")
        await until(lambda: hasty.routes.is_paused(tenant_id(name)), "it was heard")
        waiting = asyncio.ensure_future(patient.tenant(name).fetchval("SELECT 1"))
        with pytest.raises(TenantPaused):
            await hasty.tenant(name).fetchval("SELECT 1")
        with pytest.raises(TenantPaused):
            await patient.tenant(name).fetchval("SELECT 1", timeout=0.05)
        assert not waiting.done()
        await conn.execute(set_to, name, "active")
        assert await waiting == 1
    await remove(settings, name)


async def test_a_tenant_moves_to_a_newer_server_and_never_to_an_older_one(
    two: Two, settings: Settings, tmp_path: Path, unchanged: None
) -> None:
    with EmbeddedPostgres(version=EVERY_VERSION[-1], durable=False) as older:
        async with Database(server=older, name="postgres").connect() as conn:
            await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
        mixed = two.settings(tmp_path, servers={"older": served_by(older)})
        async with Provisioner(mixed).open() as making:
            await making.create(wanted(mixed, name := next(two.names), server="older"))
        result = await moved(mixed, name, server="second")
        async with Router(settings) as router:
            assert await router.tenant(name).fetchrow(CONTENT) is not None
        assert (result.rows, result.placement.server) == (100, "second")
        with pytest.raises(ConfigurationError, match=f"is PostgreSQL {older.version}, older than 18"):
            await moved(mixed, name, server="older")
    await remove(settings, name)


async def test_two_operators_move_one_tenant_once(two: Two, settings: Settings, unchanged: None) -> None:
    name = await a_tenant(two, settings, SCHEMA)
    both = await asyncio.gather(*(moved(settings, name, isolation=DATABASE) for _ in range(2)), return_exceptions=True)
    (done,) = [each for each in both if isinstance(each, Moved)]
    (refused,) = [each for each in both if not isinstance(each, Moved)]
    assert isinstance(refused, ConfigurationError | ChangeHeld | MoveFailed)
    async with Router(settings) as router:
        assert await router.tenant(name).fetchval("SELECT current_database()") == done.placement.database
        assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == 50
    await remove(settings, name)


async def test_a_connection_lost_in_the_middle_of_a_move_leaves_the_old_place_serving(
    two: Two, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(two, settings, SCHEMA)
    end = "SELECT count(pg_terminate_backend(pid, 9999)) FROM pg_stat_activity WHERE starts_with(datname, $1)"

    async def cut(state: MoveState) -> None:
        if state is MoveState.COPIED:
            async with two.world.main.connect() as conn:
                assert await conn.fetchval(end, f"tenant_{name}")

    async with Mover(settings, told=cut).open() as mover:
        with pytest.raises(MoveFailed, match="could not be moved"):
            await mover.move(name, MoveOptions(isolation=DATABASE))
    async with Router(settings) as router:
        assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == 50
        await router.tenant(name).execute("UPDATE projects SET name = name")
    await remove(settings, name)


async def test_no_request_of_a_row_tenant_is_refused_though_its_process_hears_late(
    two: Two, tmp_path: Path, unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = two.settings(tmp_path, OWN_PROJECTS)
    name = await a_tenant(two, settings, ROW)
    hears, late, is_called, answers, is_over = Listener._announced, list[Any](), False, 0, False

    def when_the_roll_is_called(*announced: Any) -> None:
        nonlocal is_called
        late.append(announced)
        is_called = is_called or announced[-2] == ROLL_CALL
        while is_called and late:
            hears(*late.pop(0))

    async def call(router: Router) -> None:
        nonlocal answers
        while not is_over:
            assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == 0
            answers += 1

    monkeypatch.setattr(Listener, "_announced", when_the_roll_is_called)
    async with Router(settings) as router:
        await router.listener.listening.wait()
        calling = [asyncio.ensure_future(call(router)) for _ in range(2)]
        await until(lambda: answers > 20, "they are answered")
        await moved(settings, name, isolation=SCHEMA, drain=60.0)
        now = answers
        await until(lambda: answers > now + 20 or any(each.done() for each in calling), "they go on")
        is_over = True
        await asyncio.gather(*calling)
    await remove(settings, name)
