"""Do those who may log in get in, whatever strangers, other tenants and odd hashes do to keep them out?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tenantproxy.auth.accounts import Account
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantPaused
from tenantproxy.events import (
    Event,
    Exhausted,
    LoginFailed,
    LoginLocked,
    LoginSucceeded,
    PasswordHashUnusable,
    RegistryDegraded,
)
from tenantproxy.model import TenantStatus, tenant_id
from tenantproxy.router import Router
from tests.support.logins import HASH, PASSWORD, add, change, failure, login_settings, populate
from tests.support.world import World, a_world

VICTIM = "victim@example.org"
LIMITS = {"attempts_per_account": 10, "attempts_per_address": 100, "attempts_per_second": 100}
EXACT = {
    name: query.replace("lower(email)", 'lower(normalize(email) collate "C")')
    for name, query in {
        "account_query": "select id as user_id, password_hash, role from users where lower(email) = $1 and is_active",
        "list_query": "select id as user_id, email from users where is_active and id > $1 order by id limit $2",
    }.items()
}


async def with_people(world: World) -> None:
    await populate(world, {"row1": ["ann@example.org"], "database1": ["dan@example.org"]})


@pytest.fixture
async def people(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, furnish=with_people) as made:
        yield made


@pytest.fixture
async def router(people: World) -> AsyncIterator[Router]:
    async with Router(login_settings(people)) as opened:
        yield opened


async def invite(people: World, email: str, stored: str | None, tenants: Sequence[str]) -> None:
    for tenant in people.tenants:
        if tenant.id in tenants:
            async with people.database(tenant).connect() as admin:
                await add(admin, tenant, f"{tenant.id}-{email}", email, stored=stored)


async def note(router: Router, email: str, tenants: Sequence[str]) -> None:
    """As a reconciliation leaves the directory, the first tenant being there for longest."""
    directory = router.logins.directory
    for tenant in tenants:
        await directory.add(directory.key(email), tenant_id(tenant), f"{tenant}-{email}")


def tenants_of(accounts: Sequence[Account]) -> set[str]:
    return {str(account.tenant) for account in accounts}


OTHERS = ("row1", "row2", "schema1", "schema2", "database1")


@pytest.mark.parametrize("stored", ["!", "!unusable", "", None, "$6$salt$hash", "pbkdf2_sha256$900000000$salt$AAAA"])
@pytest.mark.parametrize("is_noted", [True, False], ids=["directory", "search"])
async def test_invitations_elsewhere_never_keep_the_owner_out(
    stored: str | None, is_noted: bool, people: World, router: Router
) -> None:
    await invite(people, VICTIM, stored, OTHERS)
    await invite(people, VICTIM, HASH, ["database2"])
    if is_noted:
        await note(router, VICTIM, [*OTHERS, "database2"])
    assert tenants_of(await router.login(VICTIM, PASSWORD)) == {"database2"}


async def test_beyond_four_accounts_the_next_attempt_asks_the_others(people: World, router: Router) -> None:
    foreign = await router.logins._passwords.hash("what only the other tenants know")
    await invite(people, VICTIM, foreign, OTHERS)
    await invite(people, VICTIM, HASH, ["database2"])
    await note(router, VICTIM, [*OTHERS, "database2"])
    told = [await failure(router.login(VICTIM, PASSWORD)) for _ in range(3)]
    assert "none" in told
    assert [await failure(router.login(VICTIM, PASSWORD)) for _ in range(4)] == ["none"] * 4


async def test_logins_of_one_person_at_the_same_moment_all_succeed(router: Router) -> None:
    told = await asyncio.gather(*(failure(router.login("dan@example.org", PASSWORD)) for _ in range(20)))
    assert told == ["none"] * 20  # also those that began before the first of them had searched


async def test_new_device_tokens_bring_no_new_guesses(people: World) -> None:
    """Who has the password in one tenant of its own must not guess those of the same address in others without end."""
    async with Router(login_settings(people, login=LIMITS | {"attempts_per_account": 1})) as router:
        login = router.logins
        key, token = login.directory.key("dan@example.org"), login.device_token("dan@example.org")
        assert login._device(token, key) is not None
        for n in range(4):
            login._throttle.take(key, None, device=b"%d" % n)
        assert login._device(token, key) is None  # counted as one without, from now on


async def test_guesses_from_elsewhere_do_not_lock_the_owner_out(people: World) -> None:
    async with Router(login_settings(people, login=LIMITS)) as router:
        await router.login("dan@example.org", PASSWORD, address="192.0.2.9")
        device = router.logins.device_token("dan@example.org")
        guesses = [
            failure(router.login("dan@example.org", "guess", address=f"10.{n}.0.1", device="tpd_" + "A" * 64))
            for n in range(30)
        ]
        assert "TooManyAttempts" in await asyncio.gather(*guesses)
        assert await failure(router.login("dan@example.org", PASSWORD, address="192.0.2.9")) == "none"
        assert await failure(router.login("dan@example.org", PASSWORD, address="10.0.0.1", device=device)) == "none"
        # A device's token says of whom it is: for another account it is worth nothing.
        ann = [failure(router.login("ann@example.org", "guess", device=device)) for _ in range(15)]
        assert (await asyncio.gather(*ann)).count("InvalidCredentials") <= 11


@pytest.mark.parametrize(
    ("email", "password"),
    [("dan@example.org", ""), ("dan@example.org", "x" * 1025), ("no address", "x"), ("@", "x"), ("", "")],
)
async def test_impossible_attempts_cost_no_one_else_anything(email: str, password: str, people: World) -> None:
    async with Router(login_settings(people, login=LIMITS)) as router:
        flood = [
            failure(router.login(email, password, address=f"2001:db8:{n % 60:x}:{n % 60:x}::{n:x}"))
            for n in range(1_000)
        ]
        honest = [
            failure(router.login(name, PASSWORD, address=f"192.0.{n}.2"))
            for n in range(6)
            for name in ("dan@example.org", "ann@example.org")
        ]
        told, heard = await asyncio.gather(asyncio.gather(*flood), asyncio.gather(*honest))
        assert set(told) == {"InvalidCredentials"}
        assert heard == ["none"] * 12


async def test_a_crowd_of_logins_leaves_most_of_the_main_database_alone(people: World) -> None:
    events: list[Event] = []
    async with Router(login_settings(people, main={"max_size": 8}), observer=events.append) as router:
        await failure(router.login("dan@example.org", PASSWORD))
        crowd = asyncio.gather(*(failure(router.login(f"{n}@example.org", "guess")) for n in range(40)))
        worst = 0
        while not crowd.done():
            (main,) = [pool for pool in router.stats().pools if pool.key.database == people.main.name]
            worst = max(worst, main.used + main.waiting)
            await asyncio.sleep(0)
        await crowd
        assert 0 < worst <= 3  # two for logins, one for the registry
    assert not [event for event in events if isinstance(event, Exhausted | RegistryDegraded)]


@pytest.mark.parametrize(
    ("kept", "typed"),
    [
        ("İstanbul@example.org", "İstanbul@Example.ORG"),
        ("ΟΔΟΣ@example.org", "ΟΔΟΣ@example.org"),
        ("E\u0301va@example.org", "Éva@example.org"),
        ("Éva@example.org", "E\u0301va@EXAMPLE.org"),
        ("straße@example.org", "STRAßE@example.org"),
    ],
)
async def test_an_address_is_compared_by_one_rule_here_and_in_the_database(
    kept: str, typed: str, people: World
) -> None:
    await invite(people, kept, HASH, ["database2"])
    settings = login_settings(people, lookup=False, login=EXACT)
    async with Router(settings) as router:
        assert tenants_of(await router.login(typed, PASSWORD)) == {"database2"}  # by a search
    async with Router(login_settings(people, lookup=False, login={**EXACT, "fan_out": False})) as router:
        assert tenants_of(await router.login(typed, PASSWORD)) == {"database2"}  # by the directory
        await router.logins.directory.reconcile(tenant_id("database2"), pages([(kept, "again")]))
        assert tenants_of(await router.login(typed, PASSWORD)) == {"database2"}


async def pages(*page: Sequence[tuple[str, str]]) -> AsyncIterator[Sequence[tuple[str, str]]]:
    for each in page:
        yield each


async def test_a_hash_of_an_unknown_kind_is_told_once_and_counted(people: World) -> None:
    events: list[Event] = []
    stored = "$6$rounds=5000$saltsalt$" + "h" * 86
    await change(people, "database1", "UPDATE users SET password_hash = $1", stored)
    async with Router(login_settings(people), observer=events.append) as router:
        for _ in range(3):
            assert await failure(router.login("dan@example.org", PASSWORD)) == "InvalidCredentials"
        assert router.logins.counts.unusable["sha512-crypt"] >= 3
    told = [event for event in events if isinstance(event, PasswordHashUnusable)]
    assert told == [PasswordHashUnusable(tenant="database1", format="sha512-crypt")]
    assert stored not in repr(events)


async def test_events_tell_who_got_in_who_failed_and_who_is_locked(people: World) -> None:
    events: list[Event] = []
    limits = {**LIMITS, "attempts_per_account": 3}
    async with Router(login_settings(people, login=limits), observer=events.append) as router:
        await router.login("dan@example.org", PASSWORD, address="192.0.2.9")
        for _ in range(6):
            await failure(router.login("Dan@Example.org", "guess", address="192.0.2.7"))
    (succeeded,) = [event for event in events if isinstance(event, LoginSucceeded)]
    assert (succeeded.tenant, succeeded.user, succeeded.address) == ("database1", "database1-1", "192.0.2.9")
    failed = [event for event in events if isinstance(event, LoginFailed)]
    assert {(event.account, event.reason) for event in failed} == {(succeeded.account, "refused")}
    (locked,) = [event for event in events if isinstance(event, LoginLocked)]
    assert (locked.account, locked.limit) == (succeeded.account, "account")
    for secret in ("example", PASSWORD, "guess"):
        assert secret not in repr([succeeded, failed, locked]).lower()


def paused(settings: Settings, tenant: str, status: TenantStatus = TenantStatus.PAUSED) -> Settings:
    changed = settings.tenants[tenant].model_copy(update={"status": status})
    return settings.model_copy(update={"tenants": {**settings.tenants, tenant: changed}})


@pytest.mark.parametrize(("tenant", "email"), [("database1", "dan@example.org"), ("row1", "ann@example.org")])
async def test_the_right_password_hears_that_the_tenant_is_paused_and_no_other_does(
    tenant: str, email: str, people: World
) -> None:
    async with Router(login_settings(people)) as router:
        await router.login(email, PASSWORD)
    async with Router(paused(login_settings(people), tenant)) as router:
        with pytest.raises(TenantPaused, match="paused by an operator"):
            await router.login(email, PASSWORD)
        with pytest.raises(TenantPaused):
            await router.login(email, PASSWORD, tenant=tenant)
        assert await failure(router.login(email, "guess")) == "InvalidCredentials"
        assert await failure(router.login("nobody@example.org", PASSWORD)) == "InvalidCredentials"
        mine = [pool for pool in router.stats().pools if pool.label == tenant]
        assert sum(pool.idle + pool.used for pool in mine) == 0  # nothing is left open in what is paused
    async with Router(paused(login_settings(people), tenant, TenantStatus.SUSPENDED)) as router:
        assert await failure(router.login(email, PASSWORD)) == "InvalidCredentials"


async def test_who_is_in_another_tenant_too_is_not_kept_out_by_a_paused_one(people: World) -> None:
    await invite(people, "dan@example.org", HASH, ["database2"])
    async with Router(login_settings(people)) as router:
        assert tenants_of(await router.login("dan@example.org", PASSWORD)) == {"database1", "database2"}
    async with Router(paused(login_settings(people), "database1")) as router:
        assert tenants_of(await router.login("dan@example.org", PASSWORD)) == {"database2"}
