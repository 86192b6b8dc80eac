"""Which place is provably a tenant's, made for it by us? What the newest saga that ended well says of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import asyncpg

from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.model import Tenant

__all__ = ["OwnedPlace", "owned_place"]

_NEWEST: Final = """
SELECT wanted::text, database, schema FROM tenantproxy.sagas
WHERE tenant = $1 AND state = 'active' AND kind IN ('create', 'move') ORDER BY id DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPlace:
    """Where a tenant lives. `is_proven`: we made it; `database`, `schema`: by these object identifiers.

    Where it is not, `wanted` has a mark that nothing bears: what is looked for by it is never found, and never dropped.
    """

    wanted: Wanted
    database: int | None
    schema: int | None
    is_proven: bool

    def as_notes(self) -> dict[str, Any]:
        """For the notes of a saga."""
        return {
            "wanted": self.wanted.as_json(), "database": self.database, "schema": self.schema,
            "is_proven": self.is_proven,
        }  # fmt: skip

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Self:
        """What `as_notes` gave."""
        return cls(**{**notes, "wanted": Wanted.from_json(notes["wanted"])})


async def owned_place(conn: asyncpg.Connection, tenant: Tenant) -> OwnedPlace:
    """The place of a registered tenant, asked in the main database; not proven where the registry names another one."""
    row = await conn.fetchrow(_NEWEST, tenant.id)
    if row is not None:
        wanted = Wanted.from_json(row["wanted"])
        if wanted.tenant(tenant.status).placement == tenant.placement:
            return OwnedPlace(wanted=wanted, database=row["database"], schema=row["schema"], is_proven=True)
    place = tenant.placement
    named = Wanted(
        id=tenant.id, isolation=place.isolation, server=place.server, database=place.database, schema=place.schema,
        role=place.role, tier=tenant.tier, region=tenant.region, mark=secrets.token_hex(16),
        systems=tuple(tenant.systems.items()),
    )  # fmt: skip
    return OwnedPlace(wanted=named, database=None, schema=None, is_proven=False)
