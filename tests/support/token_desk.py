"""What do unit tests of tokens stand on? A clock that stands still, tenants in memory, a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth
from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, tenant_id

NOW: Final = 1_800_000_000.0
KEY: Final = "k" * 32


def a_tenant(name: str = "acme", *, epoch: int = 0) -> Tenant:
    place = Placement(isolation=Isolation.DATABASE, server="primary", database=f"{name}_db")
    return Tenant(id=tenant_id(name), placement=place, epoch=epoch)


@dataclass(slots=True)
class Clock:
    """A wall clock that only tests move."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Tenants:
    """A registry in memory behind a cache: `known` is what the cache has, `real` what there is."""

    real: dict[str, Tenant] = field(default_factory=dict)
    known: dict[str, Tenant] = field(default_factory=dict)
    asked: int = 0

    def peek(self, tenant: str) -> Tenant | None:
        return self.known.get(tenant)

    async def get(self, tenant: TenantId, /) -> Tenant:
        if tenant not in self.known:
            self.asked += 1
            if tenant not in self.real:
                raise TenantNotFound("there is no such tenant")
            self.known[tenant] = self.real[tenant]
        return self.known[tenant]

    def invalidate(self, tenant: str | None) -> None:
        self.known.pop(tenant or "", None)


@dataclass(slots=True)
class Revoked:
    """What was revoked."""

    epochs: dict[str, int] = field(default_factory=dict)
    names: set[str | None] = field(default_factory=set)

    def epoch(self, tenant: str) -> int:
        return self.epochs.get(tenant, 0)

    def is_revoked(self, *, jti: str | None, session: str | None) -> bool:
        return jti in self.names or session in self.names


@dataclass(slots=True)
class Desk:
    """Tokens and what they stand on."""

    clock: Clock = field(default_factory=Clock)
    tenants: Tenants = field(default_factory=lambda: Tenants(real={"acme": a_tenant()}))
    revoked: Revoked = field(default_factory=Revoked)

    def tokens(self, **settings: Any) -> Tokens:
        """Own tokens, unless `settings` say otherwise."""
        settings = settings if {"key_files", "public_key_file"} & settings.keys() else {"key": KEY} | settings
        auth = Auth.model_validate(settings)
        return Tokens(auth, tenants=self.tenants, revoked=self.revoked, clock=self.clock)
