"""What is an account, and who can be asked for one? Values, and the Protocol that login searches through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tenantproxy.errors import TenantError
from tenantproxy.model import TenantId

__all__ = ["Account", "Accounts", "AccountsDenied", "Candidate", "Place", "SharedDatabase", "Standing"]


class AccountsDenied(TenantError):
    """The tenant's database is up and refuses the question: until that is repaired it has no accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose password was right, in one tenant. `claims` are the further columns of the account query.

    `as_of` says when the login began, as a snapshot of the main database: a session that is opened with it is refused
    where `end_sessions` came in between. Empty: nothing is known of it.
    """

    tenant: TenantId
    user: str
    claims: Mapping[str, object] = field(default_factory=dict)
    as_of: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An account whose password has not been checked. `is_paused`: its tenant is, and is not served for now."""

    account: Account
    password_hash: str | None = field(repr=False)
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDatabase:
    """A database of row tenants, asked for all of them at once."""

    server: str
    database: str

    def __str__(self) -> str:
        return f"{self.server}/{self.database}"


class Standing(Protocol):
    """What a logged-in user's account says now."""

    async def claims_of(self, tenant: TenantId, user: str, *, timeout: float) -> Mapping[str, object] | None:
        """What a login would give as claims, `role` among them; None: there is no such account any more.

        Raises LoginUnavailable whenever that could not be found out.
        """
        ...


Place: TypeAlias = "TenantId | SharedDatabase"
"""What one query of a fan-out asks."""


class Accounts(Protocol):
    """The tenants' own tables of users.

    `timeout` in seconds bounds the wait for a connection and the query together. All but `places` raise
    LoginUnavailable for who cannot be asked now, and AccountsDenied for a tenant whose database refuses us or whose
    table does: one tenant that is set up wrong must not keep all other users out.
    """

    async def of_tenant(self, tenant: TenantId, email: str, *, timeout: float) -> Sequence[Candidate]:
        """What the tenant's table says, read in its own session; a paused tenant's too, if that can be asked.

        Raises TenantError where no such tenant is served.
        """
        ...

    async def in_shared(self, place: SharedDatabase, email: str, *, timeout: float) -> Sequence[TenantId]:
        """Which of its row tenants have an account of that address."""
        ...

    async def places(self) -> Sequence[Place] | None:
        """All that a complete search has to ask; None: more than a search may ask. Raises RegistryUnavailable."""
        ...

    async def store_hash(self, account: Account, password_hash: str, *, former: str, timeout: float) -> None:
        """Replace the stored hash, where that is configured; `former` is the one that it was. Raises TenantError."""
        ...
