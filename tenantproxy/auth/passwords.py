"""Is this the password? argon2id in a few threads with a bounded queue; hashes of other frameworks are understood.

State: how many verifications are under way. Every one that does not match costs at least what a dummy costs, except
that an old hash takes as long as its own parameters say.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import b64encode
from typing import Final, NamedTuple

from tenantproxy.auth.hashes import Argon2Hash, BcryptHash, Pbkdf2Hash, Refusal, ScryptHash, StoredHash, read_hash
from tenantproxy.auth.trust import Trust
from tenantproxy.auth.workqueue import WorkQueue
from tenantproxy.errors import ConfigurationError, Problem

__all__ = [
    "MAX_PASSWORD_BYTES",
    "MEMORY_KIB",
    "PARALLELISM",
    "PASSES",
    "PasswordVerdict",
    "Passwords",
    "password_bytes",
]

MAX_PASSWORD_BYTES: Final = 1024
MEMORY_KIB, PASSES, PARALLELISM = 19 * 1024, 2, 1

_HASH_BYTES: Final = 32
_SALT_BYTES: Final = 16
_MAX_WAITING: Final = 128  # two seconds of work for one core
_BCRYPT_BYTES: Final = 72  # bcrypt looks at no more
_SCRYPT_MEMORY: Final = 192 * 1024 * 1024  # bytes that OpenSSL may take; `hashes` allows less


class PasswordVerdict(NamedTuple):
    """`matches`: it is the password. `rehash`: and what is stored should be replaced by `Passwords.hash`."""

    matches: bool
    rehash: bool = False


_NO: Final = PasswordVerdict(matches=False)


def password_bytes(password: str) -> bytes | None:
    """What is hashed; None for what cannot be a password: empty, over 1024 bytes, or no text at all."""
    if not password or len(password) > MAX_PASSWORD_BYTES:
        return None
    try:
        raw = password.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    return raw if len(raw) <= MAX_PASSWORD_BYTES else None


class Passwords:
    """Hashes and verifies without holding up the event loop.

    `threads` at once (default: one for each processor), each with 19 MiB of memory, and `max_waiting` behind them, half
    of them for accounts that logged in recently; one more raises TooManyAttempts at once. Needs the packages
    argon2-cffi and bcrypt.
    """

    def __init__(self, *, threads: int | None = None, max_waiting: int = _MAX_WAITING) -> None:
        try:
            import argon2
            import bcrypt
        except ImportError as exc:
            problem = f"needs the package {exc.name}, which is not installed"
            fix = 'install it with: pip install "tenantproxy[login]"'
            raise ConfigurationError([Problem(key="login", problem=problem, fix=fix)]) from exc
        self._argon2 = argon2
        self._bcrypt = bcrypt
        threads = threads if threads is not None else os.cpu_count() or 1
        self._queue = WorkQueue(threads=threads, max_waiting=max_waiting, name="tenantproxy-password")
        # Of no password: as long as it is compared in full, no fitting one need be known.
        salt, digest = (_base64(secrets.token_bytes(size)) for size in (_SALT_BYTES, _HASH_BYTES))
        self._dummy = Argon2Hash(
            encoded=f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={PARALLELISM}${salt}${digest}",
            kind="id",
            version="19",
            memory=MEMORY_KIB,
            passes=PASSES,
            lanes=PARALLELISM,
        )

    async def hash(self, password: str) -> str:
        """What to store for `password`. Raises ValueError for what cannot be one, TooManyAttempts."""
        raw = password_bytes(password)
        if raw is None:
            raise ValueError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
        return await self._queue.run(lambda: self._hash(raw), Trust.PROVEN)

    async def verify(
        self, raw: bytes, stored: str | StoredHash | None, *, trust: Trust = Trust.PROVEN
    ) -> PasswordVerdict:
        """Whether `raw` (`password_bytes`) is the password that `stored` was made of.

        None, and whatever is not a hash we know at a cost we bear: a dummy is verified, and it does not match. Raises
        TooManyAttempts. A caller that is cancelled while it waits leaves the queue.
        """
        known = read_hash(stored) if stored is None or isinstance(stored, str) else stored
        return await self._queue.run(lambda: self._verify(raw, known), trust)

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._queue.close()

    def check_room(self, trust: Trust = Trust.PROVEN) -> None:
        """Raises TooManyAttempts when one more would be refused now."""
        self._queue.check_room(trust)

    # --- in a thread -------------------------------------------------------------------------------------------------
    def _hash(self, raw: bytes) -> str:
        encoded = self._argon2.low_level.hash_secret(
            raw, secrets.token_bytes(_SALT_BYTES), PASSES, MEMORY_KIB, PARALLELISM, _HASH_BYTES, self._argon2.Type.ID
        )
        return encoded.decode("ascii")

    def _verify(self, raw: bytes, stored: StoredHash) -> PasswordVerdict:
        found = self._compute(raw, stored)
        if found is None:
            self._by_argon2(raw, self._dummy)
            return _NO
        return found

    def _compute(self, raw: bytes, stored: StoredHash) -> PasswordVerdict | None:
        """None: nothing was computed."""
        match stored:
            case Argon2Hash():
                return self._by_argon2(raw, stored)
            case BcryptHash():
                return self._by_bcrypt(raw, stored)
            case Pbkdf2Hash():
                return _derived(stored.digest, _pbkdf2(raw, stored))
            case ScryptHash():
                return _derived(stored.digest, _scrypt(raw, stored))
            case Refusal():
                return None

    def _by_argon2(self, raw: bytes, stored: Argon2Hash) -> PasswordVerdict | None:
        kind = {"id": self._argon2.Type.ID, "i": self._argon2.Type.I, "d": self._argon2.Type.D}[stored.kind]
        try:
            self._argon2.low_level.verify_secret(stored.encoded.encode("ascii"), raw, kind)
        except self._argon2.exceptions.VerifyMismatchError:
            return _NO
        except (self._argon2.exceptions.VerificationError, self._argon2.exceptions.InvalidHashError):
            return None
        parameters = (stored.kind, stored.version, stored.memory, stored.passes, stored.lanes)
        return PasswordVerdict(matches=True, rehash=parameters != ("id", "19", MEMORY_KIB, PASSES, PARALLELISM))

    def _by_bcrypt(self, raw: bytes, stored: BcryptHash) -> PasswordVerdict | None:
        if stored.is_prehashed:
            raw = hashlib.sha256(raw).hexdigest().encode()
        if b"\0" in raw:
            return None  # to bcrypt, "\0" is the empty password, and "ab\0ab" is "ab"
        try:
            matches = self._bcrypt.checkpw(raw[:_BCRYPT_BYTES], stored.encoded.encode("ascii"))
        except ValueError:
            return None
        # Beyond 72 bytes it may be mistyped: a new hash of all of it would lock out who types the right one.
        return PasswordVerdict(matches=True, rehash=len(raw) <= _BCRYPT_BYTES) if matches else _NO


def _pbkdf2(raw: bytes, stored: Pbkdf2Hash) -> bytes:
    return hashlib.pbkdf2_hmac(stored.hash_name, raw, stored.salt, stored.iterations)


def _scrypt(raw: bytes, stored: ScryptHash) -> bytes | None:
    try:
        return hashlib.scrypt(
            raw, salt=stored.salt, n=stored.n, r=stored.r, p=stored.p, maxmem=_SCRYPT_MEMORY, dklen=len(stored.digest)
        )
    except ValueError:  # parameters that OpenSSL refuses
        return None


def _derived(wanted: bytes, made: bytes | None) -> PasswordVerdict | None:
    if made is None:
        return None
    return PasswordVerdict(matches=True, rehash=True) if hmac.compare_digest(wanted, made) else _NO


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode("ascii").rstrip("=")
