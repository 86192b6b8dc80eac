"""Does a refresh token work once, and does the use of a spent one end the session?"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from tenantproxy.auth.refresh import Grant
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth
from tenantproxy.errors import AuthError, TenantProxyError, TokenExpired
from tests.support.database import Database
from tests.support.sessions_world import SECRET, Process, a_process
from tests.support.waiting import SLACK, until


@pytest.fixture
async def impatient(main: Database) -> AsyncIterator[Process]:
    """Without any grace."""
    async with a_process(main, grace=0.0) as process:
        yield process


async def logged_in(process: Process, **more: str) -> Grant:
    return await process.sessions.open(tenant=await process.tenant(), user="7", role="admin", claims=more)


async def is_good(process: Process, token: str) -> bool:
    try:
        await process.tokens.verify(token)
    except AuthError:
        return False
    return True


async def is_spent(process: Process, token: str) -> bool:
    try:
        await process.sessions.refresh(token)
    except AuthError:
        return True
    return False


async def test_a_session_goes_on_with_the_same_person_tenant_role_and_claims(here: Process) -> None:
    first = await logged_in(here, name="Ada")
    second = await here.sessions.refresh(first.refresh_token)
    third = await here.sessions.refresh(second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    claims = [await here.tokens.verify(grant.access_token) for grant in (first, second, third)]
    kept = ("sub", "tid", "tep", "role", "sid", "name", "tenant")
    assert len({tuple(one[name] for name in kept) for one in claims}) == 1
    assert len({one["jti"] for one in claims}) == 3
    assert (third.user, third.tenant.id, third.session, third.expires_in) == ("7", "acme", claims[0]["sid"], 900)


async def test_a_replayed_refresh_token_ends_the_session_everywhere(here: Process, impatient: Process) -> None:
    first = await logged_in(impatient)
    second = await impatient.sessions.refresh(first.refresh_token)
    assert await is_good(here, second.access_token)
    with pytest.raises(AuthError):
        await impatient.sessions.refresh(first.refresh_token)
    assert await is_spent(impatient, second.refresh_token)
    assert not await is_good(impatient, second.access_token)

    async def ended_here() -> bool:
        return not await is_good(here, second.access_token)

    await until(ended_here, "the other process ends it too", timeout=1.0 + SLACK)


async def test_a_lost_answer_may_be_asked_for_again_within_the_grace(here: Process) -> None:
    first = await logged_in(here)
    lost = await here.sessions.refresh(first.refresh_token)
    again = await here.sessions.refresh(first.refresh_token)
    assert again.refresh_token == lost.refresh_token
    assert again.session == first.session
    assert await is_good(here, again.access_token)
    assert not await is_spent(here, again.refresh_token)


async def test_within_the_grace_a_token_whose_successor_was_used_is_a_replay(here: Process) -> None:
    first = await logged_in(here)
    second = await here.sessions.refresh(first.refresh_token)
    third = await here.sessions.refresh(second.refresh_token)
    assert await is_spent(here, first.refresh_token)
    assert await is_spent(here, third.refresh_token)


async def test_a_thief_within_the_grace_gets_no_session_of_his_own(here: Process) -> None:
    first = await logged_in(here)
    owner = await here.sessions.refresh(first.refresh_token)
    thief = await here.sessions.refresh(first.refresh_token)
    await here.sessions.refresh(thief.refresh_token)
    await here.sessions.refresh(owner.refresh_token)  # the grace again: still one line of tokens, not two
    async with here.main.connection() as conn:
        assert await conn.fetchval("SELECT tenantproxy.find_session($1) IS NOT NULL", family_of(first)) is True


def family_of(grant: Grant) -> bytes:
    """What the database calls it."""
    return hashlib.sha256(base64.urlsafe_b64decode(grant.refresh_token[4:])[:16]).digest()


async def test_refreshes_at_the_same_moment_in_two_processes_get_one_successor(here: Process, main: Database) -> None:
    async with a_process(main) as there:
        token = (await logged_in(here)).refresh_token
        for _ in range(5):
            grants = await asyncio.gather(*(one.sessions.refresh(token) for one in (here, there) * 4))
            assert len({grant.refresh_token for grant in grants}) == 1
            assert len({grant.session for grant in grants}) == 1
            token = grants[0].refresh_token


async def test_without_grace_one_of_many_wins_and_the_session_ends(impatient: Process) -> None:
    first = await logged_in(impatient)
    answers = await asyncio.gather(
        *(impatient.sessions.refresh(first.refresh_token) for _ in range(8)), return_exceptions=True
    )
    kinds = Counter(type(answer) for answer in answers)
    assert kinds[Grant] == 1
    assert all(isinstance(answer, Grant | AuthError) for answer in answers)
    winner = next(answer for answer in answers if isinstance(answer, Grant))
    assert await is_spent(impatient, winner.refresh_token)


async def test_who_logged_out_is_out_with_both_tokens_in_every_process(here: Process, main: Database) -> None:
    async with a_process(main) as there:
        grant = await logged_in(here)
        assert await is_good(there, grant.access_token)
        assert await here.sessions.close(grant.refresh_token) is True
        assert await here.sessions.close(grant.refresh_token) is False
        assert not await is_good(here, grant.access_token)
        assert await is_spent(there, grant.refresh_token)

        async def out_there() -> bool:
            return not await is_good(there, grant.access_token)

        await until(out_there, "logged out there", timeout=1.0 + SLACK)


async def test_a_session_or_all_of_a_user_can_be_ended_and_nobody_elses(here: Process) -> None:
    mine = [await logged_in(here) for _ in range(3)]
    other = await here.sessions.open(tenant=await here.tenant(), user="8")
    namesake = await here.sessions.open(tenant=await here.tenant("globex"), user="7")
    assert await here.sessions.close_session(mine[0].session) is True
    assert not await is_good(here, mine[0].access_token)
    assert await is_good(here, mine[1].access_token)
    assert await here.sessions.close_user("acme", "7") == 2
    assert [await is_good(here, grant.access_token) for grant in (*mine, other, namesake)] == [False] * 3 + [True] * 2
    assert not await is_spent(here, other.refresh_token)
    assert not await is_spent(here, namesake.refresh_token)


@pytest.mark.parametrize("column", ["idle_until"])
async def test_a_session_that_was_not_used_for_too_long_is_over(here: Process, main: Database, column: str) -> None:
    grant = await logged_in(here)
    async with main.connect() as admin:
        await admin.execute(f"UPDATE tenantproxy.sessions SET {column} = now()")
    with pytest.raises(TokenExpired):
        await here.sessions.refresh(grant.refresh_token)


async def test_use_does_not_prolong_a_session_beyond_its_whole_life(main: Database) -> None:
    async with a_process(main, refresh_ttl=1000, session_ttl=2000) as process:
        grant = await logged_in(process)
        async with main.connect() as admin:
            left = "SELECT extract(epoch FROM idle_until - clock_timestamp()) FROM tenantproxy.sessions"
            assert 990 < await admin.fetchval(left) <= 1000
            await admin.execute("UPDATE tenantproxy.sessions SET expires_at = now() + interval '20 s'")
            await process.sessions.refresh(grant.refresh_token)
            assert 0 < await admin.fetchval(left) <= 20


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM tenantproxy.tenants WHERE id = 'acme'",
        "UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = 'acme'",
        "UPDATE tenantproxy.tenants SET database = 'elsewhere' WHERE id = 'acme'",
        "UPDATE tenantproxy.tenants SET epoch = epoch + 1 WHERE id = 'acme'",
        "DELETE FROM tenantproxy.tenants WHERE id = 'acme';"
        " INSERT INTO tenantproxy.tenants (id, isolation, database) VALUES ('acme', 'database', 'acme_db')",
    ],
    ids=["deleted", "suspended", "moved", "epoch", "replaced by another of its name"],
)
async def test_a_session_does_not_outlive_its_tenant(here: Process, main: Database, change: str) -> None:
    grant = await logged_in(here)
    async with main.connect() as admin:
        await admin.execute(change)
    await until(lambda: here.registry.peek("acme") is None, "the change was heard")
    assert await is_spent(here, grant.refresh_token)


BAD: dict[str, Callable[[Grant], str]] = {
    "empty": lambda grant: "",
    "an access token": lambda grant: grant.access_token,
    "cut": lambda grant: grant.refresh_token[:-1],
    "another secret": lambda grant: grant.refresh_token[:-5] + "AAAAA",
    "another family": lambda grant: "tpr_AAAAA" + grant.refresh_token[9:],
    "5 MB": lambda grant: grant.refresh_token * 73_000,
    "NUL": lambda grant: grant.refresh_token[:-1] + "\0",
    "unicode": lambda grant: grant.refresh_token[:-1] + "é",
    "a lone surrogate": lambda grant: grant.refresh_token[:-1] + "\ud800",
    "SQL": lambda grant: "tpr_' OR 1=1; DROP TABLE tenantproxy.sessions --",
    "a newline behind": lambda grant: grant.refresh_token + "\n",
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_refresh_token_is_refused_like_any_other(here: Process, kind: str) -> None:
    grant = await logged_in(here)
    with pytest.raises(AuthError) as refused:
        await here.sessions.refresh(BAD[kind](grant))
    assert (refused.value.code, refused.value.http_status) == ("unauthorized", 401)
    assert str(refused.value) == "the token is not valid. log in again"


async def test_a_refresh_token_is_no_access_token(here: Process) -> None:
    grant = await logged_in(here)
    assert not await is_good(here, grant.refresh_token)


async def test_a_row_that_somebody_else_wrote_opens_nothing(here: Process, main: Database) -> None:
    mine = await logged_in(here)
    async with main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.sessions SET tenant = 'globex'")
    assert await is_spent(here, mine.refresh_token)
    other = await logged_in(here)
    async with main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.sessions SET claims = replace(claims, 'admin', 'owner')")
    assert await is_spent(here, other.refresh_token)


async def test_sessions_go_on_over_a_rotation_of_the_key_and_end_with_it(
    main: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "old").write_text(SECRET)
    (folder / "new").write_text(SECRET[::-1])
    old, new = str(folder / "old"), str(folder / "new")
    async with a_process(main) as before:
        used, unused = await logged_in(before), await logged_in(before)
    async with a_process(main, key=None, key_files={"1": old, "2": new}) as during:
        used = await during.sessions.refresh(used.refresh_token)
    async with a_process(main, key=None, key_files={"2": new}) as after:
        assert not await is_spent(after, used.refresh_token)
        assert await is_spent(after, unused.refresh_token)


async def test_what_the_database_holds_is_no_token(here: Process, main: Database) -> None:
    first = await logged_in(here)
    second = await here.sessions.refresh(first.refresh_token)
    async with main.connect() as admin:
        dump = str([tuple(row) for row in await admin.fetch("SELECT * FROM tenantproxy.sessions")])
    for token in (first, second):
        raw = base64.urlsafe_b64decode(token.refresh_token[4:])
        for part in (raw[:16], raw[16:]):
            assert repr(part)[2:-1] not in dump
        assert token.refresh_token not in dump


async def test_no_token_is_in_a_repr_an_error_or_a_log(
    here: Process, impatient: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    grant = await logged_in(impatient)
    await impatient.sessions.refresh(grant.refresh_token)
    said = [repr(grant), str(grant), repr(here.tokens), repr(Auth.model_validate({"key": SECRET}))]
    for bad in (grant.refresh_token, grant.access_token):
        with pytest.raises(TenantProxyError) as refused:
            await impatient.sessions.refresh(bad)
        said += [repr(refused.value), str(refused.value), str(refused.value.__cause__)]
    said.append(caplog.text)
    for secret in (grant.access_token, grant.refresh_token, grant.refresh_token[30:], SECRET):
        assert not any(secret in text for text in said)
    assert isinstance(here.tokens, Tokens)
