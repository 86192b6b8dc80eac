"""Does the audit find what no catalogue tells alone: configuration against server, installation, files, clocks?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from tenantproxy.config import Settings, load
from tenantproxy.demo.world import APP_ROLE, MAIN, SERVER, SHARED, World
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.doctor.repair import repair
from tests.integration.doctor.conftest import OLDER
from tests.integration.doctor.test_faults import GROUPS, clean, codes, look, run
from tests.support.doctor_faults import FAULTS, PlantedFault
from tests.support.waiting import until


def changed(world: World, section: str, **keys: Any) -> Settings:
    """The demo's configuration with some keys of one section changed."""
    settings = load(world.config)
    part = getattr(settings, section)
    if isinstance(part, Mapping):
        return settings.model_copy(update={section: {**part, **keys}})
    return settings.model_copy(update={section: part.model_copy(update=keys)})


async def installed(world: World) -> None:
    """What `tenantproxy install` does in the shared database."""
    secret = (world.config.parent / "row_key").read_bytes()
    conn = await world.connect(SHARED)
    try:
        await install(conn, app_role=APP_ROLE, keys={1: derive_key(secret, server=SERVER, database=SHARED, kid=1)})
    finally:
        await conn.close()


@pytest.mark.parametrize(
    ("code", "plant"),
    [
        ("TPD111", "DROP FUNCTION tenantproxy.enter(text, integer, bigint, text, bigint)"),
        ("TPD112", "CREATE OR REPLACE FUNCTION tenantproxy.prepared_check(expected bigint) RETURNS boolean LANGUAGE"
         " sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT true'"),
        ("TPD112", "ALTER FUNCTION tenantproxy.bind(text, text) SECURITY INVOKER"),
        ("TPD112", "DROP FUNCTION tenantproxy.sign_context(text, text)"),
        ("TPD115", "UPDATE tenantproxy.context_key SET ipad = opad"),
        ("TPD115", "DELETE FROM tenantproxy.context_key"),
    ],
)  # fmt: skip
async def test_an_installation_that_was_changed_is_told_until_it_is_done_again(
    sick: World, code: str, plant: str
) -> None:
    await run(sick, SHARED, plant)
    assert codes(await look(sick)) == [code]
    await installed(sick)
    assert await clean(sick)


async def test_the_trusted_form_that_is_not_installed_is_told(sick: World) -> None:
    assert codes(await examine(changed(sick, "row", form="trusted"))) == ["TPD117"]


async def test_rows_that_are_not_signed_are_told(sick: World) -> None:
    assert codes(await examine(changed(sick, "row", signed=False))) == ["TPD118"]


async def test_budgets_beyond_the_servers_connections_are_told(sick: World) -> None:
    settings = load(sick.config)
    server = settings.servers[SERVER]
    both = {SERVER: server, "again": server.model_copy(update={"max_connections": 90})}
    report = await examine(settings.model_copy(update={"servers": both}))
    assert [(each.code, each.object) for each in report.findings] == [
        ("TPD041", "[servers.again] and [servers.primary]")
    ]


async def test_a_registered_database_that_does_not_exist_is_told(sick: World) -> None:
    wayne = load(sick.config).tenants["wayne"]
    gone = wayne.model_copy(update={"database": "gone", "role": "demo_wayne"})
    report = await examine(changed(sick, "tenants", gone=gone))
    assert [(each.code, each.object) for each in report.findings] == [("TPD056", "gone")]


async def test_a_registered_role_that_does_not_exist_is_told(sick: World) -> None:
    initech = load(sick.config).tenants["initech"].model_copy(update={"role": "nothing"})
    found = {each.code: each for each in (await examine(changed(sick, "tenants", initech=initech))).findings}
    assert found["TPD016"].object == "nothing"
    assert found["TPD016"].sql == ("CREATE ROLE nothing LOGIN NOINHERIT",)


async def test_schema_tenants_that_share_a_role_are_told(sick: World) -> None:
    hooli = load(sick.config).tenants["hooli"].model_copy(update={"role": "demo_initech"})
    found = await examine(changed(sick, "tenants", hooli=hooli))
    assert "TPD067" in codes(found)


async def test_a_clock_that_differs_is_told(sick: World) -> None:
    report = await examine(load(sick.config), clock=lambda: time.time() + 5.0)
    assert codes(report) == ["TPD039"]


async def test_a_key_that_others_can_read_is_told(sick: World) -> None:
    key = sick.config.parent / "row_key"
    key.chmod(0o644)
    try:
        report = await look(sick)
        assert [(each.code, each.object) for each in report.findings] == [("TPD042", "row.key")]
    finally:
        key.chmod(0o600)


