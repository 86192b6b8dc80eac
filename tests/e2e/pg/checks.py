"""What must hold for every client behind the port? Each check gets a client and a seat, and asserts.

Programs in other languages do the same under the same names, as far as their client can.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pytest

from tests.e2e.pg.clients.base import Client, Session
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE, until

__all__ = ["BIG", "CHECKS"]

Check = Callable[[Client, Seat], Awaitable[None]]

BIG: Final = 50 * 1024 * 1024
_BIG_QUERY: Final = "SELECT repeat('x', 1048576) FROM generate_series(1, 50)"
_NAMES: Final = "SELECT name FROM projects ORDER BY name"
_AWKWARD: Final = ["a\tb", "back\\slash", 'quo"te', "Ünïcode 漢字", "", "\\N", "\\."]


@asynccontextmanager
async def session(client: Client, seat: Seat, tenant: str = "", *, user: str = "") -> AsyncIterator[Session]:
    """One connection, closed at the end."""
    conn = await client.connect(seat, tenant or seat.tenant, user=user)
    try:
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def sessions(client: Client, seat: Seat, count: int, tenant: str = "") -> AsyncIterator[list[Session]]:
    """Several of one tenant."""
    opened: list[Session] = []
    try:
        for _ in range(count):
            opened.append(await client.connect(seat, tenant or seat.tenant))  # noqa: PERF401 - one may fail
        yield opened
    finally:
        for each in opened:
            await each.close()


async def fails(client: Client, running: Awaitable[object], state: str) -> None:
    """`running` ends with this SQLSTATE."""
    with pytest.raises(Exception) as caught:
        await running
    assert client.state(caught.value) == state, caught.value


def _mark() -> str:
    return secrets.token_hex(6)


def _key() -> int:
    return secrets.randbelow(2**40)


async def own_rows(client: Client, seat: Seat) -> None:
    """Only its own, also while the neighbour works on the same backends."""

    async def reads(tenant: str, expected: tuple[str, ...]) -> None:
        async with session(client, seat, tenant, user=seat.guest) as conn:
            for _ in range(8):
                assert await conn.rows(_NAMES) == [(name,) for name in expected]
                assert await conn.prepared(_NAMES) == [(name,) for name in expected]

    await asyncio.gather(
        *(reads(seat.tenant, seat.rows) for _ in range(2)), *(reads(seat.other, seat.other_rows) for _ in range(2))
    )


async def transactions(client: Client, seat: Seat) -> None:
    """What is committed is there for others, what is rolled back is not."""
    mark = _mark()
    count = "SELECT count(*) FROM notes WHERE body = $1"
    async with sessions(client, seat, 2) as (one, other):
        await one.begin()
        await one.rows("INSERT INTO notes (body) VALUES ($1)", mark)
        assert await one.rows(count, mark) == [(1,)]
        assert await other.rows(count, mark) == [(0,)]
        await one.rollback()
        assert await one.rows(count, mark) == [(0,)]
        await one.begin()
        await one.rows("INSERT INTO notes (body) VALUES ($1)", mark)
        await one.rows("SAVEPOINT here")
        await one.rows("INSERT INTO notes (body) VALUES ($1)", mark)
        await one.rows("ROLLBACK TO here")
        await one.commit()
        assert await other.rows(count, mark) == [(1,)]
        await other.rows("DELETE FROM notes WHERE body = $1", mark)
        assert await one.rows(count, mark) == [(0,)]


async def prepared(client: Client, seat: Seat) -> None:
    """Statements of several clients, under names that collide, over many transactions on one backend."""
    pids: list[set[int]] = [set(), set(), set()]
    async with sessions(client, seat, 3, seat.crowded) as conns:
        for turn in range(12):
            for number, conn in enumerate(conns):
                if turn % 3 == 2:
                    await conn.begin()
                sql = f"SELECT CAST($1 AS int) + {1000 * number}, CAST($2 AS text), pg_backend_pid()"
                ((total, text, pid),) = await conn.prepared(sql, turn, f"text {turn}")
                assert (total, text) == (turn + 1000 * number, f"text {turn}")
                pids[number].add(pid)
                names = await conn.prepared(f"SELECT name FROM projects WHERE name <> $1 AND {number} = {number}", "-")
                assert sorted(names) == [(f"{seat.crowded} {n}",) for n in (1, 2, 3)]
                if turn % 3 == 2:
                    await conn.commit()
    if seat.mode == "transaction":
        assert pids[0] & pids[1] & pids[2], "no backend was shared: nothing was tried"


async def errors(client: Client, seat: Seat) -> None:
    """They carry their SQLSTATE, and the connection goes on."""
    async with session(client, seat) as conn:
        for sql, state in (
            ("SELECT 1/0", "22012"),
            ("SELECT * FROM nothing_here", "42P01"),
            ("SELEC 1", "42601"),
            (f"INSERT INTO projects (name) VALUES ('{seat.rows[0]}')", "23505"),
        ):
            await fails(client, conn.rows(sql), state)
            assert await conn.rows("SELECT 7") == [(7,)]
        await fails(client, conn.prepared("SELECT 1 / CAST($1 AS int)", 0), "22012")
        assert await conn.prepared("SELECT 1 / CAST($1 AS int)", 1) == [(1,)]
        await conn.begin()
        assert await conn.rows("SELECT 8") == [(8,)]
        await fails(client, conn.prepared("SELECT 1 / CAST($1 AS int)", 0), "22012")
        await conn.rollback()
        assert await conn.prepared("SELECT 1 / CAST($1 AS int)", 1) == [(1,)]


async def cancel(client: Client, seat: Seat) -> None:
    """A cancelled statement ends, a concurrent one does not, and the connection goes on."""
    keys = victims, bystanders, held = _key(), _key(), _key()

    async def taken(probe: Session, key: int) -> bool:
        return await probe.rows("SELECT pg_try_advisory_xact_lock($1)", key) == [(False,)]

    async with sessions(client, seat, 4) as (victim, bystander, keeper, probe):
        await keeper.begin()
        await keeper.rows(f"SELECT CAST(pg_advisory_xact_lock({held}) AS text)")
        waits = "SELECT CAST(pg_advisory_xact_lock({}) AS text) || CAST(pg_advisory_xact_lock({}) AS text) || '{}'"
        asleep = asyncio.create_task(victim.rows(waits.format(victims, held, "never")))
        concurrent = asyncio.create_task(bystander.rows(waits.format(bystanders, held, "unharmed")))
        for key in keys[:2]:
            await until(partial(taken, probe, key), "both statements run")
        await victim.cancel()
        await fails(client, asleep, "57014")
        assert not concurrent.done()
        await keeper.commit()
        assert await concurrent == [("unharmed",)]
        assert await victim.rows("SELECT 7") == [(7,)]
        assert await victim.prepared("SELECT CAST($1 AS int)", 8) == [(8,)]


async def late_cancel(client: Client, seat: Seat) -> None:
    """Who has nothing running cancels nothing, not even what runs on the backend it had."""
    async with sessions(client, seat, 2, seat.crowded) as (late, working):
        assert await late.rows("SELECT 7") == [(7,)]
        await working.begin()
        assert await working.rows("SELECT 8") == [(8,)]
        sleeping = asyncio.create_task(working.rows("SELECT CAST(pg_sleep(0.3) AS text) || 'unharmed'"))
        await late.cancel()
        assert await sleeping == [("unharmed",)]
        await working.commit()


async def copy(client: Client, seat: Seat) -> None:
    """COPY goes both ways, an end in the middle leaves nothing, and the connection goes on."""
    mark = _mark()
    bodies = [f"{mark} {text}" for text in _AWKWARD] + [f"{mark} {n:05d} {'y' * 200}" for n in range(3000)]
    count = "SELECT count(*) FROM notes WHERE body LIKE $1"
    async with session(client, seat) as conn:
        await conn.copy_in(seat.copy_into, bodies)
        assert await conn.rows(count, f"{mark}%") == [(len(bodies),)]
        found = {body for (body,) in await conn.rows("SELECT body FROM notes WHERE body LIKE $1", f"{mark}%")}
        assert found == set(bodies)
        out = await conn.copy_out(f"SELECT body FROM notes WHERE body LIKE '{mark} 0%' ORDER BY body")
        assert out.decode().splitlines() == sorted(bodies[len(_AWKWARD) :])
        await conn.begin()
        await conn.copy_in(seat.copy_into, [f"{mark} gone"])
        await conn.rollback()
        await fails(client, conn.copy_in("nothing_here", ["x"]), "42P01")
        if seat.kind == "row":  # PostgreSQL's own limit
            await fails(client, conn.copy_in("notes", [mark]), "0A000")
        assert await conn.rows(count, f"{mark}%") == [(len(bodies),)]
        await conn.rows("DELETE FROM notes WHERE body LIKE $1", f"{mark}%")


async def settings(client: Client, seat: Seat) -> None:
    """What clients expect to keep of their session is kept, each client its own, whichever backend serves it."""
    wanted = (
        {"TimeZone": "Europe/Vienna", "application_name": "first", "extra_float_digits": "0"},
        {"TimeZone": "Asia/Tokyo", "application_name": "second", "extra_float_digits": "2"},
        {"TimeZone": "UTC", "application_name": "third", "extra_float_digits": "-1"},
    )
    paths = (f"{seat.crowded_schema}, pg_catalog", f"{seat.crowded_schema}", f"pg_catalog, {seat.crowded_schema}")
    async with sessions(client, seat, 3, seat.crowded) as conns:
        for conn, values, path in zip(conns, wanted, paths, strict=True):
            for name, value in values.items():
                await conn.rows(f"SET {name} = '{value}'")
            await conn.rows(f"SET search_path TO {path}")
        for _ in range(3):
            for conn, values, path in zip(conns, wanted, paths, strict=True):
                for name, value in values.items():
                    assert await conn.rows(f"SELECT current_setting('{name}')") == [(value,)], name
                shown = await conn.rows("SELECT replace(current_setting('search_path'), '\"', '')")
                assert shown == [(path,)]
                assert len(await conn.rows(_NAMES)) == 3
        # Undone with its transaction, as everywhere.
        await conns[0].begin()
        await conns[0].rows("SET application_name = 'not for long'")
        await conns[0].rollback()
        assert await conns[0].rows("SELECT current_setting('application_name')") == [("first",)]


async def listen(client: Client, seat: Seat) -> None:
    """Notifications come. (In transaction mode LISTEN keeps the backend for its client.)"""
    channel = f"channel_{_mark()}"
    async with sessions(client, seat, 2) as (listener, sender):
        await listener.listen(channel)
        await sender.rows("SELECT CAST(pg_notify($1, $2) AS text)", channel, "hello")
        async with asyncio.timeout(PATIENCE):
            assert await listener.notified() == "hello"


async def big_results(client: Client, seat: Seat) -> None:
    """50 MB arrive whole, and the connection goes on."""
    async with session(client, seat) as conn:
        assert await conn.size(_BIG_QUERY) == BIG
        assert await conn.rows("SELECT 7") == [(7,)]


async def other_tenants(client: Client, seat: Seat) -> None:
    """Neither by name, nor by SQL."""
    with pytest.raises(Exception) as caught:
        await client.connect(seat, seat.other)
    assert client.state(caught.value) in ("28P01", None)
    assert "password authentication failed" in str(caught.value)
    async with session(client, seat) as conn:
        if seat.trespass_state:
            await fails(client, conn.rows(seat.trespass), seat.trespass_state)
        else:
            assert await conn.rows(seat.trespass) == []
            await conn.rows(f"SELECT set_config('app.current_tenant_id', '{seat.other}', false)")
            # On that backend it is an error, on another one, or after its reset, it finds nothing.
            (found,) = await asyncio.gather(conn.rows(seat.trespass), return_exceptions=True)
            assert (client.state(found) == "42501") if isinstance(found, BaseException) else found == []
    async with session(client, seat) as conn:
        assert await conn.rows(_NAMES) == [(name,) for name in seat.rows]


CHECKS: Final[dict[str, Check]] = {
    check.__name__: check
    for check in (
        own_rows,
        transactions,
        prepared,
        errors,
        cancel,
        late_cancel,
        copy,
        settings,
        listen,
        big_results,
        other_tenants,
    )
}
