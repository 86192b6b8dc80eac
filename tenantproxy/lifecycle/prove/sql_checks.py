"""Does what one tenant asks, forges or leaves behind show it another one's rows? Checks by SQL, through any door."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from contextlib import AsyncExitStack

from tenantproxy.lifecycle.prove.base import DoorClosed, Pair, Rows, SqlRefused, Talk, Trial
from tenantproxy.lifecycle.prove.poisons import GONE, STATE, Poison, forgeries, hidden_poisons, poisons, shadows
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.model import Isolation, Tenant

__all__ = [
    "cancelled",
    "cross_reads",
    "cross_writes",
    "forged",
    "identity",
    "knows",
    "left_behind",
    "own_rows",
    "parallel_turns",
    "poisons_of",
    "tried",
]

_PID = "SELECT pg_catalog.pg_backend_pid()"
_TURNS = 20  # of each client
_SESSIONS = 5  # in which it takes them
_PREPARED_UNKNOWN = "26000"


# --- what a tenant is shown ------------------------------------------------------------------------------------------
def identity(pair: Pair, tenant: Tenant) -> tuple[str, str]:
    """A query that says whose session it is, and what it must say."""
    place = tenant.placement
    if pair.isolation is Isolation.SCHEMA:
        return "SELECT pg_catalog.current_schema()", place.schema or ""
    if pair.isolation is Isolation.DATABASE:
        return "SELECT pg_catalog.current_database()", place.database
    if pair.kind.endswith("unsigned"):
        return f"SELECT pg_catalog.current_setting('{pair.setting}', true)", tenant.id
    return "SELECT tenantproxy.bound_tenant()", tenant.id


async def shown(at: Trial, talk: Talk, tenant: Tenant) -> str | None:
    """Why a session of `tenant` is not what it must be: its own, with its own rows; None: it is."""
    query, expected = identity(at.pair, tenant)
    if (said := await talk.ask(query)) != [[expected]]:
        return f"the session is not {tenant.id}'s" if said else "the session is no tenant's"
    if at.canary is None:
        return None
    rows = await talk.ask(f"SELECT tenant_id, secret FROM {at.canary.table}")
    if rows == [[tenant.id, at.canary.secret(tenant)]]:
        return None
    return f"rows of another tenant are shown to {tenant.id}" if rows else f"{tenant.id} does not see its own rows"


async def own_rows(at: Trial, outcome: Outcome) -> None:
    """Each of the two is served, as itself, and sees its own rows: without that nothing else would mean anything."""
    for tenant in (at.pair.first, at.pair.second):
        async with at.door.session(tenant) as talk:
            outcome.judge(tenant.id, await shown(at, talk, tenant))


def knows(at: Trial, seen: Iterable[str], tenant: Tenant) -> bool:
    """Whether what the other side heard has the secret of `tenant` in it."""
    secret = at.rows.secret(tenant)
    return any(secret in each for each in seen)


async def tried(talk: Talk, statements: Iterable[str]) -> list[str]:
    """All that comes back, errors too; an attacker goes on after an error, until the session ends."""
    seen: list[str] = []
    for statement in statements:
        try:
            seen += _texts(await talk.ask(statement))
        except SqlRefused as exc:
            seen.append(exc.text)
        except DoorClosed:
            break
    return seen


def _texts(rows: Rows) -> list[str]:
    return [value for row in rows for value in row if value is not None]


# --- across ----------------------------------------------------------------------------------------------------------
async def cross_reads(at: Trial, outcome: Outcome) -> None:
    """Asks for the other's rows by name, and for all there are."""
    first, second = at.pair.first, at.pair.second
    table, away = at.rows.table, at.rows.place(second)
    reads = {
        "all rows": f"SELECT * FROM {table}",
        "the other's rows": f"SELECT * FROM {table} WHERE tenant_id = '{second.id}'",
        "rows that are not its own": f"SELECT * FROM {table} WHERE tenant_id <> '{first.id}'",
        "the other's table": f"SELECT * FROM {away}",
        "how many there are": f"SELECT secret FROM {away} LIMIT 1 OFFSET 1",
        "locked rows": f"SELECT * FROM {away} FOR UPDATE",
    }
    for name, sql in reads.items():
        async with at.door.session(first) as talk:
            seen = await tried(talk, [sql])
        outcome.judge(name, "the other's row was read" if knows(at, seen, second) else None)


