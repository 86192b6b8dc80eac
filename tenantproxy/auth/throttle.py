"""Who tries too often? Token buckets by account, by address and for all, in bounded memory.

State: the buckets, in this process alone. Their keys are MACs: no e-mail and no address is kept.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

from tenantproxy.errors import TooManyAttempts

__all__ = ["Buckets", "Throttle"]

_MINUTE: Final = 60.0
_MAX_ENTRIES: Final = 50_000  # of each kind; about 10 MB when full
_KEY_BYTES: Final = 16
_RIGHT_COSTS: Final = 0.2  # to the account: one that logs in without end would take the tokens of all


class Buckets:
    """A bucket for each key: `burst` tokens at most, `per_second` new ones. Burst 0: no limit.

    Holds `max_entries` keys. A bucket that is full again is forgotten; if all are in use, the one that was left alone
    for longest goes.
    """

    def __init__(
        self,
        *,
        burst: float,
        per_second: float,
        max_entries: int = _MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._max_entries = max_entries
        self._clock = clock
        self._levels: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # tokens left and when, oldest first

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, key: bytes) -> float:
        """Seconds until there is a token; 0: now."""
        if not self._burst:
            return 0.0
        return max(0.0, (1.0 - self._level(key)) / self._per_second)

    def take(self, key: bytes) -> None:
        """Take one token; `wait` said that there is one."""
        self._put(key, self._level(key) - 1.0)

    def give_back(self, key: bytes, part: float = 1.0) -> None:
        """It was no attempt after all, or only part of one."""
        self._put(key, self._level(key) + part)

    def _level(self, key: bytes) -> float:
        level, at = self._levels.get(key, (self._burst, 0.0))
        return min(self._burst, level + (self._clock() - at) * self._per_second)

    def _put(self, key: bytes, level: float) -> None:
        if not self._burst:
            return
        self._levels.pop(key, None)
        if level < self._burst:
            self._levels[key] = (level, self._clock())
        while self._levels and (len(self._levels) > self._max_entries or self._is_full_again()):
            self._levels.popitem(last=False)

    def _is_full_again(self) -> bool:
        """Whether the oldest is; looked at with each change, so those that nobody asks for go too."""
        level, at = next(iter(self._levels.values()))
        return level + (self._clock() - at) * self._per_second >= self._burst


class Throttle:
    """Counts attempts. A limit of 0 is none.

    Who is refused by one limit takes nothing from the others: one address that tries without end leaves the tokens of
    all to the others.
    """

    def __init__(
        self,
        *,
        per_account: int,
        per_address: int,
        per_second: int,
        max_entries: int = _MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret = secrets.token_bytes(32)  # counts end with the process, so may their key
        self._accounts = Buckets(
            burst=per_account, per_second=per_account / _MINUTE, max_entries=max_entries, clock=clock
        )
        self._addresses = Buckets(
            burst=per_address, per_second=per_address / _MINUTE, max_entries=max_entries, clock=clock
        )
        self._all = Buckets(burst=per_second, per_second=per_second, clock=clock)

    def take(self, account: bytes, address: str | None) -> None:
        """Count an attempt at `account` (the e-mail's key) from `address`. Raises TooManyAttempts."""
        taken = self._keys(account, address)
        wait = max(buckets.wait(key) for buckets, key in taken)
        if wait > 0:
            # Which limit it was is not said: whether others try the same account is nobody's business.
            raise TooManyAttempts("too many attempts", hint="try again later", retry_after=wait)
        for buckets, key in taken:
            buckets.take(key)

    def forgive(self, account: bytes, address: str | None) -> None:
        """The attempt was right: it does not count for the address, and little for the account."""
        _, (accounts, key), *addresses = self._keys(account, address)
        accounts.give_back(key, 1.0 - _RIGHT_COSTS)
        for buckets, each in addresses:
            buckets.give_back(each)

    def _keys(self, account: bytes, address: str | None) -> list[tuple[Buckets, bytes]]:
        keys = [(self._all, b""), (self._accounts, self._mac(b"account", account))]
        if address is not None:
            keys.append((self._addresses, self._mac(b"address", _network(address))))
        return keys

    def _mac(self, kind: bytes, value: bytes) -> bytes:
        return hmac.digest(self._secret, kind + b"\0" + value, "sha256")[:_KEY_BYTES]


def _network(address: str) -> bytes:
    """What one subscriber has: an IPv4 address, or the /64 of an IPv6 one. Other text stands for itself."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address.encode("utf-8", "surrogatepass")
    if isinstance(parsed, IPv6Address):
        return parsed.packed[:8] if parsed.ipv4_mapped is None else parsed.ipv4_mapped.packed
    return parsed.packed
