"""Who tries too often? Token buckets by account, by network and for all, in bounded memory.

State: the buckets, and who logged in recently, in this process alone. Their keys are MACs: no e-mail and no address is
kept.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from tenantproxy.auth.trust import Familiar, Trust
from tenantproxy.errors import TooManyAttempts

__all__ = ["AddressLimits", "Buckets", "Limit", "Throttle", "limit_of"]

_MINUTE: Final = 60.0
_MAX_ENTRIES: Final = 50_000  # of each kind; about 10 MB when full
_KEY_BYTES: Final = 16
_DEVICES: Final = 4  # allowances that all devices of one account have together: each login makes a new one
_RIGHT_COSTS: Final = 0.2  # to the account: one that logs in without end would take the tokens of all

# What one subscriber has, and the networks around it: bits, and how many times the attempts of the narrowest they have.
_LEVELS: Final = {4: ((32, 1), (24, 4)), 6: ((64, 1), (56, 2), (48, 4))}
# Of the attempts a second: each trust has a share that those behind it cannot use, and may use theirs.
_SHARES: Final = {Trust.PROVEN: 0.25, Trust.FAMILIAR: 0.25, Trust.STRANGER: 0.5}
_CROWD_SHARE: Final = 0.2  # of the strangers' share, for one of the widest networks

Limit = Literal["account", "address", "total"]
"""Which limit refused an attempt: for events, and never for the caller."""


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
        """Whether the oldest is; looked at with each change, so unused ones go too."""
        level, at = next(iter(self._levels.values()))
        return level + (self._clock() - at) * self._per_second >= self._burst


class AddressLimits:
    """Attempts a minute by network: a /64 of IPv6 or an address of IPv4, twice as many for a /56, four times for a /48
    or an IPv4 /24. 0: no limit.
    """

    def __init__(
        self, per_minute: int, *, max_entries: int = _MAX_ENTRIES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secrets.token_bytes(32)
        self._levels = {
            times: Buckets(
                burst=per_minute * times, per_second=per_minute * times / _MINUTE, max_entries=max_entries, clock=clock
            )
            for times in (1, 2, 4)
        }

    def take(self, address: str | None) -> None:
        """Count an attempt from `address`; None: it is not known, and not counted. Raises TooManyAttempts."""
        self.check(address)
        self.count(address)

    def check(self, address: str | None) -> None:
        """Raise TooManyAttempts where one more is too many."""
        if (wait := longest_wait(self.limits(address))) > 0:
            raise too_many(wait, "address")

    def count(self, address: str | None) -> None:
        """Count an attempt, whether or not it was one too many."""
        for buckets, key in self.limits(address):
            buckets.take(key)

    def give_back(self, address: str | None) -> None:
        """It was no attempt after all."""
        for buckets, key in self.limits(address):
            buckets.give_back(key)

    def limits(self, address: str | None, *, narrowest: bool = False) -> list[tuple[Buckets, bytes]]:
        """The buckets of an address with their keys, the narrowest network first; with `narrowest` that one alone."""
        found = [] if address is None else networks(address)
        return [
            (self._levels[times], keyed(self._secret, b"network", network))
            for network, times in (found[:1] if narrowest else found)
        ]


class Throttle:
    """Counts attempts. A limit of 0 is none.

    Who is refused by one limit takes nothing from the others: one address that tries without end leaves the tokens of
    all to the others. An account that logged in from a network or a device has an allowance of its own there, which
    attempts from elsewhere cannot use up, and a share of the attempts of all.
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
        self._familiar = Familiar(clock=clock, max_entries=max_entries)
        self._networks = AddressLimits(per_address, max_entries=max_entries, clock=clock)

        def buckets(burst: float, per_second: float) -> Buckets:
            return Buckets(
                burst=max(burst, 1.0) if burst else 0.0, per_second=per_second, max_entries=max_entries, clock=clock
            )

        self._accounts = buckets(per_account, per_account / _MINUTE)
        self._pairs = buckets(per_account, per_account / _MINUTE)
        self._devices = buckets(per_account * _DEVICES, per_account * _DEVICES / _MINUTE)
        self._all = {trust: buckets(per_second * share, per_second * share) for trust, share in _SHARES.items()}
        crowd = per_second * _SHARES[Trust.STRANGER] * _CROWD_SHARE if per_address else 0.0
        self._crowds = buckets(crowd, crowd)

    def take(self, account: bytes, address: str | None, *, device: bytes | None = None) -> Trust:
        """Count an attempt at `account` (the e-mail's key) from `address`, or from a `device` that has proven itself.

        Returns how the attempt is known. Raises TooManyAttempts.
        """
        trust, own, networks_ = self._limits(account, address, device)
        shared = self._shared(trust)
        waits: dict[Limit, float] = {
            "account": longest_wait([own]),
            "address": longest_wait(networks_),
            "total": shared.wait(b""),
        }
        limit = max(waits, key=lambda each: waits[each])
        if waits[limit] > 0:
            raise too_many(waits[limit], limit)
        for buckets, key in (own, *networks_, (shared, b"")):
            buckets.take(key)
        return trust

    def allows_device(self, account: bytes) -> bool:
        """Whether devices of `account` have an attempt left; if not, one with a device is as one without."""
        return self._devices.wait(self._mac(b"account", account)) <= 0

    def take_impossible(self, address: str | None) -> None:
        """Count an attempt that no account can be meant by: it costs its network alone. Raises TooManyAttempts."""
        self._networks.take(address)

    def forgive(self, account: bytes, address: str | None, *, device: bytes | None = None) -> None:
        """The attempt was right: it does not count for the address, and little for the account; both are known now."""
        _, (accounts, key), networks_ = self._limits(account, address, device)
        accounts.give_back(key, 1.0 - _RIGHT_COSTS)
        for buckets, each in networks_:
            buckets.give_back(each)
        self._familiar.succeeded(self._mac(b"account", account), self._source(address))

    def _limits(
        self, account: bytes, address: str | None, device: bytes | None
    ) -> tuple[Trust, tuple[Buckets, bytes], list[tuple[Buckets, bytes]]]:
        """How it is known, the bucket of the account, and those of networks."""
        name = self._mac(b"account", account)
        if device is not None:
            return Trust.PROVEN, (self._pairs, self._mac(b"device", name + device)), [(self._devices, name)]
        source = self._source(address)
        trust = self._familiar.trust(name, source)
        if trust is Trust.PROVEN and source is not None:
            return (
                trust,
                (self._pairs, self._mac(b"pair", name + source)),
                self._networks.limits(address, narrowest=True),
            )
        is_vouched_for = source is not None and self._familiar.is_vouched_for(source)
        limits = self._networks.limits(address, narrowest=is_vouched_for)
        if address is not None and not is_vouched_for:
            # Whatever the account is: else a network that used up its share would hear of each whether it is known.
            limits.append((self._crowds, self._mac(b"crowd", networks(address)[-1][0])))
        return trust, (self._accounts, name), limits

    def _shared(self, trust: Trust) -> Buckets:
        """The share with a token for it: its own, then those of lesser trust; else the one that has one soonest."""
        return min((self._all[each] for each in Trust if each >= trust), key=lambda buckets: buckets.wait(b""))

    def _source(self, address: str | None) -> bytes | None:
        return None if address is None else self._mac(b"source", networks(address)[0][0])

    def _mac(self, kind: bytes, value: bytes) -> bytes:
        return keyed(self._secret, kind, value)


def limit_of(error: TooManyAttempts) -> Limit:
    """Which limit it was; `total` where nothing says."""
    limit: Limit = vars(error).get("limit", "total")
    return limit


def too_many(wait: float, limit: Limit) -> TooManyAttempts:
    """The error of every limit: whether others try the same account is for the operator alone."""
    error = TooManyAttempts("too many attempts", hint="try again later", retry_after=wait)
    vars(error)["limit"] = limit  # in no message, detail or repr
    return error


def longest_wait(limits: list[tuple[Buckets, bytes]]) -> float:
    """Seconds until all of them have a token."""
    return max((buckets.wait(key) for buckets, key in limits), default=0.0)


def keyed(secret: bytes, kind: bytes, value: bytes) -> bytes:
    """What stands for `value` in the buckets."""
    return hmac.digest(secret, kind + b"\0" + value, "sha256")[:_KEY_BYTES]


def networks(address: str) -> list[tuple[bytes, int]]:
    """The networks that an address is in, the narrowest first, each with its times of the attempts of that one.

    Other text than an address stands for itself.
    """
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return [(address.encode("utf-8", "surrogatepass"), 1)]
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return [(b"%d" % bits + parsed.packed[: bits // 8], times) for bits, times in _LEVELS[parsed.version]]
