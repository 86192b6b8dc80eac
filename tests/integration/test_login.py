"""Does a person log in with e-mail and password wherever the account is, and does nobody learn who has one?"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import bcrypt
import pytest

from tenantproxy.accounts import TenantAccounts
from tenantproxy.auth.accounts import Account, SharedDatabase
from tenantproxy.config import Settings
from tenantproxy.config.secret import Secret
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import (
    ConfigurationError,
    InvalidCredentials,
    LoginUnavailable,
    TenantProxyError,
    TooManyAttempts,
)
from tenantproxy.events import Event, LoginSearchFailed
from tenantproxy.model import TenantStatus, tenant_id
from tenantproxy.router import Router
from tests.support.logins import (
    HASH,
    PASSWORD,
    PEPPER,
    add,
    change,
    directory,
    failure,
    give_back,
    login_settings,
    populate,
    take_away,
)
from tests.support.waiting import PATIENCE
from tests.support.world import APP_PASSWORD, APP_ROLE, SERVER, World, a_world

PEOPLE = {
    "row1": ["ann@example.org", "both@example.org"],
    "row2": ["bob@example.org", "both@example.org"],
    "schema1": ["Cem@Example.org"],
    "schema2": ["all@example.org"],
    "database1": ["dan@example.org", "both@example.org"],
    "database2": ["eve@example.org"],
}


async def with_people(world: World) -> None:
    await populate(world, PEOPLE)


@pytest.fixture
async def people(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, furnish=with_people) as made:
        yield made


@pytest.fixture
async def router(people: World) -> AsyncIterator[Router]:
    async with Router(login_settings(people)) as opened:
        yield opened


def one(tenant: str, user: str) -> tuple[Account, ...]:
    return (Account(tenant=tenant, user=user, claims={"role": "member"}),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("email", "tenant"),
    [
        ("ann@example.org", "row1"),
        ("bob@example.org", "row2"),
        ("cem@example.org", "schema1"),
        ("dan@example.org", "database1"),
        ("  EVE@example.ORG ", "database2"),
    ],
)
async def test_an_account_of_any_kind_is_found_first_by_search_then_by_the_directory(
    email: str, tenant: str, people: World, router: Router
) -> None:
    assert await router.login(email, PASSWORD) == one(tenant, f"{tenant}-1")
    assert router.logins.counts.searched.total > 0
    assert await directory(people.main) == {(tenant, f"{tenant}-1")}
    searched = router.logins.counts.searched.total
    assert await router.login(email, PASSWORD) == one(tenant, f"{tenant}-1")
    assert router.logins.counts.searched.total == searched


async def test_a_person_in_several_tenants_gets_those_whose_password_it_is(people: World, router: Router) -> None:
    found = await router.login("both@example.org", PASSWORD)
    assert {account.tenant for account in found} == {"row1", "row2", "database1"}
    await change(people, "row2", "UPDATE users SET password_hash = NULL WHERE tenant_id = 'row2'")
    found = await router.login("both@example.org", PASSWORD)
    assert {account.tenant for account in found} == {"row1", "database1"}
    assert router.logins.counts.results["selection"] == 2


async def test_a_person_whose_only_known_tenant_was_guessed_is_searched_for_all_the_same(router: Router) -> None:
    await router.login("dan@example.org", PASSWORD)  # database1 is now the decoy of all strangers
    found = await router.login("both@example.org", PASSWORD)
    assert {account.tenant for account in found} == {"row1", "row2", "database1"}


async def test_a_tenant_that_is_named_is_the_only_one_looked_at(router: Router) -> None:
    assert await router.login("both@example.org", PASSWORD, tenant="row2") == one("row2", "row2-2")
    for other in ("database2", "nobody", "ROW2", "", "../row2", "x" * 100):
        assert await failure(router.login("both@example.org", PASSWORD, tenant=other)) == "InvalidCredentials"
    await router.login("both@example.org", PASSWORD)  # now it is in the directory
    assert await failure(router.login("both@example.org", PASSWORD, tenant="database2")) == "InvalidCredentials"


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("nobody@example.org", PASSWORD),
        ("ann@example.org", "wrong"),
        ("ann@example.org", PASSWORD + " "),
        ("ann@example.org", ""),
        ("ann@example.org", "x" * 10_000),
        ("ann@example.org", "\ud800"),
        ("ann@example.or%", PASSWORD),
        ("' or true --", PASSWORD),
        ("", PASSWORD),
        ("\0", PASSWORD),
        ("a\nb@example.org", PASSWORD),
        ("\udcff@example.org", PASSWORD),
        ("x" * 100_000, PASSWORD),
    ],
    ids=lambda text: repr(text)[:20],
)
async def test_whatever_is_wrong_the_error_is_the_same(email: str, password: str, router: Router) -> None:
    for _ in range(2):
        with pytest.raises(InvalidCredentials) as refused:
            await router.login(email, password)
        error = refused.value
        assert (str(error), error.detail, error.hint, error.retry_after) == (
            "e-mail or password is wrong",
            None,
            None,
            None,
        )
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None


async def test_who_mistyped_first_gets_in_next(router: Router) -> None:
    assert await failure(router.login("ann@example.org", "typo")) == "InvalidCredentials"
    assert await router.login("ann@example.org", PASSWORD) == one("row1", "row1-1")


async def test_a_stale_entry_is_dropped_and_the_account_found_where_it_went(people: World, router: Router) -> None:
    await router.login("ann@example.org", PASSWORD)
    await change(people, "row1", "DELETE FROM users WHERE id = 'row1-1'")
    database1 = next(tenant for tenant in people.tenants if tenant.id == "database1")
    async with people.database(database1).connect() as admin:
        await add(admin, database1, "moved-1", "ann@example.org")
    assert await router.login("ann@example.org", PASSWORD) == one("database1", "moved-1")
    assert await directory(people.main) == {("database1", "moved-1")}


async def test_an_entry_of_another_user_is_mended(people: World, router: Router) -> None:
    await router.login("eve@example.org", PASSWORD)
    await change(people, "database2", "UPDATE users SET id = 'renamed'")
    assert await router.login("eve@example.org", PASSWORD) == one("database2", "renamed")
    assert await directory(people.main) == {("database2", "renamed")}


async def test_an_entry_of_a_tenant_that_is_gone_opens_nothing_and_goes(people: World, router: Router) -> None:
    key = router.logins.directory.key("ghost@example.org")
    await router.logins.directory.add(key, "deleted", "7")  # type: ignore[arg-type]
    assert await failure(router.login("ghost@example.org", PASSWORD)) == "InvalidCredentials"
    assert await directory(people.main) == set()


async def test_a_planted_entry_opens_nothing_without_the_password_in_that_tenant(router: Router) -> None:
    key = router.logins.directory.key("nobody@example.org")
    await router.logins.directory.add(key, "row1", "row1-1")  # type: ignore[arg-type]
    assert await failure(router.login("nobody@example.org", PASSWORD)) == "InvalidCredentials"


async def test_a_legacy_hash_logs_in_and_is_replaced(people: World, router: Router) -> None:
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    for tenant, user in (("database2", "database2-1"), ("row1", "row1-1")):
        await change(people, tenant, "UPDATE users SET password_hash = $1 WHERE id = $2", old, user)
    assert await router.login("eve@example.org", PASSWORD) == one("database2", "database2-1")
    assert await router.login("ann@example.org", PASSWORD) == one("row1", "row1-1")
    for tenant in ("database2", "row1"):
        stored = await router.tenant(tenant).fetchval("SELECT password_hash FROM users ORDER BY id LIMIT 1")
        assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await router.login("eve@example.org", PASSWORD) == one("database2", "database2-1")


async def test_a_password_that_changes_while_its_old_hash_is_replaced_stays_changed(
    people: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await change(people, "database1", "UPDATE users SET password_hash = $1", legacy)
    query = "update users set password_hash = $2 where id = $1 and password_hash = $3"
    async with Router(login_settings(people, login={"rehash_query": query})) as router:
        passwords = router.logins._passwords
        genuine = passwords.hash
        changed = await genuine("another one")

        async def hash_later(password: str) -> str:
            await change(people, "database1", "UPDATE users SET password_hash = $1", changed)
            return await genuine(password)

        monkeypatch.setattr(passwords, "hash", hash_later)
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
        assert await failure(router.login("dan@example.org", PASSWORD)) == "InvalidCredentials"
        assert await router.login("dan@example.org", "another one") == one("database1", "database1-1")


async def test_a_hash_is_left_as_it_is_where_no_query_replaces_it(people: World) -> None:
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await change(people, "database2", "UPDATE users SET password_hash = $1", old)
    async with Router(login_settings(people, login={"rehash_query": None})) as router:
        assert await router.login("eve@example.org", PASSWORD) == one("database2", "database2-1")
        assert await router.tenant("database2").fetchval("SELECT password_hash FROM users") == old


async def test_row_tenants_are_searched_with_one_question_for_all_of_them(people: World, router: Router) -> None:
    await failure(router.login("nobody@example.org", PASSWORD))
    assert router.logins.counts.searched.total == 5  # two schemas, two databases, and one for the row tenants
    places = await router.logins._accounts.places()
    assert places is not None
    assert [place for place in places if isinstance(place, SharedDatabase)] == [
        SharedDatabase(server="primary", database=people.shared.name)
    ]


async def test_without_a_login_user_row_tenants_are_asked_one_by_one(people: World) -> None:
    async with Router(login_settings(people, lookup=False)) as router:
        assert await router.login("bob@example.org", PASSWORD) == one("row2", "row2-1")
        assert router.logins.counts.searched.total == 6


async def test_without_a_fan_out_only_the_directory_is_asked(people: World) -> None:
    async with Router(login_settings(people, login={"fan_out": False})) as router:
        assert await failure(router.login("ann@example.org", PASSWORD)) == "InvalidCredentials"
        logins = router.logins
        await logins.directory.add(logins.directory.key("ann@example.org"), "row1", "row1-1")  # type: ignore[arg-type]
        assert await router.login("ann@example.org", PASSWORD) == one("row1", "row1-1")
        assert logins.counts.searched.total == 0


async def test_with_more_tenants_than_a_search_may_ask_there_is_none(people: World) -> None:
    async with Router(login_settings(people, login={"fan_out_limit": 4})) as router:
        assert await failure(router.login("ann@example.org", PASSWORD)) == "InvalidCredentials"
        assert router.logins.counts.searched.total == 0


# --- what is dead ----------------------------------------------------------------------------------------------------
async def test_while_a_tenants_database_is_dead_everybody_who_fails_hears_503_and_who_is_right_gets_in(
    people: World,
) -> None:
    events: list[Event] = []
    async with Router(login_settings(people), observer=events.append) as router:
        await router.login("eve@example.org", PASSWORD)
        await router.login("dan@example.org", PASSWORD)
        assert await failure(router.login("before@example.org", PASSWORD)) == "InvalidCredentials"
        await router.expire_connections("database2")
        await take_away(people, "database2")
        try:
            told = {
                "has an account there": await failure(router.login("eve@example.org", PASSWORD)),
                "nobody": await failure(router.login("nobody@example.org", PASSWORD)),
                "searched for before": await failure(router.login("before@example.org", PASSWORD)),
                "wrong password elsewhere": await failure(router.login("dan@example.org", "wrong")),
                "wrong password there": await failure(router.login("eve@example.org", "wrong")),
                "unknown tenant": await failure(router.login("dan@example.org", PASSWORD, tenant="nobody")),
            }
            assert told == dict.fromkeys(told, "LoginUnavailable")
            assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
            assert await router.login("cem@example.org", PASSWORD) == one("schema1", "schema1-1")
            assert router.logins.counts.results["unavailable"] == len(told)
        finally:
            await give_back(people, "database2")
    failed = [event for event in events if isinstance(event, LoginSearchFailed)]
    assert {(event.place, event.is_down) for event in failed} == {("database2", True)}
    assert len(failed) == 1  # the breaker: one was enough


async def test_a_tenant_that_locks_its_own_table_holds_up_nobody_for_longer_than_the_fan_out(people: World) -> None:
    settings = login_settings(people, login={"fan_out_timeout": 2.0})
    async with Router(settings) as router, people.database(people.tenants[-1]).connect() as hostile:
        async with hostile.transaction():
            await hostile.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(PATIENCE):
                assert await failure(router.login("nobody@example.org", PASSWORD)) == "LoginUnavailable"
                assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")


async def test_what_a_tenant_broke_itself_counts_as_no_account_and_is_told_to_the_operator(people: World) -> None:
    events: list[Event] = []
    await change(people, "database2", "ALTER TABLE users RENAME TO people")
    async with Router(login_settings(people), observer=events.append) as router:
        assert await failure(router.login("eve@example.org", PASSWORD)) == "InvalidCredentials"
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
    (failed, *_) = [event for event in events if isinstance(event, LoginSearchFailed)]
    assert (failed.place, failed.is_down) == ("database2", False)
    assert "42P01" in failed.error


def elsewhere(settings: Settings, **server: object) -> Settings:
    """With `database2` on a server of its own name, which is the same one for another login."""
    other = settings.servers[SERVER].model_copy(update=server)
    tenant = settings.tenants["database2"].model_copy(update={"server": "other"})
    servers, tenants = {**settings.servers, "other": other}, {**settings.tenants, "database2": tenant}
    return settings.model_copy(update={"servers": servers, "tenants": tenants})


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("no such database", "3D000"),
        ("a wrong password", "28P01"),
        ("a role that may not log in", "28000"),
        ("a role that may not connect", "42501"),
        ("a table that may not be read", "42501"),
        ("no such table", "42P01"),
    ],
)
async def test_a_tenant_whose_database_denies_us_keeps_nobody_else_from_hearing_what_is_wrong(
    kind: str, state: str, people: World
) -> None:
    events: list[Event] = []
    settings, name = login_settings(people, login={"negative_ttl": 600}), people.tenants[-1].placement.database
    idler = f"idler_{name}"  # the server has roles of other tests too
    async with Router(settings) as router:
        await router.login("eve@example.org", PASSWORD)  # it is in the directory
    noted = await directory(people.main)
    async with people.main.connect() as admin:
        if kind == "no such database":
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        elif kind == "a wrong password":
            settings = elsewhere(settings, password=Secret.inline("another one"))
        elif kind == "a role that may not log in":
            settings = elsewhere(settings, user=idler)
            await admin.execute(f"CREATE ROLE {idler} NOLOGIN PASSWORD '{APP_PASSWORD}'")
        elif kind == "a role that may not connect":
            await admin.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC, {APP_ROLE}')
        elif kind == "a table that may not be read":
            await change(people, "database2", f"REVOKE ALL ON users FROM PUBLIC, {APP_ROLE}")
        else:
            await change(people, "database2", "DROP TABLE users")
    try:
        async with Router(settings, observer=events.append) as router:
            told = {
                "nobody": await failure(router.login("nobody@example.org", PASSWORD)),
                "wrong password elsewhere": await failure(router.login("dan@example.org", "wrong")),
                "has an account there": await failure(router.login("eve@example.org", PASSWORD)),
                "looks there alone": await failure(router.login("eve@example.org", PASSWORD, tenant="database2")),
            }
            assert told == dict.fromkeys(told, "InvalidCredentials")
            searched = router.logins.counts.searched.total
            for email in ("nobody@example.org", "eve@example.org"):  # alike: both were searched for lately
                assert await failure(router.login(email, PASSWORD)) == "InvalidCredentials"
            assert router.logins.counts.searched.total == searched
            assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
    finally:
        async with people.main.connect() as admin:
            await admin.execute(f"DROP ROLE IF EXISTS {idler}")
    failed = [event for event in events if isinstance(event, LoginSearchFailed)]
    assert {(event.place, event.is_down) for event in failed} == {("database2", False)}
    assert all(state in event.error for event in failed)
    assert noted <= await directory(people.main), "what is only denied for now is not forgotten"


@pytest.mark.parametrize(
    "instead", ["4711", "ARRAY[password_hash]", "now()", "'$argon2id$v=19$m=\uff18,t=1,p=1$c2Fs$c2Fs'"]
)
async def test_a_tenant_whose_hashes_are_none_keeps_nobody_out_of_another(people: World, instead: str) -> None:
    await change(people, "database2", "INSERT INTO users (id, email) VALUES ('evil', 'dan@example.org')")
    await change(people, "database2", "ALTER TABLE users RENAME TO people")
    await change(
        people,
        "database2",
        f"CREATE VIEW users AS SELECT id, email, {instead} AS password_hash, role, is_active FROM people",
    )
    await change(people, "database2", f"GRANT SELECT ON users TO {APP_ROLE}")
    async with Router(login_settings(people)) as router:
        assert await failure(router.login("dan@example.org", "wrong")) == "InvalidCredentials"
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")


async def test_a_tenant_with_many_rows_of_an_address_crowds_out_no_other(people: World, router: Router) -> None:
    for n in range(8):
        await change(people, "database2", f"INSERT INTO users VALUES ('evil{n}', 'dan@example.org', $1)", HASH)
    for tenant in ("database2", "database1"):  # the directory knows the crowd first
        key = router.logins.directory.key("dan@example.org")
        await router.logins.directory.add(key, tenant_id(tenant), f"{tenant}-1")
    found = await router.login("dan@example.org", PASSWORD)
    assert [account.user for account in found if account.tenant == "database1"] == ["database1-1"]


async def test_claims_are_what_json_has_however_deep_they_are(people: World) -> None:
    deep = "ARRAY[now()::date, '2025-01-31'] AS days, ARRAY['NaN'::float8, 1.5] AS numbers, ARRAY[NULL, 'a'] AS texts"
    query = f"select id as user_id, password_hash, {deep} from users where lower(email) = $1"
    async with Router(login_settings(people, login={"account_query": query})) as router:
        (account,) = await router.login("dan@example.org", PASSWORD)
    claims = json.loads(json.dumps(dict(account.claims), allow_nan=False))
    assert (claims["days"][1], claims["numbers"], claims["texts"]) == ("2025-01-31", ["nan", 1.5], [None, "a"])


async def test_an_account_query_without_the_columns_is_told_and_lets_nobody_in(people: World) -> None:
    events: list[Event] = []
    wrong = {"account_query": "select id, email from users where lower(email) = $1"}
    async with Router(login_settings(people, login=wrong), observer=events.append) as router:
        assert await failure(router.login("dan@example.org", PASSWORD)) == "LoginUnavailable"
    assert any(isinstance(event, LoginSearchFailed) and "password_hash" in event.error for event in events)


async def test_a_list_query_that_does_not_page_is_told_and_not_read_for_ever(
    people: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.accounts._PAGE", 1)
    query = "select id as user_id, email from users where $1::text is not null order by id limit $2"
    async with Router(login_settings(people, login={"list_query": query})) as router:
        accounts = TenantAccounts(router.settings, source=router, tenants=router.registry)
        with pytest.raises(ConfigurationError, match=r"login\.list_query: gives the same page again"):
            async for _ in accounts.pages(tenant_id("database1")):
                pass


async def test_without_the_directory_nobody_hears_more_than_503(people: World) -> None:
    async with Router(login_settings(people)) as router:
        async with people.main.connect() as admin:
            await admin.execute("DROP TABLE tenantproxy.login_directory")
        for email in ("dan@example.org", "nobody@example.org"):
            with pytest.raises(LoginUnavailable) as refused:
                await router.login(email, PASSWORD)
            assert "login_directory" not in str(refused.value)
            assert refused.value.__suppress_context__


async def test_a_suspended_tenant_lets_nobody_in_and_does_not_show(people: World) -> None:
    settings = login_settings(people)
    suspended = settings.tenants["database2"].model_copy(update={"status": TenantStatus.SUSPENDED})
    settings = settings.model_copy(update={"tenants": {**settings.tenants, "database2": suspended}})
    async with Router(settings) as router:
        assert await failure(router.login("eve@example.org", PASSWORD)) == "InvalidCredentials"
        assert await failure(router.login("eve@example.org", PASSWORD, tenant="database2")) == "InvalidCredentials"
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")


# --- who tries too often ---------------------------------------------------------------------------------------------
LIMITS = {"attempts_per_account": 5, "attempts_per_address": 20, "attempts_per_second": 50}


async def test_an_account_is_tried_so_often_from_many_addresses(people: World) -> None:
    async with Router(login_settings(people, login=LIMITS)) as router:
        tries = [failure(router.login("ann@example.org", "guess", address=f"10.0.0.{n}")) for n in range(12)]
        assert sorted(await asyncio.gather(*tries)) == ["InvalidCredentials"] * 5 + ["TooManyAttempts"] * 7
        # It is held back whether or not it exists: unknown accounts are counted alike.
        tries = [failure(router.login("no@example.org", "guess", address=f"10.0.1.{n}")) for n in range(12)]
        assert sorted(await asyncio.gather(*tries)) == ["InvalidCredentials"] * 5 + ["TooManyAttempts"] * 7


async def test_ten_thousand_logins_from_one_address_cost_nothing_and_others_get_in(people: World) -> None:
    async with Router(login_settings(people, login=LIMITS)) as router:
        await router.login("dan@example.org", PASSWORD, address="192.0.2.9")
        loop = asyncio.get_running_loop()
        started = loop.time()
        tries = [failure(router.login(f"{n}@example.org", "guess", address="192.0.2.1")) for n in range(10_000)]
        flood = asyncio.gather(*tries)
        found = await router.login("dan@example.org", PASSWORD, address="192.0.2.9")
        told = await flood
        assert found == one("database1", "database1-1")
        free = 20 + 40  # what is allowed at once, and what comes to it while the flood goes on
        assert told.count("TooManyAttempts") >= 10_000 - free
        assert loop.time() - started < 30.0
        assert router.logins.counts.results["throttled"] >= 10_000 - free
        more = [router.login(f"{n}@example.net", "guess", address="192.0.2.1") for n in range(free)]
        heard = await asyncio.gather(*more, return_exceptions=True)
        assert any(isinstance(each, TooManyAttempts) and each.retry_after for each in heard)


async def test_searches_that_come_too_fast_are_held_back_and_known_accounts_are_not(people: World) -> None:
    async with Router(login_settings(people, login={"fan_outs_per_second": 1})) as router:
        await router.login("dan@example.org", PASSWORD)
        told = await asyncio.gather(*(failure(router.login(f"{n}@example.org", "guess")) for n in range(12)))
        assert "TooManyAttempts" in told
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")


async def test_an_address_searched_for_in_vain_is_not_searched_for_again_at_once(router: Router) -> None:
    for _ in range(4):
        await failure(router.login("nobody@example.org", PASSWORD))
    assert router.logins.counts.searched.total == 5


# --- what is seen of it ----------------------------------------------------------------------------------------------
async def test_answers_come_at_multiples_of_the_slot(people: World) -> None:
    async with Router(login_settings(people, login={"pad_to": 0.6})) as router:
        loop = asyncio.get_running_loop()
        for email, password in (("dan@example.org", PASSWORD), ("dan@example.org", "wrong"), ("no@example.org", "x")):
            started = loop.time()
            await failure(router.login(email, password))
            slots = (loop.time() - started) / 0.6
            assert slots >= 0.999
            assert slots % 1 < 0.8  # half a second late at most, and not a slot of its own


@pytest.fixture
async def work(people: World, router: Router, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done for each attempt, in order; who is asked does not show. dan@example.org is in the directory."""
    await router.login("dan@example.org", PASSWORD)
    seen: list[str] = []
    logins = router.logins

    def watch(owner: object, method: str, name: str) -> None:
        genuine = getattr(owner, method)

        async def watched(*args: object, **options: object) -> object:
            seen.append(name)
            return await genuine(*args, **options)

        monkeypatch.setattr(owner, method, watched)

    watch(logins.directory, "look_up", "look up")
    watch(logins._accounts, "of_tenant", "ask")
    watch(logins._accounts, "in_shared", "ask shared")
    watch(logins._passwords, "verify", "verify")
    return seen


