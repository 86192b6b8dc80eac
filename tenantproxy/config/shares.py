"""What may one of several workers have? Limits of the whole service, divided so that their sum is the limit.

Pure. Budgets of servers are divided exactly; other limits are rounded up, so that none becomes 0, which means no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

from tenantproxy.config.section import Section
from tenantproxy.config.settings import Settings
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["LEAST", "check_budgets", "divided", "share_of"]

LEAST: Final = 3
"""Connections that a worker needs of each server: two for the main database, and one for tenants."""

_POOLS: Final = ("max_pools", "max_size", "shared_size", "max_waiting")
_PG: Final = (
    "max_clients",
    "max_clients_per_tenant",
    "max_clients_per_user",
    "max_clients_per_address",
    "max_unauthenticated",
    "max_memory",
    "max_memory_per_tenant",
    "max_pinned",
)
_HTTP: Final = ("max_clients", "max_clients_per_address")
_LOGIN: Final = (
    "fan_out_concurrency",
    "fan_outs_per_second",
    "attempts_per_account",
    "attempts_per_address",
    "attempts_per_second",
)
_TENANT: Final = ("max_size", "max_waiting")

S = TypeVar("S", bound=Section)


def divided(limit: int, parts: int) -> list[int]:
    """`limit` in so many parts that differ by one at most; the larger ones come first."""
    whole, rest = divmod(limit, parts)
    return [whole + (number < rest) for number in range(parts)]


def check_budgets(settings: Settings, workers: int) -> None:
    """Raises ConfigurationError for servers whose budget is too small for so many workers."""
    problems = list(_too_small(settings, workers))
    if problems:
        raise ConfigurationError(problems)


def _too_small(settings: Settings, workers: int) -> Iterator[Problem]:
    for name, server in settings.servers.items():
        if server.max_connections < LEAST * workers:
            problem = f"is {server.max_connections}, and each of {workers} workers needs {LEAST}"
            fix = f"raise it to {LEAST * workers}, or start fewer workers"
            yield Problem(key=f"servers.{name}.max_connections", problem=problem, fix=fix)


def share_of(settings: Settings, workers: int) -> Settings:
    """What one of `workers` keeps to; the budgets of servers, which its supervisor gives it, are those of all.

    What is not in `settings` is not divided: a tenant's own limits in another registry than the file hold for each
    worker. A worker has no admin listener.
    """
    users = {name: _with(user, ("max_clients",), workers) for name, user in settings.pg.users.items()}
    update: dict[str, Any] = {
        "admin": settings.admin.model_copy(update={"listen": ""}),
        "pools": _with(settings.pools, _POOLS, workers),
        "http": _with(settings.http, _HTTP, workers),
        "pg": _with(settings.pg, _PG, workers).model_copy(update={"users": users}),
        "login": _with(settings.login, _LOGIN, workers),
        "tenants": {name: _with(entry, _TENANT, workers) for name, entry in settings.tenants.items()},
    }
    return settings.model_copy(update=update)


def _with(section: S, names: tuple[str, ...], workers: int) -> S:
    """`section` with a part of each of these limits that is set, and no 0."""
    parts = {name: -(-value // workers) for name in names if (value := getattr(section, name))}
    return section.model_copy(update=parts)
