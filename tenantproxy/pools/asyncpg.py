"""How is an asyncpg connection opened, checked and ended? The asyncpg side of `Connector`.

Every task of ours starts in an empty context: a transport keeps the one in which it was opened, and a listener on it
would answer with another request's tenant.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, Final

import asyncpg

from tenantproxy.config import Server, Settings, role_password
from tenantproxy.errors import IsolationError, PoolClosed
from tenantproxy.events import ConnectionOpened, IsolationViolation, Observer
from tenantproxy.isolation.base import Pins, startup_pins
from tenantproxy.isolation.proof import Signer, derive_key
from tenantproxy.isolation.row import ENTER, change_reset, enter
from tenantproxy.model import Binding, PoolKey, Proof, TenantId
from tenantproxy.pools.detached import Detached
from tenantproxy.pools.failures import classify, describe
from tenantproxy.pools.guard import RenewingConnection, TenantConnection
from tenantproxy.pools.handshake import CHECK, Answer, clean_role_sql, foreign_settings, refusal
from tenantproxy.pools.pool import Pool

__all__ = ["ADMIN_PROFILE", "END_TIMEOUT", "LOGIN_PROFILE", "AsyncpgConnector", "Backend", "Init", "ssl_argument"]

Init = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]

ADMIN_PROFILE: Final = "admin"  # of pools whose connections are the operator's, not a tenant's
LOGIN_PROFILE: Final = "login"  # of those that only call the function that looks accounts up
END_TIMEOUT: Final = 2.0  # a peer that is silent for so long is aborted
_WARM: Final = TenantId(
    "tenantproxy_warm"
)  # no tenant: a first bind in a backend costs milliseconds, so it is nobody's
_PROBE_SECONDS: Final = 0.2


class Backend:
    """One open connection and what is known of its session. Changed by the lender alone once it is open.

    `bound` is the tenant that the session is set to now; `bound_until` (monotonic) is when its proof ends.
    """

    __slots__ = (
        "_pool",
        "binding",
        "bound",
        "bound_until",
        "con",
        "is_aborted",
        "is_settled",
        "keep",
        "leased_at",
        "offset",
        "pid",
        "pool",
        "signer",
        "task",
        "version",
    )  # fmt: skip

    def __init__(
        self, con: TenantConnection, pool: Pool[Backend], *, offset: float, version: int, signer: Signer | None
    ) -> None:
        self.con = con
        self.pool = pool
        self.pid: int = con.get_server_pid()
        self.offset = offset  # the server's clock minus ours
        self.version = version
        self.signer = signer
        self.bound: TenantId | None = None
        self.bound_until = 0.0
        self.binding: Binding | None = None  # what it was last entered with
        self.keep = ""  # the reset after which it still is
        self.is_settled = True  # nothing runs on it
        self.is_aborted = False  # we left without the server's knowledge: its side may live on
        self.leased_at = 0.0
        self.task: asyncio.Task[None] | Detached | None = None  # the one that resets or ends it
        self._pool = self  # asyncpg's proxy asks its holder's pool to drop caches

    def __repr__(self) -> str:
        return f"<Backend pid={self.pid} pool={self.pool.label!r}>"

    def server_now(self) -> float:
        """The server's clock, unix seconds."""
        return time.time() + self.offset

    def abort(self) -> None:
        """Leave at once, whatever runs: what is awaited on the connection fails."""
        self.is_aborted = True
        self.con.terminate()

    def _drop_statement_cache(self) -> None:
        for backend in self.pool.connections():
            backend.con.forget_statements()

    def _drop_type_cache(self) -> None:
        for backend in self.pool.connections():
            backend.con.forget_types()