async def test_each_attempt_reads_the_directory_once_asks_a_tenant_and_verifies_one_password(
    router: Router, work: list[str]
) -> None:
    for email in ("dan@example.org", "nobody@example.org"):
        await failure(router.login(email, "wrong"))  # from here on both are known to the search
    work.clear()
    for email in ("dan@example.org", "nobody@example.org"):
        await failure(router.login(email, "wrong"))
    assert await failure(router.login("dan@example.org", "wrong", tenant="database1")) == "InvalidCredentials"
    assert await failure(router.login("dan@example.org", "wrong", tenant="nobody")) == "InvalidCredentials"
    assert work == ["look up", "ask", "verify"] * 3 + ["look up", "ask", "ask", "verify"]


async def test_a_search_does_the_same_in_the_same_order_for_who_is_known_unknown_or_in_no_directory(
    router: Router, work: list[str]
) -> None:
    done = {}
    for email in ("dan@example.org", "nobody@example.org", "eve@example.org"):
        work.clear()
        assert await failure(router.login(email, "wrong")) == "InvalidCredentials"
        first, middle, last = work[:3], sorted(work[3:-1]), work[-1:]
        done[email] = [*first, *middle, *last]
    assert done["dan@example.org"] == [
        "look up", "ask", "verify", "ask", "ask", "ask", "ask shared", "verify",
    ]  # fmt: skip
    assert done["nobody@example.org"] == done["dan@example.org"]
    assert done["eve@example.org"] == done["dan@example.org"]


