"""What does every kind of isolation answer? Where a tenant's connection comes from, and what is pinned on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tenantproxy.model import PoolKey, Route, Tenant, quote_identifier

__all__ = [
    "FULL_RESET",
    "IN_RECOVERY",
    "KEEP_RESET",
    "SOFT_RESET",
    "WRITABLE",
    "Pins",
    "Plan",
    "search_path",
    "soft_reset",
    "startup_pins",
]

# One simple query each; PostgreSQL runs it as one transaction, so it is done or it is not. CLOSE comes first, because
# closing a cursor may run user code; RESET ALL does not touch the role, hence SESSION AUTHORIZATION.
_UNLOCKED: Final = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all()"
)
_SESSION_RESET: Final = _UNLOCKED + "; DISCARD TEMP"
SOFT_RESET: Final = _SESSION_RESET + "; DISCARD SEQUENCES"
"""Everything but prepared statements: what a driver has prepared stays good."""

KEEP_RESET: Final = _SESSION_RESET
"""SOFT_RESET that leaves a binding in the backend's memory (`currval()` of the keeper's sequences)."""

IN_RECOVERY: Final = "SELECT 1/pg_catalog.pg_is_in_recovery()::int"
"""Fails on a replica that was promoted. As a text of its own: what users prepared cannot answer in its place."""

WRITABLE: Final = "SELECT 1/(pg_catalog.current_setting('transaction_read_only') = 'off')::int"
"""After a reset: fails where the server itself takes no writes."""

FULL_RESET: Final = "DISCARD ALL"
"""Everything; the driver's statement cache must go with it."""


def soft_reset(nonce: str) -> str:
    """SOFT_RESET whose one row has a second column, the `nonce` (hexadecimal): what tells its answer from any other."""
    return f"{_UNLOCKED}, '{nonce}'; DISCARD TEMP; DISCARD SEQUENCES"


class Plan(Protocol):
    """One kind of isolation: turns a tenant into a route. Pure; no I/O."""

    def plan(self, tenant: Tenant, *, system: str | None = None, replica: str | None = None) -> Route:
        """The route of `tenant`; `system` chooses among several schemas, `replica` names the server to read from.

        Raises TenantNotFound for a system that the tenant does not have.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What the operator set for the sessions of a server. Timeouts in seconds, 0 = none."""

    search_path: tuple[str, ...] = ("public",)
    statement_timeout: float = 30.0
    idle_in_transaction_timeout: float = 60.0
    lock_timeout: float = 0.0
    application_name: str = "tenantproxy"


def search_path(schemas: Sequence[str]) -> str:
    """`schemas` as the value of search_path: quoted identifiers only, in order."""
    return ", ".join(quote_identifier(schema) for schema in schemas)


def startup_pins(
    key: PoolKey,
    pins: Pins,
    *,
    setting: str = "app.current_tenant_id",
    server_version: int | None = None,
    read_only: bool = False,
) -> dict[str, str]:
    """The startup parameters of every connection of the pool `key`.

    RESET ALL and DISCARD ALL return to these values, and no role default can override them, which matters because any
    tenant may run `ALTER ROLE app SET ...` for every later backend of all tenants. `server_version` (as in
    `server_version_num`) decides which of the newer settings are sent; None: none of them. `read_only`: for a replica,
    which may be promoted while we are connected.
    """
    path = (key.schema,) if key.schema is not None else pins.search_path
    parameters = {
        "search_path": search_path(path),
        "row_security": "on",
        setting: "",
        "app.tenant_proof": "",
        "standard_conforming_strings": "on",
        "default_transaction_read_only": "on" if read_only else "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "statement_timeout": _ms(pins.statement_timeout),
        "lock_timeout": _ms(pins.lock_timeout),
        "idle_in_transaction_session_timeout": _ms(pins.idle_in_transaction_timeout),
        "idle_session_timeout": "0",
        "exit_on_error": "off",
        "local_preload_libraries": "",
        "application_name": pins.application_name,
    }
    if server_version is not None and server_version >= 170000:
        parameters["transaction_timeout"] = "0"
    return parameters


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
