"""What may an operator do about tokens? Make one for a tenant, and see what one says and why it is refused."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tenantproxy.auth.claims import parse_object, why_of
from tenantproxy.auth.tokens import MAX_TOKEN_BYTES, Purpose, Tokens
from tenantproxy.config import Settings
from tenantproxy.errors import AuthError, ConfigurationError, Problem, TokenExpired
from tenantproxy.model import tenant_id
from tenantproxy.router import Router

__all__ = ["inspect", "issue"]

_TIMES: Final = ("exp", "iat", "nbf")


async def issue(settings: Settings, tenant: str, *, user: str, role: str | None) -> dict[str, Any]:
    """An access token of `user` in `tenant`. No session belongs to it: it ends by itself, or with all of the tenant's.

    Raises TenantNotFound, ConfigurationError without a key of our own.
    """
    async with Router(_signing(settings)) as router:
        await router.revocations.open()
        tokens = Tokens(settings.auth, tenants=router.registry, revoked=router.revocations)
        found = await router.registry.get(tenant_id(tenant))
        token = tokens.issue(tenant=found, user=user, role=role)
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": int(settings.auth.access_ttl),
        "tenant": tenant,
    }


def _signing(settings: Settings) -> Settings:
    if not settings.auth.keys():
        fix = "add key_file with 32 bytes or more; who else issues your tokens issues these too"
        raise ConfigurationError([Problem(key="auth.key_file", problem="is missing", fix=fix)])
    return settings


async def inspect(settings: Settings, token: str, *, purpose: Purpose) -> dict[str, Any]:
    """What `token` says, and whether it is good now; never the token itself, its signature or a key.

    Of a token that is not genuine the claims are what its sender wrote: `genuine` says so.
    """
    async with Router(settings) as router:
        await router.revocations.open()
        tokens = Tokens(settings.auth, tenants=router.registry, revoked=router.revocations)
        refused: AuthError | None = None
        try:
            await tokens.verify(token, purpose=purpose)
        except AuthError as exc:
            refused = exc
        finally:
            await tokens.close()
    parts = token.split(".") if len(token) <= MAX_TOKEN_BYTES else []
    header, claims = (_said(part) for part in (parts[:2] if len(parts) == 3 else ("", "")))
    return {
        "good": refused is None,
        "genuine": refused is None or isinstance(refused, TokenExpired),
        "why": None if refused is None else why_of(refused) or refused.message,
        "header": {name: header[name] for name in ("alg", "kid", "typ") if name in header},
        "claims": {name: _shown(name, value) for name, value in claims.items()},
    }


def _said(part: str) -> Mapping[str, Any]:
    """A part of a token, if it can be read."""
    try:
        return parse_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (AuthError, ValueError):
        return {}


def _shown(name: str, value: object) -> object:
    """Times next to what they mean; what a terminal would act upon is escaped."""
    if name in _TIMES and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            when = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return value
        return f"{value} ({when:%Y-%m-%d %H:%M:%S} UTC, {abs(value - time.time()):.0f} s {_side(value)})"
    if isinstance(value, str):
        return value if value.isprintable() else ascii(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    return ascii(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _side(moment: float) -> str:
    return "from now" if moment > time.time() else "ago"
