"""Does a login that began before all sessions of its user were ended begin none, whatever comes between?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.auth.directory import Directory, _brief
from tenantproxy.auth.refresh import Grant
from tenantproxy.errors import AuthError, ConfigurationError, TenantPaused, TokenExpired
from tests.support.database import Database
from tests.support.sessions_world import Process, a_process
from tests.support.waiting import until

END = "SELECT tenantproxy.end_sessions(NULL, NULL, 'acme', '7', 960)"


async def began(process: Process) -> str:
    """What a login knows of the main database when it begins."""
    directory = Directory(process.main, pepper=b"p" * 32)
    return (await directory.look_up(directory.key("ada@example.org"))).as_of


async def opened(process: Process, as_of: str, *, user: str = "7", tenant: str = "acme") -> Grant:
    return await process.sessions.open(tenant=await process.tenant(tenant), user=user, as_of=as_of)


async def test_a_login_under_way_counts_as_old(here: Process) -> None:
    before = await began(here)
    assert await here.sessions.close_user("acme", "7") == 0
    with pytest.raises(TokenExpired):
        await opened(here, before)
    await opened(here, await began(here))  # the same person with the new password
    await opened(here, before, user="8")
    await opened(here, before, tenant="globex")


async def test_an_end_that_is_not_committed_yet_counts_too(here: Process, main: Database) -> None:
    async with main.connect() as admin:
        change = admin.transaction()
        await change.start()  # as an application changes a password and ends the sessions in one transaction
        await admin.execute(END)
        before = await began(here)  # after the call, and before the new password can be seen
        opening = asyncio.ensure_future(opened(here, before))
        async with main.connect() as other:

            async def waits() -> bool:
                return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            while not await waits():
                assert not opening.done()
        await change.commit()
    with pytest.raises(TokenExpired):
        await opening


async def test_an_end_that_is_rolled_back_ends_nothing(here: Process, main: Database) -> None:
    before = await began(here)
    async with main.connect() as admin:
        change = admin.transaction()
        await change.start()
        await admin.execute(END)
        await change.rollback()
    await opened(here, before)


async def test_a_session_that_opens_at_the_same_moment_is_ended(here: Process, main: Database) -> None:
    before = await began(here)
    for _ in range(10):
        session, _ = await asyncio.gather(
            opened(here, before), here.sessions.close_user("acme", "7"), return_exceptions=True
        )
        if isinstance(session, Grant):
            with pytest.raises(AuthError):
                await here.sessions.refresh(session.refresh_token)
    async with main.connect() as admin:
        assert await admin.fetchval("SELECT count(*) FROM tenantproxy.sessions") == 0


async def test_many_transactions_at_work_do_not_hide_an_end(here: Process, main: Database) -> None:
    long = "1:1000000:" + ",".join(str(n) for n in range(1, 400))
    await here.sessions.close_user("acme", "7")
    short = _brief(long)
    assert (len(long) > 1000, short) == (True, "1:1:")  # it is part of a token, and errs on the safe side
    with pytest.raises(TokenExpired):
        await opened(here, short)


async def test_what_was_ended_is_forgotten_when_no_login_can_be_so_old(here: Process, main: Database) -> None:
    await here.sessions.close_user("acme", "7")
    async with main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.session_ends SET until = now() - interval '1 second'")
        assert await here.revocations.sweep() == 1
        assert await admin.fetchval("SELECT count(*) FROM tenantproxy.session_ends") == 0


async def test_a_database_of_an_older_release_is_refused_by_name(main: Database) -> None:
    async with main.connect() as admin:
        await admin.execute("DROP TABLE tenantproxy.session_ends")
    with pytest.raises(ConfigurationError, match="tenantproxy install"):
        async with a_process(main):
            pass


async def test_a_paused_tenant_keeps_its_sessions_and_says_that_it_is_paused(here: Process, main: Database) -> None:
    grant = await opened(here, await began(here))

    async with main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.tenants SET status = 'paused' WHERE id = 'acme'")
        await until(lambda: here.registry.peek("acme") is None, "the change is heard")
        with pytest.raises(TenantPaused, match="paused by an operator"):
            await here.sessions.refresh(grant.refresh_token)
        await admin.execute("UPDATE tenantproxy.tenants SET status = 'active' WHERE id = 'acme'")
        await until(lambda: here.registry.peek("acme") is None, "the change is heard")
    await here.sessions.refresh(grant.refresh_token)
