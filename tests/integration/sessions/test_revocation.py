"""Does what one process revokes hold in every other within a second, and for as long as it must?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import monotonic

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.auth.refresh import Sessions
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.tokens import Tokens
from tenantproxy.cli.deploy import install_all
from tenantproxy.config import Auth
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import AuthError, ConfigurationError, TokenExpired
from tenantproxy.notifications import Heard
from tests.contracts.main_database import MainDatabase
from tests.support.database import Database, fresh_database
from tests.support.sessions_world import SECRET, Process, a_process, install_main
from tests.support.waiting import PATIENCE, SLACK, until
from tests.support.world import APP_PASSWORD, APP_ROLE, World


@pytest.fixture
async def there(main: Database) -> AsyncIterator[Process]:
    async with a_process(main) as process:
        yield process


async def is_good(process: Process, token: str) -> bool:
    try:
        await process.tokens.verify(token)
    except AuthError:
        return False
    return True


async def refused_there(process: Process, token: str, *, timeout: float = 1.0 + SLACK) -> float:
    """Seconds until the other process refuses it."""
    started = monotonic()

    async def refused() -> bool:
        return not await is_good(process, token)

    await until(refused, "the other process refuses the token", timeout=timeout)
    return monotonic() - started


async def test_a_token_of_one_process_is_good_in_another(here: Process, there: Process) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", role="admin", session="s1")
    claims = await there.tokens.verify(token)
    assert {name: claims[name] for name in ("sub", "tid", "tenant", "role", "sid")} == {
        "sub": "7", "tid": "acme", "tenant": "acme", "role": "admin", "sid": "s1"
    }  # fmt: skip


@pytest.mark.parametrize("what", ["session", "token", "tenant", "deleted", "suspended", "moved"])
async def test_a_revocation_reaches_the_other_process_within_a_second(
    here: Process, there: Process, main: Database, what: str
) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
    other = here.tokens.issue(tenant=await here.tenant("globex"), user="7", session="s2")
    claims = await there.tokens.verify(token)
    assert await is_good(there, other)
    async with main.connect() as admin:
        if what == "session":
            await here.revocations.revoke_session("s1")
        elif what == "token":
            await here.revocations.revoke_token(str(claims["jti"]))
        elif what == "tenant":
            await here.revocations.revoke_tenant("acme")
        elif what == "deleted":
            await admin.execute("DELETE FROM tenantproxy.tenants WHERE id = 'acme'")
        elif what == "suspended":
            await admin.execute("UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = 'acme'")
        else:
            await admin.execute("UPDATE tenantproxy.tenants SET database = 'elsewhere' WHERE id = 'acme'")
    await refused_there(there, token)
    await refused_there(here, token)
    assert await is_good(there, other)
    assert await is_good(here, other)


async def test_the_process_that_revokes_refuses_at_once(here: Process) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
    assert await is_good(here, token)
    await here.revocations.revoke_session("s1")
    assert not await is_good(here, token)


async def test_a_change_that_is_no_end_of_the_tenant_leaves_its_tokens_good(here: Process, main: Database) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7")
    async with main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.tenants SET tier = 'gold', status = 'paused' WHERE id = 'acme'")
    await until(lambda: here.registry.peek("acme") is None, "the change was heard")
    assert await is_good(here, token)


@pytest.mark.parametrize("revives", ["same transaction", "later"])
async def test_a_token_of_a_deleted_tenant_is_not_good_for_another_of_its_name(
    here: Process, there: Process, main: Database, revives: str
) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7")
    assert await is_good(there, token)
    again = "INSERT INTO tenantproxy.tenants (id, isolation, database) VALUES ('acme', 'database', 'acme_db')"
    async with main.connect() as admin:
        if revives == "later":
            await admin.execute("DELETE FROM tenantproxy.tenants WHERE id = 'acme'")
            await admin.execute(again)
        else:
            await admin.execute(f"BEGIN; DELETE FROM tenantproxy.tenants WHERE id = 'acme'; {again}; COMMIT")
    await refused_there(there, token)

    async def reborn_is_served() -> bool:
        fresh = here.tokens.issue(tenant=await here.tenant(), user="7")
        return await is_good(there, fresh)

    await until(reborn_is_served, "the new tenant's own tokens are good")
    with pytest.raises(TokenExpired):
        await there.tokens.verify(token)


async def test_a_process_that_comes_later_knows_what_was_revoked_before(here: Process, main: Database) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
    gone = here.tokens.issue(tenant=await here.tenant("globex"), user="7")
    await here.revocations.revoke_session("s1")
    await here.revocations.revoke_tenant("globex")
    async with a_process(main) as later:
        assert not await is_good(later, token)
        assert not await is_good(later, gone)


async def test_where_nobody_can_listen_it_is_found_out_by_asking(here: Process, main: Database) -> None:
    async with a_process(main, listens=False, poll_interval=0.05) as deaf:
        token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
        assert await is_good(deaf, token)
        await here.revocations.revoke_session("s1")
        await refused_there(deaf, token, timeout=PATIENCE)
        assert deaf.main.held == set(), "no connection is held to listen"


class Deaf:
    """Listens, as far as it knows, and hears nothing: through a pooler, or a connection that died in silence."""

    def hear(self, channel: str, heard: Heard, /) -> Callable[[], None]:
        return lambda: None


async def test_who_listens_and_hears_nothing_finds_it_out_by_asking(here: Process) -> None:
    settings = Auth.model_validate({"key": SECRET})
    revocations = Revocations(here.main, settings, hearing=Deaf(), poll_interval=0.05)
    await revocations.open()
    try:
        await here.revocations.revoke_session("s1")
        await until(lambda: revocations.is_revoked(jti=None, session="s1"), "it was asked for")
    finally:
        await revocations.close()


async def test_what_was_revoked_while_nobody_listened_is_known_after_the_reconnect(
    here: Process, there: Process, main: Database
) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
    assert await is_good(there, token)
    async with main.connect() as admin:
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", there.main.pids[-1])
        await here.revocations.revoke_session("s1")
    await refused_there(there, token, timeout=PATIENCE)


async def test_a_revocation_that_commits_after_a_later_one_was_read_is_not_missed(
    here: Process, there: Process, main: Database
) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="slow")
    async with main.connect(APP_ROLE, APP_PASSWORD) as slow:
        await slow.execute("BEGIN; SELECT tenantproxy.revoke('session', 'slow', 900)")
        await here.revocations.revoke_session("quick")
        await until(lambda: there.revocations.is_revoked(jti=None, session="quick"), "the later one is known")
        assert await is_good(there, token)
        await slow.execute("COMMIT")
    await refused_there(there, token)


async def test_a_forged_notification_revokes_nothing(here: Process, main: Database) -> None:
    token = here.tokens.issue(tenant=await here.tenant(), user="7", session="s1")
    async with main.connect(APP_ROLE, APP_PASSWORD) as conn:
        for payload in ("", "tenant", "session s1", "x" * 7000):
            await conn.execute("SELECT pg_notify('tenantproxy_revocations', $1)", payload)
        before = here.revocations.last_success
    await until(lambda: here.revocations.last_success != before, "it was looked at")
    assert await is_good(here, token)


async def test_the_routers_role_reaches_the_tables_only_through_the_functions(main: Database) -> None:
    async with main.connect(APP_ROLE, APP_PASSWORD) as conn:
        for statement in (
            "SELECT * FROM tenantproxy.sessions",
            "DELETE FROM tenantproxy.revoked",
            "UPDATE tenantproxy.tenant_epochs SET epoch = 1",
            "SELECT tenantproxy.tenant_left()",
        ):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await conn.execute(statement)
            assert refused.value.sqlstate in ("42501", "0A000")


async def test_a_main_database_without_the_tables_says_what_to_run(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="tenantproxy install"):
        async with a_process(database, listens=False):
            pass


async def test_installing_again_keeps_what_was_revoked_on_every_version(each_database: Database) -> None:
    await install_main(each_database)
    async with a_process(each_database) as process:
        token = process.tokens.issue(tenant=await process.tenant(), user="7", session="s1")
        await process.revocations.revoke_session("s1")
    async with each_database.connect() as admin:
        await admin.execute("DELETE FROM tenantproxy.tenants")
    await install_main(each_database)
    async with a_process(each_database) as process:
        assert not await is_good(process, token)
        assert process.revocations.epoch("globex") > 0


async def test_what_ended_by_itself_is_swept_and_forgotten(main: Database) -> None:
    async with a_process(main, access_ttl=1, leeway=0, refresh_ttl=1) as process:
        await process.sessions.open(tenant=await process.tenant(), user="7")
        await process.revocations.revoke_session("s1")
        await process.revocations.revoke_token("t1", expires_in=9000)
        async with main.connect() as admin:
            await admin.execute("UPDATE tenantproxy.sessions SET idle_until = now()")
            await admin.execute("UPDATE tenantproxy.revoked SET until = now() WHERE id = 's1'")
            assert await process.revocations.sweep() == 2
            assert await admin.fetchval("SELECT count(*) FROM tenantproxy.sessions") == 0
            assert [row["id"] for row in await admin.fetch("SELECT id FROM tenantproxy.revoked")] == ["t1"]


async def test_while_the_main_database_is_down_what_was_known_stays_in_force(own_postgres: EmbeddedPostgres) -> None:
    async with fresh_database(own_postgres) as database:
        await install_main(database)
        async with a_process(database, poll_interval=0.05) as process:
            good = process.tokens.issue(tenant=await process.tenant(), user="7", session="s2")
            bad = process.tokens.issue(tenant=await process.tenant(), user="7", session="s1")
            await process.revocations.revoke_session("s1")
            own_postgres.stop()
            await until(lambda: not process.listener.listening.is_set(), "the connection is lost")
            assert await is_good(process, good)
            assert not await is_good(process, bad)
            own_postgres.start()
            async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
                await conn.execute("SELECT tenantproxy.revoke('session', 's2', 900)")
            await refused_there(process, good, timeout=PATIENCE)


async def test_closing_leaves_no_task_and_no_connection(main: Database) -> None:
    async with a_process(main) as process:
        pids = list(process.main.pids)
    async with main.connect() as admin:

        async def gone() -> bool:
            return not await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", pids)

        await until(gone, "the backend is gone")
    assert isinstance(process.main, MainDatabase)


async def test_the_install_command_puts_it_where_the_router_can_use_it(world: World) -> None:
    settings = world.settings(registry="postgres", auth={"key": SECRET})
    done = await install_all(settings, [], closing=False)
    assert "sessions and login directory" in [row["installed"] for row in done]
    async with Router(settings) as router:
        revocations = Revocations(router.main(), settings.auth, hearing=router.listener)
        await revocations.open()
        try:
            tokens = Tokens(settings.auth, tenants=router.registry, revoked=revocations)
            sessions = Sessions(router.main(), tokens, revocations=revocations)
            grant = await sessions.open(tenant=await tokens.look_up("row1"), user="7")
            grant = await sessions.refresh(grant.refresh_token)
            assert (await tokens.verify(grant.access_token))["tid"] == "row1"
            await until(router.listener.listening.is_set, "the router listens for both")
            async with world.main.connect() as admin:
                await admin.execute("DELETE FROM tenantproxy.tenants WHERE id = 'row1'")
            await until(lambda: revocations.epoch("row1"), "the end of the tenant is heard", timeout=1.0 + SLACK)
            with pytest.raises(TokenExpired):
                await tokens.verify(grant.access_token)
        finally:
            await revocations.close()
