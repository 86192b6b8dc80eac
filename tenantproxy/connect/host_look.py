"""What is a host asked, and what can come of it? The question of watches and connectors, and their errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantproxy.pools.host_choice import HostState

__all__ = ["ANONYMOUS_STATE", "KNOWN_STATE", "HostMoved", "NoHost", "state_of"]

_STATE: Final = """
SELECT pg_catalog.pg_is_in_recovery() AS standby,
  COALESCE((SELECT s.setting = 'on' AND s.source NOT IN ('user', 'database user', 'client', 'session')
            FROM pg_catalog.pg_settings s WHERE s.name = 'default_transaction_read_only'), false) AS read_only,
  {system} AS system,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE ('x' || pg_catalog.substr(
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
  pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::text AS started,
  COALESCE(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_lsn() END - '0/0'::pg_catalog.pg_lsn, 0)::bigint AS lsn
"""
"""The questions to a host. What a tenant laid on our role (`user`) says nothing of the server."""

_SYSTEM: Final = "(SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() c)"
KNOWN_STATE: Final = _STATE.format(system=_SYSTEM)
ANONYMOUS_STATE: Final = _STATE.format(system="''::text")  # where our role may not ask of which cluster the host is


class HostMoved(ConnectionError):
    """Another host serves than the one that a connection was opened to."""


class NoHost(Exception):
    """No host of a server may serve. `cause`: why one could not be asked; `answers`: at least one does.

    `is_wrong`: all that answer are of another cluster, which waiting does not change.
    """

    def __init__(self, *, cause: BaseException | None, answers: bool, reason: str, is_wrong: bool) -> None:
        super().__init__(reason)
        self.cause = cause
        self.answers = answers
        self.reason = reason
        self.is_wrong = is_wrong


def state_of(row: Mapping[str, object]) -> HostState:
    """What a row of KNOWN_STATE says."""
    return HostState(
        standby=bool(row["standby"]),
        read_only=bool(row["read_only"]),
        system=str(row["system"] or ""),
        timeline=int(str(row["timeline"])),
        started=str(row["started"]),
        lsn=int(str(row["lsn"])),
    )
