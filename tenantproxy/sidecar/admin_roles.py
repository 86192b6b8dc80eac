"""What may a caller of the admin listener do, and which of the configured tokens did it send? Pure."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from tenantproxy.config import MIN_TOKEN_BYTES, Admin
from tenantproxy.errors import AccessDenied, ConfigurationError, InvalidCredentials

__all__ = ["ANYONE", "AdminCaller", "Role", "RoleNeeded", "bearer_of", "check_may_change", "check_role", "known_by"]

logger = logging.getLogger("tenantproxy")


class Role(StrEnum):
    """Each may do what those before it may, and more."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether who has this role may do what needs the other."""
        return _RANK[self] >= _RANK[other]


_RANK: Final[Mapping[Role, int]] = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminCaller:
    """Who asks: the name of the token, as it is configured. `by` is empty where the listener has no token at all."""

    by: str
    role: Role


ANYONE: Final = AdminCaller(by="", role=Role.READ)
"""Any client, where `[admin]` has no token."""


class RoleNeeded(AccessDenied):
    """The token that was sent is known, and may not do this."""

    code = "role_needed"


def check_role(caller: AdminCaller, needed: Role) -> None:
    """Raises RoleNeeded, which says what is missing."""
    if not caller.role.includes(needed):
        has = f"the token {caller.by} has the role {caller.role}" if caller.by else "[admin] has no token"
        raise RoleNeeded(f"this needs the role {needed}, and {has}")


def check_may_change(admin: Admin) -> None:
    """Raises AccessDenied where `[admin]` has no token: then a client of the listener may look, and no more."""
    if not admin.each_token:
        raise AccessDenied(
            "what changes something needs the admin token, and [admin] has none",
            hint="configure [admin] token_file; or send a signal: SIGHUP reloads, SIGUSR2 upgrades",
        )


def bearer_of(headers: Iterable[str]) -> bytes:
    """The secret in the `Authorization` headers; empty when they are none, several or of another scheme."""
    given = list(headers)
    scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return secret.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""


def known_by(admin: Admin, secret: bytes) -> AdminCaller:
    """Whose token `secret` is. Raises InvalidCredentials, ConfigurationError while no token can be read.

    Each token is read, so that a new one needs no restart, and compared, so that the time tells nothing. Where two are
    the same, the weaker one counts.
    """
    given = sha256(secret).digest()
    found: AdminCaller | None = None
    unreadable: ConfigurationError | None = None
    for name, each in admin.each_token:
        try:
            token = b"" if each.token is None else each.token.read_bytes()
        except ConfigurationError as exc:
            logger.warning("the token %s of [admin] cannot be read", name)
            unreadable = exc
            continue
        is_right = hmac.compare_digest(given, sha256(token).digest())
        if is_right and len(token) >= MIN_TOKEN_BYTES:
            found = AdminCaller(by=name, role=Role(each.role))
    if found is not None:
        return found
    if unreadable is not None and len(admin.each_token) == 1:
        raise unreadable
    raise InvalidCredentials(
        "the admin token is wrong" if secret else "the admin token is missing",
        hint="send the one of [admin] token_file, or of one of [admin.tokens]: Authorization: Bearer ...",
    )
