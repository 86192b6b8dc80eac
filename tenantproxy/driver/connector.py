"""How is an asyncpg connection opened, checked and ended? The asyncpg side of `Connector`.

Each of these tasks starts in an empty context: a transport keeps the one in which it was opened, and a listener on it
would answer with another request's tenant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

import asyncpg

from tenantproxy.config import Server
from tenantproxy.connect.checks import CHECK, Answer
from tenantproxy.connect.lease_policy import END_TIMEOUT
from tenantproxy.connect.opening import ADMIN_PROFILE, LOGIN_PROFILE, WARM_WINDOW, Opening
from tenantproxy.connect.place import Place
from tenantproxy.connect.reach import PIN_PATH
from tenantproxy.connect.server_tls import ssl_argument
from tenantproxy.connect.tasks import ConnectorTasks
from tenantproxy.connect.trust import CHECK as TRUST_CHECK
from tenantproxy.connect.watch import EndWatches
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.joined import JoiningLoop
from tenantproxy.driver.pooled import PooledConnection
from tenantproxy.driver.pooled_check import check_pooled
from tenantproxy.driver.state import DriverConnection
from tenantproxy.driver.timed import StatementTimes, connection_class
from tenantproxy.driver.turns import SessionTurns
from tenantproxy.errors import IsolationError, LeaseExpired, PoolClosed
from tenantproxy.isolation.row import ENTER, change_reset, enter
from tenantproxy.model import PoolKey, Proof
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.lingering import UNKNOWN
from tenantproxy.pools.pool import Pool
from tenantproxy.watch import Watch

__all__ = ["ADMIN_PROFILE", "END_TIMEOUT", "LOGIN_PROFILE", "AsyncpgConnector", "Init"]

Init = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]


class AsyncpgConnector:
    """Opens and ends the connections of all pools of one router. Its tasks end with `close`."""

    def __init__(self, opening: Opening, *, init: Init | None, watch: Watch | None = None) -> None:
        self._init = init
        self._watch = watch  # None: no statement is looked at
        self._inits: dict[str, Init] = {}  # of profiles: what makes their connections different
        self._opening = opening
        self._tasks = ConnectorTasks()
        self._watches = EndWatches()
        self.reset: Callable[[DriverConnection], None] | None = None  # set by the composition: `Lender.begin_reset`

    def add_profile(self, profile: str, init: Init) -> bool:
        """Run `init` too on each new connection of this profile; False when the profile belongs to other code."""
        return profile not in ("", ADMIN_PROFILE, LOGIN_PROFILE) and self._inits.setdefault(profile, init) == init

    # --- Connector ---------------------------------------------------------------------------------------------------
    def open(self, pool: Pool[DriverConnection]) -> None:
        """See `pools.context.Connector`."""
        self._tasks.spawn(self._open(pool))

    def retire(self, pool: Pool[DriverConnection], conn: DriverConnection) -> None:
        """See `pools.context.Connector`."""
        self._tasks.spawn(self._end(pool, conn))

    def expire(self, conn: DriverConnection, error: LeaseExpired) -> None:
        """See `pools.context.Connector`."""
        conn.con.expired = error
        # Ended without the driver: what its holder still sends comes after our Terminate. A rollback by us would
        # let the rest of its transaction take effect alone.
        conn.con.is_doubtful = True

    def is_usable(self, conn: DriverConnection) -> bool:
        """See `pools.context.Connector`."""
        return not conn.con.is_closed()

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pools.context.Connector`."""
        self._tasks.later(delay, call)

    async def close(self) -> None:
        """Cancel what is under way and wait for it. The pools are closed by now."""
        await self._tasks.close()
        self._watches.close()

    def forget_loop(self) -> None:
        """The event loop has ended, and all that was under way in it."""
        self._tasks.forget_loop()
        self._watches.forget_loop()

    async def settle(self, timeout: float) -> None:
        """Wait until every connection that is being ended has ended, for `timeout` seconds at most."""
        await self._tasks.settle(timeout)

    # --- opening -----------------------------------------------------------------------------------------------------
    async def _open(self, pool: Pool[DriverConnection]) -> None:
        started = monotonic()
        processes = [UNKNOWN]  # the last one is that of the connect under way
        try:
            backend = await self._connect(pool, processes)
        except asyncio.CancelledError:
            pool.open_failed(PoolClosed("the router is closing"), "denied", "cancelled")
            raise
        except Exception as exc:  # noqa: BLE001 - a boundary: callers that wait must hear of it, whatever it was
            # A backend that did not answer in time may still be on the server, where it counts against the limit.
            silent = isinstance(exc, TimeoutError)
            self._opening.failed(pool, exc, silent=silent, lingers=processes[-1] if silent else None)
            if pool.budget.is_down and not self._opening.is_watched(pool.key):
                self._tasks.look_for(self._opening.server(pool.key), pool.budget)
            return
        self._opening.opened(pool, backend, started)

    async def _connect(self, pool: Pool[DriverConnection], processes: list[ServerProcess]) -> DriverConnection:
        async with self._opening.somewhere(pool.key) as place:
            return await self._connect_to(place, pool, processes)

    async def _connect_to(
        self, place: Place, pool: Pool[DriverConnection], processes: list[ServerProcess]
    ) -> DriverConnection:
        for attempt in range(2):
            con, pins = await self._dial(pool.key, place.server)
            processes.append(UNKNOWN if con.is_behind_pooler else ServerProcess(pid=con.get_server_pid()))
            try:
                if place.question is not None:
                    row = await con.fetchrow(place.question, timeout=place.server.connect_timeout)
                    assert row is not None
                    place.confirm(row)
                backend = await self._check(pool, con, pins, is_last=attempt == 1)
                if backend is not None:
                    place.check()
                    return backend
            except BaseException:
                con.terminate()
                con.drop_left()
                raise
            await con.close(timeout=END_TIMEOUT)
            processes.append(UNKNOWN)
        raise AssertionError("the second attempt returns or raises")

    async def _dial(self, key: PoolKey, server: Server) -> tuple[TenantConnection, dict[str, str]]:
        pins, is_pooled = self._opening.pins(key), bool(server.pooler)
        con: TenantConnection = await asyncpg.connect(
            host=server.host,
            port=server.port,
            user=key.user or server.user,
            password=lambda: self._opening.password(key),
            database=key.database,
            ssl=ssl_argument(server),
            timeout=server.connect_timeout,
            server_settings={"application_name": pins["application_name"]} if is_pooled else pins,
            statement_cache_size=0 if is_pooled else 100,
            connection_class=connection_class(self._opening, key, self._watch),
            loop=cast(asyncio.AbstractEventLoop, JoiningLoop(asyncio.get_running_loop())),
            max_cached_statement_lifetime=0,  # its timers would keep the context of the first caller of a statement
        )
        if not self._opening.pins_enough(key, pins, con.get_server_version().major):
            await con.close(timeout=END_TIMEOUT)
            return await self._dial(key, server)
        con.set_user_timeout(max(server.connect_timeout, 10.0))
        return con, pins

    async def _check(
        self, pool: Pool[DriverConnection], con: TenantConnection, pins: dict[str, str], *, is_last: bool
    ) -> DriverConnection | None:
        """The backend, or None when its role had to be cleaned first: then connect again."""
        key = pool.key
        if type(con) is PooledConnection:  # asyncpg says of any connection that it is an instance
            return await check_pooled(self._opening, pool, con, inits=(self._init, self._inits.get(key.profile)))
        timeout = self._opening.server(key).connect_timeout
        asked = time.time()
        row = await con.fetchrow(CHECK, key.shared, key.schema or "", ",".join(pins), timeout=timeout)
        now = (asked + time.time()) / 2
        if row is None:
            raise IsolationError("the server does not know the role we are logged in as")
        given: dict[str, Any] = dict(row)
        answer = Answer(**given)
        self._opening.learn(pool, answer)
        pid = con.get_server_pid()
        statements = self._opening.judge(key, answer, pid=pid, now=now, pins=pins, is_last=is_last)
        if statements:
            for statement in statements:
                await con.execute(statement, timeout=timeout)
            return None
        await self._check_reach(key, con, timeout)
        proof, signer = self._opening.proof(key), self._opening.signer(key)
        backend = DriverConnection(
            con,
            pool,
            process=ServerProcess(pid=answer.pid, started=answer.server_now),
            offset=answer.server_now - now,
            version=answer.version,
            signer=signer,
        )
        if proof is Proof.TRUSTED:
            self._opening.judge_trust(key, await con.fetchval(TRUST_CHECK, timeout=timeout))
        takes_turns = proof is Proof.TRUSTED or (proof is Proof.BOUND and answer.takes_turns)
        if proof is not None and takes_turns and signer is not None:
            backend.turns = SessionTurns(con, signer, proof=proof, apart=answer.makes_objects)
            await backend.turns.open(timeout)
        else:
            await con.prepare_entry(["SELECT true" if proof is None else ENTER[proof]], timeout)
        for init in (self._init, self._inits.get(key.profile)):
            if init is not None:
                await init(con)
        con.has_foreign_codecs = False
        if self._watch is not None:
            con.observed_by = StatementTimes(self._watch, backend)
        if proof in (Proof.BOUND, Proof.TRUSTED):
            await self._warm(backend)
        con.is_tainted = False
        return backend

    async def _check_reach(self, key: PoolKey, con: TenantConnection, timeout: float) -> None:
        """Raises UnprotectedRelations when its role reaches more than the tenant's own, IsolationError when it could
        write and is not to.
        """
        questions = [] if key.profile == ADMIN_PROFILE else self._opening.reach.due(key)
        if not questions:
            return
        async with asyncio.timeout(timeout), con.transaction():
            await con.execute(PIN_PATH)
            answers = [await con.fetchval(each.sql, each.argument) for each in questions]
        for question, answer in zip(questions, answers, strict=True):
            question.judge(answer)

    async def _warm(self, backend: DriverConnection) -> None:
        """Bind no tenant once, and reset: a backend's first bind and first check are a thousand times slower."""
        binding, turns, con, now = self._opening.warm_binding(), backend.turns, backend.con, backend.server_now()
        timeout = self._opening.server(backend.pool.key).connect_timeout
        try:
            async with asyncio.timeout(timeout):
                if turns is not None:
                    await turns.change(binding, server_now=now, window=WARM_WINDOW)
                else:
                    await con.enter(
                        enter(binding, backend.signer, pid=backend.pid, server_now=now, window=WARM_WINDOW).args
                    )
                await con.simple("SELECT tenantproxy.bound_tenant()", None)
                if turns is not None:
                    await turns.unbind()
                else:
                    await con.simple(change_reset(con.prepared, Proof.BOUND), None)
        except asyncpg.InsufficientPrivilegeError:
            raise self._opening.not_warm(backend.pool.key) from None

    # --- ending ------------------------------------------------------------------------------------------------------
    async def _end(self, pool: Pool[DriverConnection], backend: DriverConnection) -> None:
        """End a connection, and say so only when the server has closed its side: until then it counts there."""
        if backend.task is not None and not backend.task.done() and backend.task is not asyncio.current_task():
            backend.task.cancel()
        silent = backend.is_aborted or backend.con.was_terminated or backend.con.left is not None
        try:
            if not backend.con.is_closed():
                if backend.con.is_doubtful or backend.con.is_saying:  # its task has not heard yet that it is cancelled
                    await backend.con.hang_up(END_TIMEOUT)
                else:
                    if not backend.is_settled:
                        await self._stop(backend)
                    await backend.con.close(timeout=END_TIMEOUT)
        except TimeoutError:
            silent = True
        except asyncio.CancelledError:
            silent = not backend.con.is_closed()
            raise
        except Exception:  # noqa: BLE001 - however it ends, it ends; what counts is that it is gone
            pass
        finally:
            backend.con.terminate()
            self._retired(backend, silent=silent)

    def _retired(self, backend: DriverConnection, *, silent: bool) -> None:
        sock, backend.con.left = backend.con.left, None
        if backend.con.is_behind_pooler:
            silent = False  # what lives on there is the pooler's
        self._watches.retired(backend.pool, backend, lingers=backend.process if silent else None, sock=sock)

    async def _stop(self, backend: DriverConnection) -> None:
        """Cancel what runs: a backend that is busy does not see that its client left. Raises TimeoutError."""
        ask_at, pause = 0.0, 0.1
        async with asyncio.timeout(END_TIMEOUT):
            while not await self._is_free(backend):  # asyncpg does not tell when it is free
                if monotonic() >= ask_at:  # again and again, for a request that comes too early is lost
                    await backend.con.request_cancel()
                    ask_at, pause = monotonic() + pause, pause * 2
                await asyncio.sleep(0.01)

    async def _is_free(self, backend: DriverConnection) -> bool:
        if backend.con.is_resetting:  # asyncpg does not know
            return backend.con.is_closed()
        try:
            await backend.con.settle(END_TIMEOUT)
            await backend.con.simple("SELECT 1", END_TIMEOUT)
        except (asyncpg.InterfaceError, asyncpg.InternalClientError):
            return backend.con.is_closed()  # "another operation is in progress"
        return True
