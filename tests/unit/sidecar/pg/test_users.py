"""Is every client admitted that may log in, and does no other learn anything?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tenantproxy.auth.claims import invalid, no_longer_valid
from tenantproxy.config import Auth, PgUser, Settings
from tenantproxy.errors import (
    ConfigurationError,
    InvalidCredentials,
    RegistryUnavailable,
    TenantNotFound,
    TenantPaused,
    TenantProxyError,
    TenantSuspended,
    TokenExpired,
)
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry import CachedRegistry, MemoryRegistry
from tenantproxy.sidecar.pg.encryption import Channel
from tenantproxy.sidecar.pg.users import Credential, Target, Users, seed_of
from tenantproxy.wire.client_auth import failed
from tenantproxy.wire.scram import ClientExchange, ServerExchange, Verifier
from tenantproxy.wire.startup import SessionWish

STORED = Verifier.of_password("stored", iterations=5000, salt=b"0123456789").text()
USERS: Mapping[str, Mapping[str, Any]] = {
    "billing": {"verifier": STORED, "tenants": "*"},
    "acme_bi": {"password": "sesame", "tenants": ["acme", "beta", "asleep", "ended"], "pool_mode": "session"},
    "ops": {"password": "open", "console": True},
    "watcher": {"password": "look", "console": "read", "tenants": ["acme"]},
}


def tenant(
    name: str,
    database: str,
    isolation: Isolation = Isolation.DATABASE,
    status: TenantStatus = TenantStatus.ACTIVE,
    server: str = "primary",
) -> Tenant:
    place = Placement(isolation=isolation, server=server, database=database)
    return Tenant(id=tenant_id(name), placement=place, status=status)


LOCAL = Channel(is_local=True)

TENANTS = (
    tenant("acme", "acme_db"),
    tenant("beta", "shared", Isolation.ROW),
    tenant("other", "other_db"),
    tenant("acme_db2", "beta"),
    tenant("asleep", "asleep_db", status=TenantStatus.PAUSED),
    tenant("ended", "ended_db", status=TenantStatus.SUSPENDED),
)


class Asked(MemoryRegistry):
    """Remembers which tenants it was asked for; fails while `is_down`."""

    is_down = False

    def __init__(self) -> None:
        super().__init__(TENANTS)
        self.asked: list[str] = []

    async def get(self, tenant: TenantId) -> Tenant:
        self.asked.append(tenant)
        if self.is_down:
            raise RegistryUnavailable("down")
        return await super().get(tenant)


class Tokens:
    """Takes `good:TENANT`."""

    settings = Auth()

    async def verify(self, token: str, /) -> Mapping[str, Any]:
        match token.split(":"):
            case ["good", tenant]:
                return {"tenant": tenant, "sub": "7"}
            case ["no tenant"]:
                return {"sub": "7"}
            case ["several"]:
                return {"tenant": ("acme", "beta")}
            case ["old"]:
                raise no_longer_valid()
            case ["down"]:
                raise RegistryUnavailable("down")
        raise invalid()


def configured(users: Mapping[str, Mapping[str, Any]] = USERS) -> Mapping[str, PgUser]:
    mapping = {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"user": "app", "password": "x"}},
        "pg": {"users": users},
    }
    return Settings.from_mapping(mapping).pg.users


@pytest.fixture
def registry() -> Asked:
    return Asked()


@pytest.fixture
def users(registry: Asked) -> Users:
    return Users(configured(), Tokens(), tenants=CachedRegistry(registry), seed=b"s" * 32)


def wish(database: str | bytes, *tenants: str | bytes) -> SessionWish:
    named = [name.encode() if isinstance(name, str) else name for name in (database, *tenants)]
    return SessionWish(user=b"?", database=named[0], tenants=tuple(named[1:]))


def logs_in(credential: Credential, password: str) -> bool:
    assert credential.verifier is not None
    client, server = ClientExchange(password), ServerExchange(credential.verifier)
    final = client.final(server.first(client.first()))
    try:
        client.verify(server.final(final))
    except InvalidCredentials:
        return False
    return True


def same(one: object, other: TenantProxyError) -> bool:
    """Whether a client could tell them apart."""
    if type(one) is not type(other):
        return False
    assert isinstance(one, TenantProxyError)
    return (one.sqlstate, one.message, one.detail, one.hint) == (
        other.sqlstate, other.message, other.detail, other.hint,
    )  # fmt: skip


# --- who ------------------------------------------------------------------------------------------------------------
def test_users_are_known_by_their_verifier_or_by_the_password_it_is_made_of(users: Users) -> None:
    for user, password in (("billing", "stored"), ("acme_bi", "sesame"), ("ops", "open")):
        assert logs_in(users.find(user.encode(), LOCAL), password)
        assert not logs_in(users.find(user.encode(), LOCAL), password + "x")


@pytest.mark.parametrize("user", [b"unknown", b"Billing", b"billing ", b"BILLING", b"\xff\xfe", b"", b"x" * 9000])
async def test_an_unknown_user_gets_a_whole_exchange_that_fails_and_is_nobody_else(users: Users, user: bytes) -> None:
    credential = users.find(user, LOCAL)
    assert credential.method == "scram-sha-256"
    for password in ("stored", "sesame", "open", "look"):
        assert not logs_in(credential, password)
    for database in ("acme", "tenantproxy", "billing", "nothing"):
        assert same(await users.authorise(user, wish(database)), failed(user))


def test_an_unknown_user_has_the_same_salt_each_time_and_another_one_than_his_neighbour(users: Users) -> None:
    again = Users(configured({}), None, tenants=CachedRegistry(Asked()), seed=b"s" * 32)
    for name in (b"mallory", b"eve"):
        first, second = users.find(name, LOCAL).verifier, users.find(name, LOCAL).verifier
        assert first == second
        assert first is not None
        third = again.find(name, LOCAL).verifier
        assert third is not None
        assert first.salt[:10] == third.salt[:10], "also after a restart"
    assert users.find(b"mallory", LOCAL) != users.find(b"eve", LOCAL)


def test_unknown_users_have_iterations_and_salts_of_the_lengths_that_users_have(users: Users) -> None:
    def shapes(names: list[bytes]) -> set[tuple[int, int]]:
        found = [users.find(name, LOCAL).verifier for name in names]
        return {(one.iterations, len(one.salt)) for one in found if one is not None}

    assert shapes([b"stranger%d" % number for number in range(60)]) == {(4096, 16), (5000, 10)}
    assert shapes([name.encode() for name in USERS]) == {(4096, 16), (5000, 10)}


def test_a_password_is_made_a_verifier_once_until_its_file_says_another(tmp_path: Path) -> None:
    secret = tmp_path / "bi"
    secret.write_text("first\n")
    entries: dict[str, dict[str, Any]] = {
        "bi": {"password_file": str(secret), "tenants": "*"},
        "ops": {"password": "x", "console": True},
    }
    users = Users(configured(entries), None, tenants=CachedRegistry(Asked()))
    before, ops = users.find(b"bi", LOCAL).verifier, users.find(b"ops", LOCAL).verifier
    users.reload(configured(entries))
    assert users.find(b"bi", LOCAL).verifier is before
    secret.write_text("second\n")
    assert logs_in(users.find(b"bi", LOCAL), "first"), "read at reload alone"
    users.reload(configured(entries))
    assert logs_in(users.find(b"bi", LOCAL), "second")
    assert not logs_in(users.find(b"bi", LOCAL), "first")
    assert users.find(b"ops", LOCAL).verifier is ops


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("\n")])
def test_a_reload_that_cannot_read_a_password_changes_nothing(tmp_path: Path, spoil: Any) -> None:
    secret = tmp_path / "bi"
    secret.write_text("sesame\n")
    users = Users(
        configured({"bi": {"password_file": str(secret), "tenants": "*"}}), None, tenants=CachedRegistry(Asked())
    )
    more = configured({"new": {"password": "x", "tenants": "*"}, "bi": {"password_file": str(secret), "tenants": "*"}})
    spoil(secret)
    with pytest.raises(ConfigurationError) as caught:
        users.reload(more)
    assert "sesame" not in str(caught.value)
    assert logs_in(users.find(b"bi", LOCAL), "sesame")
    assert not logs_in(users.find(b"new", LOCAL), "x")


def test_neither_a_password_nor_a_verifier_is_in_a_repr(users: Users) -> None:
    shown = repr(users.find(b"billing", LOCAL)) + repr(users.find(b"acme_bi", LOCAL)) + repr(users)
    assert "sesame" not in shown
    assert STORED[-20:] not in shown


async def test_a_user_that_a_reload_took_away_comes_in_no_more(users: Users) -> None:
    users.reload(configured({"billing": USERS["billing"]}))
    assert same(await users.authorise(b"acme_bi", wish("acme")), failed(b"acme_bi"))
    assert not logs_in(users.find(b"acme_bi", LOCAL), "sesame")


# --- where to ---------------------------------------------------------------------------------------------------------
async def to(users: Users, user: str, *names: str | bytes) -> Target | TenantProxyError:
    return await users.authorise(user.encode(), wish(*names))


@pytest.mark.parametrize(
    ("user", "names", "found"),
    [
        ("billing", ["acme"], "acme"),
        ("billing", ["acme_db"], "acme"),
        ("billing", ["acme_db", "acme"], "acme"),
        ("billing", ["acme", "acme_db", "acme"], "acme"),
        ("billing", ["beta"], "beta"),  # an id counts more than the database of another
        ("acme_bi", ["acme"], "acme"),
        ("acme_bi", ["acme", "acme"], "acme"),
        ("acme_bi", ["acme_db"], "acme"),
        ("acme_bi", ["acme", "acme_db"], "acme"),
        ("acme_bi", ["beta"], "beta"),
    ],
)
async def test_a_tenant_is_named_by_its_id_or_its_own_database(
    users: Users, user: str, names: list[str], found: str
) -> None:
    target = await to(users, user, *names)
    assert isinstance(target, Target)
    assert (target.kind, target.user, target.tenant, target.may_change) == ("tenant", user, found, False)
    assert target.pool_mode == ("session" if user == "acme_bi" else "transaction")


@pytest.mark.parametrize(
    ("user", "names"),
    [
        ("acme_bi", ["other"]),  # it exists, and is another user's
        ("acme_bi", ["other_db"]),
        ("acme_bi", ["nothing"]),
        ("acme_bi", ["acme", "other"]),
        ("acme_bi", ["acme", "beta"]),
        ("acme_bi", ["acme", "nothing"]),
        ("acme_bi", ["shared"]),
        ("acme_bi", ["acme_bi"]),  # no database in the packet
        ("acme_bi", ["ACME"]),
        ("acme_bi", ["acme "]),
        ("acme_bi", [b"acme\xff"]),
        ("acme_bi", [b""]),
        ("acme_bi", ["a" * 64]),
        ("acme_bi", ["tenantproxy"]),
        ("acme_bi", ["pgbouncer"]),
        ("acme_bi", ["acme", "tenantproxy"]),
        ("billing", ["acme", "beta"]),
        ("billing", ["tenantproxy"]),
        ("billing", ["acme", "tenantproxy"]),
        ("ops", ["acme"]),
        ("ops", ["tenantproxy", "acme"]),
        ("ops", ["pgbouncer", "acme"]),
        ("watcher", ["beta"]),
    ],
)
async def test_whoever_may_not_go_there_hears_what_a_wrong_password_would_have_told_him(
    users: Users, user: str, names: list[str | bytes]
) -> None:
    assert same(await to(users, user, *names), failed(user.encode()))


async def test_nobody_elses_tenant_is_looked_up_so_not_even_the_time_tells_that_there_is_one(
    users: Users, registry: Asked
) -> None:
    for name in ("other", "nothing", "other_db"):
        await to(users, "acme_bi", name)
        await to(users, "watcher", name)
        await to(users, "ops", name)
    assert set(registry.asked) <= {"acme", "beta", "asleep", "ended"}


@pytest.mark.parametrize("name", ["nothing", "shared", "a" * 64, "x y", b"\xff", "ACME"])
async def test_a_user_of_all_tenants_hears_that_there_is_none(users: Users, name: str | bytes) -> None:
    answer = await to(users, "billing", name)
    assert isinstance(answer, TenantNotFound)
    assert answer.sqlstate == "3D000"


@pytest.mark.parametrize("user", ["billing", "acme_bi"])
async def test_a_tenant_that_is_not_served_is_told_to_those_who_may_reach_it_and_to_nobody_else(
    users: Users, user: str
) -> None:
    for _ in range(2):  # known from the second time on
        paused, suspended = await to(users, user, "asleep"), await to(users, user, "ended_db")
        assert isinstance(paused, TenantPaused)
        assert isinstance(suspended, TenantSuspended)
        assert (paused.sqlstate, suspended.sqlstate) == ("57P03", "28000")
        assert same(await to(users, "watcher", "asleep"), failed(b"watcher"))


async def test_what_is_known_is_answered_without_waiting(users: Users, registry: Asked) -> None:
    assert users.authorise_nowait(b"acme_bi", wish("acme")) is None
    first = await to(users, "acme_bi", "acme")
    assert users.authorise_nowait(b"acme_bi", wish("acme")) == first
    assert users.authorise_nowait(b"acme_bi", wish("acme", "acme")) == first
    assert registry.asked == ["acme"]


async def test_a_registry_that_is_down_is_told_as_that(users: Users, registry: Asked) -> None:
    registry.is_down = True
    for user in ("billing", "acme_bi"):
        assert isinstance(await to(users, user, "acme"), RegistryUnavailable)


async def test_of_two_servers_databases_of_one_name_neither_tenant_is_meant(users: Users, registry: Asked) -> None:
    registry.add(tenant("beta", "acme_db", server="second"))
    assert same(await to(users, "acme_bi", "acme_db"), failed(b"acme_bi"))
    assert isinstance(await to(users, "billing", "acme_db"), TenantNotFound)


async def test_a_flood_of_names_costs_no_lookups(users: Users, registry: Asked) -> None:
    names = [f"made_up_{number}" for number in range(500)]
    assert same(await to(users, "billing", "acme", *names), failed(b"billing"))
    assert registry.asked == []


# --- the console ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("database", ["tenantproxy", "pgbouncer"])
async def test_the_console_is_for_those_who_have_it_and_says_who_may_change_something(
    users: Users, database: str
) -> None:
    assert await to(users, "ops", database) == Target(kind="console", user="ops", may_change=True)
    assert await to(users, "watcher", database) == Target(kind="console", user="watcher", may_change=False)


# --- tokens -----------------------------------------------------------------------------------------------------------
async def by_token(users: Users, token: str, *names: str) -> Target | TenantProxyError:
    return await users.authorise_token(token, wish(*names))


@pytest.mark.parametrize("names", [["acme"], ["acme_db"], ["acme", "acme_db"]])
async def test_a_token_opens_the_tenant_of_its_claim(users: Users, names: list[str]) -> None:
    assert users.find(b"jwt", LOCAL) == Credential("cleartext")
    assert await by_token(users, "good:acme", *names) == Target(kind="tenant", user="jwt", tenant=tenant_id("acme"))


@pytest.mark.parametrize(
    ("token", "names"),
    [
        ("good:acme", ["beta"]),
        ("good:acme", ["nothing"]),
        ("good:acme", ["acme", "beta"]),
        ("good:acme", ["tenantproxy"]),
        ("good:tenantproxy", ["tenantproxy"]),
        ("good:acme", ["pgbouncer"]),
        ("good:nothing", ["nothing"]),
        ("good:beta", ["shared"]),
        ("no tenant", ["acme"]),
        ("several", ["acme"]),
        ("bad", ["acme"]),
        ("", ["acme"]),
        ("good:acmé", ["acmé"]),
    ],
)
async def test_a_token_opens_nothing_else_and_says_so_as_a_wrong_password(
    users: Users, token: str, names: list[str]
) -> None:
    assert same(await by_token(users, token, *names), failed(b"jwt"))


async def test_the_bearer_of_a_genuine_token_hears_what_is_wrong_with_it_and_with_his_tenant(users: Users) -> None:
    assert isinstance(await by_token(users, "old", "acme"), TokenExpired)
    assert isinstance(await by_token(users, "down", "acme"), RegistryUnavailable)
    assert isinstance(await by_token(users, "good:asleep", "asleep"), TenantPaused)


@pytest.mark.parametrize(("tokens", "channel"), [(None, Channel(is_local=True)), (Tokens(), Channel())])
async def test_without_tokens_or_where_others_can_listen_the_user_jwt_is_a_stranger(
    registry: Asked, tokens: Tokens | None, channel: Channel
) -> None:
    users = Users(configured(), tokens, tenants=CachedRegistry(registry))
    assert users.find(b"jwt", channel).method == "scram-sha-256"
    if tokens is None:
        assert same(await by_token(users, "good:acme", "acme"), failed(b"jwt"))
    assert same(await users.authorise(b"jwt", wish("acme")), failed(b"jwt"))


async def test_the_user_jwt_cannot_come_in_without_a_token(users: Users) -> None:
    assert same(await users.authorise(b"jwt", wish("acme")), failed(b"jwt"))


def test_the_seed_follows_from_a_key_and_never_from_a_password() -> None:
    base: dict[str, Any] = {
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"user": "app", "password": "x"}},
    }
    assert seed_of(Settings.from_mapping(base)) is None
    seeds = {
        seed_of(Settings.from_mapping({**base, **keys}))
        for keys in ({"row": {"key": "k" * 32}}, {"row": {"key": "l" * 32}}, {"auth": {"key": "m" * 32}})
    }
    assert len(seeds) == 3
    assert seed_of(Settings.from_mapping({**base, "row": {"key": "k" * 32}})) in seeds
