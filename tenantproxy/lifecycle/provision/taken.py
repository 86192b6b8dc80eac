"""Which name of a new tenant is taken, when the main database says so? By the constraint that it breaks."""

from __future__ import annotations

from typing import Final

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.provision.wanted import Wanted

__all__ = ["taken"]

_TAKEN: Final = {
    "sagas_one_each": ("is being made already, moved or deleted", "tenantproxy tenants unfinished shows how far it is"),
    "tenants_pkey": ("exists already", "choose another identifier"),
    "tenants_id_any_case": ("differs from a tenant's identifier only by case", "choose another identifier"),
    "tenants_database_any_case": (
        "would have the database {database}, which is another tenant's",
        "see provision.database",
    ),
    "tenants_schema_any_case": ("would have the schema {schema}, which is another tenant's", "see provision.schema"),
}


def taken(wanted: Wanted, constraint: str) -> ConfigurationError:
    """What an operator is told when the tenant breaks `constraint`."""
    problem, fix = _TAKEN.get(constraint, (f"breaks {constraint}", "choose another identifier"))
    told = problem.format(database=wanted.database, schema=wanted.schema)
    return ConfigurationError([Problem(key=f"tenant {wanted.id}", problem=told, fix=fix)])
