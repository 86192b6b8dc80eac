"""How does a session pass from one tenant to the next in one message? A simple query: its reset, and then the entry.

Facts, attacks and figures: docs/isolation.md; the other half is lifecycle/sql/turns.sql.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from tenantproxy.isolation.base import SOFT_RESET, soft_reset
from tenantproxy.isolation.proof import Signer, TurnForm, TurnProof
from tenantproxy.isolation.row import change_reset
from tenantproxy.model import Binding, Proof
from tenantproxy.wire.answers import command_complete, data_row, ready_for_query, row_description

__all__ = [
    "AGAIN",
    "FREE",
    "HELLO",
    "RESET",
    "RESET_ALONE",
    "SOFT",
    "TRUST",
    "UNLOCK",
    "Asked",
    "Said",
    "chained",
    "change",
    "enter",
    "keep",
    "until_second",
]

HELLO: Final = "SELECT tenantproxy.hello()"
"""Answers with the nonce that the next proof of this connection is made for."""

AGAIN: Final = "SELECT tenantproxy.trust_again($1, $2)::pg_catalog.text, $3::pg_catalog.text AS nonce"
"""Puts back whom the trusted form let in last. Parameters: tenant, until (unix seconds), nonce."""

TRUST: Final = "SELECT tenantproxy.trust($1, $2::integer, $3::bigint, $4, 0, true)"
"""The entry of the trusted form in a chain of messages, behind a reset that is confirmed. Parameters: see `chained`."""

_UNLOCK: Final = "SELECT pg_catalog.pg_advisory_unlock_all()::pg_catalog.text"
UNLOCK: Final = f"{_UNLOCK}, $1::pg_catalog.text AS nonce"
"""Releases advisory locks. Parameter: nonce."""

_FORM: Final[Mapping[Proof, TurnForm]] = {Proof.BOUND: "bound", Proof.TRUSTED: "first"}
_FUNCTION: Final = {Proof.BOUND: "enter", Proof.TRUSTED: "trust"}
_LAST: Final = {Proof.BOUND: "", Proof.TRUSTED: ", false"}  # its last argument

# By a default of its last user, the transaction of the message may have begun as another one.
_WRITING: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
# CLOSE comes first, because closing a cursor may run user code; RESET ALL does not touch the role.
_CLEAN: Final = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; DISCARD TEMP"
_SET: Final = command_complete("SET")
_READY: Final = ready_for_query()
_ROW_READY: Final = command_complete("SELECT 1") + _READY
_CLEANED: Final = b"".join(map(command_complete, ("CLOSE CURSOR ALL", "SET", "RESET", "UNLISTEN", "DISCARD TEMP")))
_ENTERED: Final = {proof: row_description([name]) for proof, name in _FUNCTION.items()}
_NONCE: Final = "?" * 32  # where a nonce is put; nothing else that is said here can look like it
_AGAIN: Final = row_description(["trust_again", "nonce"]) + data_row(["true", _NONCE])
_UNLOCKED: Final = row_description(["pg_advisory_unlock_all", "nonce"]) + data_row(["", _NONCE])


class Said(NamedTuple):
    """A simple query, which may hold a proof, and its whole answer."""

    sql: str
    answer: bytes

    def __repr__(self) -> str:
        return "Said()"


class Asked:
    """A simple query and its answer, for a nonce that is drawn each time it is said.

    All else in such an answer can be foreseen. By the nonce it is known that the server has read this very query as
    one, and that no answer too many, which a user of the session left under way, stands in its place.
    """

    __slots__ = ("_answer", "_sql")

    def __init__(self, sql: str, answer: bytes) -> None:
        self._sql = sql.split(_NONCE)
        self._answer = answer.split(_NONCE.encode())
        if not len(self._sql) == len(self._answer) == 2:
            raise ValueError("a nonce is said once and answered once")

    def said(self, nonce: str) -> Said:
        """With a `nonce` of 32 hexadecimal digits that no one else could know."""
        return Said(nonce.join(self._sql), nonce.encode().join(self._answer))


RESET: Final = Said(f"{_WRITING}; {_CLEAN}", _SET + _CLEANED + _READY)
"""Undoes what a session's last user left but for sequences and advisory locks. The entry discards and releases those:
the nonce that it needs is kept in a sequence."""

RESET_ALONE: Final = Asked(
    f"{RESET.sql}; SELECT '{_NONCE}' AS nonce",
    _SET + _CLEANED + row_description(["nonce"]) + data_row([_NONCE]) + _ROW_READY,
)
"""RESET, where the entry is a message of its own."""

FREE: Final = Asked(f"{_WRITING}; {_CLEAN}; {_UNLOCK}, '{_NONCE}' AS nonce", _SET + _CLEANED + _UNLOCKED + _ROW_READY)
"""RESET for a session that no entry follows at once: no client must wait for a lock that an idle session holds."""

_BOOL, _INT, _TEXT, _VOID = 16, 23, 25, 2278  # the numbers of types
_SOFT_ANSWER: Final = (
    b"".join(map(command_complete, ("CLOSE CURSOR ALL", "SET", "RESET", "UNLISTEN")))
    + row_description(["pg_advisory_unlock_all", "?column?"], [_VOID, _TEXT])
    + data_row(["", _NONCE])
    + b"".join(map(command_complete, ("SELECT 1", "DISCARD TEMP", "DISCARD SEQUENCES")))
)
SOFT: Final = Asked(soft_reset(_NONCE), _SOFT_ANSWER + _READY)
"""The reset of a session that is no tenant's afterwards, and was not entered."""


