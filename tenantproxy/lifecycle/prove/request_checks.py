"""What can a tenant's requests of SQL over HTTP do to another's? Forgeries and poisons in transactions, and callers."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Final

from tenantproxy.lifecycle.prove.base import DoorClosed, Rows, SqlRefused, Trial
from tenantproxy.lifecycle.prove.poisons import GONE, STATE, forgeries
from tenantproxy.lifecycle.prove.request_door import RequestDoor, RequestTalk
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.lifecycle.prove.sql_checks import identity, knows, poisons_of, tried
from tenantproxy.model import Isolation

__all__ = ["batches_left_behind", "forged_batches", "request_callers"]

_PID: Final = "SELECT pg_catalog.pg_backend_pid()"
_MOST: Final = 5  # statements of one poison: fifty cursors are left by a request each as one is
_PREPARED_UNKNOWN: Final = "26000"
_ENDS: Final = frozenset(("BEGIN", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN"))


async def _batched(talk: RequestTalk, statements: tuple[str, ...]) -> list[str]:
    """Each by itself, then all as one transaction, and once more with its own end in it: all that comes back."""
    statements = statements[:_MOST]
    seen = await tried(talk, statements)
    inner = tuple(each for each in statements if each.partition(" ISOLATION")[0] not in _ENDS)
    for batch in (inner, (*inner, "COMMIT", *inner)):
        try:
            seen += [value for rows in await talk.batch(batch) for row in rows for value in row if value is not None]
        except SqlRefused as exc:
            seen.append(exc.text)
        except DoorClosed:
            continue
    return seen


async def forged_batches(at: Trial, outcome: Outcome) -> None:
    """Says in every known way, in one transaction, that it is the other one, then reads."""
    first, second = at.pair.first, at.pair.second
    ways = forgeries(at.pair, table=at.rows.table, place=at.rows.place(second))
    async with _door(at).session(first) as talk:
        for name, statements in ways.items():
            seen = await _batched(talk, statements)
            outcome.judge(name, "the other's row was read" if knows(at, seen, second) else await at.rows.damage())


async def batches_left_behind(at: Trial, outcome: Outcome) -> None:
    """The first leaves something behind, by single requests and by batches; the second's next one does not meet it."""
    door, met = _door(at), 0
    async with door.session(at.pair.first) as first, door.session(at.pair.second) as victim:
        clean = await victim.ask(STATE)
        for poison in poisons_of(at, str(clean[0][0])):
            pid = await first.ask(_PID)
            await _batched(first, poison.statements)
            leak, whose = await _met(at, victim, clean)
            met += pid == whose
            outcome.judge(poison.name, leak)
    if at.pair.isolation is Isolation.ROW:
        outcome.note = f"the second was on a backend of the first {met} times"


async def _met(at: Trial, victim: RequestTalk, clean: Rows) -> tuple[str | None, object]:
    """What the second meets in one transaction, and on which backend; and in a request by itself."""
    query, expected = identity(at.pair, at.pair.second)
    pid: object = None
    rows = f"SELECT tenant_id, secret FROM {at.rows.table}"
    own = [[at.pair.second.id, at.rows.secret(at.pair.second)]]
    try:
        pid, *batched = await victim.batch([_PID, STATE, query, rows])
        if batched[0] != clean:
            return "its session is not as it was", pid
        if batched[1:] != [[[expected]], own] or await victim.ask(rows) != own:
            return "it is not itself, or does not see its own rows alone", pid
        await victim.ask(GONE)
    except SqlRefused as exc:
        return None if exc.sqlstate == _PREPARED_UNKNOWN else f"the second is refused with {exc.sqlstate}", pid
    return "a statement that the first prepared is there", pid


async def request_callers(at: Trial, outcome: Outcome) -> None:
    """Who may not reach the second does not, whatever its connection string says of it."""
    door, second = _door(at), at.pair.second
    cases = {f"the user {name}": (name, password, tenant) for name, (password, tenant) in at.limited.items()}
    cases["a wrong password"] = (door.user, secrets.token_hex(16), second)
    cases["no password"] = (door.user, "", second)
    cases["an unknown user"] = (f"u{secrets.token_hex(8)}", door.password, second)
    for case, (user, password, tenant) in cases.items():
        stranger = replace(door, user=user, password=password)
        text = stranger.connection_string(tenant.id)
        await _refused(stranger, case, [("Neon-Connection-String", text)], outcome)
    mine, theirs = (door.connection_string(tenant.id) for tenant in (at.pair.first, second))
    named = {
        "two tenants in one string": [("Neon-Connection-String", f"{mine}?tenant={second.id}")],
        "a tenant among its options": [("Neon-Connection-String", f"{mine}?options=-c%20tenant%3D{second.id}")],
        "two connection strings": [("Neon-Connection-String", text) for text in (mine, theirs)],
        "a token of no one": [("Neon-Connection-String", mine), ("Authorization", "Bearer e30.e30.e30")],
        "nothing at all": [],
    }
    for case, headers in named.items():
        await _refused(door, case, headers, outcome)


async def _refused(door: RequestDoor, case: str, headers: list[tuple[str, str]], outcome: Outcome) -> None:
    try:
        said = await door.post({"query": "SELECT 1"}, headers)
    except DoorClosed as exc:
        outcome.untried.append(f"{case}: {exc}")
    else:
        outcome.judge(case, None if "code" in said else "is answered")


def _door(at: Trial) -> RequestDoor:
    if not isinstance(at.door, RequestDoor):
        raise DoorClosed("it is about SQL over HTTP")
    return at.door
