"""Reads stored password hashes: which kind, which parameters, and whether we can afford to compute it. Pure, no I/O.

A tenant may write what it likes into its own table of users: a hash must not cost a gigabyte of memory or many seconds.
What cannot be used has a `Refusal`, whose text says which kind it is and holds nothing of the hash itself.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = [
    "KINDS",
    "Argon2Hash",
    "BcryptHash",
    "Kind",
    "Pbkdf2Hash",
    "Refusal",
    "ScryptHash",
    "StoredHash",
    "read_hash",
]

_MAX_STORED: Final = 512
_MAX_MEMORY_KIB: Final = 128 * 1024
_MAX_WORK_KIB: Final = 512 * 1024  # memory times passes: twice what any framework asks for by default
_MAX_LANES: Final = 16  # each is a thread
_MAX_BCRYPT_COST: Final = 14
_MAX_ITERATIONS: Final = 2_000_000  # Django 6 uses 1,200,000
_MAX_SCRYPT_WORK_KIB: Final = 256 * 1024  # memory times parallelism
_MAX_SCRYPT_BLOCKS: Final = (
    32 * 1024
)  # block size times parallelism: PBKDF2 makes 128 bytes for each, before any memory
_MIN_DIGEST: Final = 16  # bytes; a digest of none would match every password
_MAX_DIGEST: Final = 64

_ARGON2: Final = re.compile(
    r"\$argon2(?P<kind>id|i|d)(?:\$v=(?P<version>\d{1,3}))?"
    r"\$m=(?P<memory>\d{1,10}),t=(?P<passes>\d{1,10}),p=(?P<lanes>\d{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+",
    re.ASCII,  # other digits are digits to int() and no text to argon2
)
_BCRYPT: Final = re.compile(r"\$2[abxy]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
# Django, Werkzeug and passlib write the same two functions in three ways.
_PBKDF2: Final = (
    re.compile(r"pbkdf2_(?P<hash>sha1|sha256)\$(?P<rounds>\d{1,9})\$(?P<salt>[^$]{1,128})\$(?P<b64>[A-Za-z0-9+/=]+)"),
    re.compile(r"pbkdf2:(?P<hash>sha1|sha256|sha512):(?P<rounds>\d{1,9})\$(?P<salt>[^$]{1,128})\$(?P<hex>[0-9a-f]+)"),
    re.compile(
        r"\$pbkdf2(?:-(?P<hash>sha256|sha512))?\$(?P<rounds>\d{1,9})\$(?P<salt64>[A-Za-z0-9./]{1,128})"
        r"\$(?P<ab64>[A-Za-z0-9./]+)"
    ),
)
_SCRYPT: Final = (
    re.compile(
        r"scrypt:(?P<n>\d{1,10}):(?P<r>\d{1,4}):(?P<p>\d{1,4})\$(?P<salt>[^$]{1,128})\$(?P<hex>[0-9a-f]+)", re.ASCII
    ),
    re.compile(
        r"scrypt\$(?P<n>\d{1,10})\$(?P<salt>[^$]{1,128})\$(?P<r>\d{1,4})\$(?P<p>\d{1,4})\$(?P<b64>[A-Za-z0-9+/=]+)",
        re.ASCII,
    ),
    re.compile(
        r"\$scrypt\$ln=(?P<ln>\d{1,2}),r=(?P<r>\d{1,4}),p=(?P<p>\d{1,4})"
        r"\$(?P<salt64>[A-Za-z0-9+/]{1,128})\$(?P<ab64>[A-Za-z0-9+/]+)",
        re.ASCII,
    ),
)
_DIGESTS: Final = {"sha1": 20, "sha256": 32, "sha512": 64}

Kind = Literal[
    "too expensive", "malformed", "md5-crypt", "sha256-crypt", "sha512-crypt", "yescrypt", "apache-md5", "phpass",
    "drupal", "bcrypt-sha256", "django", "ldap", "postgresql", "other",
]  # fmt: skip
# Names from this list alone reach a log: what stands in the column may be a password in clear.
_PREFIXES: Final[tuple[tuple[str, Kind], ...]] = (
    ("$1$", "md5-crypt"), ("$5$", "sha256-crypt"), ("$6$", "sha512-crypt"), ("$y$", "yescrypt"), ("$gy$", "yescrypt"),
    ("$7$", "yescrypt"), ("$apr1$", "apache-md5"), ("$P$", "phpass"), ("$H$", "phpass"), ("$S$", "drupal"),
    ("$bcrypt-sha256$", "bcrypt-sha256"), ("md5$", "django"), ("sha1$", "django"), ("unsalted_", "django"),
    ("crypt$", "django"), ("{", "ldap"), ("SCRAM-SHA-256$", "postgresql"),
    ("$argon2", "malformed"), ("argon2$", "malformed"), ("$2", "malformed"), ("bcrypt", "malformed"),
    ("pbkdf2", "malformed"), ("$pbkdf2", "malformed"), ("scrypt", "malformed"), ("$scrypt", "malformed"),
)  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = ("too expensive", *dict.fromkeys(kind for _, kind in _PREFIXES), "other")
"""Every kind that a Refusal may name."""
_LOCKED: Final = ("!", "*")  # as shadow files, PAM and Django mark an account without a password


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Hash:
    """`encoded` as argon2 reads it; memory in KiB."""

    encoded: str = field(repr=False)
    kind: str
    version: str | None
    memory: int
    passes: int
    lanes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BcryptHash:
    """`encoded` as bcrypt reads it. `is_prehashed`: of the password's SHA-256 in hex, as Django's bcrypt_sha256."""

    encoded: str = field(repr=False)
    is_prehashed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbkdf2Hash:
    """PBKDF2 with HMAC of `hash_name`; `digest` is what must come out."""

    hash_name: str
    iterations: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScryptHash:
    """scrypt (RFC 7914) with the cost `n`, block size `r`, parallelism `p`; `digest` is what must come out."""

    n: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No password can match. `kind` None: the account is meant to have none; else what should be looked after."""

    kind: Kind | None


