"""Can a client of the port reach another one by bytes? Pipelines that lose step, keys to cancel, settings, users."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tenantproxy.config import Pg
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.prove.base import DoorClosed, SqlRefused, Trial, WallOpen
from tenantproxy.lifecycle.prove.doors import PortDoor, PortTalk
from tenantproxy.lifecycle.prove.http_checks import forgeries
from tenantproxy.lifecycle.prove.port_client import PortClient, cancel_request
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.lifecycle.prove.sql_checks import shown
from tenantproxy.model import Tenant
from tenantproxy.raw.exchange import SYNC_NOW, parse, query, run
from tenantproxy.wire.frames import CLOSE, COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH, QUERY, frame

__all__ = [
    "cancel_keys",
    "desynchronised",
    "kept_settings",
    "limited",
    "limited_users",
    "token_passwords",
    "usable_users",
]

_TIMEOUT: Final = "100ms"  # of attackers and of those attacked: the same, so that nothing has to be set in between
_DUE: Final = 0.16  # seconds after which it has struck, or is about to
_ROUNDS: Final = 3  # questions of the second after each attack
_CANCELLED: Final = "57014"
_OUTAGES: Final = ("08", "53", "57P")  # the server's or the pool's, whatever is sent
_SETTINGS: Final = {"TimeZone": "Asia/Kathmandu", "application_name": "tenantproxy prove", "DateStyle": "German, DMY"}

_FLUSH: Final = frame(FLUSH)
_QUERIED: Final = parse("SELECT 1", []) + run() + query("SELECT 2")


def _door(at: Trial) -> PortDoor:
    if not isinstance(at.door, PortDoor):
        raise DoorClosed("it is about the port")
    return at.door


# --- pipelines -------------------------------------------------------------------------------------------------------
def _struck(message: bytes, late: bytes) -> tuple[bytes, bytes]:
    """A statement_timeout that is due between Parse and Sync; what is sent when it is."""
    return parse("SELECT 1", []) + _FLUSH, message + SYNC_NOW + late


def _attacks(mine: str) -> dict[str, tuple[bytes, ...]]:
    """What is sent, with a pause before each part but the first. `mine`: what no other client may hear."""
    late = query(f"SELECT '{mine}' FROM pg_sleep(0.04)")
    out = query(f"COPY (SELECT '{mine}' FROM generate_series(1, 1000)) TO STDOUT")
    return {
        "CopyData between Parse and Sync at a timeout": _struck(frame(COPY_DATA, b"x"), late),
        "CopyDone between Parse and Sync at a timeout": _struck(frame(COPY_DONE), late),
        "CopyFail between Parse and Sync at a timeout": _struck(frame(COPY_FAIL, b"x\0"), late),
        "copy messages outside of a COPY": (frame(COPY_DATA, b"x") + frame(COPY_DONE) + late + SYNC_NOW,),
        "a Flush with a body": (parse("SELECT 1", []) + frame(FLUSH, b"x") + late + SYNC_NOW + late,),
        "a Sync with a body": (parse("SELECT 1", []) + frame(0x53, b"x") + late,),
        "a query behind messages without a Sync": (_QUERIED + SYNC_NOW,),
        "many Syncs": (_QUERIED + SYNC_NOW * 5 + late,),
        "Close and Flush behind a query": (_QUERIED + frame(CLOSE, b"S\0") + _FLUSH + SYNC_NOW,),
        "gone with queries under way": (late * 5,),
        "gone in the middle of a message": (query("SELECT 1") + frame(QUERY, b"x" * 200)[:50],),
        "gone in the middle of a COPY": (out * 3,),
        "gone in a transaction": (query("BEGIN") + query("SET LOCAL work_mem = '77kB'") + late,),
    }


async def desynchronised(at: Trial, outcome: Outcome) -> None:
    """The first loses step with the server in every known way, while other clients ask: each hears its own answers.

    They are one of the second tenant, and another one of the first, to whom a backend goes without being bound again.
    """
    door = _door(at)
    mine = f"of the first {secrets.token_hex(8)}"
    for name, parts in _attacks(mine).items():
        async with (
            door.session(at.pair.second, statement_timeout=_TIMEOUT) as second,
            door.session(at.pair.first, statement_timeout=_TIMEOUT) as sister,
        ):
            client = await door.connect(at.pair.first, statement_timeout=_TIMEOUT)
            try:
                await _attack(client, name, parts)
                said = [  # first the client to whom the backend goes as it is
                    await _heard(at, sister, at.pair.first, mine),
                    await _heard(at, second, at.pair.second, mine),
                ]
            finally:
                client.abort()
        _count(outcome, name, said)


def _count(outcome: Outcome, name: str, said: Iterable[str | DoorClosed | None]) -> None:
    """One attack: a leak that either saw, else what kept one from seeing, else it held."""
    leak = next((each for each in said if isinstance(each, str)), None)
    closed = next((each for each in said if isinstance(each, DoorClosed)), None)
    if leak is None and closed is not None:
        outcome.untried.append(f"{name}: {closed}")
    else:
        outcome.judge(name, leak)


async def _heard(at: Trial, talk: PortTalk, tenant: Tenant, foreign: str) -> str | DoorClosed | None:
    try:
        return await _own_answers(at, talk, tenant, foreign)
    except DoorClosed as exc:
        return exc


async def _attack(client: PortClient, name: str, parts: tuple[bytes, ...]) -> None:
    with contextlib.suppress(OSError):  # the port may close: that is an answer too
        await client.query("SELECT 1")
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(_DUE)
            client.send(part)
        await client.writer.drain()
        if name.startswith("gone"):
            client.abort()


async def _own_answers(at: Trial, talk: PortTalk, tenant: Tenant, foreign: str) -> str | None:
    for _ in range(_ROUNDS):
        said = secrets.token_hex(8)
        try:
            answer = await talk.ask(f"SELECT '{said}', pg_catalog.current_setting('work_mem')")
        except SqlRefused as exc:
            if exc.sqlstate == _CANCELLED:
                continue  # its own timeout, on a busy machine
            if exc.sqlstate.startswith(_OUTAGES):
                raise DoorClosed(f"a client of {tenant.id} is refused with {exc.sqlstate}") from None
            return f"a client of {tenant.id} hears an error that is not its own: {exc.sqlstate}"
        if any(foreign in (value or "") for row in answer for value in row):
            return f"another client, of {tenant.id}, hears what the first asked for"
        if len(answer) != 1 or answer[0][0] != said:
            return f"a client of {tenant.id} hears an answer to another question"
        if answer[0][1] == "77kB":
            return f"a client of {tenant.id} is in the transaction of the first"
    try:
        return await shown(at, talk, tenant)
    except SqlRefused as exc:
        return None if exc.sqlstate == _CANCELLED else f"a client of {tenant.id} is refused with {exc.sqlstate}"


# --- cancelling ------------------------------------------------------------------------------------------------------
async def cancel_keys(at: Trial, outcome: Outcome) -> None:
    """A key cancels what its own client runs, and nothing of another one, whichever backend that is on."""
    door = _door(at)
    async with door.session(at.pair.first) as first, door.session(at.pair.second) as second:
        outcome.judge("its own statement", await _cancels_its_own(door, first))
        key = first.client
        forged = {
            "a late request": (key.pid, key.secret),
            "the pid of the other": (second.client.pid, key.secret),
            "a guessed secret": (second.client.pid, os.urandom(len(key.secret) or 4)),
        }
        for name, (pid, secret) in forged.items():
            if (pid, secret) == (second.client.pid, second.client.secret):
                outcome.judge(name, "two clients have one key")
                continue
            running = asyncio.create_task(second.ask("SELECT 'mine' FROM pg_sleep(0.2)"))
            await asyncio.wait([running], timeout=0.05)
            await _send_cancel(door, pid, secret)
            try:
                outcome.judge(name, None if await running == [["mine"]] else "another answer came")
            except SqlRefused as exc:
                outcome.judge(name, f"the second was cancelled ({exc.sqlstate})")


async def _cancels_its_own(door: PortDoor, talk: PortTalk) -> str | None:
    running = asyncio.create_task(talk.ask("SELECT pg_sleep(10)"))
    for _ in range(20):
        await asyncio.wait([running], timeout=0.05)
        await _send_cancel(door, talk.client.pid, talk.client.secret)
        if running.done():
            break
    try:
        await running
    except SqlRefused as exc:
        return None if exc.sqlstate == _CANCELLED else f"it ends with {exc.sqlstate}"
    return "it was not cancelled"


async def _send_cancel(door: PortDoor, pid: int, secret: bytes) -> None:
    async with asyncio.timeout(5.0):
        reader, writer = await asyncio.open_connection(door.host, door.port)
    try:
        writer.write(cancel_request(pid, secret))
        with contextlib.suppress(OSError):
            await reader.read(1)  # the end: a request to cancel is never answered
    finally:
        writer.transport.abort()


# --- settings --------------------------------------------------------------------------------------------------------
async def kept_settings(at: Trial, outcome: Outcome) -> None:
    """What a client sets stays its own: the other one never meets it, and it finds it again after the other's turn."""
    door = _door(at)
    async with door.session(at.pair.first) as first, door.session(at.pair.second) as second:
        for name, value in _SETTINGS.items():
            before = await second.ask(f"SHOW {name}")
            await first.ask(f"SET {name} = '{value}'")
            now = await second.ask(f"SHOW {name}")
            outcome.judge(f"{name} of the other", None if now == before else "the second meets what the first set")
            again = await first.ask(f"SHOW {name}")
            outcome.judge(f"its own {name}", None if again == [[value]] else "the first lost what it set")
            outcome.judge(f"rows with {name}", await shown(at, second, at.pair.second))


