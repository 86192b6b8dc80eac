"""Is a fresh connection to a connection pooler one that may serve? Asked in a transaction, as clients have them."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import Final

from tenantproxy.connect.checks import CHECK, Answer
from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.connect.opening import Opening
from tenantproxy.connect.pooler import entry_of, not_the_tenants
from tenantproxy.connect.reach import PIN_PATH
from tenantproxy.errors import IsolationError, TenantProxyError
from tenantproxy.isolation.transaction import TransactionEntry
from tenantproxy.model import PoolKey, Session
from tenantproxy.pools.lingering import UNKNOWN
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.exchange import READY_IDLE, SYNC_NOW, Exchange, answer_of, query, statement, tag, values_of
from tenantproxy.raw.pooled import PooledWire
from tenantproxy.wire.answers import ready_for_query
from tenantproxy.wire.frames import IN_TRANSACTION

__all__ = ["check_pooled"]

_BOOL: Final = 16
_TEXT: Final = 25
# A pooler makes these again for each of its clients. So what is set for a transaction goes back to what its client has.
_KEPT: Final = ("application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone")
_READY: Final = ready_for_query(IN_TRANSACTION)
_CHECK: Final = f"SELECT pg_catalog.row_to_json(answer)::text FROM ({CHECK}) AS answer"


async def check_pooled(opening: Opening, backend: RawBackend) -> None:
    """Give it what makes each of its transactions a tenant's, and look at it in one. Raises what says why not."""
    key = backend.pool.key
    refusal = partial(not_the_tenants, opening, key)
    wire = PooledWire(backend, entry_of=partial(_entry, opening, key), refusal=refusal)
    wire.timeout = opening.server(key).connect_timeout
    backend.transport.set_protocol(wire)
    backend.wire = wire
    backend.use(wire)  # type: ignore[arg-type]  # it has what asyncio's transports have, from the one below it
    await _begun(wire, entry_of(opening, key))
    wire.stay_raw()
    now = time.time()
    answer = await _answer(backend, key)
    opening.judge(key, answer, pid=answer.pid, now=now, pins=opening.pins(key), is_last=True)
    questions = opening.reach.due(key)
    if questions:
        rows: list[bytes] = []
        asked = b"".join(statement(each.sql, [each.argument.encode()], types=(_TEXT,)) for each in questions)
        expected = answer_of("SELECT 1") * (1 + len(questions)) + _READY
        await _ask(backend, statement(PIN_PATH) + asked + SYNC_NOW, expected, rows)
        for question, row in zip(questions, rows[-len(questions) :], strict=True):
            (found,) = values_of(row)
            question.judge((found or b"").decode())
    await _ask(backend, query("ROLLBACK"), tag("ROLLBACK") + READY_IDLE, [])
    wire.rest()
    backend.process = UNKNOWN  # what was told at the login is the pooler's
    backend.version, backend.offset = answer.version, answer.server_now - now
    wire.signer = opening.signer(key)


def _entry(opening: Opening, key: PoolKey, session: Session, settings: Settings) -> TransactionEntry:
    """With the settings of the client, and behind them those of its route, which it must not change."""
    chosen = tuple((name.decode(), value.decode("utf-8", "replace")) for name, value in settings)
    mine = entry_of(opening, key, session)
    return TransactionEntry(
        key=key,
        role=mine.role,
        settings=_with(mine.settings, chosen, session.context),
        binding=mine.binding,
        signed=mine.signed,
        kept=_KEPT,
    )


def _with(*settings: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Each once, the last one of each name."""
    merged = {name.lower(): (name, value) for each in settings for name, value in each}
    return tuple(merged.values())


async def _answer(backend: RawBackend, key: PoolKey) -> Answer:
    rows: list[bytes] = []
    args = [b"t" if key.shared else b"f", (key.schema or "").encode(), b""]
    try:
        message = statement(_CHECK, args, types=(_BOOL, _TEXT, _TEXT)) + SYNC_NOW
        await _ask(backend, message, answer_of("SELECT 1") + _READY, rows)
    except Unconfirmed:
        raise IsolationError("the server does not know the role we are logged in as") from None
    (column,) = values_of(rows[0])
    return Answer(**json.loads(column or b"{}"))


async def _begun(wire: PooledWire, entry: TransactionEntry) -> None:
    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: TenantProxyError | None) -> None:
        _tell(begun, error)

    wire.begin(entry, done)
    await begun


async def _ask(backend: RawBackend, messages: bytes, expected: bytes, rows: list[bytes]) -> None:
    """One conversation, awaited. Raises Refused, Unconfirmed or OSError."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    Exchange(backend, expected, partial(_tell, answered), rows=rows).begin(messages)
    await answered


def _tell(answered: asyncio.Future[None], error: Exception | None) -> None:
    if answered.done():
        return
    if error is None:
        answered.set_result(None)
    else:
        answered.set_exception(error)
