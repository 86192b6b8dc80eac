"""How does a session pass from one tenant to the next in one message? A simple query: its reset, and then the entry.

Facts, attacks and figures: docs/isolation.md; the other half is lifecycle/sql/turns.sql.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from tenantproxy.isolation.proof import Signer, TurnForm
from tenantproxy.model import Binding, Proof
from tenantproxy.wire.answers import command_complete, data_row, ready_for_query, row_description

__all__ = ["FREE", "HELLO", "RESET", "UNLOCK", "Said", "enter", "keep"]

HELLO: Final = "SELECT tenantproxy.hello()"
"""Answers with the nonce that the next proof of this connection is made for."""

UNLOCK: Final = "SELECT pg_catalog.pg_advisory_unlock_all()::pg_catalog.text"

_FORM: Final[Mapping[Proof, TurnForm]] = {Proof.BOUND: "bound"}

# By a default of its last user, the transaction of the message may have begun as another one.
_WRITING: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
# CLOSE comes first, because closing a cursor may run user code; RESET ALL does not touch the role.
_CLEAN: Final = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; DISCARD TEMP"
_SET: Final = command_complete("SET")
_READY: Final = ready_for_query()
_ROW_READY: Final = command_complete("SELECT 1") + _READY
_CLEANED: Final = b"".join(map(command_complete, ("CLOSE CURSOR ALL", "SET", "RESET", "UNLISTEN", "DISCARD TEMP")))
_ENTERED: Final = row_description(["enter"])
_UNLOCKED: Final = row_description(["pg_advisory_unlock_all"]) + data_row([""])


class Said(NamedTuple):
    """A simple query, which may hold a proof, and its whole answer."""

    sql: str
    answer: bytes

    def __repr__(self) -> str:
        return "Said()"


RESET: Final = Said(f"{_WRITING}; {_CLEAN}", _SET + _CLEANED + _READY)
"""Undoes what a session's last user left but for sequences and advisory locks. The entry discards and releases those:
the nonce that it needs is kept in a sequence."""

FREE: Final = Said(f"{_WRITING}; {_CLEAN}; {UNLOCK}", _SET + _CLEANED + _UNLOCKED + _ROW_READY)
"""RESET for a session that no entry follows at once: no client must wait for a lock that an idle session holds."""

_ALONE: Final = (f"{_WRITING}; ", _SET + _ENTERED)
_BEHIND_RESET: Final = (f"{_WRITING}; {_CLEAN}; ", _SET + _CLEANED + _ENTERED)


def enter(
    binding: Binding,
    signer: Signer,
    *,
    pid: int,
    nonce: int,
    prepared: int,
    server_now: float,
    window: float,
    resets: bool,
) -> tuple[Said, int]:
    """How `binding` is entered for `window` seconds on the backend `pid` that has this `nonce`; and its next nonce.

    `resets`: the session is reset first. `prepared`: how many statements of the driver must be there; with fewer, or
    with one that was prepared in SQL, it is refused, for they may have been replaced. A tenant identifier holds no
    quote and no backslash (`model.tenant_id`), so it may stand here as a literal whatever standard_conforming_strings
    the session was left with.
    """
    until = ceil(server_now + window)
    tenant = binding.tenant
    proof = signer.turn(tenant, form=_FORM[binding.proof], pid=pid, nonce=nonce, until=until)
    before, answered = _BEHIND_RESET if resets else _ALONE
    said = Said(
        f"{before}SELECT tenantproxy.enter('{tenant}', {signer.kid}, {until}, '{proof.proof}', {prepared})",
        answered + data_row([f"{proof.echo} {tenant}"]) + _ROW_READY,
    )
    return said, proof.nonce


def keep(binding: Binding, *, unlock: str) -> Said:
    """The reset of a session that stays its tenant's. `unlock`: the name under which UNLOCK is prepared."""
    return Said(
        f"{_CLEAN}; SET {binding.setting} = '{binding.tenant}'; SET app.tenant_proof = 'bound'; EXECUTE \"{unlock}\"",
        _CLEANED + _SET + _SET + _UNLOCKED + _ROW_READY,
    )
