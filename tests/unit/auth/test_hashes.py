"""Are the hashes of other frameworks read, verified and replaced, and those that cannot be used refused unread?"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator

import bcrypt
import pytest
from django.conf import settings as django_settings
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.auth.hashes import Refusal, read_hash
from tenantproxy.auth.passwords import Passwords, PasswordVerdict

PASSWORD = b"correct horse"
OLD = PasswordVerdict(matches=True, rehash=True)
NO = PasswordVerdict(matches=False)


def django(algorithm: str) -> str:
    """As Django itself hashes `PASSWORD`."""
    if not django_settings.configured:
        django_settings.configure()
    from django.contrib.auth import hashers

    made = {
        "pbkdf2_sha256": hashers.PBKDF2PasswordHasher,
        "pbkdf2_sha1": hashers.PBKDF2SHA1PasswordHasher,
        "scrypt": hashers.ScryptPasswordHasher,
        "argon2": hashers.Argon2PasswordHasher,
        "bcrypt": hashers.BCryptPasswordHasher,
        "bcrypt_sha256": hashers.BCryptSHA256PasswordHasher,
    }[algorithm]()
    if algorithm.startswith("bcrypt"):
        return str(made.encode(PASSWORD.decode(), bcrypt.gensalt(4)))
    return str(made.encode(PASSWORD.decode(), "saltsaltsalt"))


def werkzeug_scrypt() -> str:
    digest = hashlib.scrypt(PASSWORD, salt=b"0123456789abcdef", n=32768, r=8, p=1, maxmem=132 * 1024 * 1024)
    return f"scrypt:32768:8:1$0123456789abcdef${digest.hex()}"


def werkzeug_pbkdf2(name: str) -> str:
    return f"pbkdf2:{name}:600$saltsalt${hashlib.pbkdf2_hmac(name, PASSWORD, b'saltsalt', 600).hex()}"


def passlib_pbkdf2() -> str:
    def ab64(raw: bytes) -> str:
        return b64encode(raw).decode().rstrip("=").replace("+", ".")

    salt = bytes(range(250, 256)) + bytes(10)
    digest = hashlib.pbkdf2_hmac("sha512", PASSWORD, salt, 25000)
    return f"$pbkdf2-sha512$25000${ab64(salt)}${ab64(digest)}"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(threads=2)
    yield made
    made.close()


@pytest.mark.parametrize("algorithm", ["pbkdf2_sha256", "pbkdf2_sha1", "scrypt", "argon2", "bcrypt", "bcrypt_sha256"])
async def test_a_hash_that_django_made_matches_and_is_replaced(algorithm: str, passwords: Passwords) -> None:
    stored = django(algorithm)
    assert stored.startswith(algorithm)
    assert await passwords.verify(PASSWORD, stored) == OLD
    assert await passwords.verify(PASSWORD + b"x", stored) == NO


@pytest.mark.parametrize(
    "stored", [werkzeug_scrypt(), *map(werkzeug_pbkdf2, ("sha1", "sha256", "sha512")), passlib_pbkdf2()]
)
async def test_a_hash_of_werkzeug_or_passlib_matches_and_is_replaced(stored: str, passwords: Passwords) -> None:
    assert await passwords.verify(PASSWORD, stored) == OLD
    assert await passwords.verify(b"incorrect horse", stored) == NO


@pytest.mark.parametrize(
    "stored",
    [  # from passlib's documentation
        "$pbkdf2-sha256$6400$.6UI/S.nXIk8jcbdHx3Fhg$98jZicV16ODfEsEZeYPGHU3kbrUrvUEXOPimVSQDD44",
        "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
    ],
)
async def test_published_hashes_of_passlib_match_their_password(stored: str, passwords: Passwords) -> None:
    assert await passwords.verify(b"password", stored) == OLD
    assert await passwords.verify(b"Password", stored) == NO


DIGEST = "A" * 43 + "="
EXPENSIVE = [
    f"pbkdf2_sha256$900000000$salt${DIGEST}",
    f"pbkdf2:sha256:900000000$salt${'0' * 64}",
    f"$pbkdf2-sha256$900000000$c2FsdHNhbHQ${DIGEST[:-1]}",
    f"scrypt:1073741824:8:1$salt${'0' * 64}",
    f"scrypt:32768:4096:1$salt${'0' * 64}",
    f"scrypt:32768:8:4096$salt${'0' * 64}",
    f"scrypt:2:9999:104$salt${'0' * 64}",
    f"scrypt:4:8:9999$salt${'0' * 64}",
    f"scrypt$1073741824$salt$8$1${DIGEST}",
    f"$scrypt$ln=30,r=8,p=1$c2FsdHNhbHQ${DIGEST[:-1]}",
    f"$scrypt$ln=99,r=9999,p=9999$c2FsdHNhbHQ${DIGEST[:-1]}",
    "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ",
    "$2b$31$" + "." * 53,
    "bcrypt_sha256$$2b$31$" + "." * 53,
]


@pytest.mark.parametrize("stored", EXPENSIVE)
async def test_a_hash_that_costs_too_much_is_refused_before_it_costs_anything(
    stored: str, passwords: Passwords
) -> None:
    assert read_hash(stored) == Refusal(kind="too expensive")
    async with asyncio_timeout():
        assert await passwords.verify(PASSWORD, stored) == NO


@pytest.mark.parametrize(
    "stored",
    [
        "pbkdf2_sha256$1000$salt$",
        "pbkdf2_sha256$1000$salt$AAAA",
        "pbkdf2_sha256$0$salt$" + DIGEST,
        "pbkdf2_sha256$1000$salt$" + "A" * 400,
        "pbkdf2:sha256:1000$salt$0",
        "pbkdf2:sha256:1000$salt$" + "0" * 62,
        "pbkdf2_sha256$\u0661000$salt$" + DIGEST,
        "scrypt:32768:8:1$salt$",
        "scrypt:32768:8:1$salt$00",
        "scrypt:32767:8:1$salt$" + "0" * 64,
        "scrypt:32768:0:1$salt$" + "0" * 64,
        "scrypt:0:8:1$salt$" + "0" * 64,
        "$scrypt$ln=0,r=8,p=1$c2FsdA$" + DIGEST[:-1],
        "$scrypt$ln=14,r=8,p=1$c2FsdA$c2Fs",
        "bcrypt$$2b$04$short",
        "argon2$argon2id$nonsense",
    ],
)
def test_a_hash_cut_short_or_without_a_digest_is_malformed(stored: str) -> None:
    assert read_hash(stored) == Refusal(kind="malformed")


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ("$6$rounds=5000$salt$" + "x" * 86, "sha512-crypt"),
        ("$1$salt$" + "x" * 22, "md5-crypt"),
        ("$y$j9T$salt$hash", "yescrypt"),
        ("$P$B" + "x" * 30, "phpass"),
        ("{SSHA}" + "x" * 32, "ldap"),
        ("md5$salt$5f4dcc3b5aa765d61d8327deb882cf99", "django"),
        ("$bcrypt-sha256$v=2,t=2b,r=12$salt$hash", "bcrypt-sha256"),
        ("5f4dcc3b5aa765d61d8327deb882cf99", "other"),
        ("hunter2", "other"),
    ],
)
def test_an_unknown_hash_is_named_by_its_format_and_nothing_in_it(stored: str, kind: str) -> None:
    refusal = read_hash(stored)
    assert refusal == Refusal(kind=kind)  # type: ignore[arg-type]
    assert stored not in repr(refusal)


@pytest.mark.parametrize("stored", [None, "", "!", "x", "*", "!!", "*LK*", "!" + "aB3" * 13])
def test_an_account_that_is_meant_to_have_no_password_is_not_reported(stored: str | None) -> None:
    assert read_hash(stored) == Refusal(kind=None)


@given(st.one_of(st.text(max_size=80), st.sampled_from(EXPENSIVE).flatmap(lambda s: st.just(s[:40]))))
def test_reading_never_raises_and_never_shows_what_it_read(stored: str) -> None:
    found = read_hash(stored)
    if len(stored) > 12:
        assert stored not in repr(found)


def test_what_is_read_hides_salt_and_digest() -> None:
    digest = hmac.digest(b"k", b"m", "sha256")
    stored = f"pbkdf2_sha256$1000$pepperandsalt${b64encode(digest).decode()}"
    assert "pepperandsalt" not in repr(read_hash(stored))


def asyncio_timeout() -> asyncio.Timeout:
    return asyncio.timeout(30)
