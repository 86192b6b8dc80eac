"""Is this the password? argon2id in a few threads with a bounded queue; bcrypt hashes of older systems are understood.

State: how many verifications are under way. Every one that does not match costs at least what a dummy costs, except
that an old hash takes as long as its own parameters say.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from tenantproxy.errors import ConfigurationError, Problem, TooManyAttempts

__all__ = ["MAX_PASSWORD_BYTES", "MEMORY_KIB", "PARALLELISM", "PASSES", "Passwords", "Verdict", "password_bytes"]

MAX_PASSWORD_BYTES: Final = 1024
MEMORY_KIB, PASSES, PARALLELISM = 19 * 1024, 2, 1

_HASH_BYTES: Final = 32
_SALT_BYTES: Final = 16
_MAX_WAITING: Final = 128  # two seconds of work for one core
_RETRY_SECONDS: Final = 1.0

# A tenant may write what it likes into its own table of users: a hash must not cost us a gigabyte or many seconds.
_MAX_STORED: Final = 512
_MAX_MEMORY_KIB: Final = 128 * 1024
_MAX_WORK_KIB: Final = 512 * 1024  # memory times passes: twice what any framework asks for by itself
_MAX_LANES: Final = 16  # each is a thread
_MAX_BCRYPT_COST: Final = 14
_ARGON2: Final = re.compile(
    r"\$argon2(?P<kind>id|i|d)(?:\$v=(?P<version>\d{1,3}))?"
    r"\$m=(?P<memory>\d{1,10}),t=(?P<passes>\d{1,10}),p=(?P<lanes>\d{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+",
    re.ASCII,  # other digits are digits to int() and no text to argon2
)
_BCRYPT: Final = re.compile(r"\$2[abxy]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)

T = TypeVar("T")


class Verdict(NamedTuple):
    """`matches`: it is the password. `rehash`: and what is stored should be replaced by `Passwords.hash`."""

    matches: bool
    rehash: bool = False


_NO: Final = Verdict(matches=False)


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

    `threads` at once (default: one for each processor), each with 19 MiB of memory, and `max_waiting` behind them; one
    more raises TooManyAttempts at once. Needs the packages argon2-cffi and bcrypt.
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
        self._limit = threads + max_waiting
        self._under_way = 0  # running or waiting, never above the limit
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tenantproxy-password")
        # Of no password: as long as it is compared in full, nobody has to know one that fits.
        salt, digest = (_base64(secrets.token_bytes(size)) for size in (_SALT_BYTES, _HASH_BYTES))
        self._dummy = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={PARALLELISM}${salt}${digest}"

    async def hash(self, password: str) -> str:
        """What to store for `password`. Raises ValueError for what cannot be one, TooManyAttempts."""
        raw = password_bytes(password)
        if raw is None:
            raise ValueError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
        return await self._run(lambda: self._hash(raw))

    async def verify(self, raw: bytes, stored: str | None) -> Verdict:
        """Whether `raw` (`password_bytes`) is the password that `stored` was made of.

        None, and whatever is not a hash we know at a cost we bear: a dummy is verified, and it does not match. Raises
        TooManyAttempts. A caller that is cancelled while it waits leaves the queue.
        """
        return await self._run(lambda: self._verify(raw, stored))

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check_room(self) -> None:
        """Raises TooManyAttempts when one more would be refused now."""
        if self._under_way >= self._limit:
            raise TooManyAttempts(
                "too many logins at once",
                detail=f"{self._under_way} passwords are being checked or wait for it",
                hint="try again",
                retry_after=_RETRY_SECONDS,
            )

    async def _run(self, work: Callable[[], T]) -> T:
        self.check_room()
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1

    # --- in a thread -------------------------------------------------------------------------------------------------
    def _hash(self, raw: bytes) -> str:
        encoded = self._argon2.low_level.hash_secret(
            raw, secrets.token_bytes(_SALT_BYTES), PASSES, MEMORY_KIB, PARALLELISM, _HASH_BYTES, self._argon2.Type.ID
        )
        return encoded.decode("ascii")

    def _verify(self, raw: bytes, stored: str | None) -> Verdict:
        found = None
        if stored is not None and len(stored) <= _MAX_STORED:
            if stored.startswith("$argon2"):
                found = self._by_argon2(raw, stored)
            elif stored.startswith("$2"):
                found = self._by_bcrypt(raw, stored)
        if found is None:
            self._by_argon2(raw, self._dummy)
            return _NO
        return found

    def _by_argon2(self, raw: bytes, stored: str) -> Verdict | None:
        """None: nothing was computed."""
        parts = _ARGON2.fullmatch(stored)
        if parts is None:
            return None
        memory, passes, lanes = (int(parts[name]) for name in ("memory", "passes", "lanes"))
        if memory > _MAX_MEMORY_KIB or memory * passes > _MAX_WORK_KIB or lanes > _MAX_LANES:
            return None
        kind = {"id": self._argon2.Type.ID, "i": self._argon2.Type.I, "d": self._argon2.Type.D}[parts["kind"]]
        try:
            self._argon2.low_level.verify_secret(stored.encode("ascii"), raw, kind)
        except self._argon2.exceptions.VerifyMismatchError:
            return _NO
        except (self._argon2.exceptions.VerificationError, self._argon2.exceptions.InvalidHashError):
            return None
        ours = (parts["kind"], parts["version"], memory, passes, lanes) == ("id", "19", MEMORY_KIB, PASSES, PARALLELISM)
        return Verdict(matches=True, rehash=not ours)

    def _by_bcrypt(self, raw: bytes, stored: str) -> Verdict | None:
        """None: nothing was computed."""
        parts = _BCRYPT.fullmatch(stored)
        if parts is None or int(parts["cost"]) > _MAX_BCRYPT_COST:
            return None
        try:
            # bcrypt never saw more than 72 bytes; newer releases refuse them instead of cutting.
            matches = self._bcrypt.checkpw(raw[:72], stored.encode("ascii"))
        except ValueError:
            return None
        return Verdict(matches=True, rehash=True) if matches else _NO


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode("ascii").rstrip("=")