async def test_nothing_that_is_logged_counted_or_kept_names_the_person(
    people: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    async with Router(login_settings(people), observer=events.append) as router:
        for email, password in (("ann@example.org", PASSWORD), ("ann@example.org", "guess"), ("no@example.org", "x")):
            await failure(router.login(email, password))
        seen = repr((events, vars(router.logins.counts), router.stats())) + caplog.text
        async with people.main.connect() as admin:
            seen += repr(await admin.fetch("SELECT * FROM tenantproxy.login_directory"))
    for secret in ("ann@example", "no@example", PASSWORD, "guess", PEPPER):
        assert secret not in seen


async def test_a_login_that_is_cancelled_leaves_no_connection_behind(people: World) -> None:
    async with Router(login_settings(people)) as router:
        for pause in (0.0, 0.001, 0.005, 0.01, 0.02, 0.05):
            task = asyncio.ensure_future(router.login(f"{pause}@example.org", PASSWORD))
            await asyncio.wait([task], timeout=pause)
            task.cancel()
            await asyncio.wait([task])
        assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
        assert sum(pool.used for pool in router.stats().pools) == 0


async def test_login_that_is_not_configured_says_how(people: World) -> None:
    settings = login_settings(people)
    bare = Settings.model_validate(settings.model_copy(update={"login": type(settings.login)()}))
    async with Router(bare) as router:
        with pytest.raises(ConfigurationError, match="account_query"):
            await router.login("ann@example.org", PASSWORD)


async def test_a_router_that_is_opened_again_logs_in_again(people: World) -> None:
    router = Router(login_settings(people))
    for _ in range(2):
        async with router:
            assert await router.login("dan@example.org", PASSWORD) == one("database1", "database1-1")
    with pytest.raises(TenantProxyError, match="not open"):
        await router.login("dan@example.org", PASSWORD)


def test_an_account_is_a_value() -> None:
    account = one("row1", "1")[0]
    assert replace(account, user="2") != account
