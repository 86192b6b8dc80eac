"""How is a tenant suspended, resumed, archived and deleted? Plain functions, for the command line and every other door.

Each takes effect in three ways: the registry says so, and every process hears of it and ends what the tenant has; the
place is closed at the server, for a process that hears of nothing; and its tokens are worth nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.change_store import ChangeStore, TenantChange, change_store
from tenantproxy.lifecycle.owned import owned_place
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.lifecycle.status.backups import LastBackups
from tenantproxy.lifecycle.status.closing import Closed, PlaceDoor
from tenantproxy.lifecycle.status.entry import change_status, check_registry, is_ours, look_up
from tenantproxy.lifecycle.status.may import (
    MAY_REMOVE,
    MAY_RESUME,
    MAY_SUSPEND,
    check_has_place,
    check_may,
    deletion_of,
    refused,
)
from tenantproxy.lifecycle.status.older import is_older_left, moment_of
from tenantproxy.lifecycle.status.removal import Removal
from tenantproxy.lifecycle.status.removal_state import REMOVAL, RemovalEvent, RemovalState
from tenantproxy.lifecycle.status.results import Removed, StatusChanged
from tenantproxy.model import Isolation, Tenant, TenantStatus

__all__ = ["archive", "delete", "delete_due", "resume", "suspend", "undelete"]

_DAY: Final = 86_400.0
_MOST_DAYS: Final = 3650.0


async def suspend(settings: Settings, tenant: str, *, connect: ConnectTo | None = None) -> StatusChanged:
    """Refuse the tenant everywhere, from now on, and end its connections. Again: what is not closed yet is closed.

    Raises ConfigurationError (it is being made, moved or removed; the registry cannot be written), TenantNotFound.
    """
    async with _opened(settings, connect) as tools:
        return await _stop(tools, tenant, TenantStatus.SUSPENDED)


async def _stop(tools: _Tools, tenant: str, status: TenantStatus) -> StatusChanged:
    async with tools.main.transaction():
        before = await look_up(tools.main, tools.settings, tenant, lock=True)
        await check_may(tools.main, tools.settings, before, MAY_SUSPEND, status)
        after = before
        if before.status is not status:
            after = await change_status(tools.main, tools.settings, before, status, raise_epoch=True)
    closed = await tools.door.close(tools.main, after, reason=status)
    return _changed(before, after, closed)


async def resume(settings: Settings, tenant: str, *, connect: ConnectTo | None = None) -> StatusChanged:
    """Serve it again: its place is opened, then the registry says so. Raises as `suspend`."""
    async with _opened(settings, connect) as tools:
        async with tools.main.transaction():
            before = await look_up(tools.main, tools.settings, tenant, lock=True)
            await check_may(tools.main, settings, before, MAY_RESUME, TenantStatus.ACTIVE)
            await check_has_place(tools.main, settings, before)
            await tools.door.open(tools.main, before)
            after = await change_status(tools.main, settings, before, TenantStatus.ACTIVE)
        return _changed(before, after, Closed(is_closed=False))


async def archive(
    settings: Settings, tenant: str, *, backups: LastBackups, drop_place: bool = False,
    connect: ConnectTo | None = None,
) -> Removed:  # fmt: skip
    """Suspend it, back it up and verify that; with `drop_place` remove what it has. It stays registered, as inactive.

    Raises as `delete`.
    """
    async with _opened(settings, connect) as tools:
        _check_ours(settings)
        if drop_place:
            change = await _gone_on_with(tools, tenant, "archive")
            if change is None:
                change = await _begin_removal(tools, tenant, "archive", TenantStatus.SUSPENDED, final_at=time.time())
            change = await tools.removal(backups).run(change, no_backup=False)
            return _removed(change)
        stopped = await _stop(tools, tenant, TenantStatus.SUSPENDED)
        found = await look_up(tools.main, settings, tenant)
        name = await backups.take(found)
        async with tools.main.transaction():
            found = await look_up(tools.main, settings, tenant, lock=True)
            await check_may(tools.main, settings, found, MAY_SUSPEND, TenantStatus.INACTIVE)
            await change_status(tools.main, settings, found, TenantStatus.INACTIVE)
        return Removed(tenant=stopped.tenant, state="archived", backup=name)


async def delete(
    settings: Settings, tenant: str, *, grace_days: float = 7.0, no_backup: bool = False,
    backups: LastBackups | None = None, connect: ConnectTo | None = None, dry_run: bool = False,
) -> Removed:  # fmt: skip
    """Refuse the tenant everywhere; when `grace_days` have passed, the next call removes all that was made for it.

    With 0 it is removed now. Before that its last backup is verified, or one is made, unless `no_backup`. Its name is
    not given again. What was interrupted is gone on with by the next call. With `dry_run` nothing is done, and `left`
    is what would be. Raises ConfigurationError (it is being made or moved, or it was deleted already and its grace has
    not passed), ChangeHeld, TenantNotFound.
    """
    if not 0 <= grace_days <= _MOST_DAYS:  # also what is no number: it would be no grace at all
        problem, fix = f"is {grace_days} days", f"a number from 0 (now) to {_MOST_DAYS:.0f}"
        raise ConfigurationError([Problem(key="grace", problem=problem, fix=fix)])
    async with _opened(settings, connect) as tools:
        _check_ours(settings)
        if dry_run:
            return await _would_delete(tools, tenant)
        change = await _gone_on_with(tools, tenant, "delete", grace_days=grace_days)
        if change is None:
            final_at = time.time() + grace_days * _DAY
            change = await _begin_removal(tools, tenant, "delete", TenantStatus.DELETING, final_at=final_at)
            if grace_days > 0:
                await tools.store.leave(change)
                return _removed(change)
        return _removed(await tools.removal(backups).run(change, no_backup=no_backup))


async def delete_due(
    settings: Settings, *, backups: LastBackups | None = None, connect: ConnectTo | None = None, dry_run: bool = False
) -> list[Removed]:
    """Remove what those tenants have that were deleted and whose grace has passed. Raises what the first failure is."""
    async with _opened(settings, connect) as tools:
        due = []
        for change in await tools.store.unfinished("delete"):
            if change.state != RemovalState.WAITING or change.notes["final_at"] <= time.time():
                if dry_run:
                    due.append(Removed(tenant=change.tenant, state="would_delete"))
                    continue
                held = await tools.store.claim(change)
                due.append(_removed(await tools.removal(backups).run(held, no_backup=False)))
        return due


async def undelete(settings: Settings, tenant: str, *, connect: ConnectTo | None = None) -> StatusChanged:
    """Take a deletion back while its grace lasts: the tenant is what it was before.

    Raises ConfigurationError where it was not deleted, or is being removed by now; ChangeHeld.
    """
    async with _opened(settings, connect) as tools:
        change = await tools.store.claim(await deletion_of(tools.store, tenant))
        former = TenantStatus(change.notes["before"])
        async with tools.store.turn:
            before = await look_up(tools.main, settings, tenant)
            if former is TenantStatus.ACTIVE:
                await tools.door.open(tools.main, before)

        async def taken_back(conn: asyncpg.Connection) -> None:
            await change_status(conn, settings, before, former)

        then = REMOVAL[RemovalState.WAITING, RemovalEvent.TAKEN_BACK]
        await tools.store.move(change, then, within=taken_back, is_ended=True)
        return StatusChanged(
            tenant=tenant, before=before.status, after=former, is_closed=former is not TenantStatus.ACTIVE, ended=0
        )


# --- what they have in common ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class _Tools:
    settings: Settings
    connect: ConnectTo
    main: asyncpg.Connection
    door: PlaceDoor
    store: ChangeStore

    def removal(self, backups: LastBackups | None) -> Removal:
        return Removal(self.settings, self.connect, self.main, self.store, backups)


@asynccontextmanager
async def _opened(settings: Settings, connect: ConnectTo | None) -> AsyncIterator[_Tools]:
    check_registry(settings)
    connect = connect or admin_connect(settings)
    main = await connect(settings.main.server, settings.main.database)
    try:
        async with change_store(main) if is_ours(settings) else nullcontext(ChangeStore(main)) as store:
            yield _Tools(settings=settings, connect=connect, main=main, door=PlaceDoor(settings, connect), store=store)
    finally:
        await main.close()


async def _begin_removal(
    tools: _Tools, tenant: str, kind: str, status: TenantStatus, *, final_at: float
) -> TenantChange:
    """A saga of `kind`, this process's; the tenant is refused everywhere and its place closed."""
    found = await look_up(tools.main, tools.settings, tenant)
    owned = await owned_place(tools.main, found)

    async def stopped(conn: asyncpg.Connection) -> None:
        now = await look_up(conn, tools.settings, tenant, lock=True)
        await check_may(conn, tools.settings, now, MAY_REMOVE, status)
        if now.placement != found.placement or now.status is not found.status:
            raise refused(now, "was changed at this moment", "try again")
        await change_status(conn, tools.settings, now, status, raise_epoch=True)

    notes = {"before": found.status.value, "final_at": final_at}
    change = await tools.store.begin(
        kind, RemovalState.WAITING, owned.wanted, notes, stopped, database=owned.database, schema=owned.schema
    )
    try:
        async with tools.store.turn:
            await tools.door.close(tools.main, found, reason=status)
    except BaseException:
        await tools.store.leave(change, "its place could not be closed")
        raise
    return await _noted(tools, change)