async def test_a_password_that_is_not_the_servers_is_told(sick: World) -> None:
    await run(sick, MAIN, f"ALTER ROLE {APP_ROLE} PASSWORD 'another'")
    try:
        assert codes(await look(sick)) == ["TPD006"]
    finally:
        await run(sick, MAIN, f"ALTER ROLE {APP_ROLE} PASSWORD '{sick.password(APP_ROLE)}'")


async def test_a_line_of_pg_hba_that_trusts_is_told(sick: World) -> None:
    hba = sick.server.data_dir / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all demo_wayne 127.0.0.1/32 trust\n{before}")
    try:
        await run(sick, MAIN, "SELECT pg_reload_conf()")
        report = await look(sick)
        assert [(each.code, each.object) for each in report.findings] == [("TPD035", "1")]
        assert "host connections to all as demo_wayne from 127.0.0.1" in report.findings[0].what
    finally:
        hba.write_text(before)
        await run(sick, MAIN, "SELECT pg_reload_conf()")


async def test_a_password_that_is_stored_as_md5_is_told(sick: World) -> None:
    await run(sick, MAIN, "SET password_encryption = md5; ALTER ROLE demo_wayne PASSWORD 'x'")
    try:
        assert codes(await look(sick)) == ["TPD037"]
    finally:
        await run(sick, MAIN, f"ALTER ROLE demo_wayne PASSWORD '{sick.password('demo_wayne')}'")


async def test_prepared_transactions_are_told_until_the_server_is_restarted_without(sick: World) -> None:
    await run(sick, MAIN, "ALTER SYSTEM SET max_prepared_transactions = 5")
    sick.server.stop()
    sick.server.start()
    report = await look(sick)
    assert codes(report) == ["TPD032"]
    await run(sick, MAIN, *report.findings[0].sql)
    sick.server.stop()
    sick.server.start()
    assert await clean(sick)


async def test_a_tenant_whose_making_was_interrupted_is_told_and_is_no_orphan(sick: World) -> None:
    await run(
        sick,
        MAIN,
        "CREATE TABLE tenantproxy.sagas (id int, tenant text, state text, error text, wanted jsonb, holder uuid,"
        " seen_at timestamptz, updated_at timestamptz)",
        "INSERT INTO tenantproxy.sagas VALUES (1, 'initrode', 'has_role', NULL, '{\"role\": \"tenant_initrode\"}',"
        " NULL, NULL, now() - interval '1 hour')",
        "CREATE ROLE tenant_initrode LOGIN",
    )
    try:
        report = await look(sick)
        assert [(each.code, each.object) for each in report.findings] == [("TPD007", "initrode")]
    finally:
        await run(sick, MAIN, "DROP TABLE tenantproxy.sagas", "DROP ROLE tenant_initrode")


async def test_fix_repairs_what_is_safe_and_nothing_else(sick: World) -> None:
    group = max(GROUPS, key=len)
    for fault in group:
        await run(sick, fault.database, *fault.plant)
    try:
        before = (await look(sick)).findings
        done = await repair(load(sick.config), before)
        assert {each.error for each in done} == {""}
        assert {each.finding for each in done} == {each for each in before if each.rule.is_safe}
        left = (await look(sick)).findings
        assert set(left) == {each for each in before if not each.rule.is_safe}
        for finding in left:
            await run(sick, finding.database or MAIN, *finding.sql)
    finally:
        for fault in group:
            await run(sick, fault.database, *fault.cleared)
    await until(lambda: clean(sick), "nothing is found", timeout=20.0)


@pytest.mark.parametrize("each_sick", [OLDER[-1]], indirect=True, ids=lambda version: f"pg{version}")
@pytest.mark.parametrize("fault", [each for each in FAULTS if each.needs_contrib], ids=lambda fault: fault.name)
async def test_extensions_that_reach_out_are_told(each_sick: World, fault: PlantedFault) -> None:
    try:
        await run(each_sick, fault.database, *fault.plant)
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError):
        pytest.skip("this PostgreSQL comes without contrib: apt-get install postgresql")
    report = await look(each_sick)
    assert (fault.code, fault.object) in {(each.code, each.object) for each in report.findings}
    assert {each.code for each in report.findings} == {fault.code}
    for finding in report.findings:
        await run(each_sick, finding.database, *finding.sql)
    assert await clean(each_sick)
    await run(each_sick, fault.database, *fault.cleared)
