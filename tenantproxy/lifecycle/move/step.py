"""How is one tenant carried over? Its structure, its rows, the change of its entry: in this order, in named states."""

from __future__ import annotations

import time
from typing import Any, Final

import asyncpg

from tenantproxy.lifecycle.change_store import TenantChange
from tenantproxy.lifecycle.move import new_place
from tenantproxy.lifecycle.move.carriers import Carrier, carrier_of
from tenantproxy.lifecycle.move.state import MOVE, MoveEvent, MoveState
from tenantproxy.lifecycle.move.tools import Moved, MoveFailed, MoveOptions, MoveTools
from tenantproxy.lifecycle.owned import OwnedPlace
from tenantproxy.lifecycle.provision.proof import Prover
from tenantproxy.lifecycle.roll_call import until_heard
from tenantproxy.lifecycle.status.entry import change_status, look_up
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus

__all__ = ["MoveStep"]

_PREPARED: Final = """
SELECT gid, owner::text AS owner FROM pg_prepared_xacts WHERE database = current_database() AND NOT owner = ANY ($1)
ORDER BY prepared LIMIT 5
"""
_SWITCH: Final = """
UPDATE tenantproxy.tenants SET isolation = $2, server = $3, database = $4, schema = $5, role = $6, status = $7,
  epoch = epoch + 1 WHERE id = $1 AND status = 'paused'
"""


class MoveStep:
    """One move, from its first to its last step. State: its saga, as it is now."""

    def __init__(
        self, tools: MoveTools, change: TenantChange, tenant: Tenant, options: MoveOptions, leaves: OwnedPlace | None
    ) -> None:
        """`leaves`: the old place, where it is to be removed behind the move."""
        self.change = change
        self._tools = tools
        self._tenant = tenant
        self._old = tenant.placement
        self._new = change.wanted
        self._options = options
        self._leaves = leaves
        self._paused_at = 0.0

    async def run(self) -> Moved:
        """Raises what the failed step does; then all is to be undone."""
        old, new, tools = self._old, self._new, self._tools
        self.change = await new_place.make_place(tools, self.change)
        await self._moved(MoveEvent.PLACE_MADE)
        async with tools.opened(old.server, old.database) as source, tools.opened(new.server, new.database) as target:
            carrier = carrier_of(tools, source, target, old, new, self._options)
            await carrier.prepare()
            await self._moved(MoveEvent.TABLES_MADE, notes={"follows": carrier.follows})
            if carrier.follows:
                await carrier.catch_up()
                await self._moved(MoveEvent.CAUGHT_UP)
            await new_place.open_place(tools, target, new)
            await self._prove()
            await self._pause()
            rows = await self._bring(carrier, source, target)
            await self._switch()
        return Moved(
            tenant=self._tenant.id, placement=self._placement(), rows=rows, followed=carrier.follows,
            paused_seconds=time.monotonic() - self._paused_at, left=_left_of(self._tenant),
        )  # fmt: skip

    async def _moved(self, event: MoveEvent, **more: Any) -> None:
        then = MOVE[MoveState(self.change.state), event]
        self.change = await self._tools.store.move(self.change, then, **more)
        if (waits := self._tools.told(then)) is not None:
            await waits

    def _placement(self) -> Placement:
        return self._new.tenant(TenantStatus.ACTIVE).placement

    async def _prove(self) -> None:
        """Reach it as the tenant, through a router with all its checks, while the old place still serves."""
        prover = Prover(self._tools.settings)
        try:
            await prover.prove(self._new)
        finally:
            await prover.close()

    async def _pause(self) -> None:
        """No session can write at the old place any more, and all that was written is to be seen."""
        tools = self._tools
        async with tools.store.turn:
            async with tools.main.transaction():
                now = await look_up(tools.main, tools.settings, self._tenant.id, lock=True)
                if now.placement != self._old or now.status is not self._tenant.status:
                    raise MoveFailed("it was changed while it was moved", hint="try again")
                self._paused_at = time.monotonic()
                await change_status(tools.main, tools.settings, now, TenantStatus.PAUSED)
            drain = self._options.drain
            if self._old.isolation is Isolation.ROW:
                # A fence refuses at once: who has heard of the pause before it waits instead, and what runs may end.
                drain /= 2
                await until_heard(tools.main, patience=drain)
                await tools.door.drained(self._tenant, patience=drain)
            closed = await tools.door.close(tools.main, self._tenant, reason="being moved", patience=drain, drains=True)
        if not closed.is_closed:
            raise MoveFailed("its old place cannot be closed to it", hint="give the tenant a role of its own")
        await self._moved(MoveEvent.STOPPED)

    async def _bring(self, carrier: Carrier, source: asyncpg.Connection, target: asyncpg.Connection) -> int:
        """How many rows both places have now, the same ones."""
        roles = await self._tools.roles_of_tenants(source, self._old.server)
        others = [] if self._old.isolation is Isolation.DATABASE else [role for role in roles if role != self._old.role]
        # Any session of their role can commit them later, in shared tables too. Those of other tenants' roles reach
        # nothing that is moved.
        if left := await source.fetch(_PREPARED, others):
            named = ", ".join(f"{row['gid']!r} of {row['owner']}" for row in left)
            hint = f"in the database {self._old.database}: COMMIT PREPARED or ROLLBACK PREPARED them"
            raise MoveFailed(f"its database has prepared transactions: {named}", hint=hint)
        await carrier.bring()
        await self._moved(MoveEvent.ROWS_COPIED)
        rows = await carrier.compare()
        if self._new.isolation is not Isolation.ROW:
            is_renamed = self._new.isolation is Isolation.DATABASE and self._old.schema is not None
            await new_place.finish_place(
                self._tools, source, target, self._new, former=self._old, is_renamed=is_renamed
            )
        await self._moved(MoveEvent.COMPARED)
        return rows

    async def _switch(self) -> None:
        place = self._placement()

        async def registered(conn: asyncpg.Connection) -> None:
            done = await conn.execute(
                _SWITCH, self._tenant.id, place.isolation, place.server, place.database, place.schema, place.role,
                self.change.notes["before"],
            )  # fmt: skip
            if done != "UPDATE 1":
                raise MoveFailed("the registry has no paused tenant of that name", hint="it was changed by hand")

        if self._leaves is None:
            await self._moved(MoveEvent.SWITCHED, within=registered, is_ended=True)
        else:
            await self._moved(MoveEvent.LEFT, within=registered, notes={"leaves": self._leaves.as_notes()})


def _left_of(tenant: Tenant) -> tuple[str, ...]:
    old = tenant.placement
    if old.isolation is Isolation.ROW:
        return (f"rows of {tenant.id} in {old.server}/{old.database}",)
    what = f"schema {old.server}/{old.database}.{old.schema}" if old.schema else f"database {old.server}/{old.database}"
    return (what, *((f"role {old.role}",) if old.role is not None else ()))
