"""Who has backends of the PostgreSQL port's pools without being a client of it? Requests of SQL over HTTP.

What an operator does to a tenant's clients holds for them too.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView
from typing import Protocol

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import TenantId

__all__ = ["Guest", "Guests"]


class Guest(Protocol):
    """One of them, from when it asks for a backend until it has given it back."""

    @property
    def tenant(self) -> TenantId:
        """Whose."""
        ...

    @property
    def request_id(self) -> str:
        """By which the log has it."""
        ...

    @property
    def holds_backend(self) -> bool:
        """Whether something may run for it now."""
        ...

    def kill(self, why: TenantProxyError) -> None:
        """End it now, whatever is under way."""
        ...


class Guests:
    """Those who are there now, by tenant: what ends a tenant looks at its own alone. Changed by `add` and `discard`."""

    __slots__ = ("_by_tenant",)

    def __init__(self) -> None:
        self._by_tenant: dict[TenantId, dict[Guest, None]] = {}  # none is empty

    def add(self, guest: Guest) -> None:
        """It asks for a backend."""
        self._by_tenant.setdefault(guest.tenant, {})[guest] = None

    def discard(self, guest: Guest) -> None:
        """It has given its backend back, or got none."""
        own = self._by_tenant.get(guest.tenant, {})
        own.pop(guest, None)
        if not own:
            self._by_tenant.pop(guest.tenant, None)

    def of(self, tenant: TenantId) -> list[Guest]:
        """Those of one tenant."""
        return list(self._by_tenant.get(tenant, ()))

    @property
    def tenants(self) -> KeysView[TenantId]:
        """Whose they are."""
        return self._by_tenant.keys()

    def __iter__(self) -> Iterator[Guest]:
        return (guest for own in self._by_tenant.values() for guest in own)

    def __len__(self) -> int:
        return sum(map(len, self._by_tenant.values()))
