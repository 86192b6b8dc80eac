"""How is a session of the driver made what a route says? Reset, bound and given its context in one bounded go."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import Final

import asyncpg

from tenantproxy.connect.failures import LOST, Unconfirmed
from tenantproxy.connect.lease_policy import (
    RENEW_TIMEOUT,
    BindCheck,
    BindFailure,
    LeaseOutcomes,
    bind_failure,
    renewal_margin,
    reset_failure,
)
from tenantproxy.driver.renewing import RenewingConnection
from tenantproxy.driver.state import DriverConnection
from tenantproxy.driver.turns import SessionTurns
from tenantproxy.errors import TenantEnded
from tenantproxy.isolation.base import IN_RECOVERY
from tenantproxy.isolation.row import enter, keep_reset
from tenantproxy.isolation.signed import signing
from tenantproxy.isolation.turn import change
from tenantproxy.model import Binding, Proof, Route, Session, TenantId
from tenantproxy.wire.frames import DATA_ROW

__all__ = ["DriverBinder", "NotBound"]

_CONTEXT_SQL: Final = (
    "SELECT pg_catalog.set_config(n, v, false)"
    " FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS s (n, v)"
)


class NotBound(Exception):
    """A session could not be made the tenant's, and its connection was retired."""

    def __init__(self, failure: BindFailure, cause: BaseException, check: BindCheck | None) -> None:
        super().__init__(failure)
        self.failure = failure
        self.cause = cause
        self.check = check


