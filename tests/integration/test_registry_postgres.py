"""Does the registry in PostgreSQL hold what it should, refuse what it must, and tell of each change?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import RegistryUnavailable, TenantNotFound
from tenantproxy.model import Limits, tenant_id
from tenantproxy.notifications import Listener
from tenantproxy.registry import (
    SCHEMA_SQL,
    CachedRegistry,
    PostgresRegistry,
    RowReader,
    TenantMisconfigured,
)
from tenantproxy.registry.postgres import CHANNEL
from tenantproxy.sidecar.tenant_pages import page_of
from tests.contracts.main_database import MainDatabase
from tests.support.database import Database, fresh_database
from tests.support.waiting import PATIENCE, until

ACME = tenant_id("acme")
READER = RowReader(default_server="primary", servers={"primary"})
INSERT = "insert into tenantproxy.tenants (id, isolation, database, schema) values ($1, $2, $3, $4)"


@pytest.fixture
async def installed(database: Database) -> Database:
    async with database.connect() as conn:
        await conn.execute(SCHEMA_SQL)
        await conn.execute(INSERT, "acme", "database", "acme_db", None)
    return database


async def test_installing_again_changes_nothing_on_every_version(each_database: Database) -> None:
    async with each_database.connect() as conn:
        await conn.execute(SCHEMA_SQL)
        await conn.execute(INSERT, "acme", "schema", "shared", "acme")
        await conn.execute(SCHEMA_SQL)
        assert await conn.fetchval("select count(*) from tenantproxy.tenants") == 1
        assert await conn.fetchval("select array_agg(version) from tenantproxy.registry_version") == [1]


async def test_two_installers_at_once_do_not_collide(database: Database) -> None:
    async def install() -> None:
        async with database.connect() as conn:
            await conn.execute(SCHEMA_SQL)

    await asyncio.gather(*(install() for _ in range(4)))
    async with database.connect() as conn:
        assert await conn.fetchval("select count(*) from tenantproxy.registry_version") == 1


async def test_a_newer_registry_is_not_downgraded(installed: Database) -> None:
    async with installed.connect() as conn:
        await conn.execute("insert into tenantproxy.registry_version (version) values (99)")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="newer release"):
            await conn.execute(SCHEMA_SQL)


async def test_a_reader_needs_no_more_than_usage_and_select(installed: Database) -> None:
    reader = f"reader_{uuid4().hex[:8]}"
    async with installed.connect() as conn:
        await conn.execute(f"create role {reader} login password 'sesame'")
    main = MainDatabase(installed, user=reader, password="sesame")
    registry = PostgresRegistry(main, reader=READER)
    try:
        with pytest.raises(RegistryUnavailable, match="grant the main database's user SELECT"):
            await registry.get(ACME)
        async with installed.connect() as conn:
            await conn.execute(
                f"grant usage on schema tenantproxy to {reader}; grant select on tenantproxy.tenants to {reader}"
            )
        assert (await registry.get(ACME)).id == "acme"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await main.fetch("update tenantproxy.tenants set status = 'active'")
    finally:
        async with installed.connect() as conn:
            await conn.execute(f"drop owned by {reader}; drop role {reader}")


MISTAKABLE = [
    (("o'brien", "row", "shared", None), "tenants_id_check"),
    (("x" * 64, "row", "shared", None), "tenants_id_check"),
    ((".hidden", "row", "shared", None), "tenants_id_check"),
    (("_hidden", "row", "shared", None), "tenants_id_check"),
    (("line\n", "row", "shared", None), "tenants_id_check"),
    (("Acme", "row", "shared", None), "tenants_id_any_case"),
    (("b", "rows", "shared", None), "tenants_isolation_check"),
    (("b", "database", "Acme_DB", None), "tenants_database_any_case"),
    (("b", "database", "d" * 64, None), "tenants_database_check"),
    (("b", "schema", "shared", None), "tenants_schema_of_its_kind"),
    (("b", "database", "b_db", "s"), "tenants_schema_of_its_kind"),
    (("b", "schema", "shared", "pg_toast"), "tenants_schema_check"),
    (("b", "schema", "shared", "FIRST"), "tenants_schema_any_case"),
]


async def test_the_table_refuses_what_could_be_mistaken(installed: Database) -> None:
    async with installed.connect() as conn:
        await conn.execute(INSERT, "first", "schema", "shared", "first")
        for row, constraint in MISTAKABLE:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
                await conn.execute(INSERT, *row)
            assert caught.value.constraint_name == constraint, row


async def test_every_column_of_our_own_table_is_read(installed: Database) -> None:
    async with installed.connect() as conn:
        await conn.execute("""update tenantproxy.tenants set isolation = 'schema', schema = 'acme', role = 't_acme',
            tier = 'gold', region = 'eu', epoch = 7, max_size = 3, max_waiting = 4, acquire_timeout = 1.5,
            settings = '{"plan": "pro"}', systems = '{"crm": "acme_crm"}'""")
    tenant = await PostgresRegistry(MainDatabase(installed), reader=READER).get(ACME)
    assert (tenant.placement.schema, tenant.placement.role, tenant.tier, tenant.region) == (
        "acme",
        "t_acme",
        "gold",
        "eu",
    )
    assert (tenant.epoch, tenant.limits) == (7, Limits(max_size=3, max_waiting=4, acquire_timeout=1.5))
    assert (tenant.settings, tenant.systems) == ({"plan": "pro"}, {"crm": "acme_crm"})


async def test_a_row_that_cannot_be_used_fails_for_that_tenant_and_is_told_in_the_listing(installed: Database) -> None:
    async with installed.connect() as conn:
        await conn.execute(INSERT, "b", "row", "shared", None)
        await conn.execute("update tenantproxy.tenants set server = 'elsewhere' where id = 'acme'")
    registry = PostgresRegistry(MainDatabase(installed), reader=READER)
    with pytest.raises(TenantMisconfigured, match=r"column server: names 'elsewhere'.*add \[servers.elsewhere\]"):
        await registry.get(ACME)
    assert [one.id async for one in registry.tenants()] == ["b"]
    assert "column server" in registry.unusable["acme"]


def _foreign(database: Database, query: str, list_query: str | None = None) -> PostgresRegistry:
    return PostgresRegistry(MainDatabase(database), reader=READER, query=query, list_query=list_query)


async def test_an_id_that_is_no_uuid_is_unknown_in_a_table_of_uuids(database: Database) -> None:
    name = str(uuid4())
    async with database.connect() as conn:
        await conn.execute("create table clients (id uuid primary key, db text)")
        await conn.execute("insert into clients values ($1, 'd')", name)
    registry = _foreign(database, "select id, 'database' as isolation, db as database from clients where id = $1")
    assert (await registry.get(tenant_id(name))).id == name
    for other in ("acme", str(uuid4()), name.upper()):
        with pytest.raises(TenantNotFound):
            await registry.get(tenant_id(other))


UNWORKABLE: list[tuple[str, type[RegistryUnavailable], list[str]]] = [
    ("select 1 from nowhere where $1 = 'x'", RegistryUnavailable, ["42P01", "create the table"]),
    ("select nothing where $1 = 'x'", RegistryUnavailable, ["42703", "does not exist"]),
    ("selec $1", RegistryUnavailable, ["42601", "correct registry.query"]),
    ("select 1 where $1::int = 1", TenantMisconfigured, ["registry.query", "$1 is text"]),
    ("select 1 / (length($1::text) - 4)", TenantMisconfigured, ["registry.query", "22012"]),
    ("select $1::text as name", TenantMisconfigured, ["column id", "select the tenant's identifier as id"]),
    ("select $1::text as id", TenantMisconfigured, ["column isolation", "missing"]),
    ("select $1::text as id from generate_series(1, 2)", TenantMisconfigured, ["2 rows", "unique"]),
]


async def test_a_query_that_cannot_work_says_why(database: Database) -> None:
    for query, kind, words in UNWORKABLE:
        with pytest.raises(RegistryUnavailable) as caught:
            await _foreign(database, query).get(ACME)
        assert type(caught.value) is kind, query
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


async def test_a_listing_that_does_not_advance_ends_with_an_error(database: Database) -> None:
    same = "select 'a' as id, 'row' as isolation, 'x' as database from generate_series(1, $2) where $1 <> 'zz'"
    registry = _foreign(database, "select 1 where $1 = ''", same)
    with pytest.raises(RegistryUnavailable, match="the same page again"):
        async for _ in registry.tenants():
            pass


async def test_a_page_far_into_ten_thousand_tenants_is_one_question(installed: Database) -> None:
    async with installed.connect() as conn:
        await conn.execute(
            "insert into tenantproxy.tenants (id, isolation, schema, database)"
            " select 't' || lpad(n::text, 5, '0'), 'schema', 's' || n, 'shared' from generate_series(1, 10000) n"
        )
    asked: list[object] = []

    class CountedDatabase(MainDatabase):
        async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
            asked.append(args)
            return await super().fetch(sql, *args, timeout=timeout)

    registry = PostgresRegistry(CountedDatabase(installed), reader=RowReader(default_server="primary"))
    page, following = await page_of(CachedRegistry(registry).tenants_after("t09000"), 100, lambda tenant: True)
    assert [page[0].id, page[-1].id, following] == ["t09001", "t09100", "t09100"]
    assert asked == [("t09000", 500)]


async def test_a_listing_without_a_query_says_what_to_configure(database: Database) -> None:
    with pytest.raises(RegistryUnavailable, match=r"registry\.list_query"):
        async for _ in _foreign(database, "select 1 where $1 = ''").tenants():
            pass


async def test_known_tenants_survive_the_main_database_and_unknown_ones_are_told(
    own_postgres: EmbeddedPostgres,
) -> None:
    async with fresh_database(own_postgres) as database:
        async with database.connect() as conn:
            await conn.execute(SCHEMA_SQL)
            await conn.execute(INSERT, "acme", "database", "acme_db", None)
        cached = CachedRegistry(PostgresRegistry(MainDatabase(database), reader=READER))
        known = await cached.get(ACME)
        own_postgres.stop()
        cached.invalidate(None)
        assert await cached.get(ACME) is known
        with pytest.raises(RegistryUnavailable, match="the registry: "):
            await cached.get(tenant_id("globex"))
        own_postgres.start()
        cached.invalidate(None)
        assert await cached.get(ACME) == known
        assert not cached.degraded
        await cached.close()


@asynccontextmanager
async def listening(
    database: Database, heartbeat: float = 30.0, heartbeat_timeout: float = 5.0
) -> AsyncIterator[tuple[CachedRegistry, Listener, MainDatabase]]:
    main = MainDatabase(database)
    cached = CachedRegistry(PostgresRegistry(main, reader=READER), ttl=3600, negative_ttl=3600)
    listener = Listener(main, jitter=lambda: 0.0, heartbeat=heartbeat, heartbeat_timeout=heartbeat_timeout)
    listener.hear(CHANNEL, cached.invalidate)
    listener.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await listener.listening.wait()
        yield cached, listener, main
    finally:
        await listener.stop()
        await cached.close()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("update tenantproxy.tenants set status = 'suspended' where id = 'acme'", "suspended"),
        ("delete from tenantproxy.tenants where id = 'acme'", None),
        ("update tenantproxy.tenants set id = 'renamed' where id = 'acme'", None),
        ("truncate tenantproxy.tenants", None),
    ],
)
async def test_a_change_of_the_table_is_heard_before_the_ttl(
    installed: Database, change: str, status: str | None
) -> None:
    async with listening(installed) as (cached, _, _main):
        assert (await cached.get(ACME)).status == "active"
        async with installed.connect() as conn:
            await conn.execute(change)
        await until(lambda: cached.peek("acme") is None, "the change was heard")
        if status is None:
            with pytest.raises(TenantNotFound):
                await cached.get(ACME)
        else:
            assert (await cached.get(ACME)).status == status


async def test_a_new_tenant_is_served_at_once_although_it_was_unknown_a_moment_ago(installed: Database) -> None:
    async with listening(installed) as (cached, _, _main):
        with pytest.raises(TenantNotFound):
            await cached.get(tenant_id("globex"))
        async with installed.connect() as conn:
            await conn.execute(INSERT, "globex", "database", "globex_db", None)

        async def found() -> bool:
            with contextlib.suppress(TenantNotFound):
                return (await cached.get(tenant_id("globex"))).id == "globex"
            return False

        await until(found, "the new tenant is found")


async def test_a_lost_connection_is_replaced_and_what_changed_meanwhile_is_asked_again(installed: Database) -> None:
    async with listening(installed) as (cached, listener, main):
        await cached.get(ACME)
        async with installed.connect() as conn:
            await conn.execute("select pg_terminate_backend($1, 5000)", main.pids[0])
            await conn.execute("update tenantproxy.tenants set status = 'paused' where id = 'acme'")
        await until(lambda: listener.connects >= 2 and listener.listening.is_set(), "it listens again")
        assert (await cached.get(ACME)).status == "paused"


async def test_a_connection_that_fell_silent_is_found_out(installed: Database) -> None:
    async with listening(installed, heartbeat=0.05, heartbeat_timeout=0.2) as (_cached, listener, main):
        async with installed.connect() as conn:
            pid = main.pids[0]
            os.kill(pid, signal.SIGSTOP)
            try:
                await until(lambda: listener.connects >= 2, "it listens on another connection")
            finally:
                os.kill(pid, signal.SIGCONT)
            assert await conn.fetchval("select 1") == 1


async def test_stopping_ends_the_connection_and_the_task(installed: Database) -> None:
    async with listening(installed) as (_cached, listener, main):
        await listener.stop()
        assert not listener.listening.is_set()
        assert [task for task in asyncio.all_tasks() if "listener" in task.get_name()] == []

        async def gone() -> bool:
            async with installed.connect() as conn:
                return not await conn.fetchval("select count(*) from pg_stat_activity where pid = $1", main.pids[0])

        await until(gone, "the backend is gone")


async def test_channels_share_one_connection_and_each_hears_its_own_alone(installed: Database) -> None:
    heard: dict[str, list[str | None]] = {"news": [], "weather": []}
    async with listening(installed) as (_cached, listener, main), installed.connect() as conn:
        ends = [listener.hear(channel, said.append) for channel, said in heard.items()]
        await until(listener.listening.is_set, "it listens to them too")
        await conn.execute("NOTIFY news, 'a king'; NOTIFY weather, 'rain'")
        await until(lambda: len(heard["weather"]) == 2, "both are heard")
        assert heard == {"news": [None, "a king"], "weather": [None, "rain"]}
        assert len(main.pids) == 1
        ends[0]()
        await until(listener.listening.is_set, "one is left out")
        await conn.execute("NOTIFY news, 'a queen'; NOTIFY weather, 'snow'")
        await until(lambda: len(heard["weather"]) == 3, "the other is still heard")
        assert heard["news"] == [None, "a king"]


async def test_a_listener_that_nobody_needs_holds_no_connection(installed: Database) -> None:
    main = MainDatabase(installed)
    listener = Listener(main)
    listener.start()
    stop = listener.hear("news", lambda _: None)
    await until(listener.listening.is_set, "it listens")
    stop()
    await until(lambda: not listener.listening.is_set() and not listener.is_wanted, "it let go")
    async with installed.connect() as conn:

        async def gone() -> bool:
            return not await conn.fetchval("select count(*) from pg_stat_activity where pid = $1", main.pids[0])

        await until(gone, "the backend is gone")
    await listener.stop()
