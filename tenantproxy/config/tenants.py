"""Are the tenants of the file registry apart from each other? Names that could be mistaken are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tenantproxy.config.sections import Main
from tenantproxy.config.tenant_sections import TenantEntry
from tenantproxy.errors import Problem, TenantNotFound
from tenantproxy.model import Isolation, Tenant, tenant_id

__all__ = ["tenant_problems"]

_Place = tuple[str, str, str | None]  # server, database, schema


def tenant_problems(entries: Mapping[str, TenantEntry | None], main: Main) -> Iterator[Problem]:
    """What is wrong with `entries`; one that is None was malformed and is only compared by its id."""
    yield from _look_alike_ids(entries)
    tenants: list[Tenant] = []
    for name, entry in entries.items():
        try:
            tenant_id(name)
            if entry is not None:
                tenants.append(entry.to_tenant(name, main.server))
        except TenantNotFound as exc:
            yield Problem(key=f"tenants.{name[:80]!a}", problem=f"{exc.message}: {exc.detail}", fix=str(exc.hint))
        except ValueError as exc:
            key = "schema" if "schema" in str(exc) else "role" if "role" in str(exc) else "database"
            yield Problem(key=f"tenants.{name}.{key}", problem=str(exc), fix=f"correct {key}")
    yield from _shared_places(tenants, main)


def _look_alike_ids(ids: Mapping[str, object]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in ids:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            problem = f"differs from the tenant {first!r} only by case"
            yield Problem(key=f"tenants.{name}", problem=problem, fix="rename one of them")


def _places(tenant: Tenant) -> list[_Place]:
    """What belongs to `tenant` alone."""
    place = tenant.placement
    if place.isolation is Isolation.DATABASE:
        return [(place.server, place.database, None)]
    if place.isolation is Isolation.SCHEMA:
        schemas = dict.fromkeys([place.schema, *tenant.systems.values()])
        return [(place.server, place.database, schema) for schema in schemas]
    return []


def _shared_places(tenants: list[Tenant], main: Main) -> Iterator[Problem]:
    seen: dict[_Place, tuple[Tenant, _Place]] = {}
    # Which tenants are in a database at all: another tenant's own database must not be among them.
    residents: dict[tuple[str, str], Tenant] = {}
    for tenant in tenants:
        place = tenant.placement
        if place.isolation is not Isolation.DATABASE:
            residents.setdefault((place.server, place.database.lower()), tenant)
        for own in _places(tenant):
            folded = (own[0], own[1].lower(), own[2].lower() if own[2] else None)
            first, where = seen.setdefault(folded, (tenant, own))
            if first is not tenant:
                yield _collision(tenant, first, own, exact=where == own)
    for tenant in tenants:
        place = tenant.placement
        if place.isolation is not Isolation.DATABASE:
            continue
        other = residents.get((place.server, place.database.lower()))
        if other is not None:
            yield _collision(
                tenant, other, (place.server, place.database, None), exact=place.database == other.placement.database
            )
        if (place.server, place.database) == (main.server, main.database):
            yield Problem(
                key=f"tenants.{tenant.id}.database",
                problem="is the main database, so the tenant would read the registry",
                fix="give the tenant a database of its own, or another isolation",
            )


def _collision(tenant: Tenant, other: Tenant, place: _Place, *, exact: bool) -> Problem:
    what = "database" if place[2] is None else "schema"
    whose = f"the {what} of the tenant {other.id!r}"
    problem = f"is also {whose}" if exact else f"differs from {whose} only by case"
    fix = f"give each its own {what}"
    if place[2] is None:
        fix += ", or use schema or row isolation"
    return Problem(key=f"tenants.{tenant.id}.{what}", problem=problem, fix=fix)
