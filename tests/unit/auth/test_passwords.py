"""Is a password found right or wrong whatever is stored, at a bounded cost, without holding up the loop?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import argon2
import bcrypt
import pytest

from tenantproxy.auth.passwords import MAX_PASSWORD_BYTES, Passwords, PasswordVerdict, password_bytes
from tenantproxy.errors import TooManyAttempts
from tests.support.waiting import PATIENCE

YES = PasswordVerdict(matches=True)
OLD = PasswordVerdict(matches=True, rehash=True)
NO = PasswordVerdict(matches=False)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(threads=2)
    yield made
    made.close()


async def test_a_hash_of_ours_matches_its_password_alone_and_needs_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(b"correct horse", stored) == YES
    assert await passwords.verify(b"correct horsf", stored) == NO
    assert await passwords.hash("correct horse") != stored


@pytest.mark.parametrize(
    "hasher",
    [
        argon2.PasswordHasher(time_cost=3, memory_cost=19456, parallelism=1),
        argon2.PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1),
        argon2.PasswordHasher(),
        argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=2),
        argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=argon2.Type.I),
        argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=argon2.Type.D),
    ],
    ids=["t", "m", "defaults", "p", "i", "d"],
)
async def test_other_parameters_match_and_ask_for_a_new_hash(
    hasher: argon2.PasswordHasher, passwords: Passwords
) -> None:
    stored = hasher.hash("old")
    assert await passwords.verify(b"old", stored) == OLD
    assert await passwords.verify(b"new", stored) == NO


@pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2x$", b"$2y$"])
async def test_bcrypt_matches_and_asks_for_a_new_hash(prefix: bytes, passwords: Passwords) -> None:
    stored = (prefix + bcrypt.hashpw(b"legacy", bcrypt.gensalt(4))[4:]).decode()
    assert await passwords.verify(b"legacy", stored) == OLD
    assert await passwords.verify(b"legacx", stored) == NO


async def test_bcrypt_looks_at_72_bytes_and_a_longer_password_keeps_its_hash(passwords: Passwords) -> None:
    long = b"x" * 72 + b" and what bcrypt never looked at"
    stored = bcrypt.hashpw(long[:72], bcrypt.gensalt(4)).decode()
    assert await passwords.verify(long, stored) == YES
    assert await passwords.verify(long + b" mistyped", stored) == YES
    assert await passwords.verify(long[:72], stored) == OLD
    assert await passwords.verify(b"x" * 71, stored) == NO


@pytest.mark.parametrize(("password", "typed"), [(b"", b"\0"), (b"", b"\0\0"), (b"ab", b"ab\0ab"), (b"a", b"a\0b")])
async def test_bcrypt_never_matches_a_password_with_nul(password: bytes, typed: bytes, passwords: Passwords) -> None:
    stored = bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()
    assert await passwords.verify(typed, stored) == NO


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "!",
        "x",
        "plain",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "$argon2id$v=19$m=19456,t=2,p=1$$",
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$",
        "$argon2id$v=19$m=19456,t=2,p=1$c2E$c2FsdHNhbHQ",
        "$argon2id$v=19$m=19456,t=2,p=1$!!!$!!!",
        "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=65536,t=4000000,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=262144,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=131072,t=5,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=0,t=0,p=0$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=8,t=1,p=255$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$argon2id$v=19$m=\uff18,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
        "$2b$0\uff14$" + "." * 53,
        "$2b$31$" + "." * 53,
        "$2b$04$short",
        "$2b$99$" + "." * 53,
        "$argon2id$" + "A" * 5000,
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$\u00fc",
    ],
    ids=lambda stored: repr(stored)[:40],
)
async def test_what_is_no_hash_or_costs_too_much_matches_nothing(stored: str | None, passwords: Passwords) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await passwords.verify(b"anything", stored) == NO
        assert await passwords.verify((stored or "none").encode(), stored) == NO


async def test_a_hash_that_would_start_a_crowd_of_threads_is_not_computed(passwords: Passwords) -> None:
    stored = argon2.low_level.hash_secret(b"right", b"saltsalt", 1, 8 * 17, 17, 16, argon2.Type.ID).decode()
    assert await passwords.verify(b"right", stored) == NO


@pytest.mark.parametrize("stored", [None, "!", "$2b$31$" + "." * 53, "$argon2id$v=19$m=8,t=1,p=9$AA$AA"])
async def test_where_nothing_can_match_a_dummy_is_verified_all_the_same(
    stored: str | None, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    genuine = argon2.low_level.verify_secret

    def watched(hashed: bytes, secret: bytes, kind: argon2.Type) -> bool:
        seen.append(hashed.decode())
        return genuine(hashed, secret, kind)

    monkeypatch.setattr(argon2.low_level, "verify_secret", watched)
    assert await passwords.verify(b"anything", stored) == NO
    assert seen[-1].startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD_BYTES + 1), "ü" * 513, "x" * 10_000, "\ud800"])
async def test_what_cannot_be_a_password_is_none_and_is_not_hashed(password: str, passwords: Passwords) -> None:
    assert password_bytes(password) is None
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        await passwords.hash(password)


@pytest.mark.parametrize("password", ["x", "x" * MAX_PASSWORD_BYTES, "ü" * 512, "with\0nul", " ", "密码"])
async def test_any_text_up_to_1024_bytes_is_a_password(password: str, passwords: Passwords) -> None:
    raw = password_bytes(password)
    assert raw is not None
    assert await passwords.verify(raw, await passwords.hash(password)) == YES
    assert await passwords.verify(raw + b"x", await passwords.hash(password)) == NO


async def test_beyond_the_queue_one_more_is_told_to_come_back_and_later_it_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords = Passwords(threads=1, max_waiting=2)
    go = threading.Event()

    def stuck(hashed: bytes, secret: bytes, kind: argon2.Type) -> bool:
        assert go.wait(PATIENCE)
        return True

    monkeypatch.setattr(argon2.low_level, "verify_secret", stuck)
    waiting = [asyncio.ensure_future(passwords.verify(b"x", None)) for _ in range(3)]
    try:
        await asyncio.sleep(0)
        with pytest.raises(TooManyAttempts) as refused:
            await passwords.verify(b"x", None)
        assert refused.value.retry_after
        waiting[2].cancel()
        await asyncio.wait([waiting[2]])
        waiting.append(asyncio.ensure_future(passwords.verify(b"x", None)))
        await asyncio.sleep(0)
    finally:
        go.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [task.cancelled() for task in waiting] == [False, False, True, False]
    assert await passwords.verify(b"x", None) == NO
    passwords.close()


async def test_the_loop_runs_while_passwords_are_checked(passwords: Passwords) -> None:
    checking = asyncio.gather(*(passwords.verify(b"x", None) for _ in range(6)))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
