"""What is known of tenants that are being removed or moved? Rows of `tenantproxy.sagas`, each of one process at a time.

A tenant has one saga that has not ended, of whatever kind: so it is not moved while it is made, nor deleted while it
is moved. Those that make tenants are `provision.store`'s.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.provision.installed import check_installed
from tenantproxy.lifecycle.provision.store import SILENT, Within
from tenantproxy.lifecycle.provision.wanted import Wanted

__all__ = ["ChangeHeld", "ChangeStore", "TenantChange", "being_changed", "change_store"]

_COLUMNS: Final = "id, tenant, kind, state, wanted::text, notes::text, database, schema, error, holder, updated_at"
_OPEN: Final = "state NOT IN ('active', 'cleaned')"  # as `provision.store` and the unique index have it
_NEW: Final = f"""
INSERT INTO tenantproxy.sagas (key, kind, tenant, state, wanted, notes, database, schema, holder, seen_at)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7, $8, $9, now()) RETURNING {_COLUMNS}
"""
_CLAIM: Final = f"""
UPDATE tenantproxy.sagas SET holder = $2, seen_at = now()
WHERE id = $1 AND {_OPEN} AND (holder IS NULL OR seen_at < now() - make_interval(secs => $3)) RETURNING {_COLUMNS}
"""
_MOVE: Final = f"""
UPDATE tenantproxy.sagas SET state = $4, notes = notes || $5::text::jsonb, error = $6, updated_at = now(),
  seen_at = now(), database = coalesce($8, database), schema = coalesce($9, schema),
  holder = CASE WHEN $7 THEN NULL ELSE holder END
WHERE id = $1 AND holder = $2 AND state = $3 RETURNING {_COLUMNS}
"""
_LEAVE: Final = "UPDATE tenantproxy.sagas SET holder = NULL, error = coalesce($3, error) WHERE id = $1 AND holder = $2"
_BEAT: Final = f"UPDATE tenantproxy.sagas SET seen_at = now() WHERE holder = ANY($1) AND {_OPEN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChange:
    """One saga. `wanted`: the place that it is about; `database`, `schema`: its object identifiers, where known."""

    id: int
    tenant: str
    kind: str
    state: str
    wanted: Wanted
    notes: Mapping[str, Any]
    database: int | None
    schema: int | None
    error: str | None
    holder: uuid.UUID | None
    updated_at: datetime


class ChangeHeld(TenantProxyError):
    """Another process works on this tenant at this moment; it may be tried again when that one ends or is silent."""

    code = "change_held"
    retryable = True


class ChangeStore:
    """The sagas of one main database, for one process. `conn` is its admin user's; many tasks may call at once.

    State: by whose ids this process holds what it works on. A step of a saga that is not held any more raises
    ChangeHeld and changes nothing.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._held = set[uuid.UUID]()
        self.turn = asyncio.Lock()
        """One statement or transaction at a time on the connection."""

    async def beat(self) -> None:
        """Say again and again that this process works on what it holds."""
        while True:
            await asyncio.sleep(SILENT / 6)
            if not self._held:
                continue
            async with self.turn:
                await self._conn.execute(_BEAT, list(self._held))

    async def begin(
        self, kind: str, state: StrEnum, wanted: Wanted, notes: Mapping[str, Any], within: Within, *,
        database: int | None = None, schema: int | None = None,
    ) -> TenantChange:  # fmt: skip
        """A new saga, this process's; `within` is done with it, first, or not at all. Raises what that raises.

        Raises ConfigurationError where the tenant has one that has not ended.
        """
        key = f"{kind} {uuid.uuid4()}"
        async with self.turn:
            try:
                async with self._conn.transaction():
                    await within(self._conn)
                    row = await self._conn.fetchrow(
                        _NEW, key, kind, wanted.id, state, wanted.as_json(), json.dumps(notes), database, schema,
                        uuid.uuid4(),
                    )  # fmt: skip
            except asyncpg.UniqueViolationError as exc:
                if exc.constraint_name != "sagas_one_each":
                    raise
                raise _being_changed(wanted.id, "made, moved or deleted") from None
        assert row is not None
        return self._mine(row)

    def _mine(self, row: asyncpg.Record) -> TenantChange:
        self._held.add(row["holder"])
        return _change(row)

    async def open_of(self, tenant: str) -> TenantChange | None:
        """The one of the tenant that has not ended."""
        async with self.turn:
            row = await self._conn.fetchrow(
                f"SELECT {_COLUMNS} FROM tenantproxy.sagas WHERE tenant = $1 AND {_OPEN}", tenant
            )
        return None if row is None else _change(row)

    async def unfinished(self, kind: str) -> list[TenantChange]:
        """Those of a kind that have not ended, the oldest first."""
        async with self.turn:
            rows = await self._conn.fetch(
                f"SELECT {_COLUMNS} FROM tenantproxy.sagas WHERE kind = $1 AND {_OPEN} ORDER BY id", kind
            )
        return [_change(row) for row in rows]

    async def claim(self, change: TenantChange) -> TenantChange:
        """Work on it from here on. Raises ChangeHeld while another process does, or has ended it."""
        async with self.turn:
            row = await self._conn.fetchrow(_CLAIM, change.id, uuid.uuid4(), SILENT)
        if row is None:
            raise _held(change)
        return self._mine(row)

    async def move(
        self, change: TenantChange, state: StrEnum, *, notes: Mapping[str, Any] | None = None,
        within: Within | None = None, error: str | None = None, is_ended: bool = False, database: int | None = None,
        schema: int | None = None,
    ) -> TenantChange:  # fmt: skip
        """The step is done, and what `within` does with it, in one transaction; one that `is_ended` is let go."""
        async with self.turn, self._conn.transaction():
            row = await self._conn.fetchrow(
                _MOVE, change.id, change.holder, change.state, state, json.dumps(notes or {}), error, is_ended,
                database, schema,
            )  # fmt: skip
            if row is None:
                raise _held(change)
            if within is not None:
                await within(self._conn)
        if is_ended:
            self.forget(change)
        return _change(row)

    async def leave(self, change: TenantChange, error: str | None = None) -> None:
        """This process does not go on with it; another may at once."""
        self.forget(change)
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with self.turn:  # else it is free when its holder has been silent for a while
                await self._conn.execute(_LEAVE, change.id, change.holder, error)

    def forget(self, change: TenantChange) -> None:
        """Nothing is said of it any more."""
        if change.holder is not None:
            self._held.discard(change.holder)


