"""Which settings may a session begin with that do not go along from backend to backend?

They are taken where the client keeps its backend, and set as it sets them by SQL later: the server says whether its
role may. What is refused here would say whose the session is, or is not a setting of sessions.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from tenantproxy.errors import InvalidSetting
from tenantproxy.wire.read_wishes import AFTER, REPLICA, SYSTEM
from tenantproxy.wire.settings import Settings
from tenantproxy.wire.values import CHECKS, MAX_VALUE

__all__ = ["add", "check_names", "not_tracked", "untracked"]

_NAME: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*")
_MAX_NAME: Final = 63
_MAX_BYTES: Final = 2048  # of all of them
_NEVER: Final = frozenset(
    # Whose the session is: its role, the setting of row tenants and its proof, whether policies hold.
    b"role session_authorization is_superuser app.current_tenant_id app.tenant_proof row_security"
    b" app.context app.context_proof"
    # Of the server and of tenantproxy: how long an idle backend may live, what an error ends, what a process loads.
    b" exit_on_error idle_session_timeout local_preload_libraries"
    # Of one transaction, or of none.
    b" transaction_isolation transaction_read_only transaction_deferrable seed".split()
)
_NEVER_UNDER: Final = b"tenantproxy."


def untracked(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A setting that is not tracked, its name in lower case. Raises InvalidSetting for one that no client may have."""
    lower = name.lower()
    known = _NAME.fullmatch(name) is not None and len(name) <= _MAX_NAME
    if not known or lower in _NEVER or (lower.startswith(_NEVER_UNDER) and lower not in (REPLICA, AFTER, SYSTEM)):
        raise not_tracked(name)
    if len(value) > MAX_VALUE:
        raise InvalidSetting(f'the value of "{name.decode()}" is too long', detail=f"at most {MAX_VALUE} bytes")
    return lower, value


def add(settings: Settings, others: Settings) -> Settings:
    """`settings`, and `others` (of `untracked`) behind them. Raises InvalidSetting when they are too many."""
    if sum(len(name) + len(value) for name, value in others) > _MAX_BYTES:
        raise InvalidSetting(
            "the startup settings are too long", detail=f"at most {_MAX_BYTES} bytes of those not tracked"
        )
    return settings + tuple(sorted(dict(others).items()))


def check_names(others: Settings, forbidden: Collection[str]) -> None:
    """Raises InvalidSetting when one of `others` is what tells whose the session is."""
    names = {name.lower().encode() for name in forbidden}
    for name, _ in others:
        if name in names:
            raise not_tracked(name)


def not_tracked(name: bytes, *, is_session: bool = True) -> InvalidSetting:
    """It cannot be set at startup; with `is_session` False: in transaction mode it cannot."""
    allowed = "allowed are tenant, " + ", ".join(sorted(known.decode() for known in CHECKS))
    return InvalidSetting(
        f'the setting "{name[:100].decode("utf-8", "replace")}" cannot be set at startup'
        + ("" if is_session else " in transaction mode"),
        hint=allowed if is_session else f'{allowed}; more of them with pool_mode = "session"',
    )
