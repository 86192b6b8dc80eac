"""Whose turn is it among more candidates than one attempt may ask? Rotates between attempts, in bounded memory.

State: how far each address got, and in which tenants its password was right; forgotten after some minutes of silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from cachetools import TTLCache

from tenantproxy.model import TenantId

__all__ = ["Rotation"]

_SECONDS: Final = 3600.0
_MAX_ENTRIES: Final = 20_000
_KEPT: Final = 4  # tenants of one address that come first


class Rotation:
    """The order in which the tenants of an address are asked. `key` is the address's in the directory."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._offsets: TTLCache[bytes, int] = TTLCache(_MAX_ENTRIES, _SECONDS, timer=clock)
        self._right: TTLCache[bytes, tuple[TenantId, ...]] = TTLCache(_MAX_ENTRIES, _SECONDS, timer=clock)

    def ordered(self, key: bytes, tenants: Iterable[TenantId]) -> list[TenantId]:
        """Those where the password was right recently, then the others from where the last attempt stopped."""
        given = list(dict.fromkeys(tenants))
        right = self._right.get(key, ())
        first = [each for each in right if each in given]
        rest = [each for each in given if each not in right]
        start = self._offsets.get(key, 0) % len(rest) if rest else 0
        return [*first, *rest[start:], *rest[:start]]

    def stopped(self, key: bytes, asked: int) -> None:
        """An attempt had to stop after `asked` tenants: the next one goes on behind them."""
        self._offsets[key] = self._offsets.get(key, 0) + asked

    def was_right(self, key: bytes, tenants: Iterable[TenantId]) -> None:
        """The password of the address was right there."""
        self._right[key] = tuple(dict.fromkeys([*tenants, *self._right.get(key, ())]))[:_KEPT]
