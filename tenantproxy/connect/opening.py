"""What does every fresh connection get, and what must it be? The same for each connector: only how it asks differs.

State: what is known of servers (their versions) and the keys that sign for databases. Changed by connectors that open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final, TypeVar

from tenantproxy.config import Server, Settings, role_password
from tenantproxy.connect.checks import (
    Answer,
    binds_nothing,
    clean_role_sql,
    foreign_settings,
    out_of_role,
    pooler_between,
    refusal,
)
from tenantproxy.connect.failures import classify, describe
from tenantproxy.connect.hosts import Hosts
from tenantproxy.connect.lease_policy import note_violation
from tenantproxy.connect.place import Place
from tenantproxy.connect.reach_check import ReachCheck
from tenantproxy.connect.trust import not_trusted
from tenantproxy.errors import IsolationError
from tenantproxy.events import ConnectionOpened, Observer
from tenantproxy.isolation.base import Pins, startup_pins
from tenantproxy.isolation.proof import Signer, derive_key
from tenantproxy.model import Binding, PoolKey, Proof, TenantId
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.limits import NO_LIMIT
from tenantproxy.pools.pool import Pool

__all__ = ["ADMIN_PROFILE", "LOGIN_PROFILE", "WARM_WINDOW", "Opening"]

C = TypeVar("C")


ADMIN_PROFILE: Final = "admin"  # of pools whose connections are the operator's, not a tenant's
LOGIN_PROFILE: Final = "login"  # of those that only call the function that looks accounts up
WARM_WINDOW: Final = 5.0
_WARM: Final = TenantId("tenantproxy_warm")  # no tenant's: a first bind in a backend costs milliseconds


class Opening:
    """What the connections of all pools of a router have in common when they are opened."""

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer,
        violations: dict[str, int],
        application_name: str = "tenantproxy",
        statement_timeout: float | None = None,
        hosts: Mapping[str, Hosts] | None = None,
    ) -> None:
        """`statement_timeout`: of servers for which none is configured, seconds; None: the section's own default.

        `hosts`: of the servers that are watched. Without it a connection goes to the first host of its server.
        """
        self._hosts = {} if hosts is None else hosts
        self._settings = settings
        self._observer = observer
        self._violations = violations
        self._application_name = application_name
        self._statement_timeout = statement_timeout
        self._versions: dict[str, int] = {}  # by server, as far as known: decides which settings can be pinned
        self._signers: dict[tuple[str, str], Signer] = {}
        self.reach = ReachCheck(settings, observer=observer, violated=self.violated)
        self._primary_of = _primaries(settings)

    def adopt(self, settings: Settings) -> None:
        """Open connections by `settings` from now on, and sign with the keys as they are now."""
        self._settings = settings
        self._primary_of = _primaries(settings)
        self._signers.clear()

    # --- what it gets ------------------------------------------------------------------------------------------------
    def server(self, key: PoolKey) -> Server:
        """What is configured for the server of this pool."""
        return self._settings.servers[key.server]

    def _choosing(self, key: PoolKey) -> Hosts | None:
        """The hosts of its server, where it has several or may have."""
        hosts = self._hosts.get(key.server)
        return hosts if hosts is not None and hosts.is_choosing else None

    def is_watched(self, key: PoolKey) -> bool:
        """Whether its server's hosts are looked at all the time, so that no one else need look for it."""
        return self._choosing(key) is not None

    @asynccontextmanager
    async def somewhere(self, key: PoolKey) -> AsyncIterator[Place]:
        """Run a connect of this pool to the host that serves. Raises NoHost, and HostMoved when that is another one."""
        hosts = self._choosing(key)
        if hosts is None:
            yield Place(self.server(key).each_host[0])
            return
        chosen = await hosts.pick(key.database)
        async with hosts.while_serving(chosen):
            yield Place(chosen.server, hosts, chosen)

    def is_replica(self, key: PoolKey) -> bool:
        """Whether its server is to be a standby."""
        return key.server in self._primary_of

    def pins(self, key: PoolKey) -> dict[str, str]:
        """Its startup parameters, as far as it is known what its server understands."""
        server = self.server(key)
        timeout = server.statement_timeout
        if self._statement_timeout is not None and "statement_timeout" not in server.model_fields_set:
            timeout = self._statement_timeout
        pins = Pins(
            search_path=server.search_path,
            statement_timeout=timeout,
            idle_in_transaction_timeout=server.idle_in_transaction_timeout,
            lock_timeout=server.lock_timeout,
            application_name=self._application_name,
        )
        return startup_pins(
            key,
            pins,
            setting=self._settings.row.setting,
            server_version=self._versions.get(key.server),
            read_only=self.is_replica(key),
        )

    def pins_enough(self, key: PoolKey, pins: dict[str, str], major: int) -> bool:
        """Whether a first connection to a server, of version `major`, was opened with all that can be pinned there.

        If not, open another one: a setting that a tenant laid on our role may end this one before we can take it off.
        """
        if key.server in self._versions:
            return True
        self._versions[key.server] = major * 10_000
        return not self.pins(key).keys() - pins.keys()

    def password(self, key: PoolKey) -> str:
        """Read again at each connect: rotation needs no restart."""
        server, roles = self.server(key), self._settings.tenant_roles
        if key.profile == ADMIN_PROFILE and server.admin is not None:
            return server.admin.password.read() if server.admin.password is not None else ""
        if key.profile == LOGIN_PROFILE and server.login is not None and key.user == server.login.user:
            return server.login.password.read() if server.login.password is not None else ""
        if key.user is not None and key.user != server.user and roles is not None and roles.key is not None:
            server_name = self._primary_of.get(key.server, key.server)  # a replica has its primary's roles
            return role_password(roles.key.read_bytes(), server_name, key.user)
        return server.password.read() if server.password is not None else ""

    def proof(self, key: PoolKey) -> Proof | None:
        """How the sessions of this pool prove whose they are; None: they are one tenant's alone."""
        if not key.shared:
            return None
        if not self._settings.row.signed:
            return Proof.PLAIN
        if self.is_replica(key):
            return Proof.CARRIED
        if self.server(key).pooler:
            return Proof.EXACT
        return Proof.TRUSTED if self._settings.row.form == "trusted" else Proof.BOUND

    def signer(self, key: PoolKey) -> Signer | None:
        """Who signs for the sessions of this pool; None: nothing is to be signed. Raises IsolationError."""
        if self.proof(key) in (None, Proof.PLAIN):
            return None
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
            kid = max(keys)  # the newest signs; older ones stay installed until no signature needs them
            secret = keys[kid].read_bytes()
            derived = derive_key(secret, server=server, database=key.database, kid=kid)
            signer = self._signers[(server, key.database)] = Signer(derived, database=key.database, kid=kid)
        return signer

    # --- what it must be ---------------------------------------------------------------------------------------------
    def learn(self, pool: Pool[Any], answer: Answer) -> None:
        """Keep to what the server, the database and the role allow, where that is less than was configured."""
        key = pool.key
        if self.server(key).pooler:
            return  # how many sessions there are is for the pooler to say
        is_shared_role = key.user is None or key.user == self.server(key).user
        pool.budget.learn(
            max_connections=answer.max_connections,
            reserved=answer.reserved_connections,
            role_limit=answer.role_limit if is_shared_role else NO_LIMIT,
        )
        pool.learn(role_limit=NO_LIMIT if is_shared_role else answer.role_limit, database_limit=answer.database_limit)

    def judge(
        self,
        key: PoolKey,
        answer: Answer,
        *,
        pid: int,
        now: float,
        pins: dict[str, str],
        is_last: bool,
    ) -> list[str]:
        """Statements that clean its role, after which another one must be opened; none: it may serve.

        `pid`: of BackendKeyData; `now`: our clock when the server answered. Raises IsolationError when it must not
        serve, or when its role is not clean at the last attempt; WrongRole when it is a standby that should be a
        primary, or the other way round.
        """
        self._versions[key.server] = answer.version
        error = None if self.server(key).pooler else pooler_between(answer, key, pid=pid, pins=pins)
        if error is not None:
            self.violated("connect", key, error.message)
            raise error
        if not self.is_watched(key):
            wrong = out_of_role(answer, key, primary=self._primary_of.get(key.server))
            if wrong is not None:
                raise wrong
        elif answer.standby and self.proof(key) in (Proof.BOUND, Proof.TRUSTED):
            raise binds_nothing(key)
        if key.profile == ADMIN_PROFILE:
            return []  # what lies on its role is the operator's: no tenant can get there
        allowed = self.server(key).role_settings
        foreign = foreign_settings(answer, pinned=pins, allowed=allowed)
        if foreign:
            names = ", ".join(entry[1:] for entry in foreign)
            self.violated("role_settings", key, names)
            if is_last or answer.standby:  # a standby takes no ALTER ROLE: it is cleaned where its primary is
                raise IsolationError(
                    "settings laid on our role come back after each RESET",
                    detail=f"server {key.server!r}, settings {names}",
                    hint="name them in role_settings of this server if they are meant",
                )
            return clean_role_sql(answer, foreign, database=key.database, allowed=allowed)
        signs = bool(self._settings.signed_context)
        error = refusal(answer, key, offset=answer.server_now - now, proof=self.proof(key), signs_settings=signs)
        if error is not None:
            self.violated("connect", key, error.message)
            raise error
        return []

    # --- how it went -------------------------------------------------------------------------------------------------
    def opened(self, pool: Pool[C], conn: C, started: float) -> None:
        """A connect that began at `started` (monotonic) succeeded."""
        seconds = monotonic() - started
        pool.budget.opened_in(seconds)
        self._observer(ConnectionOpened(server=pool.key.server, pool=pool.label, seconds=seconds))
        pool.opened(conn)

    def failed(self, pool: Pool[Any], error: Exception, *, silent: bool, lingers: ServerProcess | None) -> None:
        """It failed; `silent`: the server did not answer, and `lingers` may live on there."""
        refusal, failure = classify(error, pool.key)
        pool.open_failed(refusal, failure, describe(error), silent=silent, lingers=lingers)

    # --- warming -----------------------------------------------------------------------------------------------------
    def warm_binding(self) -> Binding:
        """No tenant, to be bound once and reset: a first bind and check of a backend are a thousand times slower."""
        row = self._settings.row
        proof = Proof.TRUSTED if row.form == "trusted" else Proof.BOUND
        return Binding(tenant=_WARM, proof=proof, setting=row.setting)

    def judge_trust(self, key: PoolKey, answer: object) -> None:
        """Raises IsolationError when `answer`, to `trust.CHECK`, is not that the trusted form holds here."""
        error = not_trusted(key, answer)
        if error is not None:
            self.violated("connect", key, error.message)
            raise error

    def not_warm(self, key: PoolKey) -> IsolationError:
        """The database took no proof, not even one of no tenant."""
        return IsolationError(
            "the database refuses our proofs",
            detail=f"server {key.server!r}, database {key.database!r}",
            hint="the key in [row] is not the one installed there, or the role may not execute tenantproxy.bind:"
            " run `tenantproxy install --config FILE`",
        )

    def violated(self, check: str, key: PoolKey, detail: str) -> None:
        """Count and tell that a check of isolation failed."""
        note_violation(self._violations, self._observer, check, key, detail)


def _primaries(settings: Settings) -> dict[str, str]:
    return {replica: name for name, server in settings.servers.items() for replica in server.replicas}
