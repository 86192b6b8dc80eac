"""What is known of tenants that are being made? Rows of the main database, each of one process at a time."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.provision.admin import FirstAdmin
from tenantproxy.lifecycle.provision.state import ENDED, SAGA, SagaEvent, SagaState
from tenantproxy.lifecycle.provision.taken import taken
from tenantproxy.lifecycle.provision.wanted import Wanted, temporary_name
from tenantproxy.model import TenantStatus

__all__ = ["SILENT", "Saga", "SagaHeld", "SagaStore", "Within"]

SILENT: Final = 30.0  # seconds after which a process that has a saga is thought to be gone
_COLUMNS: Final = "id, key, tenant, state, wanted::text, database, schema, stocked, admin::text, error, holder"
_FIND: Final = f"SELECT {_COLUMNS} FROM tenantproxy.sagas"
_OPEN: Final = "state NOT IN ('active', 'cleaned')"  # as ENDED, and as the unique index has it
_UNFINISHED: Final = f"{_FIND} WHERE kind = 'create' AND {_OPEN} AND ($1::text IS NULL OR tenant = $1) ORDER BY id"
_GONE: Final = """
SELECT true FROM tenantproxy.sagas WHERE lower(tenant) = lower($1) AND kind = 'delete' AND state = 'cleaned' LIMIT 1
"""
_NEW: Final = f"""
INSERT INTO tenantproxy.sagas (key, tenant, state, wanted, holder, admin, seen_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6::text::jsonb, now()) RETURNING {_COLUMNS}
"""
_REGISTER: Final = """
INSERT INTO tenantproxy.tenants (id, isolation, server, database, schema, role, status, tier, region, systems)
VALUES ($1, $2, $3, $4, $5, $6, 'provisioning', $7, $8, $9::text::jsonb)
"""
_CLAIM: Final = f"""
UPDATE tenantproxy.sagas SET holder = $2, seen_at = now(), updated_at = now()
WHERE id = $1 AND {_OPEN} AND (holder IS NULL OR seen_at < now() - make_interval(secs => $3))
RETURNING {_COLUMNS}
"""
_MOVE: Final = f"""
UPDATE tenantproxy.sagas SET state = $4, error = coalesce($5, error), updated_at = now(), seen_at = now(),
  holder = CASE WHEN $6 THEN NULL ELSE holder END, admin = CASE WHEN $6 THEN NULL ELSE admin END
WHERE id = $1 AND holder = $2 AND state = $3 RETURNING {_COLUMNS}
"""
_NOTE: Final = f"""
UPDATE tenantproxy.sagas SET database = coalesce($3, database), schema = coalesce($4, schema),
  admin = coalesce($5::text::jsonb, admin), updated_at = now()
