"""How does a tenant come to another place, whatever happens? Until the last step the old one is the tenant's.

A step that fails, a crash and a cancelled task undo all of it, at once or at the next call: then the old place serves
again, and nothing of the new one is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.change_store import ChangeStore, TenantChange, change_store
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.migrate.runs import is_migrating
from tenantproxy.lifecycle.move import rights, structure, tables
from tenantproxy.lifecycle.move.carry_rows import has_rows, held_back
from tenantproxy.lifecycle.move.new_place import drop_owned, remove_place
from tenantproxy.lifecycle.move.plan import destination
from tenantproxy.lifecycle.move.state import MOVE, MoveEvent, MoveState
from tenantproxy.lifecycle.move.step import MoveStep
from tenantproxy.lifecycle.move.tools import MAINTENANCE, Moved, MoveFailed, MoveOptions, MoveTools, Told
from tenantproxy.lifecycle.owned import OwnedPlace, owned_place
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.lifecycle.status.closing import PlaceDoor
from tenantproxy.lifecycle.status.entry import change_status, check_registry, is_ours, look_up
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus

__all__ = ["Mover"]

_SERVED: Final = (MoveState.SWITCHED, MoveState.ACTIVE)
"""States in which the new place is the tenant's: nothing is undone behind them."""


class Mover:
    """Moves tenants. `async with mover.open()`: it keeps a connection to the main database meanwhile.

    `connect` opens connections with admin credentials; `told` is called with each state. Cancellation undoes what was
    begun. State: what it works with while it is open.
    """

    def __init__(self, settings: Settings, connect: ConnectTo | None = None, *, told: Told | None = None) -> None:
        self._settings = settings
        self._connect = connect or admin_connect(settings)
        self._told = told or (lambda state: None)
        self._opened: MoveTools | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Mover]:
        """Within it, tenants may be moved. Raises ConfigurationError where the registry is not our own table."""
        settings = self._settings
        check_registry(settings)
        if not is_ours(settings):
            problem, fix = "is not our own table, the one that a move writes", "move it by a backup"
            raise ConfigurationError([Problem(key="registry", problem=problem, fix=fix)])
        conn = await self._connect(settings.main.server, settings.main.database)
        try:
            async with change_store(conn) as store:
                door = PlaceDoor(settings, self._connect)
                self._opened = MoveTools(
                    settings=settings, connect=self._connect, main=conn, store=store, door=door, told=self._told
                )
                yield self
        finally:
            self._opened = None
            await conn.close()

    @property
    def _tools(self) -> MoveTools:
        if self._opened is None:
            raise RuntimeError("the mover is not open")
        return self._opened

    @property
    def store(self) -> ChangeStore:
        """Of the open mover."""
        return self._tools.store

    async def plan(self, tenant: str, options: MoveOptions) -> Wanted:
        """Where it would be moved. Raises ConfigurationError with all that forbids it; nothing is changed."""
        found, _ = await self._look_up(tenant)
        new = destination(self._settings, found, server=options.server, isolation=options.isolation)
        await _check(self._tools, found.placement, new)
        return new

    async def move(self, tenant: str, options: MoveOptions) -> Moved:
        """The tenant at its new place. One that was interrupted before is undone first.

        Raises ConfigurationError (nothing was begun), MoveFailed, ChangeHeld.
        """
        await self.abort(tenant)
        new = await self.plan(tenant, options)
        found, owned = await self._look_up(tenant)

        async def unchanged(conn: asyncpg.Connection) -> None:
            now = await look_up(conn, self._settings, tenant, lock=True)
            if (now.placement, now.status) != (found.placement, found.status):
                raise MoveFailed(f"the tenant {tenant} was changed at this moment", hint="try again")

        notes = {"old": asdict(found.placement), "before": found.status.value}
        change = await self.store.begin("move", MoveState.REQUESTED, new, notes, unchanged)
        may_go = owned.is_proven or found.placement.isolation is Isolation.ROW
        step = MoveStep(self._tools, change, found, options, owned if options.drop_old and may_go else None)
        try:
            async with self.store.turn:
                if await is_migrating(self._tools.main):
                    raise MoveFailed("migrations run at this moment", hint="wait for their end: migrate status")
            moved = await step.run()
        except Exception as exc:
            at = step.change.state
            await self._undo(step.change, said(exc))
            became = "its new place serves it" if at in _SERVED else "its old place serves it, and the new one is gone"
            raise MoveFailed(
                f"the tenant {tenant} could not be moved: {said(exc)}", detail=f"it was at the step {at}; {became}"
            ) from exc
        except BaseException:
            await asyncio.shield(self._undo(step.change, "interrupted"))
            raise
        if step.change.state != MoveState.SWITCHED:
            return moved
        await self._remove_old(step.change)
        return replace(moved, left=())

    async def abort(self, tenant: str) -> bool:
        """Undo a move that was interrupted; False: none was, or only its old place was still there, which is gone now.

        Raises ConfigurationError where the tenant is being made or removed, ChangeHeld where it is being moved.
        """
        found = await self.store.open_of(tenant)
        if found is None:
            return False
        if found.kind != "move":
            doing = {"create": "made", "delete": "deleted", "archive": "archived"}[found.kind]
            problem, fix = f"is being {doing}", "see: tenantproxy tenants unfinished"
            raise ConfigurationError([Problem(key=f"tenant {tenant}", problem=problem, fix=fix)])
        change = await self.store.claim(found)
        if change.state == MoveState.SWITCHED:
            await self._remove_old(change)
            return False
        await self._undo(change, found.error or "interrupted")
        return True

    async def _remove_old(self, change: TenantChange) -> None:
        """The new place serves. Nothing goes where the registry was changed by hand since."""
        tools = self._tools
        try:
            found, _ = await self._look_up(change.tenant)
            if found.placement == change.wanted.tenant(found.status).placement:
                await drop_owned(tools, OwnedPlace.from_notes(change.notes["leaves"]))
            await self.store.move(change, MOVE[MoveState.SWITCHED, MoveEvent.OLD_REMOVED], is_ended=True)
        except BaseException as exc:
            await asyncio.shield(self.store.leave(change, said(exc)))
            raise
        if (waits := tools.told(MoveState.ACTIVE)) is not None:
            await waits

    async def _look_up(self, tenant: str) -> tuple[Tenant, OwnedPlace]:
        tools = self._tools
        async with tools.store.turn:
            found = await look_up(tools.main, self._settings, tenant)
            return found, await owned_place(tools.main, found)

    async def _undo(self, change: TenantChange, error: str) -> None:
        """The old place serves again, and what was made is gone. What fails leaves the saga for the next call."""
        tools = self._tools
        if change.state in _SERVED:
            await self.store.leave(change, error)
            return
        try:
            if change.state != MoveState.UNDOING:
                change = await self.store.move(change, MOVE[MoveState(change.state), MoveEvent.FAILED], error=error)
            old = _old_placement(change.notes)
            async with tools.store.turn:
                await tools.door.open(tools.main, Tenant(id=TenantId(change.tenant), placement=old))
                async with tools.main.transaction():
                    now = await look_up(tools.main, self._settings, change.tenant, lock=True)
                    if now.status is TenantStatus.PAUSED and change.notes["before"] != TenantStatus.PAUSED:
                        before = TenantStatus(change.notes["before"])
                        await change_status(tools.main, self._settings, now, before)
            await remove_place(tools, change, old)
            await self.store.move(change, MOVE[MoveState.UNDOING, MoveEvent.UNDONE], is_ended=True, error=error)
        except BaseException as exc:
            await asyncio.shield(self.store.leave(change, said(exc)))
            raise


