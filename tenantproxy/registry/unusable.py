"""Which entries of a registry cannot be used, and why? Each is told once for each reason.

State: the reasons by id, and what was told already; changed by the code that reads entries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from tenantproxy.registry.base import Registry

__all__ = ["TellsUnusable", "Unusable", "unusable"]

_MOST: Final = 10_000  # remembered; beyond that the oldest is forgotten, and may be told again
_ID_LENGTH: Final = 100  # of an id that is too long to be one

Told = Callable[[str, str], None]


@runtime_checkable
class TellsUnusable(Protocol):
    """A registry that knows which of its entries cannot be used."""

    @property
    def unusable(self) -> Mapping[str, str]:
        """By id, why: the column, what is wrong with it, and the fix. As of the last time each was read."""
        ...

    def tell_unusable(self, told: Told, /) -> None:
        """Call `told` with id and reason, once for each reason an entry has."""
        ...


class Unusable:
    """Keeps the reasons. `bad` and `good` are called with what was read."""

    def __init__(self) -> None:
        self.reasons: OrderedDict[str, str] = OrderedDict()
        self.told: Told | None = None
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    def bad(self, tenant: object, reason: str) -> str:
        """The entry of `tenant` cannot be used; returns the id under which it is kept."""
        name = "(no id)" if tenant is None else str(tenant)[:_ID_LENGTH]
        self.reasons[name] = reason
        if len(self.reasons) > _MOST:
            self.reasons.popitem(last=False)
        if self.told is not None and (name, reason) not in self._told:
            self._told[name, reason] = None
            if len(self._told) > _MOST:
                self._told.popitem(last=False)
            self.told(name, reason)
        return name

    def good(self, tenant: str) -> None:
        """The entry of `tenant` can be used, or is gone."""
        if self.reasons:
            self.reasons.pop(tenant, None)

    def keep(self, names: set[str]) -> None:
        """Every entry was read, and those of `names` cannot be used."""
        for name in self.reasons.keys() - names:
            del self.reasons[name]


async def unusable(registry: Registry) -> dict[str, str]:
    """Read every entry of `registry`: why those that cannot be used cannot, by id. Raises RegistryUnavailable."""
    async for _ in registry.tenants():
        pass
    return dict(registry.unusable) if isinstance(registry, TellsUnusable) else {}