WHERE id = $1 AND holder = $2 RETURNING {_COLUMNS}
"""
_TAKE: Final = f"""
WITH taken AS (
  DELETE FROM tenantproxy.stock WHERE mark = (
    SELECT mark FROM tenantproxy.stock WHERE server = $2 AND content = $3 AND state = 'ready'
    ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
  RETURNING mark, database)
UPDATE tenantproxy.sagas SET database = taken.database, stocked = taken.mark, updated_at = now() FROM taken
WHERE id = $1 RETURNING {_COLUMNS.replace("database", "sagas.database")}
"""
_UNTAKE: Final = f"""
UPDATE tenantproxy.sagas SET database = NULL, stocked = NULL, updated_at = now()
WHERE id = $1 AND holder = $2 RETURNING {_COLUMNS}
"""
_LEAVE: Final = "UPDATE tenantproxy.sagas SET holder = NULL, error = coalesce($3, error) WHERE id = $1 AND holder = $2"
_BEAT: Final = f"UPDATE tenantproxy.sagas SET seen_at = now() WHERE holder = ANY($1) AND {_OPEN}"
_HOLDS: Final = (  # and no other process takes it over meanwhile: then what is taken from the stock would be lost
    "SELECT true FROM tenantproxy.sagas WHERE id = $1 AND holder = $2 AND database IS NULL FOR UPDATE"
)

Within = Callable[[asyncpg.Connection], Awaitable[None]]
"""What is done in a transaction of the main database, on its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saga:
    """One tenant on its way. `database`, `schema`: the object identifiers of what was made; None: not known (yet).

    `stocked`: the mark of its database where that came from the stock. `admin`: the first account, until it has ended.
    `holder`: who works on it; what is not held any more changes nothing.
    """

    id: int
    key: str
    state: SagaState
    wanted: Wanted
    database: int | None
    schema: int | None
    error: str | None
    holder: uuid.UUID | None
    stocked: str | None = None
    admin: FirstAdmin | None = field(default=None, repr=False)

    @property
    def temporary(self) -> str:
        """What its database is called until it has its name."""
        return temporary_name(self.stocked or self.wanted.mark)


class SagaHeld(TenantProxyError):
    """Another process makes this tenant at this moment; it may be tried again when that one ends or is silent."""

    code = "saga_held"
    retryable = True


class SagaStore:
    """The sagas of one main database, for one process. `conn` is its admin user's; many tasks may call at once.

    State: the connection, and by whose ids this process holds what it works on. A step of a saga that is not held any
    more (another process took it over) raises SagaHeld and changes nothing.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._held = set[uuid.UUID]()
        self._turn = asyncio.Lock()  # one statement or transaction at a time on the connection

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Within it, the others hear that this process works on what it holds."""
        task = asyncio.ensure_future(self._beat())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await task

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(SILENT / 6)
            async with self._turn:
                await self._conn.execute(_BEAT, list(self._held))

    async def begin(self, wanted: Wanted, key: str, admin: FirstAdmin | None = None) -> Saga:
        """The saga of `key`: a new one, or the one that was begun with it, which is now this process's.

        The tenant is in the registry from here on, as `provisioning`. Raises ConfigurationError where the key belongs
        to another request, or an identifier, database or schema is taken; SagaHeld.
        """
        async with self._turn:
            if (found := await self._by_key(key)) is not None:
                return await self._again(found, wanted)
            if await self._conn.fetchval(_GONE, wanted.id):
                problem, fix = "was deleted, and a name is not given again", "choose another identifier"
                raise ConfigurationError([Problem(key=f"tenant {wanted.id}", problem=problem, fix=fix)])
            tenant = wanted.tenant(TenantStatus.PROVISIONING)
            place = tenant.placement
            try:
                async with self._conn.transaction():
                    row = await self._conn.fetchrow(
                        _NEW, key, wanted.id, SagaState.REQUESTED, wanted.as_json(), uuid.uuid4(),
                        None if admin is None else admin.as_json(),
                    )  # fmt: skip
                    await self._conn.execute(
                        _REGISTER, tenant.id, place.isolation, place.server, place.database, place.schema, place.role,
                        tenant.tier, tenant.region, json.dumps(dict(tenant.systems)),
                    )  # fmt: skip
            except asyncpg.UniqueViolationError as exc:
                if exc.constraint_name == "sagas_key_key" and (found := await self._by_key(key)) is not None:
                    return await self._again(found, wanted)
                raise taken(wanted, exc.constraint_name or "") from None
            assert row is not None
            return self._mine(row)

    def _mine(self, row: asyncpg.Record) -> Saga:
        self._held.add(row["holder"])
        return _saga(row)

    async def _by_key(self, key: str) -> Saga | None:
        row = await self._conn.fetchrow(f"{_FIND} WHERE kind = 'create' AND key = $1", key)
        return _saga(row) if row is not None else None

    async def _again(self, found: Saga, wanted: Wanted) -> Saga:
        if not found.wanted.is_same(wanted):
            problem, fix = f"belongs to the tenant {found.wanted.id}, made otherwise", "give each request its own key"
            raise ConfigurationError([Problem(key=f"key {found.key}", problem=problem, fix=fix)])
        if found.state is SagaState.CLEANED:
            problem, fix = f"failed before ({found.error}), and what it made is gone", "try again with another key"
            raise ConfigurationError([Problem(key=f"key {found.key}", problem=problem, fix=fix)])
        return found if found.state in ENDED else await self._claimed(found)

    async def claim(self, saga: Saga) -> Saga:
        """Work on it from here on. Raises SagaHeld while another process does, or has ended it."""
        async with self._turn:
            return await self._claimed(saga)

    async def _claimed(self, saga: Saga) -> Saga:
        row = await self._conn.fetchrow(_CLAIM, saga.id, uuid.uuid4(), SILENT)
        if row is None:
            raise _held(saga)
        return self._mine(row)

    async def unfinished(self, tenant: str | None = None) -> list[Saga]:
        """Those that have not ended, the oldest first."""
        async with self._turn:
            rows = await self._conn.fetch(_UNFINISHED, tenant)
        return [_saga(row) for row in rows]

    async def note(
        self, saga: Saga, *, database: int | None = None, schema: int | None = None, admin: FirstAdmin | None = None
    ) -> Saga:
        """What was made is known by its identifier from here on."""
        account = None if admin is None else admin.as_json()
        return await self._change(saga, _NOTE, database, schema, account)

    async def take(self, saga: Saga, content: str) -> Saga | None:
        """The saga with a database of the stock, whose row is gone in the same transaction; None: it is empty.

        `content`: what must have run in it.
        """
        async with self._turn, self._conn.transaction():
            if not await self._conn.fetchval(_HOLDS, saga.id, saga.holder):
                raise _held(saga)
            row = await self._conn.fetchrow(_TAKE, saga.id, saga.wanted.server, content)
        return None if row is None else _saga(row)

    async def put_off(self, saga: Saga) -> Saga:
        """The database that was taken is not there any more: it was dropped by hand."""
        return await self._change(saga, _UNTAKE)

    async def _change(self, saga: Saga, statement: str, *args: object) -> Saga:
        async with self._turn:
            row = await self._conn.fetchrow(statement, saga.id, saga.holder, *args)
        if row is None:
            raise _held(saga)
        return _saga(row)

    async def move(
        self, saga: Saga, event: SagaEvent, *, error: str | None = None, within: Within | None = None
    ) -> Saga:
        """The step is done. With the last one the tenant is active, or gone from the registry, in one transaction.

        `within`: what else belongs into it.
        """
        then = SAGA[saga.state, event]
        async with self._turn, self._conn.transaction():
            row = await self._conn.fetchrow(_MOVE, saga.id, saga.holder, saga.state, then, error, then in ENDED)
            if row is None:
                raise _held(saga)
            if then is SagaState.ACTIVE:
                await self._change_registered(saga, "UPDATE tenantproxy.tenants SET status = 'active'")
            elif then is SagaState.CLEANED:
                await self._conn.execute(
                    "DELETE FROM tenantproxy.tenants WHERE id = $1 AND status = 'provisioning'", saga.wanted.id
                )
            if within is not None:
                await within(self._conn)
        return _saga(row)

    async def _change_registered(self, saga: Saga, change: str) -> None:
        done = await self._conn.execute(f"{change} WHERE id = $1 AND status = 'provisioning'", saga.wanted.id)
        if done != "UPDATE 1":
            raise TenantProxyError(
                f"the registry has no tenant {saga.wanted.id} that is being made",
                hint=f"its entry was changed by hand; tenantproxy tenants abandon {saga.wanted.id}",
            )

    async def leave(self, saga: Saga, error: str | None) -> None:
        """This process does not go on with it; another may at once."""
        async with self._turn:
            await self._conn.execute(_LEAVE, saga.id, saga.holder, error)
        self.forget(saga)

    def forget(self, saga: Saga) -> None:
        """It has ended, or the main database cannot be told: nothing is said of it any more."""
        if saga.holder is not None:
            self._held.discard(saga.holder)


def _saga(row: asyncpg.Record) -> Saga:
    return Saga(
        id=row["id"], key=row["key"], state=SagaState(row["state"]), wanted=Wanted.from_json(row["wanted"]),
        database=row["database"], schema=row["schema"], error=row["error"], holder=row["holder"],
        stocked=row["stocked"], admin=None if row["admin"] is None else FirstAdmin.from_json(row["admin"]),
    )  # fmt: skip


def _held(saga: Saga) -> SagaHeld:
    return SagaHeld(
        f"another process makes the tenant {saga.wanted.id} at this moment",
        hint=f"wait for it; one that is gone is noticed after {SILENT:.0f} s",
        retry_after=SILENT,
    )