@asynccontextmanager
async def change_store(conn: asyncpg.Connection) -> AsyncIterator[ChangeStore]:
    """Within it, the others hear that this process works on what it holds. Raises ConfigurationError: not installed."""
    await check_installed(conn)
    store = ChangeStore(conn)
    beating = asyncio.ensure_future(store.beat())
    try:
        yield store
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await beating


_DOING: Final = {"create": "made", "delete": "deleted", "archive": "archived", "move": "moved"}


async def being_changed(conn: asyncpg.Connection, tenant: str) -> None:
    """Raises ConfigurationError where the tenant has a saga that has not ended. Asked in the transaction of `conn`."""
    query = f"SELECT kind FROM tenantproxy.sagas WHERE tenant = $1 AND {_OPEN}"
    if (kind := await conn.fetchval(query, tenant)) is not None:
        raise _being_changed(tenant, _DOING.get(kind, "changed"))


def _being_changed(tenant: str, doing: str) -> ConfigurationError:
    problem = f"is being {doing}"
    fix = "wait for its end; tenantproxy tenants unfinished shows how far it is"
    return ConfigurationError([Problem(key=f"tenant {tenant}", problem=problem, fix=fix)])


def _held(change: TenantChange) -> ChangeHeld:
    return ChangeHeld(
        f"another process works on the tenant {change.tenant} at this moment",
        hint=f"wait for it; one that is gone is noticed after {SILENT:.0f} s",
        retry_after=SILENT,
    )


def _change(row: asyncpg.Record) -> TenantChange:
    return TenantChange(
        id=row["id"], tenant=row["tenant"], kind=row["kind"], state=row["state"],
        wanted=Wanted.from_json(row["wanted"]), notes=json.loads(row["notes"]), database=row["database"],
        schema=row["schema"], error=row["error"], holder=row["holder"], updated_at=row["updated_at"],
    )  # fmt: skip
