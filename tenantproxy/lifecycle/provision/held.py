"""Which saga does this process work on, and how far is it now? What a step needs to know, and to write down."""

from __future__ import annotations

from collections.abc import Callable

from tenantproxy.lifecycle.provision.admin import FirstAdmin
from tenantproxy.lifecycle.provision.state import SagaEvent
from tenantproxy.lifecycle.provision.store import Saga, SagaStore, Within
from tenantproxy.lifecycle.provision.wanted import Wanted

__all__ = ["HeldSaga"]


class HeldSaga:
    """A saga that is this process's, as it is now.

    `is_whole`: its database was taken whole from the stock just now. `is_copied`: it was copied from the template just
    now, in which functions are closed and the files ran; their migrations did not.
    """

    def __init__(self, store: SagaStore, saga: Saga, done: Callable[[Saga], None]) -> None:
        self.saga = saga
        self.is_whole = False
        self.is_copied = False
        self._store = store
        self._done = done

    @property
    def wanted(self) -> Wanted:
        """What is to be made."""
        return self.saga.wanted

    async def move(self, event: SagaEvent, *, error: str | None = None, within: Within | None = None) -> None:
        """See `SagaStore.move`."""
        self.saga = await self._store.move(self.saga, event, error=error, within=within)
        self._done(self.saga)

    async def note(
        self, *, database: int | None = None, schema: int | None = None, admin: FirstAdmin | None = None
    ) -> None:
        """See `SagaStore.note`."""
        self.saga = await self._store.note(self.saga, database=database, schema=schema, admin=admin)

    async def take(self, content: str) -> bool:
        """See `SagaStore.take`; False: there was none."""
        taken = await self._store.take(self.saga, content)
        self.saga = taken or self.saga
        self.is_whole = taken is not None
        return self.is_whole

    async def put_off(self) -> None:
        """See `SagaStore.put_off`."""
        self.saga = await self._store.put_off(self.saga)
        self.is_whole = False