StoredHash: TypeAlias = Argon2Hash | BcryptHash | Pbkdf2Hash | ScryptHash | Refusal


def read_hash(stored: str | None) -> StoredHash:
    """What `stored` is. Costs nothing worth mentioning, whatever it is."""
    if stored is None or len(stored) <= 1 or stored.startswith(_LOCKED):
        return Refusal(kind=None)
    if len(stored) > _MAX_STORED:
        return Refusal(kind="malformed")
    bare = stored.removeprefix("argon2") if stored.startswith("argon2$argon2") else stored  # Django's form
    return _argon2(bare) or _bcrypt(bare) or _pbkdf2(bare) or _scrypt(bare) or Refusal(kind=_kind(stored))


def _kind(stored: str) -> Kind:
    return next((kind for prefix, kind in _PREFIXES if stored.startswith(prefix)), "other")


def _argon2(stored: str) -> StoredHash | None:
    parts = _ARGON2.fullmatch(stored)
    if parts is None:
        return None
    memory, passes, lanes = (int(parts[name]) for name in ("memory", "passes", "lanes"))
    if memory > _MAX_MEMORY_KIB or memory * passes > _MAX_WORK_KIB or lanes > _MAX_LANES:
        return Refusal(kind="too expensive")
    return Argon2Hash(
        encoded=stored, kind=parts["kind"], version=parts["version"], memory=memory, passes=passes, lanes=lanes
    )


def _bcrypt(stored: str) -> StoredHash | None:
    is_prehashed = stored.startswith("bcrypt_sha256$$")
    encoded = stored.removeprefix("bcrypt_sha256$" if is_prehashed else "bcrypt$")  # Django's forms
    parts = _BCRYPT.fullmatch(encoded)
    if parts is None:
        return None
    if int(parts["cost"]) > _MAX_BCRYPT_COST:
        return Refusal(kind="too expensive")
    return BcryptHash(encoded=encoded, is_prehashed=is_prehashed)


def _pbkdf2(stored: str) -> StoredHash | None:
    parts = _match(_PBKDF2, stored)
    if parts is None:
        return None
    name = parts["hash"] or "sha1"
    digest, rounds = _digest(parts), int(parts["rounds"] or 0)
    if rounds > _MAX_ITERATIONS:
        return Refusal(kind="too expensive")
    salt = _salt(parts)
    if salt is None or digest is None or rounds < 1 or len(digest) != _DIGESTS[name]:
        return Refusal(kind="malformed")  # a longer digest would cost a multiple
    return Pbkdf2Hash(hash_name=name, iterations=rounds, salt=salt, digest=digest)


def _scrypt(stored: str) -> StoredHash | None:
    parts = _match(_SCRYPT, stored)
    if parts is None:
        return None
    log = parts.get("ln")
    n = int(parts["n"] or 0) if log is None else 1 << int(log)
    r, p = int(parts["r"] or 0), int(parts["p"] or 0)
    memory = n * r // 8  # KiB: 128 * n * r bytes
    if memory > _MAX_MEMORY_KIB or memory * p > _MAX_SCRYPT_WORK_KIB or r * p > _MAX_SCRYPT_BLOCKS:
        return Refusal(kind="too expensive")
    salt, digest = _salt(parts), _digest(parts)
    if n < 2 or n & (n - 1) or not r or not p or salt is None or digest is None:
        return Refusal(kind="malformed")
    if not _MIN_DIGEST <= len(digest) <= _MAX_DIGEST:
        return Refusal(kind="malformed")
    return ScryptHash(n=n, r=r, p=p, salt=salt, digest=digest)


def _match(forms: tuple[re.Pattern[str], ...], stored: str) -> dict[str, str | None] | None:
    if not stored.isascii():
        return None
    return next((found.groupdict() for form in forms if (found := form.fullmatch(stored)) is not None), None)


def _salt(parts: dict[str, str | None]) -> bytes | None:
    if (encoded := parts.get("salt64")) is not None:
        return _unpadded(encoded)
    return (parts.get("salt") or "").encode()


def _digest(parts: dict[str, str | None]) -> bytes | None:
    try:
        if (text := parts.get("hex")) is not None:
            return bytes.fromhex(text)
        if (text := parts.get("b64")) is not None:
            return b64decode(text, validate=True)
    except ValueError:
        return None
    return _unpadded(parts.get("ab64") or "")


def _unpadded(text: str) -> bytes | None:
    """passlib's base64: no padding, and in PBKDF2's form `.` for `+`."""
    try:
        return b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
