"""Who logged in here recently? Remembers accounts and the networks and devices they came from, in bounded memory.

State: keyed hashes of the last successes, in this process alone. Changed by `succeeded`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from cachetools import TTLCache

__all__ = ["Familiar", "Trust"]

_SECONDS: Final = 7 * 86_400.0
_MAX_ENTRIES: Final = 50_000
_SOURCES_PER_ACCOUNT: Final = 4  # one account cannot make more networks familiar than this


class Trust(IntEnum):
    """How an attempt is known; a lower value is served first, and has shares that a higher one cannot use."""

    PROVEN = 0
    """This account logged in from this network or device."""
    FAMILIAR = 1
    """This account logged in from elsewhere, or another one from this network."""
    STRANGER = 2


class Familiar:
    """The accounts that logged in within a week and, for each, its last four sources. All are keyed hashes."""

    def __init__(self, *, clock: Callable[[], float], max_entries: int = _MAX_ENTRIES) -> None:
        self._sources: TTLCache[bytes, tuple[bytes, ...]] = TTLCache(max_entries, _SECONDS, timer=clock)
        self._voucher: TTLCache[bytes, bytes] = TTLCache(max_entries, _SECONDS, timer=clock)  # source -> its account

    def is_pair(self, account: bytes, source: bytes) -> bool:
        """Whether that account logged in from there."""
        return source in self._sources.get(account, ())

    def trust(self, account: bytes, source: bytes | None) -> Trust:
        """How an attempt at `account` from `source` is known."""
        if source is not None and self.is_pair(account, source):
            return Trust.PROVEN
        if account in self._sources or (source is not None and self.is_vouched_for(source)):
            return Trust.FAMILIAR
        return Trust.STRANGER

    def succeeded(self, account: bytes, source: bytes | None) -> None:
        """The password of `account` was right."""
        former = tuple(each for each in self._sources.get(account, ()) if each != source)
        if source is None:
            self._sources[account] = former
            return
        self._sources[account] = (*former, source)[-_SOURCES_PER_ACCOUNT:]
        self._voucher[source] = account

    def is_vouched_for(self, source: bytes) -> bool:
        """Whether an account logged in from there recently that still counts it among its four sources."""
        account = self._voucher.get(source)
        return account is not None and self.is_pair(account, source)
