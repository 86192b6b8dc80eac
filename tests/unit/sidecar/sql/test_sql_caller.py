"""What does a connection string ask for, and who is remembered? Without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tenantproxy.auth.trust import Trust
from tenantproxy.errors import InvalidCredentials, ProtocolError, TooManyAttempts
from tenantproxy.model import tenant_id
from tenantproxy.sidecar.pg.encryption import Channel
from tenantproxy.sidecar.pg.passwords import PasswordChecks
from tenantproxy.sidecar.pg.users import Credential, Target
from tenantproxy.sidecar.sql.caller import SqlCallers, Visitor, read_connection_string
from tenantproxy.wire.client_auth import failed
from tenantproxy.wire.scram import Verifier
from tenantproxy.wire.startup import SessionWish
from tests.support.token_desk import Clock

RIGHT = Verifier.of_password("right", iterations=1)


def named(host: str) -> tuple[bytes, ...]:
    return (host.removesuffix(".db.test").encode(),) if host.endswith(".db.test") else ()


class FakeUsers:
    """One user, who is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def find(self, user: bytes, channel: Channel) -> Credential:
        self.asked += 1
        return Credential("scram-sha-256", RIGHT)

    async def authorise(self, user: bytes, wish: SessionWish) -> Target:
        return Target(kind="tenant", user=user.decode(), tenant=tenant_id(wish.database.decode()))

    async def authorise_token(
        self, token: str, wish: SessionWish, *, subject: bytes | None = None
    ) -> InvalidCredentials:
        return failed(b"jwt")

    def left_of(self, target: Target, others: tuple[tuple[bytes, bytes], ...]) -> dict[bytes, bytes]:
        return dict(others)


async def at_once(verifier: Verifier, password: str, trust: Trust) -> bool:
    return verifier.matches(password)


def visitor(text: str) -> Visitor:
    return Visitor(text, (), "192.0.2.7", Channel(is_local=True))


@pytest.mark.parametrize(
    ("text", "user", "password", "database", "tenants"),
    [
        ("postgresql://u:p@h/db", b"u", "p", b"db", ()),
        ("postgres://u%40x:p%2F%C3%BC@h:5432/d%20b?sslmode=require", b"u@x", "p/ü", b"d b", ()),
        ("postgresql://u:p@h", b"u", "p", b"u", ()),
        ("postgresql://u@acme.db.test/acme?tenant=acme&tenant=x", b"u", "", b"acme", (b"acme", b"x")),
        ("postgresql://u@h/d?options=-c%20tenant%3Da%20--tenant%3Db", b"u", "", b"d", (b"a", b"b")),
        ("postgresql://u@h/d?options=project%3Dx", b"u", "", b"d", ()),
        ("", b"", "", b"", ()),
    ],
)
def test_a_connection_string_names_a_user_and_a_tenant(
    text: str, user: bytes, password: str, database: bytes, tenants: tuple[bytes, ...]
) -> None:
    wish, found = read_connection_string(text, named)
    assert (wish.user, found, wish.database, set(wish.tenants)) == (user, password, database, set(tenants))


@pytest.mark.parametrize(
    "text",
    [
        "u:p@h/d", "http://u:p@h/d", "postgresql:///d", "postgresql://u:p@[h/d", "postgresql://u@h/d/e",
        "postgresql://u:p@h/d\udcff", "postgresql://\udcff:p@h/d", "postgresql://u:\udcff@h/d",
        "postgresql://u:p@h/d?" + "&".join(["a=b"] * 65),
    ],
)  # fmt: skip
def test_what_is_no_connection_string_is_not_quoted(text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        read_connection_string(text, named)
    assert text not in str(refused.value)


async def test_a_caller_is_verified_once_a_minute_right_or_wrong() -> None:
    users, clock = FakeUsers(), Clock()
    callers = SqlCallers(users, named=named, attempts=0, check=at_once, clock=clock)
    good, wrong = visitor("postgresql://u:right@h/acme"), visitor("postgresql://u:wrong@h/acme")
    assert callers.recall(good) is None
    found = await callers.verify(good)
    with pytest.raises(InvalidCredentials):
        await callers.verify(wrong)
    assert users.asked == 2
    assert callers.recall(good) == found
    with pytest.raises(InvalidCredentials):
        callers.recall(wrong)
    assert callers.recall(visitor("postgresql://u:right@h/globex")) is None
    clock.now += 61
    assert callers.recall(good) is None
    assert callers.recall(wrong) is None
    await callers.verify(good)
    callers.forget()
    assert callers.recall(good) is None
    assert "right" not in repr(callers._known) + repr(good)


async def test_a_network_that_guesses_is_slowed_and_who_was_right_there_is_not() -> None:
    callers = SqlCallers(FakeUsers(), named=named, attempts=2, check=at_once, clock=(clock := Clock()))
    good = visitor("postgresql://u:right@h/acme")
    await callers.verify(good)
    for number in range(2):
        with pytest.raises(InvalidCredentials):
            await callers.verify(visitor(f"postgresql://u:{number}@h/acme"))
    with pytest.raises(TooManyAttempts):
        await callers.verify(visitor("postgresql://u:right@h/globex"))
    clock.now += 61
    assert (await callers.verify(good)).tenant == "acme"


# --- how much of it at once ------------------------------------------------------------------------------------------
class SlowUsers(FakeUsers):
    """Whose verifier takes some tenths of a second, as it may be configured."""

    def find(self, user: bytes, channel: Channel) -> Credential:
        self.asked += 1
        return Credential("scram-sha-256", SLOW)


SLOW = Verifier.of_password("right", iterations=400_000)


@pytest.fixture
def checks() -> Iterator[PasswordChecks]:
    made = PasswordChecks(threads=1, max_waiting=4)
    yield made
    made.close()


async def test_the_event_loop_is_not_held_while_a_password_is_checked(checks: PasswordChecks) -> None:
    callers = SqlCallers(SlowUsers(), named=named, attempts=0, check=checks.is_right)
    verifying = asyncio.create_task(callers.verify(visitor("postgresql://u:right@h/acme")))
    turns = 0
    while not verifying.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await verifying).tenant == "acme"
    assert turns > 50


async def test_a_flood_of_strangers_is_refused_and_a_known_caller_is_not() -> None:
    clock = Clock()
    checks = PasswordChecks(threads=1, max_waiting=4, clock=clock)
    callers = SqlCallers(SlowUsers(), named=named, attempts=0, check=checks.is_right, clock=clock)
    known = visitor("postgresql://u:right@h/acme")
    await callers.verify(known)
    clock.now += 61
    flood = [asyncio.create_task(callers.verify(visitor(f"postgresql://u:{number}@h/acme"))) for number in range(20)]
    await asyncio.sleep(0)
    assert (await callers.verify(known)).tenant == "acme"
    answers = await asyncio.gather(*flood, return_exceptions=True)
    assert [type(each) for each in answers[:3]] == [InvalidCredentials] * 3  # one runs, two wait
    assert {type(each) for each in answers[3:]} == {TooManyAttempts}
    checks.close()


async def test_many_guesses_at_once_are_as_many_attempts() -> None:
    callers = SqlCallers(FakeUsers(), named=named, attempts=2, check=at_once)
    guesses = [callers.verify(visitor(f"postgresql://u:{number}@h/acme")) for number in range(10)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert [type(each) for each in answers] == [InvalidCredentials] * 2 + [TooManyAttempts] * 8
