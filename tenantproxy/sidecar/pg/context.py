"""Which settings of `[context]` and `[signed_context]` does a client's session have? From token, user or startup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from tenantproxy.auth.base import RequestContext
from tenantproxy.auth.caller import session_settings
from tenantproxy.config import Settings
from tenantproxy.config.pg_users import GIVEN, STARTUP
from tenantproxy.isolation.signed import check_values
from tenantproxy.model import NOTHING, TenantId

__all__ = ["ADDRESS", "ClientContext", "Pairs", "placed"]

Pairs = tuple[tuple[str, str], ...]
"""Names and values."""

ADDRESS: Final = "\0"
"""Stands for the client's address, until who knows it puts it there: no value has a NUL."""


class StartupSettings(Protocol):
    """What a startup packet says besides; `wire.startup.SessionWish` is one."""

    @property
    def others(self) -> tuple[tuple[bytes, bytes], ...]:
        """Settings that are not tracked, their names in lower case."""
        ...


class ClientContext:
    """By the sections of `settings`, for clients with a token and without one.

    Every name of `[signed_context]` is in each answer, so that no client's own setting can be taken for one of them;
    what a client lacks is empty.
    """

    def __init__(self, context: Mapping[str, str] = NOTHING, signed: Mapping[str, str] = NOTHING) -> None:
        self._context = dict(context)
        self._signed = dict(signed)

    @classmethod
    def configured(cls, settings: Settings) -> ClientContext:
        """By `[context]` and `[signed_context]`."""
        return cls(settings.context, settings.signed_context)

    def of_token(self, claims: Mapping[str, Any], tenant: TenantId) -> Pairs:
        """For the bearer of a token. Raises TenantUnresolved, InvalidSetting for values that no session can have."""
        if not (self._context or self._signed):
            return ()
        request = RequestContext(method="", path="", host="", headers=(), client_ip=None, claims=claims)
        found = session_settings(self._context, request, tenant, signed=self._signed)
        addressed = [name for name, source in (*self._context.items(), *self._signed.items()) if source == "client:ip"]
        return _checked({**found, **dict.fromkeys(addressed, ADDRESS)})

    def of_user(self, given: Mapping[str, str], said: StartupSettings, tenant: TenantId) -> Pairs:
        """For a user of `[pg.users]` with these sources. Raises InvalidSetting."""
        if not (given or self._signed):
            return ()
        found = dict.fromkeys(self._signed, "")
        others = dict(said.others)
        for name, source in given.items():
            value = others.get(name.encode()) if source == STARTUP else None
            if source == STARTUP and value is not None:
                found[name] = value.decode()  # a startup packet that is not UTF-8 was refused
            elif source.startswith(GIVEN):
                found[name] = source.removeprefix(GIVEN)
            elif source != STARTUP:
                found[name] = tenant if source == "tenant:id" else ADDRESS
        return _checked(found)


def _checked(found: Mapping[str, str]) -> Pairs:
    pairs = tuple(sorted(found.items()))
    check_values((name, "" if value == ADDRESS else value) for name, value in pairs)
    return pairs


def placed(pairs: Pairs, address: str) -> Pairs:
    """With the client's address where it belongs."""
    return tuple((name, address if value == ADDRESS else value) for name, value in pairs)