async def _noted(tools: _Tools, change: TenantChange) -> TenantChange:
    """Its place is closed: what is saved from now on holds all that the tenant wrote, unless older ones still write."""
    if "closed_at" in change.notes or await is_older_left(tools.settings, tools.connect, change.wanted):
        return change
    notes = {"closed_at": await moment_of(tools.connect, change.wanted)}
    return await tools.store.move(change, RemovalState.WAITING, notes=notes)


async def _gone_on_with(tools: _Tools, tenant: str, kind: str, *, grace_days: float = 0.0) -> TenantChange | None:
    """The removal of this tenant that was begun before, held, where it may go on; None: nothing was."""
    found = await tools.store.open_of(tenant)
    if found is None:
        return None
    if found.kind != kind:
        doing = {"create": "made", "move": "moved", "delete": "deleted", "archive": "archived"}[found.kind]
        problem, fix = f"is being {doing}", "wait for its end; tenantproxy tenants unfinished shows how far it is"
        raise ConfigurationError([Problem(key=f"tenant {tenant}", problem=problem, fix=fix)])
    if found.state == RemovalState.WAITING and found.notes["final_at"] > time.time() and grace_days > 0:
        day = datetime.fromtimestamp(found.notes["final_at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        problem, fix = f"was deleted already; what it has is removed from {day} on", "--grace 0 removes it now"
        raise ConfigurationError([Problem(key=f"tenant {tenant}", problem=problem, fix=fix)])
    change = await tools.store.claim(found)
    if change.state == RemovalState.WAITING:  # closed again: who began it may have died before
        async with tools.store.turn:
            await tools.door.close(tools.main, await look_up(tools.main, tools.settings, tenant), reason=kind)
        change = await _noted(tools, change)
    return change


async def _would_delete(tools: _Tools, tenant: str) -> Removed:
    found = await look_up(tools.main, tools.settings, tenant)
    await check_may(tools.main, tools.settings, found, MAY_REMOVE, TenantStatus.DELETING)
    owned, place = await owned_place(tools.main, found), found.placement
    parts = {
        f"database {place.database}": place.isolation is Isolation.DATABASE,
        f"schema {place.database}.{place.schema}": place.isolation is Isolation.SCHEMA,
        f"role {place.role}": place.role is not None,
    }
    left = () if owned.is_proven else tuple(name for name, is_there in parts.items() if is_there)
    return Removed(tenant=tenant, state="would_delete", left=left)


def _check_ours(settings: Settings) -> None:
    if not is_ours(settings):
        problem, fix = "is not our own table", "suspend the tenant, and remove what it has as you made it"
        raise ConfigurationError([Problem(key="registry", problem=problem, fix=fix)])


def _changed(before: Tenant, after: Tenant, closed: Closed) -> StatusChanged:
    return StatusChanged(
        tenant=after.id, before=before.status, after=after.status, is_closed=closed.is_closed, ended=closed.ended
    )


def _removed(change: TenantChange) -> Removed:
    final_at = change.notes["final_at"] if change.state == RemovalState.WAITING else None
    state = change.state
    if state == RemovalState.CLEANED:
        state = "archived" if change.kind == "archive" else "deleted"
    return Removed(
        tenant=change.tenant, state=state, final_at=final_at, backup=change.notes.get("backup"),
        left=tuple(change.notes.get("left", ())),
    )  # fmt: skip
