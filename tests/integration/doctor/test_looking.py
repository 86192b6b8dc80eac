"""What does the audit tell where it cannot see everything, and how much of a server does it take?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.config import Server, ServerAdmin, Settings, load
from tenantproxy.config.secret import Secret
from tenantproxy.demo.world import APP_ROLE, MAIN, SERVER, SHARED, World
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.doctor.repair import repair
from tests.integration.doctor.test_faults import codes, look, run
from tests.support.pooler import PGBOUNCER, a_pgbouncer
from tests.support.world import a_world


def with_server(world: World, **keys: object) -> Settings:
    settings = load(world.config)
    server: Server = settings.servers[SERVER].model_copy(update=keys)
    return settings.model_copy(update={"servers": {SERVER: server}})


async def test_without_admin_credentials_it_is_told_what_was_not_seen(sick: World) -> None:
    report = await examine(with_server(sick, admin=None))
    assert set(codes(report)) == {"TPD003"}
    assert report.exit_code == 0
    told = " ".join(each.what for each in report.findings)
    for what in ("pg_hba.conf", "stored keys"):
        assert what in told
    await run(sick, SHARED, "ALTER TABLE projects DISABLE ROW LEVEL SECURITY")
    report = await examine(with_server(sick, admin=None))
    assert "TPD081" in codes(report)
    await run(sick, SHARED, "ALTER TABLE projects ENABLE ROW LEVEL SECURITY")


async def test_an_administrator_without_superuser_sees_what_roles_reach(sick: World) -> None:
    await run(sick, MAIN, "CREATE ROLE warden LOGIN CREATEROLE PASSWORD 'warden'")
    for database in (MAIN, SHARED, "demo_schemas", "demo_wayne", "demo_umbrella"):
        await run(sick, MAIN, f"GRANT CONNECT ON DATABASE {database} TO warden")
    settings = with_server(sick, admin=ServerAdmin(user="warden", password=Secret.inline("warden")))
    try:
        assert set(codes(await examine(settings))) == {"TPD003"}
        await run(sick, "demo_schemas", "GRANT USAGE ON SCHEMA tenant_hooli TO demo_initech")
        assert "TPD062" in codes(await examine(settings))
        await run(sick, "demo_schemas", "REVOKE USAGE ON SCHEMA tenant_hooli FROM demo_initech")
    finally:
        for database in (MAIN, SHARED, "demo_schemas", "demo_wayne", "demo_umbrella"):
            await run(sick, MAIN, f"REVOKE CONNECT ON DATABASE {database} FROM warden")
        await run(sick, MAIN, "DROP ROLE warden")


async def test_nothing_is_repaired_without_admin_credentials(sick: World) -> None:
    await run(sick, SHARED, "ALTER TABLE projects NO FORCE ROW LEVEL SECURITY")
    report = await look(sick)
    with pytest.raises(ConfigurationError, match=r"servers.primary.admin: is missing"):
        await repair(with_server(sick, admin=None), report.findings)
    assert codes(await look(sick)) == ["TPD084"]
    await run(sick, SHARED, *report.findings[0].sql)


async def test_a_table_that_is_locked_is_told_and_stops_no_other_database(sick: World) -> None:
    holder = await sick.connect(SHARED)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE")
            report = await look(sick)
        assert [(each.code, each.database) for each in report.findings] == [("TPD002", SHARED)]
        assert report.exit_code == 2
    finally:
        await holder.close()


async def test_a_server_that_does_not_answer_is_told_and_is_not_clean(sick: World) -> None:
    sick.server.stop()
    try:
        report = await look(sick)
    finally:
        sick.server.start()
    assert codes(report) == ["TPD001"]
    assert "Connect call failed" in report.findings[0].what
    assert report.exit_code == 2


async def test_an_unknown_tenant_is_refused(sick: World) -> None:
    with pytest.raises(ConfigurationError, match="no tenant 'none' is registered"):
        await examine(load(sick.config), tenants=["none"])


async def test_what_is_known_can_be_left_out(sick: World) -> None:
    await run(sick, SHARED, f"GRANT TRUNCATE ON projects TO {APP_ROLE}")
    settings = load(sick.config)
    for ignored in ("TPD093", "TPD093:public.projects"):
        assert (await examine(settings, ignored=[ignored])).findings == ()
    assert codes(await examine(settings, ignored=["TPD093:public.users"])) == ["TPD093"]
    assert codes(await examine(settings, tenants=["wayne"])) == []
    assert codes(await examine(settings, tenants=["acme"])) == ["TPD093"]
    await run(sick, SHARED, f"REVOKE TRUNCATE ON projects FROM {APP_ROLE}")


async def test_never_more_than_four_connections_and_a_tenth_of_the_budget(sick: World) -> None:
    settings = load(sick.config)
    wayne = settings.tenants["wayne"]
    many = {f"wayne{number}": wayne.model_copy(update={"database": f"many_{number}"}) for number in range(12)}
    await run(sick, MAIN, *(f"CREATE DATABASE many_{number} TEMPLATE demo_wayne" for number in range(12)))
    watch = await sick.connect(MAIN)
    watching: asyncio.Task[None] | None = None
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            mine = await watch.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            most = max(most, mine)

    try:
        for budget, limit in ((40, 4), (20, 2)):
            most = 0
            watching = asyncio.create_task(count())
            server = settings.servers[SERVER].model_copy(update={"max_connections": budget})
            report = await examine(settings.model_copy(update={"tenants": many, "servers": {SERVER: server}}))
            watching.cancel()
            assert report.databases == 13
            assert 1 <= most <= limit
    finally:
        if watching is not None:
            await asyncio.gather(watching, return_exceptions=True)
        await watch.close()
        await run(sick, MAIN, *(f"DROP DATABASE many_{number} WITH (FORCE)" for number in range(12)))


@pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")
async def test_a_pooler_that_no_configuration_names_is_told(postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, schemas=0, databases=0) as world:
        with a_pgbouncer(postgres) as port:
            settings = world.settings(servers={"primary": {"port": port, "admin": None}})
            assert "TPD038" in codes(await examine(settings))
            server = settings.servers["primary"].model_copy(update={"pooler": "pgbouncer"})
            named = settings.model_copy(update={"servers": {"primary": server}})
            assert "TPD038" not in codes(await examine(named))