class DriverBinder:
    """Binds sessions and renews their proofs. A proof is good for `proof_window` seconds."""

    def __init__(self, outcomes: LeaseOutcomes, *, proof_window: float) -> None:
        self._outcomes = outcomes
        self._window = proof_window
        self._margin = renewal_margin(proof_window)

    def must_enter(self, backend: DriverConnection, session: Session) -> bool:
        """Whether something has to be said to the server before a caller may have its connection."""
        if session.context or session.standby or session.signed is not None:
            return True
        return session.binding is not None and not self.is_bound(backend, session.binding)

    async def enter(self, backend: DriverConnection, route: Route, deadline: float) -> None:
        """Make the session the tenant's. Whatever goes wrong, the connection is retired before this raises."""
        binding = route.session.binding
        resets = binding is not None and backend.bound is not None and backend.bound != binding.tenant
        check: BindCheck = "bind" if backend.bound is None else "rebind"
        try:
            # One timer for all round trips: none of them may outlive the caller's patience.
            async with asyncio.timeout(max(0.001, deadline - monotonic())):
                if binding is not None and backend.turns is not None:
                    await self._take_turn(backend, backend.turns, binding)
                    resets = False
                elif binding is not None and resets:
                    await self._reset_between(backend, binding)
                    resets = False
                if route.session.standby:
                    await self._check_standby(backend)
                if binding is not None and not self.is_bound(backend, binding):
                    await self._bind(backend, binding)
                await self._set_context(backend, route.session)
            if binding is not None:
                self.renew_in_time(backend)
        except BaseException as exc:
            backend.pool.retire(backend, "error")
            if not isinstance(exc, Exception):
                raise
            if isinstance(backend.con.expired, TenantEnded):  # another connection would serve it all the same
                raise backend.con.expired.again() from None
            if resets:
                self._outcomes.reset_failed(backend.pool, exc)
                raise NotBound(reset_failure(exc), exc, None) from None
            self._outcomes.bind_failed()
            if isinstance(exc, (*LOST, TimeoutError, Unconfirmed)):
                raise NotBound(bind_failure(exc), exc, check) from None
            raise

    async def _reset_between(self, backend: DriverConnection, binding: Binding) -> None:
        """The full check between two tenants: a message of its own, confirmed, before anything is bound."""
        await backend.con.ask(change(backend.con.prepared, binding.proof))
        self._outcomes.was_reset()
        backend.con.forget_listeners()
        backend.bound = None

    async def _take_turn(self, backend: DriverConnection, turns: SessionTurns, binding: Binding) -> None:
        """What `_reset_between` and `_bind` do, in one message, or the renewal of what the session is already."""
        if self.is_bound(backend, binding):
            return
        if backend.bound == binding.tenant:
            await self._bind(backend, binding)
            return
        was_bound = backend.bound is not None
        await self.change(backend, turns, binding)
        if was_bound:
            self._outcomes.was_reset()
            backend.con.forget_listeners()

    async def pass_on(self, backend: DriverConnection, turns: SessionTurns, *, unbind: bool) -> TenantId | None:
        """Reset the session, and make it that of a tenant whose caller waits, if one does; whose it is then.

        `unbind`: also where that is the tenant's own next caller. After an exception it must be destroyed.
        """
        pool, binding, bound = backend.pool, backend.binding, backend.bound
        stays = binding is not None and binding.tenant == bound and not unbind
        if binding is not None and stays and pool.next_tenant(backend, bound) in (None, bound):
            await turns.keep(binding)
            return bound
        tenant = pool.aim(backend)
        if binding is None or tenant is None:
            await turns.unbind()
            return None
        await self.change(backend, turns, Binding(tenant=tenant, proof=binding.proof, setting=binding.setting))
        return tenant

    async def change(self, backend: DriverConnection, turns: SessionTurns, binding: Binding) -> None:
        """Reset the session, whosever it was, and make it the tenant's. After an exception it must be destroyed."""
        backend.bound = None
        if isinstance(backend.con, RenewingConnection):
            backend.con.renew_at = float("inf")  # or it would renew what it was bound to before
        started = monotonic()
        await turns.change(binding, server_now=backend.server_now(), window=self._window)
        self._is_now(backend, binding, started)

    def _is_now(self, backend: DriverConnection, binding: Binding, started: float) -> None:
        if binding is not backend.binding:
            if backend.binding is None or backend.binding.tenant != binding.tenant:
                backend.con.forget_strange()
            backend.binding = binding
            backend.keep = keep_reset(binding) if backend.turns is None else ""
        backend.bound = binding.tenant
        backend.bound_until = started + self._window if binding.proof is not Proof.PLAIN else float("inf")

    async def _check_standby(self, backend: DriverConnection) -> None:
        """Once promoted, a replica would take writes that its former primary never sees."""
        try:
            await backend.con.simple(IN_RECOVERY, None)
        except asyncpg.DivisionByZeroError:
            backend.pool.budget.expire()  # a new connection tells what it is now
            raise

    def is_bound(self, backend: DriverConnection, binding: Binding) -> bool:
        """Whether the session is this tenant's already, for long enough that it need not be renewed at once."""
        return backend.bound == binding.tenant and monotonic() < backend.bound_until - self._margin

    async def _bind(self, backend: DriverConnection, binding: Binding) -> None:
        backend.bound = None
        if isinstance(backend.con, RenewingConnection):
            backend.con.renew_at = float("inf")  # or it would renew what it was bound to before
        started = monotonic()
        if backend.turns is not None:
            await backend.turns.renew(binding, server_now=backend.server_now(), window=self._window)
            self._is_now(backend, binding, started)
            return
        statement = enter(
            binding, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=self._window
        )
        try:
            answer = await backend.con.enter(statement.args)
        except asyncpg.ReadOnlySQLTransactionError:  # its user made the session read only, and goes on with it
            answer = await backend.con.enter_writing(statement.args)
        if answer != statement.answer:
            raise Unconfirmed(DATA_ROW)
        self._is_now(backend, binding, started)

    async def _set_context(self, backend: DriverConnection, session: Session) -> None:
        backend.signed = session.signed
        if session.binding is not None and session.signed is not None:
            await self._sign_context(backend, session.binding, session.signed)
        if session.context:
            names, values = zip(*session.context, strict=True)
            await backend.con.fetch(_CONTEXT_SQL, list(names), list(values))

    async def _sign_context(self, backend: DriverConnection, binding: Binding, context: str) -> None:
        con, now = backend.con, backend.server_now()
        asked = signing(binding, context, backend.signer, pid=backend.pid, server_now=now, window=self._window)
        try:
            answer = await con.ask_once(asked.sql, asked.args)
        except asyncpg.ReadOnlySQLTransactionError:  # its user made the session read only, and goes on with it
            answer = await con.ask_once(asked.sql, asked.args, writing=True)
        if answer != asked.answer:
            raise Unconfirmed(DATA_ROW)

    def renew_in_time(self, backend: DriverConnection) -> None:
        """Let the lent connection renew its proof at two thirds of the window, between transactions."""
        con = backend.con
        if isinstance(con, RenewingConnection):
            con.renew_at = backend.bound_until - self._margin
            if con.renew is None:
                con.renew = partial(self._renew, backend)

    async def _renew(self, backend: DriverConnection) -> None:
        binding = backend.binding
        assert binding is not None
        timer = asyncio.get_running_loop().call_later(RENEW_TIMEOUT, backend.abort)
        try:
            await self._bind(backend, binding)
            if backend.signed is not None:
                await self._sign_context(backend, binding, backend.signed)
        except BaseException as exc:
            backend.abort()  # its user holds it: nothing may run on it any more
            if not isinstance(exc, (*LOST, TimeoutError, Unconfirmed)):
                raise
            self._outcomes.bind_failed()
            raise self._outcomes.refusal(backend.pool, bind_failure(exc), exc, "rebind") from None
        finally:
            timer.cancel()
        self.renew_in_time(backend)
