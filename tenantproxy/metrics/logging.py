"""How does an event reach the log? As one record of the logger `tenantproxy`, its fields next to the message.

The message reads by itself (`pool_evicted pool=acme reason=lru`); the same fields are attributes of the record
(`record.pool`), `record.kind` is the event's name: structlog's ExtraAdder and JSON formatters pick them up. Events hold
no secrets, so neither do records.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from tenantproxy.events import (
    AdminAccess,
    AdminActedOn,
    AdminChangeAnswered,
    BackendLingers,
    ConnectFailure,
    Event,
    Exhausted,
    FleetAlone,
    FleetFenced,
    FleetJoined,
    FleetSkipped,
    FleetUncounted,
    FunctionsNotVerified,
    HostRefused,
    IsolationViolation,
    KeysFetchFailed,
    LeaseEnded,
    LimitLowered,
    LoggedOut,
    LoginFailed,
    LoginFollowFailed,
    LoginFollowing,
    LoginLocked,
    LoginSearchFailed,
    LoginSucceeded,
    LookFailed,
    Observer,
    OperationEnded,
    PasswordHashUnusable,
    PoolEvicted,
    PoolOpened,
    PortHandshakeFailed,
    PortLoginRefused,
    RefreshTokenReused,
    RegistryCacheDown,
    RegistryCacheRefused,
    RegistryDegraded,
    RegistryRecovered,
    ResetFailed,
    RightsGiven,
    ServerDown,
    ServerMovedTo,
    ServerUp,
    ServiceCommanded,
    SessionEnded,
    SlowLease,
    SlowStatement,
    TenantChangeAsked,
    TenantUnusable,
    UntrustedForwardedFor,
    ignore,
)

__all__ = ["LEVELS", "LogObserver", "combine"]

LEVELS: Final[Mapping[type[Event], int]] = {
    IsolationViolation: logging.ERROR,
    HostRefused: logging.ERROR,
    ServerDown: logging.ERROR,
    BackendLingers: logging.WARNING,
    ConnectFailure: logging.WARNING,
    Exhausted: logging.WARNING,
    FleetAlone: logging.WARNING,
    FleetFenced: logging.ERROR,
    FleetSkipped: logging.WARNING,
    FleetUncounted: logging.WARNING,
    FunctionsNotVerified: logging.WARNING,
    KeysFetchFailed: logging.WARNING,
    LeaseEnded: logging.WARNING,
    LimitLowered: logging.WARNING,
    LookFailed: logging.WARNING,
    LoginFollowFailed: logging.WARNING,
    LoginLocked: logging.WARNING,
    LoginSearchFailed: logging.WARNING,
    PasswordHashUnusable: logging.WARNING,
    RefreshTokenReused: logging.WARNING,
    RegistryCacheDown: logging.WARNING,
    RegistryCacheRefused: logging.ERROR,
    RegistryDegraded: logging.WARNING,
    ResetFailed: logging.WARNING,
    RightsGiven: logging.WARNING,
    ServerMovedTo: logging.WARNING,
    SlowLease: logging.WARNING,
    SlowStatement: logging.WARNING,
    TenantUnusable: logging.WARNING,
    UntrustedForwardedFor: logging.WARNING,
    AdminAccess: logging.INFO,
    AdminActedOn: logging.INFO,
    AdminChangeAnswered: logging.INFO,
    TenantChangeAsked: logging.INFO,
    OperationEnded: logging.INFO,
    FleetJoined: logging.INFO,
    LoggedOut: logging.INFO,
    LoginFailed: logging.INFO,
    LoginFollowing: logging.INFO,
    PortHandshakeFailed: logging.INFO,
    PortLoginRefused: logging.INFO,
    LoginSucceeded: logging.INFO,
    PoolEvicted: logging.INFO,
    PoolOpened: logging.INFO,
    RegistryRecovered: logging.INFO,
    ServerUp: logging.INFO,
    ServiceCommanded: logging.INFO,
    SessionEnded: logging.INFO,
}
"""Whatever is not here is DEBUG."""

_BARE: Final = re.compile(r"[A-Za-z0-9_.:/@%+\-]+")
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class LogObserver:
    """An observer that writes each event to `logger`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger if logger is not None else logging.getLogger("tenantproxy")

    def __call__(self, event: Event) -> None:
        """Write `event`; costs one comparison when its level is off."""
        level = LEVELS.get(type(event), logging.DEBUG)
        if not self._logger.isEnabledFor(level):
            return
        kind = _WORD.sub("_", type(event).__name__).lower()
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        for name in ("request_id", "tenant"):
            if values.get(name) == "":
                del values[name]  # the context may know it
        shown = " ".join([kind, *(f"{name}={_shown(value)}" for name, value in values.items() if value != "")])
        self._logger.log(level, "%s", shown, extra={"kind": kind, **values})


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return json.dumps(value, default=str)
    text = str(value)
    # Quoted and escaped: a reason that an operator typed must not be able to write a second line.
    return text if _BARE.fullmatch(text) else json.dumps(text)


def combine(*observers: Observer) -> Observer:
    """One observer that calls all of `observers`; one that raises is logged, and the others still hear."""
    if not observers:
        return ignore

    def tell_all(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:
                logging.getLogger("tenantproxy").exception("an observer failed on %s", type(event).__name__)

    return tell_all
