"""How does a raw backend come to be one that may serve? Dialled, logged in, checked and warmed."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from functools import partial
from typing import Final

from tenantproxy.config import Server
from tenantproxy.connect.checks import CHECK, Answer
from tenantproxy.connect.failures import Refused, Unconfirmed
from tenantproxy.connect.opening import ADMIN_PROFILE, WARM_WINDOW, Opening
from tenantproxy.connect.place import Place
from tenantproxy.connect.reach import PIN_PATH
from tenantproxy.connect.trust import CHECK as TRUST_CHECK
from tenantproxy.errors import IsolationError
from tenantproxy.isolation.row import enter
from tenantproxy.isolation.turn import TRUST, chained
from tenantproxy.model import Proof
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend, discard
from tenantproxy.raw.close import send_terminate
from tenantproxy.raw.dial import binding_of, connect, ways
from tenantproxy.raw.exchange import (
    READY_IDLE,
    SYNC_NOW,
    Exchange,
    answer_of,
    fresh_nonce,
    query,
    reset,
    row,
    statement,
    tag,
    values_of,
)
from tenantproxy.raw.hello import hello
from tenantproxy.raw.pooled_check import check_pooled
from tenantproxy.wire.server_auth import BackendLogin

__all__ = ["Opener"]

_BOOL: Final = 16
_TEXT: Final = 25
_REPORTS_PATH: Final = 180000  # from this version on a server tells of each change of search_path
# One column of text, whatever the types of the answer: nothing here knows how PostgreSQL writes an array.
_CHECK: Final = f"SELECT pg_catalog.row_to_json(answer)::text FROM ({CHECK}) AS answer"
_WARM_CHECK: Final = "SELECT tenantproxy.bound_tenant()"


class Opener:
    """Opens backends as `opening` says."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def connect(self, pool: Pool[RawBackend], opened: list[RawBackend]) -> RawBackend:
        """A backend that may serve; `opened` holds what a failure leaves behind."""
        async with self._opening.somewhere(pool.key) as place:
            return await self._connect_to(place, pool, opened)

    async def _connect_to(self, place: Place, pool: Pool[RawBackend], opened: list[RawBackend]) -> RawBackend:
        server = place.server
        for attempt in range(2):
            async with asyncio.timeout(server.connect_timeout):
                backend, pins = await self._dial(pool, server, opened)
            async with asyncio.timeout(server.connect_timeout):
                if place.question is not None:
                    place.confirm(await self._state(backend, place.question))
                if server.pooler:
                    await check_pooled(self._opening, backend)
                    return backend
                if await self._check(backend, pins, is_last=attempt == 1):
                    place.check()
                    return backend
            await send_terminate(backend)
            opened.remove(backend)
        raise AssertionError("the second attempt returns or raises")

    async def _state(self, backend: RawBackend, question: str) -> dict[str, object]:
        """What its host says of itself."""
        rows: list[bytes] = []
        message = statement(f"SELECT pg_catalog.row_to_json(answer)::text FROM ({question}) AS answer") + SYNC_NOW
        await _ask(backend, message, answer_of("SELECT 1") + READY_IDLE, rows=rows)
        (column,) = values_of(rows[0])
        found: dict[str, object] = json.loads(column or b"{}")
        return found

    async def _dial(
        self, pool: Pool[RawBackend], server: Server, opened: list[RawBackend]
    ) -> tuple[RawBackend, dict[str, str]]:
        key = pool.key
        choices = list(ways(server))
        while True:
            pins = self._opening.pins(key)
            backend = RawBackend(pool)
            way = choices.pop(0)
            try:
                await connect(backend, server, way)
                opened.append(backend)
                await self._log_in(backend, pins)
            except (ssl.SSLError, Refused) as exc:
                if not choices or not _may_try_otherwise(exc):
                    raise
                continue
            if self._opening.pins_enough(key, pins, _major(backend)):
                backend.set_user_timeout(max(server.connect_timeout, 10.0))
                return backend, pins
            await send_terminate(backend)
            opened.remove(backend)
            choices = [way]

    async def _log_in(self, backend: RawBackend, pins: dict[str, str]) -> None:
        key = backend.pool.key
        user = key.user or self._opening.server(key).user
        server = self._opening.server(key)
        parameters = {"user": user, "database": key.database, "client_encoding": "UTF8"}
        if not server.pooler:  # which takes hardly any other
            parameters |= pins
        login = BackendLogin(
            parameters,
            lambda: self._opening.password(key),
            methods=server.require_auth,
            binding=binding_of(backend.transport),
            channel_binding=server.channel_binding,
        )
        await _log_in(backend, login)

    async def _check(self, backend: RawBackend, pins: dict[str, str], *, is_last: bool) -> bool:
        """Whether it may serve; False: its role had to be cleaned first, so open another one."""
        key = backend.pool.key
        asked = time.time()
        answer = await self._ask_for_answer(backend, pins)
        now = (asked + time.time()) / 2
        self._opening.learn(backend.pool, answer)
        statements = self._opening.judge(key, answer, pid=backend.pid, now=now, pins=pins, is_last=is_last)
        for sql in statements:
            await _ask(backend, query(sql), tag("SET" if sql.startswith("SET ") else "ALTER ROLE") + READY_IDLE)
        if statements:
            return False
        backend.process = ServerProcess(pid=answer.pid, started=answer.server_now)
        backend.offset = answer.server_now - now
        backend.version = answer.version
        backend.must_set_path = key.schema is not None and not key.shared and answer.version < _REPORTS_PATH
        await self._check_reach(backend)
        backend.signer = self._opening.signer(key)
        proof = self._opening.proof(key)
        if proof is Proof.TRUSTED:
            await self._check_trust(backend)
            await _greet(backend)
        if proof in (Proof.BOUND, Proof.TRUSTED):
            await self._warm(backend)
        return True

    async def _ask_for_answer(self, backend: RawBackend, pins: dict[str, str]) -> Answer:
        key = backend.pool.key
        args = [b"t" if key.shared else b"f", (key.schema or "").encode(), ",".join(pins).encode()]
        rows: list[bytes] = []
        message = statement(_CHECK, args, types=(_BOOL, _TEXT, _TEXT)) + SYNC_NOW
        try:
            await _ask(backend, message, answer_of("SELECT 1") + READY_IDLE, rows=rows)
        except Unconfirmed:
            raise IsolationError("the server does not know the role we are logged in as") from None
        (column,) = values_of(rows[0])
        return Answer(**json.loads(column or b"{}"))

    async def _check_reach(self, backend: RawBackend) -> None:
        """Raises UnprotectedRelations when its role reaches more than the tenant's own, IsolationError when it could
        write and is not to.
        """
        key, reach = backend.pool.key, self._opening.reach
        questions = [] if key.profile == ADMIN_PROFILE else reach.due(key)
        if not questions:
            return
        rows: list[bytes] = []
        # All before one Sync, so in one transaction: the path is pinned for the questions alone.
        asked = b"".join(statement(each.sql, [each.argument.encode()], types=(_TEXT,)) for each in questions)
        expected = answer_of("SELECT 1") * (1 + len(questions)) + READY_IDLE
        await _ask(backend, statement(PIN_PATH) + asked + SYNC_NOW, expected, rows=rows)
        for question, row_of in zip(questions, rows[-len(questions) :], strict=True):
            (answer,) = values_of(row_of)
            question.judge((answer or b"").decode())

    async def _warm(self, backend: RawBackend) -> None:
        """Bind no real tenant once, and reset: the first bind and check of a backend are a thousand times slower."""
        binding, signer = self._opening.warm_binding(), backend.signer
        if binding.proof is Proof.TRUSTED and signer is not None:
            sql = TRUST
            args, proof = chained(
                binding,
                signer,
                pid=backend.pid,
                nonce=backend.nonce,
                server_now=backend.server_now(),
                window=WARM_WINDOW,
            )
            told = f"{proof.echo} {binding.tenant}"
        else:
            bind = enter(binding, signer, pid=backend.pid, server_now=backend.server_now(), window=WARM_WINDOW)
            sql, args, told = bind.sql, bind.args, bind.answer
        messages = statement(sql, [arg.encode() for arg in args]) + statement(_WARM_CHECK) + SYNC_NOW
        expected = answer_of("SELECT 1", row(told.encode())) + answer_of("SELECT 1", row(binding.tenant.encode()))
        try:
            await _ask(backend, messages, expected + READY_IDLE)
        except Refused as exc:
            if exc.sqlstate == "42501":
                raise self._opening.not_warm(backend.pool.key) from None
            raise
        await _ask(backend, *reset(fresh_nonce()))
        if binding.proof is Proof.TRUSTED:
            await _greet(backend)

    async def _check_trust(self, backend: RawBackend) -> None:
        """Raises IsolationError where the trusted form does not hold."""
        rows: list[bytes] = []
        await _ask(backend, statement(TRUST_CHECK) + SYNC_NOW, answer_of("SELECT 1") + READY_IDLE, rows=rows)
        (answer,) = values_of(rows[-1])
        self._opening.judge_trust(backend.pool.key, (answer or b"").decode())


