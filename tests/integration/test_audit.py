"""Are logins, failures and ends of sessions in the audit table, and does the table never hold up a login?"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantproxy.auth.audit import AuditTable
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError
from tenantproxy.events import Event, LoggedOut, LoginFailed, PoolOpened
from tenantproxy.router import Router
from tests.contracts.main_database import MainDatabase
from tests.support.logins import PASSWORD, failure, login_settings, populate
from tests.support.waiting import until
from tests.support.world import APP_PASSWORD, APP_ROLE, World, a_world


async def with_people(world: World) -> None:
    await populate(world, {"database1": ["dan@example.org"]})


@pytest.fixture
async def people(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, furnish=with_people) as made:
        yield made


@pytest.fixture
def main(people: World) -> MainDatabase:
    return MainDatabase(people.main, user=APP_ROLE, password=APP_PASSWORD)


@pytest.fixture
async def audit(main: MainDatabase) -> AsyncIterator[AuditTable]:
    made = AuditTable(main, max_queued=100, retry_seconds=0.01)
    yield made
    await made.close()


async def rows(world: World) -> list[asyncpg.Record]:
    async with world.main.connect() as admin:
        return await admin.fetch("SELECT * FROM tenantproxy.audit_log ORDER BY id")


def failed(number: int) -> Event:
    return LoginFailed(account=f"{number}", address="192.0.2.1", reason="refused")


async def test_who_logs_in_fails_or_is_logged_out_is_written_by_the_router(people: World) -> None:
    async with Router(login_settings(people, audit={"table": True})) as router:
        await router.login("dan@example.org", PASSWORD, address="192.0.2.9")
        await failure(router.login("dan@example.org", "guess what", address="192.0.2.9"))
        await router.end_sessions("database1", "database1-1")
        assert router.audit is not None
    assert (router.audit.written, router.audit.lost) == (3, 0)  # the last of them while it closed
    succeeded, wrong, ended = await rows(people)
    assert (succeeded["kind"], succeeded["tenant"], succeeded["user_id"]) == (
        "login_succeeded", "database1", "database1-1",
    )  # fmt: skip
    assert (wrong["kind"], wrong["account"], wrong["address"]) == ("login_failed", succeeded["account"], "192.0.2.9")
    assert (ended["kind"], json.loads(ended["detail"])) == ("session_ended", {"reason": "ended", "sessions": 0})
    for secret in ("dan@", PASSWORD, "guess what"):
        assert secret not in repr((succeeded, wrong, ended))


async def test_the_routers_role_can_add_to_the_table_and_nothing_else(people: World, main: MainDatabase) -> None:
    for sql in (
        "SELECT * FROM tenantproxy.audit_log",
        "DELETE FROM tenantproxy.audit_log",
        "UPDATE tenantproxy.audit_log SET kind = 'x'",
        "INSERT INTO tenantproxy.audit_log (at, kind, detail) VALUES (now(), 'x', '{}')",
        "TRUNCATE tenantproxy.audit_log",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await main.fetch(sql)


async def test_events_of_other_kinds_are_not_written(audit: AuditTable, people: World) -> None:
    await audit.open()
    audit(PoolOpened(pool="x", reason="cold"))
    audit(LoggedOut(tenant="database1", user="odd\0\ud800 name"))
    await audit.close()
    (row,) = await rows(people)
    assert (row["kind"], row["user_id"]) == ("logged_out", "odd\ufffd? name")


async def test_while_the_table_cannot_be_written_events_wait_and_the_loss_is_counted(
    audit: AuditTable, people: World
) -> None:
    await audit.open()
    async with people.main.connect() as admin:
        await admin.execute("ALTER TABLE tenantproxy.audit_log RENAME TO elsewhere")
        for number in range(150):
            audit(failed(number))  # never waits, never raises
        assert audit.lost == 50
        await admin.execute("ALTER TABLE tenantproxy.elsewhere RENAME TO audit_log")
    await until(lambda: audit.written == 100, "what was kept is written")
    assert [row["account"] for row in await rows(people)] == [str(number) for number in range(100)]


async def test_what_the_table_refuses_holds_up_nothing(audit: AuditTable, people: World) -> None:
    async with people.main.connect() as admin:
        await admin.execute("ALTER TABLE tenantproxy.audit_log ADD CHECK (account <> '7')")
    await audit.open()
    audit(failed(7))
    await until(lambda: audit.lost == 1, "it is given up")
    audit(failed(8))
    await until(lambda: audit.written == 1, "the next one is written")


async def test_an_endless_user_id_holds_up_nothing(audit: AuditTable, people: World) -> None:
    await audit.open()
    for user in (secrets.token_hex(8000), "\U0001f600" * 3000, "dan"):
        audit(LoggedOut(tenant="database1", user=user))
    await until(lambda: audit.written == 3, "all of them are written")
    assert [len(row["user_id"]) for row in await rows(people)] == [500, 500, 3]


async def test_one_refused_row_takes_no_other_along(audit: AuditTable, people: World) -> None:
    async with people.main.connect() as admin:
        await admin.execute("ALTER TABLE tenantproxy.audit_log ADD CHECK (account <> '7')")
    for number in range(20):
        audit(failed(number))
    await audit.open()
    await until(lambda: audit.written == 19, "the others are written")
    assert audit.lost == 1


async def test_closing_waits_no_longer_than_told(audit: AuditTable, people: World) -> None:
    await audit.open()
    async with people.main.connect() as admin:
        await admin.execute("ALTER TABLE tenantproxy.audit_log RENAME TO elsewhere")
    audit(failed(1))
    await audit.close(timeout=0.05)
    assert audit.lost == 1


async def test_a_main_database_without_the_table_is_refused_by_name(people: World) -> None:
    async with people.main.connect() as admin:
        await admin.execute("DROP FUNCTION tenantproxy.record_audit(jsonb)")
    with pytest.raises(ConfigurationError, match=r"audit\.table.*tenantproxy install"):
        async with Router(login_settings(people, audit={"table": True})):
            pass
