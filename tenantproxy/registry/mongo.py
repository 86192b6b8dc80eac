"""Where does a tenant live? A collection of MongoDB says: `tenant_registry.tenants`, or another of the same form.

State: the lookups under way, and the task that hears of changes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from tenantproxy.config import Settings
from tenantproxy.model import Isolation, Tenant, TenantId, TenantStatus
from tenantproxy.mongo.clusters import MongoClusters
from tenantproxy.registry.base import TenantMisconfigured
from tenantproxy.registry.memory import not_found
from tenantproxy.registry.mongo_asked import asked
from tenantproxy.registry.mongo_changes import MongoChanges
from tenantproxy.registry.mongo_document import DocumentReader
from tenantproxy.registry.unusable import Unusable

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

__all__ = ["MongoRegistry"]

Document = dict[str, Any]
Told = Callable[[str | None], None]

_SIMPLE: Final = {"locale": "simple"}  # whatever the collection's own: identifiers are compared byte for byte
_PAGE: Final = 500
_LAST_LOOKUPS: Final = 2.0  # seconds in which those under way may end when it closes


class MongoRegistry:
    """Reads the documents of `[registry.mongodb]`; `clusters` are the router's own, or (None) made for it alone."""

    def __init__(self, settings: Settings, *, clusters: MongoClusters | None = None) -> None:
        self._rules = settings.registry.mongodb
        self._cluster = self._rules.cluster or settings.mongo.default_cluster
        self._own = MongoClusters(settings.mongo) if clusters is None else None
        self._clusters = clusters or self._own or MongoClusters(settings.mongo)
        self._reader = DocumentReader(settings)
        self._unusable = Unusable()
        self._listeners: list[Told] = []
        self._lookups: set[asyncio.Task[list[Document]]] = set()
        self._watch: asyncio.Task[None] | None = None
        self.changes = MongoChanges(
            tenants=self._tenants, documents=lambda: self._documents({}), announce=self._announce, poll=self._rules.poll
        )

    @property
    def source(self) -> str:
        """See `base.Registry`."""
        return "mongodb"

    def adopt(self, reader: DocumentReader) -> None:
        """Read documents by `reader` from now on."""
        self._reader = reader

    @property
    def unusable(self) -> Mapping[str, str]:
        """See `unusable.TellsUnusable`."""
        return self._unusable.reasons

    def tell_unusable(self, told: Callable[[str, str], None], /) -> None:
        """See `unusable.TellsUnusable`."""
        self._unusable.told = told

    # --- lookups -----------------------------------------------------------------------------------------------------
    async def get(self, tenant: TenantId) -> Tenant:
        """See `base.Registry`. Two documents of one tenant are none that can be used."""
        found = await self._apart(self._find({"tenant_id": tenant}, most=2))
        mine = [each for each in found if each.get("tenant_id") == tenant]
        if not mine:
            self._unusable.good(tenant)
            raise not_found()
        try:
            if len(mine) > 1:
                raise TenantMisconfigured(
                    "the tenant's entry in the registry cannot be used",
                    detail="field tenant_id: two documents have it",
                    hint="remove one of them, and make a unique index on tenant_id",
                )
            read = self._reader.read(mine[0])
        except TenantMisconfigured as exc:
            self._unusable.bad(tenant, str(exc))
            raise
        self._unusable.good(tenant)
        return read

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        """See `by_database.FindsDatabases`."""
        name = re.escape(database)
        wanted = {"$or": [
            {"database_config.database_name": database},
            {"database_config.connection_string": {"$regex": f"/{name}(?:[?]|$)"}},
        ]}  # fmt: skip
        found = []
        for document in await self._apart(self._find(wanted, most=_PAGE)):
            with suppress(TenantMisconfigured):
                tenant = self._reader.read(document)
                if tenant.placement.isolation is Isolation.DATABASE and tenant.placement.database == database:
                    found.append(tenant.id)
        return tuple(found[:2])

    async def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `base.Registry`. A tenant whose document cannot be used is left out and told in `unusable`."""
        async for tenant in self.tenants_after(""):
            if status in (None, tenant.status):
                yield tenant

    async def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        """See `base.ListsFrom`."""
        wanted = {"tenant_id": {"$gt": after}} if after else {}
        bad, last = set[str](), ""
        async for document in self._documents(wanted, sort=[("tenant_id", 1)]):
            try:
                tenant = self._reader.read(document)
            except TenantMisconfigured as exc:
                bad.add(self._unusable.bad(document.get("tenant_id"), str(exc)))
                continue
            if tenant.id == last:
                continue  # `get` refuses both
            last = tenant.id
            self._unusable.good(tenant.id)
            yield tenant
        if not after:
            self._unusable.keep(bad)

    async def _documents(self, wanted: Document, **options: Any) -> AsyncIterator[Document]:
        with asked():
            cursor = (await self._tenants()).find(wanted, collation=_SIMPLE, batch_size=_PAGE, **options)
            try:
                async for document in cursor:
                    yield document
            finally:
                await cursor.close()

    async def _find(self, wanted: Document, *, most: int) -> list[Document]:
        with asked():
            return await (await self._tenants()).find(wanted, collation=_SIMPLE, limit=most).to_list(most)

    async def _apart(self, call: Coroutine[Any, Any, list[Document]]) -> list[Document]:
        """The result of `call`, which no caller's cancellation ends: the driver would leave a half-open socket behind.

        In an empty context: the connection that is opened on the way would keep that of the caller.
        """
        task = asyncio.get_running_loop().create_task(call, name="tenantproxy mongo lookup", context=Context())
        self._lookups.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[list[Document]]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()  # told to its caller, if it is still there

    async def _tenants(self) -> AsyncCollection[Document]:
        from bson import CodecOptions
        from bson.codec_options import DatetimeConversion

        client = await self._clusters.client(self._cluster)
        # What one document has that cannot be decoded must not be the error of the others.
        options: CodecOptions[Document] = CodecOptions(
            document_class=dict, unicode_decode_error_handler="replace",
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
        )  # fmt: skip
        return client[self._rules.database].get_collection(self._rules.collection, codec_options=options)

    # --- changes -----------------------------------------------------------------------------------------------------
    def subscribe(self, listener: Told) -> Callable[[], None]:
        """See `base.Announces`."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _announce(self, tenant: object) -> None:
        for listener in tuple(self._listeners):
            listener(tenant if isinstance(tenant, str) else None)

    async def open(self) -> None:
        """See `base.Registry`. Asks nothing: MongoDB may come up later."""
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = loop.create_task(self.changes.follow(), name="tenantproxy mongo registry", context=Context())

    async def close(self) -> None:
        """See `base.Registry`."""
        watch, self._watch, self.changes.is_closed = self._watch, None, True
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        if self._lookups:
            await asyncio.wait(self._lookups, timeout=_LAST_LOOKUPS)
        for task in self._lookups:
            task.cancel()
        if self._own is not None:
            await self._own.close()
