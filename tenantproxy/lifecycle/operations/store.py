"""Which operations are there? Rows of `tenantproxy.operations`, each written by the one process that works on it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.operations.state import OperationState

__all__ = ["SILENT", "KeyReused", "Operation", "begin", "cancel", "end", "find", "newest", "tell"]

SILENT: Final = 30.0  # seconds after which a process that works on one is thought to be gone
_KEPT: Final = "30 days"
_INSTALLED: Final = """
SELECT EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = to_regclass('tenantproxy.operations') AND attname = 'cancel_at')
"""
_COLUMNS: Final = f"""
id, change, tenant, done, total, what, result::text, error::text, started_at, ended_at, cancel_at,
CASE WHEN state = 'running' AND seen_at < now() - interval '{SILENT:.0f} seconds'
  THEN 'interrupted' ELSE state END AS state
"""
_NEW: Final = f"""
INSERT INTO tenantproxy.operations (key, asked, change, tenant, holder) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key) DO NOTHING RETURNING {_COLUMNS}
"""
_OF_KEY: Final = f"SELECT asked, {_COLUMNS} FROM tenantproxy.operations WHERE key = $1"
_CLAIM: Final = f"""
UPDATE tenantproxy.operations SET state = 'running', holder = $2, seen_at = now(), ended_at = NULL, error = NULL,
  cancel_at = NULL
WHERE id = $1 AND (state = 'interrupted' OR (state = 'running' AND seen_at < now() - make_interval(secs => $3)))
RETURNING {_COLUMNS}
"""
_TELL: Final = """
UPDATE tenantproxy.operations SET seen_at = now(), done = $3, total = $4, what = $5
WHERE id = $1 AND holder = $2 AND state = 'running' RETURNING cancel_at IS NOT NULL
"""
_CANCEL: Final = """
UPDATE tenantproxy.operations SET cancel_at = coalesce(cancel_at, now())
WHERE id = $1 AND state = 'running' AND seen_at >= now() - make_interval(secs => $2) AND change = ANY ($3)
"""
_END: Final = """
UPDATE tenantproxy.operations SET state = $3, result = $4::text::jsonb, error = $5::text::jsonb, ended_at = now()
WHERE id = $1 AND holder = $2 AND state = 'running' RETURNING true
"""
_FORGET: Final = f"DELETE FROM tenantproxy.operations WHERE ended_at < now() - interval '{_KEPT}'"
_FIND: Final = f"SELECT {_COLUMNS} FROM tenantproxy.operations WHERE id = $1"
_NEWEST: Final = f"SELECT {_COLUMNS} FROM tenantproxy.operations WHERE id < $1 ORDER BY id DESC LIMIT $2"


class KeyReused(TenantProxyError):
    """An idempotency key came with another request than the one that it belongs to."""

    http_status, sqlstate, code = 422, "22023", "idempotency_key_reused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One of them. `tenant` None: not of one tenant; `total` None: not known. `result`, `error`: JSON values.

    `cancel_at`: when someone asked that it ends.
    """

    id: int
    change: str
    tenant: str | None
    state: OperationState
    done: int
    total: int | None
    what: str
    result: Any
    error: Mapping[str, Any] | None
    started_at: datetime
    ended_at: datetime | None
    cancel_at: datetime | None = None


async def begin(
    conn: asyncpg.Connection, holder: uuid.UUID, *, key: str | None, asked: bytes, change: str, tenant: str | None
) -> tuple[Operation, bool]:
    """The operation, and whether `holder` is to do it: it is new, or was interrupted. `asked`: a hash of the request.

    Raises KeyReused, ConfigurationError where the table is missing.
    """
    if not await conn.fetchval(_INSTALLED):
        problem = "the main database has no table for operations"
        raise ConfigurationError([Problem(key="operations", problem=problem, fix="run: tenantproxy install")])
    await conn.execute(_FORGET)
    row = await conn.fetchrow(_NEW, key, asked, change, tenant, holder)
    if row is not None:
        return _operation(row), True
    known = await conn.fetchrow(_OF_KEY, key)
    if known is None or known["asked"] != asked:
        raise KeyReused("this idempotency key belongs to another request", hint="take a new key for a new request")
    claimed = await conn.fetchrow(_CLAIM, known["id"], holder, SILENT)
    return _operation(known if claimed is None else claimed), claimed is not None


async def tell(
    conn: asyncpg.Connection, number: int, holder: uuid.UUID, done: int, total: int | None, what: str
) -> bool | None:
    """Say how far it is; True: it was asked to end. None: it is not this process's any more."""
    asked: bool | None = await conn.fetchval(_TELL, number, holder, done, total, what)
    return asked


async def cancel(conn: asyncpg.Connection, number: int, changes: Sequence[str]) -> Operation | None:
    """Ask it to end, where it runs and is one of `changes`; as it is now. None: none has that number."""
    if await conn.fetchval(_INSTALLED):
        await conn.execute(_CANCEL, number, SILENT, changes)
    return await find(conn, number)


async def end(
    conn: asyncpg.Connection, number: int, holder: uuid.UUID, state: OperationState, result: Any, error: Any
) -> bool:
    """Write down what came of it; False: it is not this process's any more."""
    texts = [None if value is None else json.dumps(value, default=str) for value in (result, error)]
    return bool(await conn.fetchval(_END, number, holder, state, *texts))


async def find(conn: asyncpg.Connection, number: int) -> Operation | None:
    """The one with this number."""
    row = await conn.fetchrow(_FIND, number) if await conn.fetchval(_INSTALLED) else None
    return None if row is None else _operation(row)


async def newest(conn: asyncpg.Connection, before: int, limit: int) -> Sequence[Operation]:
    """Those begun before the one with the number `before`, the newest first, at most `limit`."""
    rows = await conn.fetch(_NEWEST, before, limit) if await conn.fetchval(_INSTALLED) else []
    return [_operation(row) for row in rows]


def _operation(row: asyncpg.Record) -> Operation:
    return Operation(
        id=row["id"], change=row["change"], tenant=row["tenant"], state=OperationState(row["state"]), done=row["done"],
        total=row["total"], what=row["what"], result=_read(row["result"]), error=_read(row["error"]),
        started_at=row["started_at"], ended_at=row["ended_at"], cancel_at=row["cancel_at"],
    )  # fmt: skip


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)
