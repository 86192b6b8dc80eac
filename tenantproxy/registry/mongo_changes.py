"""When did a tenant change that is registered in MongoDB? A change stream says, or all documents are compared.

State: the digests of the last look; changed by the task of `follow` alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tenantproxy.errors import RegistryUnavailable, TenantProxyError
from tenantproxy.registry.mongo_asked import asked

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

__all__ = ["MongoChanges"]

_log = logging.getLogger(__name__)

Document = dict[str, Any]

_AGAIN: Final = 1.0  # seconds before a stream that broke is opened again, doubled up to `poll`
_STEP: Final = 50  # documents between two pauses for the rest of the process


class MongoChanges:
    """Tells `announce` of each tenant that changed, None where any may have. `documents` reads all of them."""

    def __init__(
        self,
        *,
        tenants: Callable[[], Awaitable[AsyncCollection[Document]]],
        documents: Callable[[], AsyncIterator[Document]],
        announce: Callable[[object], None],
        poll: float,
    ) -> None:
        self._tenants = tenants
        self._documents = documents
        self._announce = announce
        self._poll = poll
        self._seen: dict[str, tuple[object, bytes]] | None = None  # by _id: tenant and digest, of the last look
        self.is_closed = False  # the driver may swallow a cancellation, and go on
        self.follows = ""
        """How it hears of changes now: `stream`, `poll`, or nothing while it cannot."""

    async def follow(self) -> None:
        """Hear of changes for as long as it is open, whatever fails."""
        wait = min(_AGAIN, self._poll)
        while not self.is_closed:
            try:
                if await self._has_streamed():
                    wait = min(_AGAIN, self._poll)
                else:
                    await self._look_again()
                    wait = self._poll
            except TenantProxyError:
                self.follows, self._seen, wait = "", None, min(2 * wait, self._poll)
            except Exception:  # noqa: BLE001 - a boundary: without it changes would be heard of no more, unnoticed
                _log.exception("the registry's changes cannot be followed")
                self.follows, self._seen, wait = "", None, self._poll
            await asyncio.sleep(wait)

    async def _has_streamed(self) -> bool:
        """Follow a change stream until it breaks; False where the server has none."""
        from pymongo.errors import OperationFailure

        if self.follows == "poll":
            return False
        was_open = False
        try:
            with asked():
                stream = await (await self._tenants()).watch(full_document="updateLookup")
                try:
                    self.follows, was_open = "stream", True
                    self._announce(None)  # what changed before it was open was not heard
                    async for change in stream:
                        self._announce((change.get("fullDocument") or {}).get("tenant_id"))
                finally:
                    self.follows = ""
                    await stream.close()
        except RegistryUnavailable as exc:
            if was_open or not isinstance(exc.__cause__, OperationFailure):
                raise
            return False  # no replica set, no right to: then changes are looked for
        return True

    async def _look_again(self) -> None:
        """Read all documents, and tell which are not as they were."""
        before, now = self._seen, dict[str, tuple[object, bytes]]()
        number = 0
        async for document in self._documents():
            number += 1
            now[str(document.get("_id"))] = document.get("tenant_id"), _digest(document)
            if number % _STEP == 0:
                await asyncio.sleep(0)
        if before is None:
            self._announce(None)
        else:
            for key in before.keys() | now.keys():
                old, new = before.get(key), now.get(key)
                if old != new:
                    for tenant in {each[0] for each in (old, new) if each is not None and isinstance(each[0], str)}:
                        self._announce(tenant)
        self._seen, self.follows = now, "poll"


def _digest(document: Document) -> bytes:
    return hashlib.blake2b(repr(document).encode("utf-8", "surrogatepass"), digest_size=16).digest()
