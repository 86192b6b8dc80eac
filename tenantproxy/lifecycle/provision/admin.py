"""Who is the first to log in to a new tenant? An account, made by the operator's statement in the tenant's session."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Self

import asyncpg

from tenantproxy.auth.directory import normalised
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.turn_lock import take_turn
from tenantproxy.scope import TenantScope

__all__ = ["LOCKED", "FirstAdmin", "check_admin", "ensure_admin", "first_admin"]

LOCKED: Final = "!"
"""Stored where no password was given: none matches, and the application sets one by its own way to a new password."""

_PATIENCE: Final = 5.0  # seconds for another process that makes it: one alone holds the saga, so that is rare


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAdmin:
    """An e-mail address as it was given, what is stored for its password, and the account's id when it is known."""

    email: str = field(repr=False)
    password_hash: str = field(repr=False)
    user: str | None = None

    def as_json(self) -> str:
        """For the saga's row, where it is until the saga has ended."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `as_json` wrote."""
        return cls(**json.loads(text))

    def with_user(self, user: str) -> FirstAdmin:
        """The same account, which is there."""
        return replace(self, user=user)

    @property
    def address(self) -> str:
        """What the address is compared by."""
        found = normalised(self.email)
        assert found is not None
        return found


def first_admin(email: str, password_hash: str) -> FirstAdmin:
    """Raises ConfigurationError for what is no e-mail address."""
    if normalised(email) is None:
        fix = "write it as name@example.com"
        raise ConfigurationError([Problem(key="--admin", problem="is no e-mail address", fix=fix)])
    return FirstAdmin(email=email.strip(), password_hash=password_hash)


def check_admin(settings: Settings) -> None:
    """Whether a first account can be made. Raises ConfigurationError with all that is missing."""
    problems = []
    if not settings.provision.admin_query:
        fix = 'write the statement: "insert into users (email, password_hash) values ($1, $2) returning id as user_id"'
        problems.append(Problem(key="provision.admin_query", problem="is missing", fix=fix))
    if settings.login.account_query is None:
        fix = "add [login] account_query: it tells whether the account is there already"
        problems.append(Problem(key="login.account_query", problem="is missing", fix=fix))
    if problems:
        raise ConfigurationError(problems)


async def ensure_admin(scope: TenantScope, settings: Settings, admin: FirstAdmin) -> str:
    """The id of the account of `admin`, which is made if the tenant has none with that address.

    Raises what PostgreSQL says, and TenantProxyError where the statement returns no user_id: nothing is made then.
    """
    async with scope.transaction() as conn:
        with suppress(asyncpg.LockNotAvailableError):  # who runs as its role may be a neighbour that holds it for good
            await take_turn(conn, f"tenantproxy first account of {scope.id}", patience=_PATIENCE)
        found = await conn.fetch(settings.login.account_query or "", admin.address)
        if found:
            return str(found[0]["user_id"])
        query = settings.provision.admin_query
        values = (admin.email, admin.password_hash, scope.id)[: 3 if "$3" in query else 2]
        row = await conn.fetchrow(query, *values)
        if row is None or row.get("user_id") is None:
            raise TenantProxyError(
                "provision.admin_query returns no user_id", hint="end it with: RETURNING id AS user_id"
            )
        return str(row["user_id"])
