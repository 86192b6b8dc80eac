"""Which registered tenants stand in for all of their kind? Two of each kind on each server; it only reads.

Registered ones, and none that are made for it: a database that was provisioned a moment ago says nothing of those that
have been there for years, and a running sidecar serves only whom its registry knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.prove.base import Pair
from tenantproxy.model import Isolation, Placement, Tenant

__all__ = ["Chosen", "choose"]

_SCANNED: Final = 100_000  # tenants
_NAMED: Final = 5


@dataclass(slots=True)
class Chosen:
    """The pairs, and what can be said of the registry: kinds with one tenant, and tenants in one place."""

    pairs: list[Pair] = field(default_factory=list)
    alone: list[tuple[str, str]] = field(default_factory=list)  # kind, why
    lone: list[Tenant] = field(default_factory=list)  # these tenants
    same_place: list[str] = field(default_factory=list)
    seen: int = 0


async def choose(settings: Settings, tenants: AsyncIterator[Tenant], wanted: Sequence[str] = ()) -> Chosen:
    """The pairs among active `tenants`; `wanted`: the two that are to be the only pair.

    Raises ConfigurationError where the wanted ones are not two active tenants of one kind, registry errors.
    """
    chosen = Chosen()
    groups: dict[tuple[Isolation, str, str], list[Tenant]] = {}
    places: dict[Placement, str] = {}
    named: dict[str, Tenant] = {}
    async for tenant in tenants:
        chosen.seen += 1
        if tenant.id in wanted:
            named[tenant.id] = tenant
        place = tenant.placement
        if place.isolation is not Isolation.ROW:
            first = places.setdefault(_bare(place), tenant.id)
            if first != tenant.id:
                chosen.same_place.append(f"{first} and {tenant.id}")
        group = groups.setdefault((place.isolation, place.server, _group(place)), [])
        if len(group) < 2 and not _shares_place(group, tenant):
            group.append(tenant)
        if chosen.seen >= _SCANNED:
            break
    if wanted:
        chosen.pairs = [_named(settings, wanted, named)]
        return chosen
    for tenants_of in _best(groups):
        if len(tenants_of) == 2:
            chosen.pairs.append(_pair(settings, *tenants_of))
        else:
            (one,) = tenants_of
            chosen.lone.append(one)
            chosen.alone.append((kind_of(settings, one), f"{one.id} is the only one on server {one.placement.server}"))
    return chosen


def kind_of(settings: Settings, tenant: Tenant) -> str:
    """How a tenant is kept apart, and for rows how its session proves whose it is."""
    if tenant.placement.isolation is not Isolation.ROW:
        return tenant.placement.isolation.value
    return f"row, {settings.row.form if settings.row.signed else 'unsigned'}"


def _bare(place: Placement) -> Placement:
    """Where it is, whatever role reads it."""
    return Placement(isolation=place.isolation, server=place.server, database=place.database, schema=place.schema)


def _group(place: Placement) -> str:
    """Tenants that could meet: those of one database, for database tenants of one server."""
    return "" if place.isolation is Isolation.DATABASE else place.database


def _shares_place(group: list[Tenant], tenant: Tenant) -> bool:
    place = tenant.placement
    return place.isolation is not Isolation.ROW and any(_bare(each.placement) == _bare(place) for each in group)


def _best(groups: dict[tuple[Isolation, str, str], list[Tenant]]) -> Iterator[list[Tenant]]:
    """One group of each kind on each server: the first with two tenants."""
    kinds: dict[tuple[Isolation, str], list[Tenant]] = {}
    for (isolation, server, _), tenants in groups.items():
        if len(kinds.get((isolation, server), ())) < len(tenants):
            kinds[isolation, server] = tenants
    yield from kinds.values()


def _named(settings: Settings, wanted: Sequence[str], named: dict[str, Tenant]) -> Pair:
    missing = [name for name in wanted if name not in named]
    problem = ""
    if len(set(wanted)) != 2:
        problem = "needs two tenants, with a comma between them"
    elif missing:
        problem = f"no active tenant is called {' or '.join(missing)}"
    else:
        first, second = (named[name] for name in wanted)
        one, other = first.placement, second.placement
        if (one.isolation, one.server) != (other.isolation, other.server):
            problem = "must be of one kind, on one server"
        elif _group(one) != _group(other):
            problem = "must be in one database"
        elif _shares_place([first], second):
            problem = f"are in one place, so nothing keeps them apart: {one.database} {one.schema or ''}".strip()
        else:
            return _pair(settings, first, second)
    fix = "name two of one kind: tenantproxy tenants list"
    raise ConfigurationError([Problem(key="--tenants", problem=problem, fix=fix)])


def _pair(settings: Settings, first: Tenant, second: Tenant) -> Pair:
    return Pair(first=first, second=second, kind=kind_of(settings, first), setting=settings.row.setting)


def told(names: Sequence[str]) -> str:
    """The first few."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def reason(error: TenantProxyError) -> str:
    """An error of tenantproxy in one line, with what to do."""
    return ". ".join(part for part in (error.message, error.detail, error.hint) if part)