async def _greet(backend: RawBackend) -> None:
    """Learn its nonce. Raises Refused, Unconfirmed or OSError."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    hello(backend, partial(_tell, answered))
    await answered


def _tell(answered: asyncio.Future[None], error: Exception | None) -> None:
    if answered.done():
        return
    if error is None:
        answered.set_result(None)
    else:
        answered.set_exception(error)


async def _log_in(backend: RawBackend, login: BackendLogin) -> None:
    """Raises Refused, ProtocolError, OSError, or what reading the password raises."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(error: Exception) -> None:
        backend.sink = discard
        if not ready.done():
            ready.set_exception(error)

    def receive(data: bytes) -> None:
        try:
            answer = login.receive(data)
        except Exception as exc:  # noqa: BLE001 - raised where it is awaited
            fail(exc)
            return
        if answer:
            backend.write(answer)
        if login.refusal is not None:
            fail(Refused(login.refusal.sqlstate))
        elif login.is_done:
            backend.pid, backend.secret, backend.parameters = login.pid, login.secret, login.parameters
            backend.process = ServerProcess(pid=login.pid)
            backend.rest()
            if not ready.done():
                ready.set_result(None)

    def lost(exc: Exception | None) -> None:
        fail(exc or ConnectionResetError("the server closed the connection"))

    backend.sink, backend.on_lost = receive, lost
    if backend.is_closed:
        raise backend.lost_by or ConnectionResetError("the server closed the connection")
    backend.write(login.begin)
    await ready


async def _ask(backend: RawBackend, messages: bytes, expected: bytes, *, rows: list[bytes] | None = None) -> None:
    """One conversation, awaited. Raises Refused, Unconfirmed or OSError."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    Exchange(backend, expected, partial(_tell, answered), rows=rows).begin(messages)
    await answered


def _major(backend: RawBackend) -> int:
    """The server's version before the dot, as it reports it: `18.1`, `16beta2 (Debian ...)`."""
    digits = re.match(rb"\d{1,5}", backend.parameters.get(b"server_version", b""))
    return int(digits[0]) if digits else 0


def _may_try_otherwise(exc: Exception) -> bool:
    """As libpq: without TLS when that broke off, and the other way round when pg_hba.conf refuses this way."""
    return isinstance(exc, ssl.SSLError) or (isinstance(exc, Refused) and exc.sqlstate == "28000")
