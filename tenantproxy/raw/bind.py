"""How is a raw session made what a route says? Bound, with its client's settings, in one confirmed conversation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final, Protocol

from tenantproxy.connect.failures import Refused
from tenantproxy.connect.lease_policy import BindFailure, bind_failure
from tenantproxy.isolation.base import IN_RECOVERY
from tenantproxy.isolation.row import enter
from tenantproxy.isolation.signed import signing
from tenantproxy.isolation.turn import TRUST, chained
from tenantproxy.model import Binding, Proof, Route
from tenantproxy.pools.base import Clock
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.exchange import READY_IDLE, SYNC_NOW, Exchange, answer_of, row, statement
from tenantproxy.raw.hello import hello
from tenantproxy.wire.settings import NO_SETTINGS, changes

__all__ = ["WRITTEN", "BackendEntry", "Binder"]

_CHECK_STANDBY: Final = statement(IN_RECOVERY)
_IS_STANDBY: Final = answer_of("SELECT 1", row(b"1"))
_OF_A_SETTING: Final = ("22", "42", "55")  # a bad value; an unknown name or a role that may not; not in a session
WRITTEN: Final = (Proof.BOUND, Proof.TRUSTED)
"""In the backend's own memory, as sequences are: no tenant can make it another one's."""
_ECHO: Final = "SELECT $1"
_ENCODING: Final = b"client_encoding"  # in which the session reads what we say, in UTF-8
# The source of what a client or we have set is `session`, and no other is.
_SET_BACK: Final = (
    "SELECT pg_catalog.count(pg_catalog.set_config(start.name, start.value, false)) IS NULL, {nonce}"
    " FROM (VALUES {pairs}) AS start (name, value) LEFT JOIN pg_catalog.pg_settings AS now"
    " ON pg_catalog.lower(now.name) OPERATOR(pg_catalog.=) pg_catalog.lower(start.name)"
    " WHERE now.source OPERATOR(pg_catalog.<>) 'session' OR now.name IS NULL"  # one that only clients know
    " AND COALESCE(pg_catalog.current_setting(start.name, true), '') OPERATOR(pg_catalog.=) ''"
)


class Binder(Protocol):
    """What an entry needs of its lender.

    `window`: for how long a proof is good, seconds; one that ends within `renewal` is renewed first. `nonce`: a fresh
    one.
    """

    clock: Clock
    window: float
    renewal: float
    nonce: Callable[[], bytes]


def is_entered(backend: RawBackend, route: Route, session: Settings, *, until: float) -> bool:
    """Whether nothing need be said: it is bound as `route` wants it, at least until then, and set to `session`."""
    wanted = route.session
    return not (
        wanted.is_set_each_time
        or backend.wire is not None  # each of its transactions is
        or backend.must_set_path
        or backend.session != session
        or backend.bound_until <= until
        or (wanted.binding is not None and backend.bound != wanted.binding.tenant)
    )


class BackendEntry:
    """A session is being made what a route says. Nothing of the client's may go out before it is confirmed."""

    __slots__ = (
        "_again",
        "_backend",
        "_bind_size",
        "_binding",
        "_binds",
        "_context",
        "_is_standby",
        "_lender",
        "_name",
        "_nonce",
        "_signed",
        "_start",
        "_then",
        "_until",
        "_wanted",
        "heard",
    )

    def __init__(
        self,
        lender: Binder,
        backend: RawBackend,
        route: Route,
        session: Settings,
        then: Callable[[Exception | None], None],
        *,
        again: bool = False,
        start: Settings = NO_SETTINGS,
    ) -> None:
        self.heard: list[bytes] = []  # notifications to the client, received in its session
        self._lender = lender
        self._backend = backend
        self._binding = route.session.binding
        self._is_standby = route.session.standby
        self._context = tuple((name.encode(), value.encode()) for name, value in route.session.context)
        self._signed = route.session.signed
        self._wanted = session + self._context
        self._then = then
        self._again = again  # within a client's session, which owns the unnamed statement
        self._start = start
        self._name = b"tenantproxy_" + lender.nonce() if again else b""
        self._nonce = 0  # the next one of the trusted form, once this is answered
        self._until = float("inf")
        self._binds = False  # and does not only set something
        self._bind_size = 0  # of the expected answer

    def begin(self, timeout: float | None = None) -> bool:
        """Say what has to be said; False: nothing has to. A fresh nonce comes back in one of the answers."""
        binding = self._binding
        if self._again and binding is not None and binding.proof is Proof.TRUSTED:
            # Its client may have discarded the nonce of its session.
            greeted = partial(self._greeted, timeout)
            name = b"tenantproxy_" + self._lender.nonce()
            hello(self._backend, greeted, name=name, timeout=timeout, heard=self.heard)
            return True
        return self._begin(timeout)

    def _greeted(self, timeout: float | None, error: Exception | None) -> None:
        if error is not None:
            self._then(error)
        elif not self._begin(timeout):
            raise AssertionError("a session that is bound again has to be told so")

    def _begin(self, timeout: float | None) -> bool:
        backend = self._backend
        messages, expected = self._read_utf8()
        if self._binding is not None and self._must_bind(self._binding):
            says_bound, is_bound = self._bind(self._binding)
            messages, expected = messages + says_bound, expected + is_bound
            self._binds = True
            self._bind_size = len(expected)
        if self._binding is not None and self._signed is not None:
            says_signed, is_signed = self._sign(self._binding, self._signed)
            messages, expected = messages + says_signed, expected + is_signed
            self._bind_size = len(expected)
        to_set = self._to_set()
        if to_set:
            says_set, is_set = self._set(to_set)
            messages, expected = messages + says_set, expected + is_set
        if self._start:
            says_set, is_set = self._set_back(self._start)
            messages, expected = messages + says_set, expected + is_set
        if self._is_standby:  # once promoted, it would take writes that its former primary never sees
            if not messages:
                nonce = self._lender.nonce()
                messages, expected = statement(_ECHO, [nonce]), answer_of("SELECT 1", row(nonce))
            messages, expected = _CHECK_STANDBY + messages, _IS_STANDBY + expected
            self._bind_size += len(_IS_STANDBY)
        if not messages:
            return False
        is_written = (
            (self._binds or self._signed is not None) and self._binding is not None and self._binding.proof in WRITTEN
        )
        if is_written and (self._again or backend.bound is not None):
            # Its user may have made the session read only, and one that reads only cannot be bound.
            begun = self._answer("BEGIN")
            messages = self._say("BEGIN READ WRITE") + messages + self._say("COMMIT")
            expected = begun + expected + self._answer("COMMIT")
            self._bind_size += len(begun)
        backend.bound = None
        heard = self.heard if self._again else None
        Exchange(backend, expected + READY_IDLE, self._answered, heard=heard).begin(
            messages + SYNC_NOW, timeout=timeout
        )
        return True

    def _say(self, sql: str, args: Sequence[bytes | None] = ()) -> bytes:
        return statement(sql, args, name=self._name)

    def _answer(self, text: str, *rows: bytes) -> bytes:
        return answer_of(text, *rows, is_named=bool(self._name))

    def _read_utf8(self) -> tuple[bytes, bytes]:
        """What lets the session read our values as they are, whatever encoding a client chose in it; and its answer."""
        backend = self._backend
        if not (self._context or self._signed is not None) or _ENCODING not in dict(backend.session):
            return b"", b""
        backend.session = tuple(pair for pair in backend.session if pair[0] != _ENCODING)  # set again behind them
        sql = "SELECT pg_catalog.set_config($1, NULL, false) IS NULL"
        return self._say(sql, [_ENCODING]), self._answer("SELECT 1", row(b"f"))

    def _set(self, to_set: Collection[tuple[bytes, bytes | None]]) -> tuple[bytes, bytes]:
        """What sets this, and its answer. A setting without a value goes back to what it was at start-up."""
        numbers = range(1, 2 * len(to_set), 2)
        columns = [f"pg_catalog.set_config(${n}, ${n + 1}, false) IS NULL" for n in numbers]
        args = [part for change in to_set for part in change]
        answers = [b"f"] * len(to_set)
        if not self._binds:  # else the answer to the bind holds it
            columns.append(f"${len(args) + 1}")
            args.append(nonce := self._lender.nonce())
            answers.append(nonce)
        return self._say(f"SELECT {', '.join(columns)}", args), self._answer("SELECT 1", row(*answers))

    def _set_back(self, start: Settings) -> tuple[bytes, bytes]:
        """What sets those of `start` that have been reset, whatever did it, and its answer."""
        pairs = ", ".join(f"(${n}, ${n + 1})" for n in range(1, 2 * len(start), 2))
        nonce = self._lender.nonce()
        sql = _SET_BACK.format(nonce=f"${2 * len(start) + 1}", pairs=pairs)
        return self._say(sql, [part for pair in start for part in pair] + [nonce]), self._answer(
            "SELECT 1", row(b"f", nonce)
        )

    def _sign(self, binding: Binding, context: str) -> tuple[bytes, bytes]:
        """What gives the session its signed settings: each time, for no former ones may hold. And its answer."""
        backend, lender = self._backend, self._lender
        asked = signing(
            binding, context, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=lender.window
        )
        args = [arg.encode() for arg in asked.args]
        nonce = lender.nonce()
        values = args if binding.proof is Proof.CARRIED else args[:1]
        return self._say(f"{asked.sql}, $3", [*args, nonce]), self._answer("SELECT 1", row(*values, nonce))

    def _to_set(self) -> Collection[tuple[bytes, bytes | None]]:
        """What the session does not have yet, or what a client may have changed without a word from the server."""
        backend = self._backend
        missing = changes(backend.session, self._wanted)
        if not (self._context or backend.must_set_path):
            return missing
        to_set = dict(missing)
        for name, value in self._context:
            to_set.setdefault(name, value)
        if backend.must_set_path and not self._again:
            to_set.setdefault(b"search_path", dict(self._wanted).get(b"search_path"))
        return to_set.items()

    def _must_bind(self, binding: Binding) -> bool:
        backend, lender = self._backend, self._lender
        if self._again or backend.bound != binding.tenant or binding.proof is Proof.PLAIN:
            return True
        return backend.bound_until - lender.renewal <= lender.clock()

    def _bind(self, binding: Binding) -> tuple[bytes, bytes]:
        backend, lender = self._backend, self._lender
        if binding.proof is not Proof.PLAIN:
            self._until = lender.clock() + lender.window
        if binding.proof is Proof.TRUSTED:
            return self._trust(binding)
        bind = enter(binding, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=lender.window)
        args = [arg.encode() for arg in bind.args]
        # What each function answers: the tenant, or what it was told to set; setseed() answers nothing.
        values = {Proof.BOUND: args[:1], Proof.PLAIN: args[1:], Proof.CARRIED: [*args[1:], b""]}[binding.proof]
        nonce = lender.nonce()
        sql = f"{bind.sql}, ${len(args) + 1}"
        return self._say(sql, [*args, nonce]), self._answer("SELECT 1", row(*values, nonce))

    def _trust(self, binding: Binding) -> tuple[bytes, bytes]:
        backend, signer, lender = self._backend, self._backend.signer, self._lender
        if signer is None:
            raise ValueError("a signed session needs a signer")
        args, proof = chained(
            binding,
            signer,
            pid=backend.pid,
            nonce=backend.nonce,
            server_now=backend.server_now(),
            window=lender.window,
        )
        self._nonce = proof.nonce
        # Its echo is what no other can know; the answer to what follows it is compared with it as a whole.
        answer = row(f"{proof.echo} {binding.tenant}".encode())
        return self._say(TRUST, [arg.encode() for arg in args]), self._answer("SELECT 1", answer)

    def _answered(self, error: Exception | None) -> None:
        if self._is_standby and isinstance(error, Refused) and error.confirmed < len(_IS_STANDBY):
            self._backend.pool.budget.expire()  # it was promoted: a new connection tells what it is now
        if error is None:
            backend, binding = self._backend, self._binding
            backend.session = self._wanted
            if self._nonce:
                backend.nonce = self._nonce
            if binding is not None:
                backend.binding = binding
                backend.bound = binding.tenant
                if self._binds:
                    backend.bound_until = self._until
                    backend.lost_tenant = False
        self._then(error)

    def failure(self, error: Exception) -> BindFailure:
        """What `error` means for the client."""
        if isinstance(error, Refused) and error.confirmed >= self._bind_size and error.sqlstate[:2] in _OF_A_SETTING:
            return BindFailure.SETTING_REFUSED
        return bind_failure(error)