# --- users -----------------------------------------------------------------------------------------------------------
def usable_users(pg: Pg, pair: tuple[Tenant, Tenant]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """By pool mode, a user and a password that reach both of `pair`; and why further modes in use have none."""
    found: dict[str, tuple[str, str]] = {}
    without: dict[str, str] = {}
    for name, user in pg.users.items():
        reaches = user.tenants == "*" or all(tenant.id in user.tenants for tenant in pair)
        if not reaches or user.pool_mode in found:
            continue
        if user.cert or user.password is None:
            without[user.pool_mode] = f"of the user {name} the configuration holds no password"
            continue
        try:
            found[user.pool_mode] = (name, user.password.read())
        except ConfigurationError as exc:
            without[user.pool_mode] = str(exc)
    return found, [f"{mode}: {why}" for mode, why in without.items() if mode not in found]


async def limited_users(at: Trial, outcome: Outcome) -> None:
    """Users of the port are refused at a tenant that they may not reach, and so are wrong passwords and names."""
    door = _door(at)
    cases = {f"the user {name}": (name, password, tenant) for name, (password, tenant) in at.limited.items()}
    cases["a wrong password"] = (door.user, secrets.token_hex(16), at.pair.second)
    cases["an unknown user"] = (f"u{secrets.token_hex(8)}", door.password, at.pair.second)
    for case, (name, password, tenant) in cases.items():
        stranger = replace(door, user=name, password=password)
        client: PortClient | None = None
        try:
            client = await stranger.connect(tenant)
        except (DoorClosed, WallOpen):
            outcome.judge(case, None)
        else:
            outcome.judge(case, f"is let in to {tenant.id}")
        finally:
            if client is not None:
                client.abort()


def limited(pg: Pg, pair: tuple[Tenant, Tenant]) -> dict[str, tuple[str, Tenant]]:
    """By name, users who may not reach one of `pair`: the password, and that tenant."""
    found = {}
    for name, user in pg.users.items():
        closed = [tenant for tenant in pair if user.tenants != "*" and tenant.id not in user.tenants]
        if closed and user.password is not None and not user.cert:
            with contextlib.suppress(ConfigurationError):
                found[name] = (user.password.read(), closed[0])
    return found


# --- tokens as passwords ---------------------------------------------------------------------------------------------
async def token_passwords(at: Trial, outcome: Outcome) -> None:
    """The first's token opens nothing of the second, and forged ones open nothing at all."""
    door, first, second = _door(at), at.pair.first, at.pair.second
    mine, theirs = door.tokens[first.id], door.tokens[second.id]
    for case, token in {"the first's token": mine, **forgeries(mine, theirs, second.id)}.items():
        thief = replace(door, tokens={second.id: token})
        try:
            client = await thief.connect(second)
        except (DoorClosed, WallOpen):
            outcome.judge(case, None)
        else:
            client.abort()
            outcome.judge(case, f"is let in to {second.id}")