async def _check(tools: MoveTools, old: Placement, new: Wanted) -> None:
    """Raises ConfigurationError with what forbids the move at the places themselves."""
    to_schema = new.isolation is Isolation.SCHEMA and old.schema is None
    place = structure.StructurePlace(server=old.server, database=old.database, schema=old.schema)
    async with tools.opened(old.server, old.database) as source, tools.opened(new.server, MAINTENANCE) as target:
        if Isolation.ROW not in (old.isolation, new.isolation):
            await structure.check_movable(source, place, to_schema=to_schema)
        if Isolation.ROW in (old.isolation, new.isolation):
            await _check_seen(tools, old if old.isolation is Isolation.ROW else new)
        if old.isolation is not Isolation.ROW:  # what is read of theirs could become a view that runs as the admin user
            is_super = new.isolation is not Isolation.ROW and await target.fetchval(
                "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
            )
            role = old.role or tools.settings.servers[old.server].user
            if problems := await rights.owner_problems(
                source, f"database {old.database}", await tables.schemas_of(source, old.schema), role,
                is_whole=old.schema is None, becomes_superusers=is_super,
            ):  # fmt: skip
                raise ConfigurationError(problems)
        query = "SELECT current_setting('server_version_num')::int / 10000"
        here, there = await source.fetchval(query), await target.fetchval(query)
        if there < here:
            problem, fix = f"is PostgreSQL {there}, older than {here}", "move it to a server that is not older"
            raise ConfigurationError([Problem(key=f"servers.{new.server}", problem=problem, fix=fix)])
        encodings = [await conn.fetchval("SHOW server_encoding") for conn in (source, target)]
        if len(set(encodings)) > 1:
            problem, fix = f"is in {encodings[1]}, and the tenant in {encodings[0]}", "move it by a backup"
            raise ConfigurationError([Problem(key=f"servers.{new.server}", problem=problem, fix=fix)])
        taken = await _taken(tools, target, new)
        if taken:
            problem = f"the new place holds something under its name already: {', '.join(taken)}"
            fix = "look whose it is; what a former move has left may be dropped"
            raise ConfigurationError([Problem(key=f"tenant {new.id}", problem=problem, fix=fix)])


async def _check_seen(tools: MoveTools, shared: Placement | Wanted) -> None:
    """Policies must not hide the rows of shared tables from the admin user: it copies and counts them."""
    async with tools.opened(shared.server, shared.database) as conn:
        if held := await held_back(conn, await tools.roles_of_tenants(conn, shared.server)):
            user = await conn.fetchval("SELECT current_user::text")
            problem = f"has tables whose rows row security hides from the admin user {user}: {', '.join(held)}"
            fix = "name a superuser, or a user with BYPASSRLS, in [servers.NAME.admin]; or move it by a backup"
            raise ConfigurationError([Problem(key=f"database {shared.database}", problem=problem, fix=fix)])


async def _taken(tools: MoveTools, target: asyncpg.Connection, new: Wanted) -> list[str]:
    taken = []
    if new.isolation is Isolation.ROW:
        async with tools.opened(new.server, new.database) as inside:
            if (table := await has_rows(inside, new.id, await tools.roles_of_tenants(inside, new.server))) is not None:
                taken.append(f"rows in {table}")
    elif new.isolation is Isolation.SCHEMA:
        async with tools.opened(new.server, new.database) as inside:
            if await inside.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", new.schema):
                taken.append(f"schema {new.schema}")
    elif await target.fetchval("SELECT true FROM pg_database WHERE datname = $1", new.database):
        taken.append(f"database {new.database}")
    if await target.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", new.role):
        taken.append(f"role {new.role}")
    return taken


def _old_placement(notes: Mapping[str, Any]) -> Placement:
    return Placement(**{**notes["old"], "isolation": Isolation(notes["old"]["isolation"])})
