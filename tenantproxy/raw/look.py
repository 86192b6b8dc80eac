"""What has a client left in its session, as the server itself says? Asked between two transactions of the client.

It decides whether the client keeps its backend, and nothing else: what it gives back is reset in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import OWN_SETTINGS, Proof, Route
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import READY_IDLE, SYNC_NOW, Exchange, answer_of, statement, values_of
from tenantproxy.wire.leftovers import ADVISORY_LOCK, ANYTHING, HELD_CURSOR, SETTING, TEMPORARY

__all__ = ["PIN", "Looked", "look"]

Looked: TypeAlias = Callable[[int, TenantProxyError | None], None]

LOOK_SECONDS: Final = 5.0

# For this transaction: no timeout of the client's may strike, no operator of its may stand before the server's.
PIN: Final = (
    "SELECT pg_catalog.set_config('statement_timeout', '0', true),"
    " pg_catalog.set_config('search_path', 'pg_catalog', true)"
)
_LOOK: Final = f"""
SELECT $1, (
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::regclass
        AND refobjid = pg_my_temp_schema()) THEN {TEMPORARY} ELSE 0 END
  + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
        THEN {ADVISORY_LOCK} ELSE 0 END
  + CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) THEN {HELD_CURSOR} ELSE 0 END
  + CASE WHEN current_user <> session_user
        OR ($3 <> '' AND coalesce(current_setting($3, true), '') NOT IN ('', $4))
        OR ($2 <> '' AND EXISTS (SELECT FROM pg_catalog.pg_settings
        WHERE source = 'session' AND lower(name) <> ALL (string_to_array($2, ',')))) THEN {SETTING} ELSE 0 END
)::text"""
# The server reports these, so they go along with the client; the others are set for the look alone.
_REPORTED: Final = frozenset(
    (
        "timezone",
        "datestyle",
        "intervalstyle",
        "client_encoding",
        "application_name",
        "standard_conforming_strings",
        "search_path",
        "statement_timeout",
    )
)


class LookingLender(Protocol):
    """What a look needs of its lender. `nonce`: a fresh one."""

    nonce: Callable[[], bytes]

    def destroy(self, backend: RawBackend) -> None:
        """There is a doubt."""
        ...


def look(lender: LookingLender, backend: RawBackend, route: Route, done: Looked, *, settings: bool) -> None:
    """Tell `done` what is left, of `leftovers`; with an error the backend is destroyed.

    Nothing of the client's may be under way until `done`, which is not called any more once the backend was destroyed.
    `settings`: also those that are not tracked, which takes the server a millisecond.
    """
    nonce = lender.nonce()
    name = b"tenantproxy_" + nonce
    rows: list[bytes] = []
    args = [nonce, _ours(route, backend).encode() if settings else b"", *_binding(route)]
    messages = statement(PIN, name=name) + statement(_LOOK, args, name=name) + SYNC_NOW
    expected = answer_of("SELECT 1", is_named=True) * 2 + READY_IDLE
    listening = backend.sink, backend.on_lost, backend.on_writable

    def answered(error: Exception | None) -> None:
        found = -1
        if error is None:
            echo, left = [*values_of(rows[-1]), None, None][:2]
            if left is not None and left.isdigit() and echo == nonce:
                found = int(left)
        if not 0 <= found <= ANYTHING:
            lender.destroy(backend)
            done(0, ConnectFailed("the server closed the connection, or did not say what is left in the session"))
            return
        backend.sink, backend.on_lost, backend.on_writable = listening
        done(found, None)

    backend.resume_reading()  # its client may be slow; the answer is ours
    Exchange(backend, expected, answered, rows=rows).begin(messages, timeout=LOOK_SECONDS)


def _binding(route: Route) -> list[bytes]:
    """What a signed binding is known by. A client that has changed it keeps its session, in which nothing works."""
    binding = route.session.binding
    if binding is None or binding.proof is Proof.PLAIN:  # that one is set again at each lease
        return [b"", b""]
    return [binding.setting.encode(), binding.tenant.encode()]


def _ours(route: Route, backend: RawBackend) -> str:
    """The settings that are none of the client's, or go along with it."""
    names = set(OWN_SETTINGS) | {name.lower() for name, _ in route.session.context}
    if route.session.binding is not None:
        names.add(route.session.binding.setting.lower())
    names |= {name.decode().lower() for name, _ in backend.session}
    return ",".join(sorted(names | _REPORTED))
