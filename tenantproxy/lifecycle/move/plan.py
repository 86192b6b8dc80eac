"""Where is a tenant to be moved, under which names, and may it be? Pure: all that forbids it is said at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.provision.wanted import Wanted, wanted
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Isolation, Tenant, TenantStatus

__all__ = ["destination"]

_DIGITS: Final = 8
_MAY_MOVE: Final = frozenset({TenantStatus.ACTIVE, TenantStatus.PAUSED, TenantStatus.SUSPENDED})


def destination(
    settings: Settings, tenant: Tenant, *, server: str | None = None, isolation: Isolation | None = None
) -> Wanted:
    """The new place of `tenant`. Raises ConfigurationError with all that forbids it."""
    place = tenant.placement
    kind, where = isolation or place.isolation, server or place.server
    if problems := _problems(settings, tenant, kind, where):
        raise ConfigurationError(problems)
    new = wanted(settings, tenant.id, isolation=kind, server=where, tier=tenant.tier, region=tenant.region)
    if where == place.server and new.role is not None:
        # Its old role is closed with its old place, on this very server.
        new = replace(new, role=f"{new.role[: MAX_IDENTIFIER_BYTES - _DIGITS - 1]}_{new.mark[:_DIGITS]}")
    return new


def _problems(settings: Settings, tenant: Tenant, kind: Isolation, where: str) -> list[Problem]:
    place, key = tenant.placement, f"tenant {tenant.id}"
    found = []
    if (kind, where) == (place.isolation, place.server):
        problem = f"is a {kind} tenant on {where} already"
        found.append(Problem(key=key, problem=problem, fix="name another server or kind"))
    if place.isolation is Isolation.ROW and not settings.row.signed:
        problem = "cannot be closed where it is, as row.signed is off"
        found.append(Problem(key=key, problem=problem, fix="sign: see docs/isolation.md"))
    elif place.isolation is Isolation.ROW and settings.row.form == "trusted":
        problem = "cannot be closed where it is: a session of the trusted form is fenced at its next entry only"
        found.append(Problem(key=key, problem=problem, fix='move it while row.form is "signed"'))
    if tenant.systems:
        problem, fix = "has further schemas (systems), which a move does not take along", "move it by a backup"
        found.append(Problem(key=key, problem=problem, fix=fix))
    if place.isolation is Isolation.SCHEMA and place.role is None:
        problem = "has no role of its own, so that its old place cannot be closed"
        found.append(Problem(key=key, problem=problem, fix="give it one: tenantproxy install --roles"))
    if tenant.status not in _MAY_MOVE:
        found.append(Problem(key=key, problem=f"is {tenant.status}", fix="see: tenantproxy tenants show"))
    return found