async def cross_writes(at: Trial, outcome: Outcome) -> None:
    """Writes into the other's rows, gives rows to it, takes rows from it; the server's admin looks what came of it."""
    first, second = at.pair.first, at.pair.second
    table, away, mine = at.rows.table, at.rows.place(second), at.rows.secret(first)
    writes = {
        "INSERT for the other": f"INSERT INTO {away} (tenant_id, secret) VALUES ('{second.id}', '{mine}')",
        "a row given away": f"UPDATE {away} SET tenant_id = '{second.id}', secret = '{mine}'",
        "UPDATE of the other's": f"UPDATE {away} SET secret = '{mine}' WHERE tenant_id = '{second.id}'",
        "UPDATE of what is not its own": f"UPDATE {away} SET secret = '{mine}' WHERE tenant_id <> '{first.id}'",
        "DELETE of the other's": f"DELETE FROM {away} WHERE tenant_id = '{second.id}'",
        "DELETE of what is not its own": f"DELETE FROM {away} WHERE tenant_id <> '{first.id}'",
        "TRUNCATE": f"TRUNCATE {away}",
        "INSERT into a table of that name": f"INSERT INTO {table} (tenant_id, secret) VALUES ('{second.id}', '{mine}')"
        if at.pair.isolation is Isolation.ROW
        else f"DROP TABLE {away}",
    }
    if at.pair.isolation is Isolation.DATABASE:  # one name leads to its own table: it cannot name the other's
        database = at.pair.second.placement.database.replace('"', '""')
        writes = {name: sql.replace(away, f'"{database}".{away}') for name, sql in writes.items() if away in sql}
    for name, sql in writes.items():
        async with at.door.session(first) as talk:
            await tried(talk, [sql])
        outcome.judge(name, await at.rows.damage())


async def forged(at: Trial, outcome: Outcome) -> None:
    """Says in every known way that it is the other one, then reads."""
    first, second = at.pair.first, at.pair.second
    for name, statements in forgeries(at.pair, table=at.rows.table, place=at.rows.place(second)).items():
        async with at.door.session(first) as talk:
            seen = await tried(talk, statements)
        outcome.judge(name, "the other's row was read" if knows(at, seen, second) else await at.rows.damage())


# --- one after the other ---------------------------------------------------------------------------------------------
async def left_behind(at: Trial, outcome: Outcome) -> None:
    """The first leaves something in its session; the second, on the same backend where they share, does not meet it."""
    first, second = at.pair.first, at.pair.second
    met, used = 0, set[str]()
    async with AsyncExitStack() as stays:
        victim = await stays.enter_async_context(at.door.session(second))
        clean = await _state(victim)
        if not at.door.turns_each_time:
            await stays.aclose()
        for poison in poisons_of(at, str(clean[0][0])):
            try:
                async with at.door.session(first) as talk:
                    used |= set(_texts(await talk.ask(_PID)))
                    await tried(talk, poison.statements)
            except DoorClosed as exc:
                outcome.untried.append(f"{poison.name}: {exc}")
                continue
            if at.door.turns_each_time:
                leak, pid = await _poisoned(at, victim, clean)
            else:
                async with at.door.session(second) as talk:
                    leak, pid = await _poisoned(at, talk, clean)
            met += pid in used
            outcome.judge(poison.name, leak)
    if at.pair.isolation is Isolation.ROW:
        outcome.note = f"the second was on a backend of the first {met} times"
        if not met and not outcome.leaks:
            outcome.untried.append("the two never had one backend: other clients keep the pool busy")


