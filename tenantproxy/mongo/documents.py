"""Which documents are a tenant's? Its own database, and its part of the collections that all tenants share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tenantproxy.errors import DocumentRefused
from tenantproxy.model import Tenant, TenantId
from tenantproxy.mongo.clusters import MongoClusters, translated
from tenantproxy.mongo.collection import TenantCollection
from tenantproxy.mongo.rules import OwnRules, SharedRules, collection_refused

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

__all__ = ["CLUSTER", "DATABASE", "TenantDocuments", "own_database"]

DATABASE: Final = "mongo_database"
CLUSTER: Final = "mongo_cluster"
"""Keys of a tenant's `settings` in the registry, which say where its own database is; else the configuration does."""

_CLEAN: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_OTHER: Final = re.compile(r"[^a-z0-9_]")
_LONGEST: Final = 63  # bytes of a database's name
_DIGITS: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")


def own_database(pattern: str, tenant: TenantId) -> str:
    """`pattern` with `{id}`: `tenant-001` gives `tenant_001`. Identifiers that differ give names that differ.

    MongoDB's names differ by more than case. An identifier of other forms than `a-b-1` has `__` and a hash behind it,
    which no clean one has in its name.
    """
    if _CLEAN.fullmatch(tenant) and len(pattern) - len("{id}") + len(tenant) <= _LONGEST:
        return pattern.replace("{id}", tenant.replace("-", "_"))
    digits = hashlib.sha256(tenant.encode()).hexdigest()[:_DIGITS]
    room = _LONGEST - (len(pattern) - len("{id}")) - _DIGITS - 2
    return pattern.replace("{id}", f"{_OTHER.sub('_', tenant.lower())[:room]}__{digits}")


class TenantDocuments:
    """The documents of one tenant: cheap, holds no connection. An unknown tenant fails at the first operation.

    `documents["user_insights"]` is a collection of its own database, `documents.shared("task_repository.tasks")` its
    part of one that `[mongo.shared]` names.
    """

    def __init__(self, tenant: TenantId, *, clusters: MongoClusters, served: Callable[[], Awaitable[Tenant]]) -> None:
        """`served`: the tenant, once it is sure that it is to be served now."""
        self.tenant = tenant
        self._clusters = clusters
        self._served = served

    def __getitem__(self, name: str) -> TenantCollection:
        """A collection of the tenant's own database. Raises DocumentRefused for a name that cannot be one's."""
        if collection_refused(name):
            raise DocumentRefused(
                "this cannot be a collection of a tenant's own",
                hint="begin with a letter, and use letters, digits, _ - and dots",
            )

        async def reach() -> AsyncCollection[dict[str, Any]]:
            return (await self._own())[name]

        return TenantCollection(name, reach=reach, rules=OwnRules())

    def shared(self, name: str) -> TenantCollection:
        """The tenant's part of `database.collection`. Raises DocumentRefused unless `[mongo.shared]` names it."""
        settings = self._clusters.settings
        field = settings.shared.get(name)
        if field is None:
            known = ", ".join(sorted(settings.shared)) or "none"
            raise DocumentRefused(
                "this is no collection that tenants share", detail=f"they share {known}", hint="see [mongo.shared]"
            )
        database, _, collection = name.partition(".")

        async def reach() -> AsyncCollection[dict[str, Any]]:
            await self._served()
            return (await self._clusters.client(settings.default_cluster))[database][collection]

        return TenantCollection(name, reach=reach, rules=SharedRules(field, self.tenant))

    async def collections(self) -> list[str]:
        """The names of those in the tenant's own database, sorted."""
        with translated():
            names = await (await self._own()).list_collection_names()
        return sorted(name for name in names if not collection_refused(name))

    async def _own(self) -> AsyncDatabase[dict[str, Any]]:
        tenant, settings = await self._served(), self._clusters.settings
        name = tenant.settings.get(DATABASE) or own_database(settings.database, tenant.id)
        if not _NAME.fullmatch(name) or name.lower() in {each.lower() for each in self._clusters.reserved}:
            raise DocumentRefused(
                "the tenant's own database cannot be this one",
                detail=f"{DATABASE} in its settings, or [mongo] database, gives {name!r}",
                hint="name a database that is the tenant's alone",
            )
        client = await self._clusters.client(tenant.settings.get(CLUSTER) or settings.default_cluster)
        return client[name]

    def __repr__(self) -> str:
        return f"<TenantDocuments {self.tenant}>"
