"""How does a tenant come to be, whatever happens on the way? One step after the other, each written down when done.

A step that fails undoes all of them; a crash, a lost connection or a cancelled task leaves the saga where it is, for
`finish` or `abandon`. Steps look first, so that one that was done and not written down may be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.failures import LOST, said
from tenantproxy.lifecycle.provision.admin import FirstAdmin, check_admin
from tenantproxy.lifecycle.provision.entries import check_entries, entries
from tenantproxy.lifecycle.provision.filling import PlaceContent
from tenantproxy.lifecycle.provision.held import HeldSaga
from tenantproxy.lifecycle.provision.installed import check_installed
from tenantproxy.lifecycle.provision.state import ENDED, SagaEvent, SagaState
from tenantproxy.lifecycle.provision.steps import Steps
from tenantproxy.lifecycle.provision.stock import Stock, Stocked, stocked
from tenantproxy.lifecycle.provision.store import Saga, SagaHeld, SagaStore
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.lifecycle.provisioner import ConnectTo

__all__ = ["Provisioner", "ProvisioningFailed"]


class ProvisioningFailed(TenantProxyError):
    """A tenant could not be made. `saga` is where it stands: CLEANED, all is gone; else `finish` or `abandon` it."""

    code = "provisioning_failed"

    def __init__(self, saga: Saga, cause: BaseException) -> None:
        name, is_gone = saga.wanted.id, saga.state is SagaState.CLEANED
        rest = f"tenantproxy tenants finish {name} goes on with it, tenantproxy tenants abandon {name} undoes it"
        super().__init__(
            f"the tenant {name} could not be made: {said(cause)}",
            detail="all that was made for it is gone again" if is_gone else f"it is at the step {saga.state}",
            hint="correct that and try again" if is_gone else rest,
        )
        self.saga = saga


class Provisioner:
    """Makes tenants as `[provision]` says. `async with`: it keeps a connection to the main database meanwhile.

    `connect` opens connections with admin credentials, by default those of the configuration. `content`: for tenants
    with `restore_from`. `done` is called with each saga behind each step. `refill`: what tenants take from the stock is
    made again in the background; `close` ends that. Cancellation leaves a saga where it is, not held. State: the store,
    the steps, and who refills the stock.
    """

    def __init__(
        self, settings: Settings, connect: ConnectTo | None = None, *, content: PlaceContent | None = None,
        done: Callable[[Saga], None] | None = None, refill: bool = False,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._connect = connect or admin_connect(settings)
        self._done = done or (lambda saga: None)
        self._steps = Steps(settings, self._connect, content)
        self._store: SagaStore | None = None
        self._refill = refill
        self._lacking: asyncio.Event | None = None  # there may be fewer in the stock than there should

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Provisioner]:
        """Within it, tenants may be made. Raises ConfigurationError where the main database lacks our tables."""
        conn = await self._connect_main()
        try:
            await check_installed(conn)
            await check_entries(conn, self._settings)
            self._store = SagaStore(conn)
            async with self._store.alive(), self._refilling():
                yield self
        finally:
            self._store = None
            await self._steps.close()
            await conn.close()

    @property
    def store(self) -> SagaStore:
        """Of the open provisioner."""
        if self._store is None:
            raise RuntimeError("the provisioner is not open")
        return self._store

    async def create(self, wanted: Wanted, *, key: str | None = None, admin: FirstAdmin | None = None) -> Saga:
        """The tenant, active. With a `key` of before: that saga, gone on with; an ended one is returned as it is.

        `admin`: its first account. Raises ProvisioningFailed, ConfigurationError (nothing was begun), SagaHeld.
        """
        self._steps.read()
        self._steps.content_of(wanted)
        if admin is not None:
            check_admin(self._settings)
        saga = await self.store.begin(wanted, key or wanted.mark, admin)
        return saga if saga.state in ENDED else await self._guarded(saga, self._forward)

    async def finish(self, saga: Saga) -> Saga:
        """Go on with one that has not ended: to its end, or with its removal. Raises as `create`."""
        self._steps.read()
        self._steps.content_of(saga.wanted)
        return await self._guarded(await self.store.claim(saga), self._forward)

    async def abandon(self, saga: Saga) -> Saga:
        """Remove all that was made for one that has not ended. Raises as `finish`."""
        self._steps.content_of(saga.wanted)
        return await self._guarded(await self.store.claim(saga), self._clean)

    # --- the stock ---------------------------------------------------------------------------------------------------
    async def stocked(self) -> list[Stocked]:
        """The stock of each server, as it is."""
        conn = await self._connect_main()
        try:
            return await stocked(conn, self._steps.content)
        finally:
            await conn.close()

    async def fill_stock(self, *, most: int | None = None, told: Callable[[], None] = lambda: None) -> int:
        """Make what is missing of `[provision] stock`, and remove what no tenant can take; how many were made.

        `most`: another number. Raises as `Stock.fill`, ConfigurationError for files that cannot be read.
        """
        rules = self._settings.provision
        conn = await self._connect_main()
        try:
            stock = Stock(
                conn, make=self._steps.make_stocked, remove=self._steps.remove_stocked, content=self._steps.content,
                parallel=rules.parallel,
            )  # fmt: skip
            server = rules.server or self._settings.main.server
            return await stock.fill(server, rules.stock if most is None else most, told=told)
        finally:
            await conn.close()

    @asynccontextmanager
    async def _refilling(self) -> AsyncIterator[None]:
        if not (self._refill and self._settings.provision.stock):
            yield
            return
        self._lacking = asyncio.Event()
        self._lacking.set()
        task = asyncio.ensure_future(self._keep_filled(self._lacking))
        try:
            yield
        finally:
            self._lacking = None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep_filled(self, lacking: asyncio.Event) -> None:
        while True:
            await lacking.wait()
            lacking.clear()
            # What fails here is told by `tenants stock`, and by the next tenant, which is made from nothing.
            with suppress(TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await self.fill_stock()

    async def _connect_main(self) -> asyncpg.Connection:
        return await self._connect(self._settings.main.server, self._settings.main.database)

    # --- one saga ----------------------------------------------------------------------------------------------------
    async def _guarded(self, saga: Saga, work: Callable[[HeldSaga], Awaitable[None]]) -> Saga:
        """`work` on a saga that is this process's; a refusal undoes it, what says nothing of the tenant leaves it."""
        held = HeldSaga(self.store, saga, self._done)
        try:
            try:
                await work(held)
            except (*LOST, SagaHeld):
                raise
            except Exception as exc:
                if held.saga.state is SagaState.CLEANING:
                    raise
                await held.move(SagaEvent.FAILED, error=said(exc))
                await self._clean(held)
                raise ProvisioningFailed(held.saga, exc) from exc
        except (ProvisioningFailed, SagaHeld):
            raise
        except Exception as exc:
            await self._leave(held, said(exc))
            raise ProvisioningFailed(held.saga, exc) from exc
        except BaseException:
            await asyncio.shield(self._leave(held, "interrupted"))
            raise
        finally:
            self.store.forget(held.saga)
        return held.saga

    async def _leave(self, held: HeldSaga, error: str) -> None:
        try:
            await self.store.leave(held.saga, error)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # the main database is gone too: the saga is free when its holder has been silent for a while

    async def _forward(self, held: HeldSaga) -> None:
        if held.saga.state is SagaState.CLEANING:
            return await self._clean(held)
        while (step := self._steps.forward.get(held.saga.state)) is not None:
            work, event = step
            await work(held)
            await held.move(event)
            if held.is_whole and self._lacking is not None:
                self._lacking.set()
        await held.move(SagaEvent.REGISTERED, within=entries(held.saga, self._settings))
        return None

    async def _clean(self, held: HeldSaga) -> None:
        if held.saga.state is not SagaState.CLEANING:
            await held.move(SagaEvent.FAILED, error="abandoned")
        await self._steps.undo(held)
        await held.move(SagaEvent.REMOVED, within=entries(held.saga, self._settings))