def poisons_of(at: Trial, role: str) -> list[Poison]:
    """All that the first may leave. `role`: which a clean session has."""
    other = at.pair.second
    read = f"SELECT secret FROM {at.canary.table}" if at.canary is not None else "SELECT 1"
    schema, setting = other.placement.schema or "public", at.pair.setting
    found = [
        *poisons(read=read, other=other.id, role=role, schema=schema, setting=setting),
        *hidden_poisons(other=other.id, schema=schema, setting=setting),
    ]
    if at.canary is not None:
        found += shadows(table=at.canary.table, read=read, lie=at.canary.secret(at.pair.first))
    return found


async def _state(talk: Talk) -> Rows:
    return await talk.ask(STATE)


async def _poisoned(at: Trial, talk: Talk, clean: Rows) -> tuple[str | None, str | None]:
    """What the second meets, and on which backend."""
    leak = None
    await talk.ask("BEGIN")
    pid = (await talk.ask(_PID))[0][0]
    try:
        state = await _state(talk)
        if state != clean:
            leak = "its session is not as it was"
        leak = leak or await shown(at, talk, at.pair.second)
        if leak is None:
            try:
                await talk.ask(GONE)
                leak = "a statement that the first prepared is there"
            except SqlRefused as exc:
                leak = None if exc.sqlstate == _PREPARED_UNKNOWN else f"EXECUTE says {exc.sqlstate}"
    except SqlRefused as exc:
        leak = f"the second is refused with {exc.sqlstate}"
    with contextlib.suppress(SqlRefused):
        await talk.ask("ROLLBACK")
    return leak, pid


# --- at once ---------------------------------------------------------------------------------------------------------
async def parallel_turns(at: Trial, outcome: Outcome) -> None:
    """Both ask at once, again and again, by several clients: each sees its own rows and hears its own answers."""
    pids: dict[str | None, set[str]] = {}

    async def turn(talk: Talk, tenant: Tenant) -> None:
        said = secrets.token_hex(8)
        answer = await talk.ask(f"SELECT '{said}', pg_catalog.pg_backend_pid()")
        leak = None if answer and answer[0][0] == said else "an answer to another question came"
        outcome.judge(tenant.id, leak or await shown(at, talk, tenant))
        pids.setdefault(answer[0][1] if answer else None, set()).add(tenant.id)

    async def client(tenant: Tenant) -> None:
        sessions = 1 if at.door.turns_each_time else _SESSIONS
        for _ in range(sessions):
            async with at.door.session(tenant) as talk:
                for _ in range(_TURNS // sessions):
                    await turn(talk, tenant)

    async with asyncio.TaskGroup() as group:
        for number in range(max(2, at.clients)):
            group.create_task(client((at.pair.first, at.pair.second)[number % 2]))
    if at.pair.isolation is Isolation.ROW:
        outcome.note = f"{sum(len(tenants) == 2 for tenants in pids.values())} of {len(pids)} backends served both"


async def cancelled(at: Trial, outcome: Outcome) -> None:
    """A call that is cancelled, in a statement and in a transaction, leaves nothing for the next one."""
    for name, statements in {
        "in a statement": ("SELECT pg_sleep(20)",),
        "in a transaction": ("BEGIN", "SET LOCAL work_mem = '99kB'", "SELECT pg_sleep(20)"),
        "in a failed transaction": ("BEGIN", "SELECT 1/0", "SELECT pg_sleep(20)"),
    }.items():
        begun = asyncio.Event()

        async def attacker(statements: tuple[str, ...] = statements, begun: asyncio.Event = begun) -> None:
            async with at.door.session(at.pair.first) as talk:
                await tried(talk, statements[:-1])
                begun.set()
                await tried(talk, statements[-1:])

        task = asyncio.create_task(attacker())
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.wait([task], timeout=0.05)  # so that the server has begun with the last statement
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with at.door.session(at.pair.second) as talk:
            try:
                outcome.judge(name, await shown(at, talk, at.pair.second))
            except SqlRefused as exc:
                outcome.judge(name, f"the second is refused with {exc.sqlstate}")
