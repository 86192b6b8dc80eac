"""What can be done with one collection for one tenant? The names are pymongo's; what is not here is refused.

A collection does not lead to its database or client, and takes no session: nothing leads out of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from tenantproxy.errors import DocumentRefused
from tenantproxy.mongo.clusters import translated
from tenantproxy.mongo.rules import OwnRules, Rules, SharedRules

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.results import DeleteResult, InsertManyResult, InsertOneResult, UpdateResult

__all__ = ["MongoFound", "TenantCollection"]

Document = dict[str, Any]
_SIMPLE: Final = {"locale": "simple"}
"""Sent with each operation: in a collation of the collection's own, two tenants' identifiers could be equal."""


class _ClosableCursor(Protocol):
    def __aiter__(self) -> AsyncIterator[Document]: ...

    async def to_list(self, length: int | None = None) -> list[Document]: ...

    async def close(self) -> None: ...


class MongoFound:
    """What a `find` or an `aggregate` gives: `async for`, or `await found.to_list(length)`. Asked for when it is read.

    Raises what the operation raises. Cancellation closes it.
    """

    def __init__(self, begin: Callable[[], Awaitable[_ClosableCursor]]) -> None:
        self._begin = begin

    async def __aiter__(self) -> AsyncIterator[Document]:
        with translated():
            cursor = await self._begin()
            try:
                async for document in cursor:
                    yield document
            finally:
                await cursor.close()

    async def to_list(self, length: int | None = None) -> list[Document]:
        """The first `length` documents, or all of them."""
        with translated():
            cursor = await self._begin()
            try:
                return await cursor.to_list(length)
            finally:
                await cursor.close()


class TenantCollection:
    """A collection of the tenant's own database, or (`is_shared`) the tenant's part of one of all tenants.

    Every method raises DocumentRefused for what could reach other documents, before anything is sent; TenantError,
    RegistryUnavailable and DocumentsUnavailable; what MongoDB says of a command (`pymongo.errors.OperationFailure`,
    `DuplicateKeyError`) passes through. Cancellation leaves open whether a write was done.
    """

    def __init__(self, name: str, *, reach: Callable[[], Awaitable[AsyncCollection[Document]]], rules: Rules) -> None:
        """`reach`: the collection itself, once it is sure that the tenant is served."""
        self.name = name
        self._reach = reach
        self._rules = rules

    @property
    def is_shared(self) -> bool:
        """Whether other tenants' documents are in it too, which are never seen."""
        return isinstance(self._rules, SharedRules)

    # --- reading -----------------------------------------------------------------------------------------------------
    def find(
        self, filter: object = None, projection: object = None, *, sort: object = None, skip: int = 0, limit: int = 0  # noqa: A002
    ) -> MongoFound:  # fmt: skip
        """The documents that match."""
        rules = self._rules
        wanted: dict[str, Any] = {
            "filter": rules.filter(filter), "projection": rules.projection(projection), "sort": rules.sort(sort),
            "skip": _count(skip), "limit": _count(limit), "collation": _SIMPLE,
        }  # fmt: skip

        async def begin() -> _ClosableCursor:
            return (await self._reach()).find(**wanted)

        return MongoFound(begin)

    async def find_one(
        self, filter: object = None, projection: object = None, *, sort: object = None  # noqa: A002
    ) -> Document | None:  # fmt: skip
        """The first document that matches, or None."""
        found = await self.find(filter, projection, sort=sort, limit=1).to_list(1)
        return found[0] if found else None

    def aggregate(self, pipeline: object) -> MongoFound:
        """What the stages make of the documents; of a shared collection they get the tenant's alone."""
        stages = self._rules.pipeline(pipeline)

        async def begin() -> _ClosableCursor:
            return await (await self._reach()).aggregate(stages, collation=_SIMPLE)

        return MongoFound(begin)

    async def count_documents(self, filter: object = None) -> int:  # noqa: A002
        """How many match."""
        wanted = self._rules.filter(filter)
        with translated():
            return await (await self._reach()).count_documents(wanted, collation=_SIMPLE)

    async def distinct(self, key: str, filter: object = None) -> list[Any]:  # noqa: A002
        """The values that a field has in what matches."""
        field, wanted = self._rules.field(key), self._rules.filter(filter)
        with translated():
            return await (await self._reach()).distinct(field, wanted, collation=_SIMPLE)

    # --- writing -----------------------------------------------------------------------------------------------------
    async def insert_one(self, document: object) -> InsertOneResult:
        """Write one document; `inserted_id` is in what it returns, and not put into `document`."""
        wanted = self._rules.insert(document)
        with translated():
            return await (await self._reach()).insert_one(wanted)

    async def insert_many(self, documents: object, *, ordered: bool = True) -> InsertManyResult:
        """Write several."""
        if not isinstance(documents, list | tuple):
            raise _refused("documents is no list", "pass a list of dicts")
        wanted = [self._rules.insert(one) for one in documents]
        with translated():
            return await (await self._reach()).insert_many(wanted, ordered=bool(ordered))

    async def update_one(
        self, filter: object, update: object, *, upsert: bool = False, array_filters: object = None  # noqa: A002
    ) -> UpdateResult:  # fmt: skip
        """Change the first that matches, by operators."""
        change = self._change(filter, update, upsert, array_filters)
        with translated():
            return await (await self._reach()).update_one(**change)

    async def update_many(
        self, filter: object, update: object, *, upsert: bool = False, array_filters: object = None  # noqa: A002
    ) -> UpdateResult:  # fmt: skip
        """Change all that match, by operators."""
        change = self._change(filter, update, upsert, array_filters)
        with translated():
            return await (await self._reach()).update_many(**change)

    def _change(self, given: object, update: object, upsert: bool, array_filters: object) -> dict[str, Any]:
        rules = self._rules
        return {
            "filter": rules.filter(given), "update": rules.update(update), "upsert": bool(upsert),
            "array_filters": None if array_filters is None else rules.array_filters(array_filters),
            "collation": _SIMPLE,
        }  # fmt: skip

    async def replace_one(self, filter: object, replacement: object, *, upsert: bool = False) -> UpdateResult:  # noqa: A002
        """Write a document in the place of the first that matches."""
        wanted, document = self._rules.filter(filter), self._rules.insert(replacement)
        with translated():
            return await (await self._reach()).replace_one(wanted, document, upsert=bool(upsert), collation=_SIMPLE)

    async def delete_one(self, filter: object) -> DeleteResult:  # noqa: A002
        """Delete the first that matches."""
        wanted = self._rules.filter(filter)
        with translated():
            return await (await self._reach()).delete_one(wanted, collation=_SIMPLE)

    async def delete_many(self, filter: object) -> DeleteResult:  # noqa: A002
        """Delete all that match."""
        wanted = self._rules.filter(filter)
        with translated():
            return await (await self._reach()).delete_many(wanted, collation=_SIMPLE)

    async def find_one_and_update(
        self, filter: object, update: object, projection: object = None, *, sort: object = None,  # noqa: A002
        upsert: bool = False, after: bool = False,
    ) -> Document | None:  # fmt: skip
        """Change one by operators; the document as it was, or (`after`) as it is."""
        wanted = self._one(filter, projection, sort) | {"update": self._rules.update(update), "upsert": bool(upsert)}
        with translated():
            return await (await self._reach()).find_one_and_update(**wanted, return_document=bool(after))

    async def find_one_and_replace(
        self, filter: object, replacement: object, projection: object = None, *, sort: object = None,  # noqa: A002
        upsert: bool = False, after: bool = False,
    ) -> Document | None:  # fmt: skip
        """Replace one; the document as it was, or (`after`) as it is."""
        document = self._rules.insert(replacement)
        wanted = self._one(filter, projection, sort) | {"replacement": document, "upsert": bool(upsert)}
        with translated():
            return await (await self._reach()).find_one_and_replace(**wanted, return_document=bool(after))

    async def find_one_and_delete(
        self, filter: object, projection: object = None, *, sort: object = None  # noqa: A002
    ) -> Document | None:  # fmt: skip
        """Delete one; the document as it was."""
        wanted = self._one(filter, projection, sort)
        with translated():
            return await (await self._reach()).find_one_and_delete(**wanted)

    def _one(self, given: object, projection: object, sort: object) -> dict[str, Any]:
        rules = self._rules
        return {
            "filter": rules.filter(given), "projection": rules.projection(projection), "sort": rules.sort(sort),
            "collation": _SIMPLE,
        }  # fmt: skip

    async def create_index(self, keys: object, *, unique: bool = False) -> str:
        """An index in the tenant's own database; those of shared collections are the operator's."""
        if not isinstance(self._rules, OwnRules):
            raise _refused("create_index is not a tenant's to do on a collection of all", "make it as the operator")
        wanted = self._rules.sort(keys)
        if not wanted:
            raise _refused("an index has no fields", 'pass "name", or [("name", 1)]')
        with translated():
            return await (await self._reach()).create_index(wanted, unique=bool(unique))

    # --- everything else ---------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refused(f"a collection of a tenant has no {name!r}", "use one of: " + ", ".join(_METHODS))

    def __repr__(self) -> str:
        return f"<TenantCollection {self.name}>"


_METHODS: Final = sorted(name for name in vars(TenantCollection) if not name.startswith("_") and name != "is_shared")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refused("skip or limit is no count", "pass a whole number from 0")
    return value


def _refused(problem: str, fix: str) -> DocumentRefused:
    return DocumentRefused("this operation on documents is refused", detail=problem, hint=fix)