class AsyncpgConnector:
    """Opens and ends the connections of all pools of one router. Its tasks end with `close`."""

    def __init__(
        self, settings: Settings, *, observer: Observer, init: Init | None, violations: dict[str, int]
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._init = init
        self._inits: dict[str, Init] = {}  # of profiles: what makes their connections different
        self._violations = violations
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._versions: dict[str, int] = {}  # by server, as far as known: decides which settings can be pinned
        self._signers: dict[tuple[str, str], Signer] = {}
        self._primary_of = {replica: name for name, server in settings.servers.items() for replica in server.replicas}

    def add_profile(self, profile: str, init: Init) -> bool:
        """Run `init` too on each new connection of this profile; False when the profile is somebody else's."""
        return profile not in ("", ADMIN_PROFILE, LOGIN_PROFILE) and self._inits.setdefault(profile, init) == init

    # --- Connector ---------------------------------------------------------------------------------------------------
    def open(self, pool: Pool[Backend]) -> None:
        """See `pool.Connector`."""
        self._spawn(self._open(pool))

    def retire(self, pool: Pool[Backend], conn: Backend) -> None:
        """See `pool.Connector`."""
        self._spawn(self._end(pool, conn))

    def is_usable(self, conn: Backend) -> bool:
        """See `pool.Connector`."""
        return not conn.con.is_closed()

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pool.Connector`."""

        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(delay, fire, context=Context())
        self._timers.add(handle)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel what is under way and wait for it. The pools are closed by now."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers:  # those that the last failures set
            timer.cancel()
        self._timers.clear()

    async def settle(self, timeout: float) -> None:
        """Wait until every connection that is being ended has ended, for `timeout` seconds at most."""
        for probe in self._probes.values():
            probe.cancel()  # it would wait for a server that is down
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    # --- opening -----------------------------------------------------------------------------------------------------
    async def _open(self, pool: Pool[Backend]) -> None:
        started = monotonic()
        try:
            backend = await self._connect(pool)
        except asyncio.CancelledError:
            pool.open_failed(PoolClosed("the router is closing"), "denied", "cancelled")
            raise
        except Exception as exc:  # noqa: BLE001 - a rim: whatever it was, those who wait must hear of it
            error, failure = classify(exc, pool.key)
            # Whoever timed out may still be on the server, where it counts against the limit.
            pool.open_failed(error, failure, describe(exc), silent=isinstance(exc, TimeoutError))
            if pool.budget.is_down:
                self._probe(pool)
            return
        seconds = monotonic() - started
        pool.budget.open_seconds.observe(seconds)
        self._observer(ConnectionOpened(server=pool.key.server, pool=pool.label, seconds=seconds))
        pool.opened(backend)

    async def _connect(self, pool: Pool[Backend]) -> Backend:
        for attempt in range(2):
            con, pins = await self._dial(pool.key)
            try:
                backend = await self._check(pool, con, pins, is_last=attempt == 1)
                if backend is not None:
                    return backend
            except BaseException:
                con.terminate()
                raise
            await con.close(timeout=END_TIMEOUT)
        raise AssertionError("the second attempt returns or raises")

    async def _dial(self, key: PoolKey) -> tuple[TenantConnection, dict[str, str]]:
        server = self._settings.servers[key.server]
        pins = startup_pins(
            key,
            Pins(
                search_path=server.search_path,
                statement_timeout=server.statement_timeout,
                idle_in_transaction_timeout=server.idle_in_transaction_timeout,
                lock_timeout=server.lock_timeout,
            ),
            setting=self._settings.row.setting,
            server_version=self._versions.get(key.server),
        )
        con: TenantConnection = await asyncpg.connect(
            host=server.host,
            port=server.port,
            user=key.user or server.user,
            password=lambda: self._password(key, server),  # read anew at each connect: rotation needs no restart
            database=key.database,
            ssl=ssl_argument(server),
            timeout=server.connect_timeout,
            server_settings=pins,
            connection_class=RenewingConnection if key.shared else TenantConnection,
            max_cached_statement_lifetime=0,  # its timers would keep the context of whoever ran a statement first
        )
        if key.server not in self._versions:
            version = self._versions[key.server] = con.get_server_version().major * 10_000
            known = startup_pins(key, Pins(), setting=self._settings.row.setting, server_version=version)
            if known.keys() - pins.keys():
                # A setting that a tenant laid on our role may end this connection before we can take it off.
                await con.close(timeout=END_TIMEOUT)
                return await self._dial(key)
        con.set_user_timeout(max(server.connect_timeout, 10.0))
        return con, pins

    def _password(self, key: PoolKey, server: Server) -> str:
        if key.profile == ADMIN_PROFILE and server.admin is not None:
            return server.admin.password.read() if server.admin.password is not None else ""
        if key.profile == LOGIN_PROFILE and server.login is not None and key.user == server.login.user:
            return server.login.password.read() if server.login.password is not None else ""
        roles = self._settings.tenant_roles
        if key.user is not None and key.user != server.user and roles is not None and roles.key is not None:
            return role_password(roles.key.read_bytes(), key.server, key.user)
        return server.password.read() if server.password is not None else ""

    async def _check(
        self, pool: Pool[Backend], con: TenantConnection, pins: dict[str, str], *, is_last: bool
    ) -> Backend | None:
        """The backend, or None when its role had to be cleaned first: then connect again."""
        key = pool.key
        server = self._settings.servers[key.server]
        asked = time.time()
        row = await con.fetchrow(CHECK, key.shared, key.schema or "", timeout=server.connect_timeout)
        now = (asked + time.time()) / 2
        if row is None:
            raise IsolationError("the server does not know the role we are logged in as")
        given: dict[str, Any] = dict(row)
        answer = Answer(**given)
        self._versions[key.server] = answer.version
        pool.budget.max_connections = answer.max_connections
        is_admin = key.profile == ADMIN_PROFILE  # what lies on its role is the operator's: no tenant can get there
        foreign = () if is_admin else foreign_settings(answer, pinned=pins, allowed=server.role_settings)
        if foreign:
            names = ", ".join(entry[1:] for entry in foreign)
            self._violated("role_settings", key, names)
            if is_last:
                raise IsolationError(
                    "settings laid on our role come back after each RESET",
                    detail=f"server {key.server!r}, settings {names}",
                    hint="name them in role_settings of this server if they are meant",
                )
            for statement in clean_role_sql(answer, foreign, database=key.database, allowed=server.role_settings):
                await con.execute(statement, timeout=server.connect_timeout)
            return None
        proof = self._proof(key)
        offset = answer.server_now - now
        error = None if is_admin else refusal(answer, key, offset=offset, proof=proof)
        if error is not None:
            self._violated("connect", key, error.message)
            raise error
        signer = self._signer(key) if proof in (Proof.BOUND, Proof.CARRIED) else None
        backend = Backend(con, pool, offset=offset, version=answer.version, signer=signer)
        await con.prepare_entry("SELECT true" if proof is None else ENTER[proof], server.connect_timeout)
        for init in (self._init, self._inits.get(key.profile)):
            if init is not None:
                await init(con)
        con.has_foreign_codecs = False
        if proof is Proof.BOUND:
            await self._warm(backend)
        con.is_tainted = False
        return backend

    async def _warm(self, backend: Backend) -> None:
        """Bind nobody once, and reset: the first bind and the first check of a backend are a thousand times slower."""
        binding = Binding(tenant=_WARM, proof=Proof.BOUND, setting=self._settings.row.setting)
        statement = enter(binding, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=5.0)
        timeout = self._settings.servers[backend.pool.key.server].connect_timeout
        try:
            async with asyncio.timeout(timeout):
                await backend.con.enter(statement.args)
                await backend.con.simple("SELECT tenantproxy.bound_tenant()", None)
        except asyncpg.InsufficientPrivilegeError:
            raise IsolationError(
                "the database refuses our proofs",
                detail=f"server {backend.pool.key.server!r}, database {backend.pool.key.database!r}",
                hint="the key in [row] is not the one installed there, or the role may not execute tenantproxy.bind:"
                " run `tenantproxy install --config FILE`",
            ) from None
        await backend.con.simple(change_reset(backend.con.prepared, Proof.BOUND), timeout)

    def _proof(self, key: PoolKey) -> Proof | None:
        if not key.shared:
            return None
        if not self._settings.row.signed:
            return Proof.PLAIN
        return Proof.CARRIED if key.server in self._primary_of else Proof.BOUND

    def _signer(self, key: PoolKey) -> Signer:
        server = self._primary_of.get(key.server, key.server)  # a replica verifies with its primary's keys
        signer = self._signers.get((server, key.database))
        if signer is None:
            keys = self._settings.row.keys()
            if not keys:
                raise IsolationError(
                    "there is no key to sign the proofs of row tenants with",
                    detail=f"server {key.server!r}, database {key.database!r}",
                    hint="name one in [row] key_file, and run `tenantproxy install --config FILE`",
                )
            kid = max(keys)  # the newest signs; older ones stay installed until nobody uses them
            secret = keys[kid].read_bytes()
            derived = derive_key(secret, server=server, database=key.database, kid=kid)
            signer = self._signers[(server, key.database)] = Signer(derived, database=key.database, kid=kid)
        return signer

    def _violated(self, check: str, key: PoolKey, detail: str) -> None:
        self._violations[check] = self._violations.get(check, 0) + 1
        self._observer(IsolationViolation(check=check, server=key.server, database=key.database, detail=detail))

    # --- ending ------------------------------------------------------------------------------------------------------
    async def _end(self, pool: Pool[Backend], backend: Backend) -> None:
        """End a connection, and say so only when the server has closed its side: until then it counts there."""
        if backend.task is not None and not backend.task.done() and backend.task is not asyncio.current_task():
            backend.task.cancel()
        silent = backend.is_aborted or backend.con.was_terminated
        try:
            if not backend.con.is_closed():
                if backend.con.is_doubtful:
                    await backend.con.hang_up(END_TIMEOUT)
                else:
                    if not backend.is_settled:
                        await self._stop(backend)
                    await backend.con.close(timeout=END_TIMEOUT)
        except TimeoutError:
            silent = True
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - however it ends, it ends; what counts is that it is gone
            pass
        finally:
            backend.con.terminate()
            pool.retired(backend, silent=silent)

    async def _stop(self, backend: Backend) -> None:
        """Cancel what runs: a backend that is busy does not see that its client left. Raises TimeoutError."""
        ask_at, pause = 0.0, 0.1
        async with asyncio.timeout(END_TIMEOUT):
            while not await self._is_free(backend):  # asyncpg tells nobody when it is free
                if monotonic() >= ask_at:  # again and again, for a request that comes too early is lost
                    await backend.con.request_cancel()
                    ask_at, pause = monotonic() + pause, pause * 2
                await asyncio.sleep(0.01)

    async def _is_free(self, backend: Backend) -> bool:
        try:
            await backend.con.settle(END_TIMEOUT)
            await backend.con.simple("SELECT 1", END_TIMEOUT)
        except (asyncpg.InterfaceError, asyncpg.InternalClientError):
            return backend.con.is_closed()  # "another operation is in progress"
        return True

    # --- a server that is down ---------------------------------------------------------------------------------------
    def _probe(self, pool: Pool[Backend]) -> None:
        name = pool.key.server
        task = self._probes.get(name)
        if task is None or task.done():
            self._probes[name] = self._spawn(self._wait_for(pool))

    async def _wait_for(self, pool: Pool[Backend]) -> None:
        """Close the breaker as soon as something listens there again, so that it needs no caller to find out."""
        server = self._settings.servers[pool.key.server]
        while pool.budget.is_down:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                async with asyncio.timeout(server.connect_timeout):
                    _, writer = await asyncio.open_connection(server.host, server.port)
            except (OSError, TimeoutError):
                continue
            writer.close()
            pool.budget.reached()


def ssl_argument(server: Server) -> Any:
    """libpq's word, or a context when certificates are named."""
    if server.host.startswith("/"):
        return False
    if not (server.ssl_root_cert_file or server.ssl_cert_file):
        return server.ssl if server.ssl != "disable" else False
    context = ssl.create_default_context(cafile=server.ssl_root_cert_file or None)
    context.check_hostname = server.ssl == "verify-full"
    if server.ssl not in ("verify-ca", "verify-full"):
        context.verify_mode = ssl.CERT_NONE
    if server.ssl_cert_file:
        context.load_cert_chain(server.ssl_cert_file, server.ssl_key_file or None)
    return context