def change(prepared: int, proof: Proof) -> Asked:
    """`row.change_reset` in a message of its own: between two tenants of a session that no entry is made for."""
    sql = change_reset(prepared, proof).replace(SOFT_RESET, soft_reset(_NONCE))
    if proof is Proof.PLAIN:
        found = row_description(["?column?"], [_INT]) + data_row(["1"])
    else:
        found = row_description(["prepared_check"], [_BOOL]) + data_row(["t"])
    return Asked(sql, _SET + _SOFT_ANSWER + found + _ROW_READY)


_ALONE: Final = (f"{_WRITING}; ", _SET)
_BEHIND_RESET: Final = (f"{_WRITING}; {_CLEAN}; ", _SET + _CLEANED)


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
    until, kind = _with_window(server_now, window), binding.proof
    tenant = binding.tenant
    proof = signer.turn(tenant, form=_FORM[kind], pid=pid, nonce=nonce, until=until)
    before, answered = _BEHIND_RESET if resets else _ALONE
    said = Said(
        f"{before}SELECT tenantproxy.{_FUNCTION[kind]}"
        f"('{tenant}', {signer.kid}, {until}, '{proof.proof}', {prepared}{_LAST[kind]})",
        answered + _ENTERED[kind] + data_row([f"{proof.echo} {tenant}"]) + _ROW_READY,
    )
    return said, proof.nonce


def until_second(server_now: float, window: float) -> int:
    """The unix second up to which an entry at `server_now` is good that is to be so for `window` seconds."""
    return ceil(server_now + window)


def _with_window(server_now: float, window: float) -> int:
    """That second, and the window above it: the server finds out by it that a clock has jumped."""
    return ceil(window) << 32 | until_second(server_now, window)


def chained(
    binding: Binding, signer: Signer, *, pid: int, nonce: int, server_now: float, window: float
) -> tuple[tuple[str, ...], TurnProof]:
    """The parameters of TRUST on the backend `pid` that has this `nonce`, and what is secret of them.

    Its answer is the echo, a blank and the tenant.
    """
    until = _with_window(server_now, window)
    proof = signer.turn(binding.tenant, form="chained", pid=pid, nonce=nonce, until=until)
    return (binding.tenant, str(signer.kid), str(until), proof.proof), proof


def keep(binding: Binding, *, until: int, name: str) -> Asked:
    """The reset of a session that stays its tenant's, as it was let in until then (unix seconds).

    `name`: under which AGAIN is prepared for the trusted form, else UNLOCK.
    """
    if binding.proof is Proof.TRUSTED:
        said = f"{_CLEAN}; EXECUTE \"{name}\"('{binding.tenant}', {until}, '{_NONCE}')"
        return Asked(said, _CLEANED + _AGAIN + _ROW_READY)
    return Asked(
        f"{_CLEAN}; SET {binding.setting} = '{binding.tenant}'; SET app.tenant_proof = 'bound';"
        f" EXECUTE \"{name}\"('{_NONCE}')",
        _CLEANED + _SET + _SET + _UNLOCKED + _ROW_READY,
    )
