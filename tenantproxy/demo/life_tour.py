"""Is a tenant's life as it is said to be? Each step types a command, and looks at what callers and PostgreSQL see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg

from tenantproxy.demo.commands import Typed
from tenantproxy.demo.life_commands import AGAIN, BANK, CAFE, CLINIC, KINDS, SHOP, LifeCommand, life_commands
from tenantproxy.demo.life_world import SHARED_BY_ALL, add_migration
from tenantproxy.demo.people import email_of
from tenantproxy.demo.stage import Seen, Stage, eventually
from tenantproxy.demo.tour import Step
from tenantproxy.demo.world import PG_USER
from tenantproxy.errors import TenantSuspended

__all__ = ["LIFE_STEPS"]

_PROJECTS: Final = {SHOP: ("Shelves", "Tills"), CLINIC: ("Scanner", "Ward"), BANK: ("Ledger", "Vault")}
_WRITERS: Final = 2


async def creation(stage: Stage) -> AsyncIterator[Seen]:
    """A tenant of each kind, each with its first account, which logs in at once."""
    commands = [_command(stage, f"create {tenant}") for tenant in (*KINDS, CAFE)]
    for command, typed in zip(commands, await asyncio.gather(*(each.run() for each in commands)), strict=True):
        yield _told(command, typed, "active", lambda row: row["state"])
    for tenant, projects in _PROJECTS.items():
        for name in projects:
            await stage.router.tenant(tenant).execute("INSERT INTO projects (name) VALUES ($1)", name)
        yield await _served(stage, tenant)


async def migration(stage: Stage) -> AsyncIterator[Seen]:
    """All places come to one version; row tenants share one."""
    add_migration(stage.world.config.parent)
    command = _command(stage, "migrate")
    yield _told(command, await command.run(), "2, 2, 2", lambda *rows: ", ".join(str(row["version"]) for row in rows))
    found = [await stage.router.tenant(each).fetchval("SELECT count(due) FROM projects") for each in KINDS]
    yield _seen("each tenant has the new column", "0, 0, 0", ", ".join(map(str, found)))


async def saving(stage: Stage) -> AsyncIterator[Seen]:
    """A backup is one when it was restored and compared."""
    for name, expected in (("back up", "saved"), ("verify", "verified")):
        command = _command(stage, name)
        yield _told(command, await command.run(), ", ".join([expected] * len(KINDS)), lambda *rows: ", ".join(
            row.get("state") or ("verified" if row["verified_at"] else "not verified") for row in rows
        ))  # fmt: skip


async def moves(stage: Stage) -> AsyncIterator[Seen]:
    """From rows to a schema to a database, while it is written to."""
    async with _writing(stage) as (written, refused):
        for name in ("to a schema", "to a database"):
            command = _command(stage, name)
            before = len(written)
            typed = await command.run()
            await eventually(partial(_is_more, written, before))
            kind = name.rpartition(" ")[2]
            yield _told(command, typed, f"{kind}, nothing left", lambda row: f"{row['isolation']}, {_left(row)}")
    rows = await stage.router.tenant(SHOP).fetch("SELECT name, count(*) AS n FROM projects GROUP BY name")
    found = {row["name"]: row["n"] for row in rows}
    lost, doubled = sum(name not in found for name in written), sum(count > 1 for count in found.values())
    what = f"of {len(written)} rows that {_WRITERS} writers wrote meanwhile"
    saw = f"{lost} lost, {doubled} doubled, {len(refused)} refused {', '.join(sorted(set(refused)))}"
    yield _seen(what, "0 lost, 0 doubled, 0 refused", saw.strip())
    await stage.router.tenant(SHOP).execute("DELETE FROM projects WHERE name = ANY($1)", written)
    rows_left = await _asked(stage, f"SELECT count(*) FROM projects WHERE tenant_id = '{SHOP}'", SHARED_BY_ALL)
    yield _seen(f"its rows in the shared tables of {SHARED_BY_ALL}", "0", rows_left)
    yield await _served(stage, SHOP)


async def suspension(stage: Stage) -> AsyncIterator[Seen]:
    """Every caller hears it: with a token, at login, through the library, and an idle client of the port."""
    token, (host, port) = await _token(stage, CLINIC), stage.pg_address.rsplit(":", 1)
    client = await asyncpg.connect(
        host=host, port=int(port), user=PG_USER, password=stage.world.pg_password, database=CLINIC, ssl=False
    )
    command = _command(stage, "suspend")
    yield _told(command, await command.run(), "suspended, closed", lambda row: f"{row['after']}, {_is_closed(row)}")
    try:
        is_closed = await eventually(lambda: _is_ended(client))
        yield _seen("an idle client of the PostgreSQL port", "ended", "ended" if is_closed else "still there")
    finally:
        client.terminate()
    yield _seen("HTTP with the token that it had", "401 token_expired", await _heard(stage, token))
    try:
        saw = str(await stage.router.tenant(CLINIC).fetchval("SELECT 'served'"))
    except TenantSuspended as exc:
        saw = exc.message
    yield _seen("a program that embeds the library", "the tenant is suspended", saw)
    status, body = await stage.log_in(email_of(CLINIC), stage.world.people_password)
    yield _seen(f"{email_of(CLINIC)} logs in", "401 invalid_credentials", f"{status} {body.get('code')}")
    command = _command(stage, "resume")
    yield _told(command, await command.run(), "active", lambda row: row["after"])
    yield await _served(stage, CLINIC)


async def export(stage: Stage) -> AsyncIterator[Seen]:
    """What a tenant holds, for who asks for it, signed."""
    command = _command(stage, "export")
    yield _told(command, await command.run(), "projects 2, users 1", lambda *rows: ", ".join(
        f"{row['what'].rpartition('.')[2]} {row['rows']}" for row in rows
    ))  # fmt: skip
    command = _command(stage, "check")
    yield _told(command, await command.run(), "True", lambda report: str(report["is_complete"]))


async def deletion(stage: Stage) -> AsyncIterator[Seen]:
    """With a grace, taken back; archived; then for good, behind a verified backup, and its name is not given again."""
    token = await _token(stage, BANK)
    command = _command(stage, "delete")
    yield _told(command, await command.run(), "waiting", lambda row: row["state"])
    yield _seen("HTTP with the token that it had", "401 token_expired", await _heard(stage, token))
    command = _command(stage, "undelete")
    yield _told(command, await command.run(), "active", lambda row: row["after"])
    yield await _served(stage, BANK)
    for name, state in (("archive", "archived"), ("delete now", "deleted")):
        command = _command(stage, name)
        yield _told(command, await command.run(), f"{state}, saved", lambda row: f"{row['state']}, {_is_saved(row)}")
    gone = await _asked(stage, "SELECT count(*) FROM pg_database WHERE datname = 'tenant_bank'")
    yield _seen("its database, and the role that was its own", "0, 0", f"{gone}, {await _roles(stage)}")
    command = _command(stage, "create again")
    yield _told(command, await command.run(), "a name is not given again", _refusal, code=1)


async def restoration(stage: Stage) -> AsyncIterator[Seen]:
    """What was deleted is in its last backup, and comes back as another tenant."""
    command = _command(stage, "restore")
    yield _told(command, await command.run(), f"restored {AGAIN}", lambda row: f"{row['state']} {row['tenant']}")
    yield await _served(stage, AGAIN, BANK)


async def verdict(stage: Stage) -> AsyncIterator[Seen]:
    """After all of that isolation holds."""
    commands = [_command(stage, name) for name in ("doctor", "prove")]
    for command, typed in zip(commands, await asyncio.gather(*(each.run() for each in commands)), strict=True):
        saw = "exit 0" if typed.code == 0 else f"exit {typed.code}: {(typed.out + typed.err).strip()[-600:]}"
        yield _seen(f"{command.title.partition(' --http')[0]}: {command.about}", "exit 0", saw)


LIFE_STEPS: Final[Sequence[Step]] = (
    creation, migration, saving, moves, suspension, export, deletion, restoration, verdict,
)  # fmt: skip


# --- a command -------------------------------------------------------------------------------------------------------
def _command(stage: Stage, name: str) -> LifeCommand:
    return life_commands(stage.world, public_url=stage.public_url, pg_address=stage.pg_address)[name]


def _told(command: LifeCommand, typed: Typed, expected: str, say: Any, *, code: int = 0) -> Seen:
    """What it said, in JSON: `say` gets its rows, or the one thing that it shows."""
    try:
        answer = json.loads(typed.out)
        saw = say(*answer) if isinstance(answer, list) else say(answer)
    except (ValueError, KeyError, TypeError):
        saw = f"exit {typed.code}: {(typed.out + typed.err).strip()[-600:]}"
    if typed.code != code:
        saw = f"exit {typed.code}: {saw} {typed.err.strip()[-600:]}"
    return _seen(command.title.removesuffix(" --json"), expected, saw)


def _seen(what: str, expected: str, saw: object) -> Seen:
    return Seen(what=what, expected=expected, saw=str(saw), ok=str(saw) == expected)


def _left(row: dict[str, Any]) -> str:
    return f"left {row['left']}" if row["left"] else "nothing left"


def _is_closed(row: dict[str, Any]) -> str:
    return "closed" if row["is_closed"] else "not closed at the server"


def _is_saved(row: dict[str, Any]) -> str:
    return "saved" if row["backup"] else "not saved"


def _refusal(row: dict[str, Any]) -> str:
    text = "a name is not given again"
    return text if text in (row["error"] or "") else str(row)


# --- what is seen ----------------------------------------------------------------------------------------------------
async def _token(stage: Stage, tenant: str) -> str:
    """Of its first account. KeyError where the login fails."""
    _, body = await stage.log_in(email_of(tenant), stage.world.people_password)
    return str(body["access_token"])


async def _heard(stage: Stage, token: str) -> str:
    """What a caller with this token hears once the change has arrived; the list of projects before that."""
    said = ""

    async def is_refused() -> bool:
        nonlocal said
        answer = await stage.ask(None, Authorization=f"Bearer {token}")
        said = f"{answer.status} {answer.body.get('code', ', '.join(answer.projects))}"
        return answer.status != 200

    await eventually(is_refused)
    return said


async def _served(stage: Stage, tenant: str, owner: str | None = None) -> Seen:
    """The first account logs in, without naming the tenant, and lists its projects; `owner`: who the account was of."""
    email, projects = email_of(owner or tenant), _PROJECTS[owner or tenant]
    expected, saw = f"{tenant}: {', '.join(projects)}", ""

    async def is_served() -> bool:
        nonlocal saw
        status, body = await stage.log_in(email, stage.world.people_password)
        answer = await stage.ask(None, Authorization=f"Bearer {body.get('access_token')}")
        saw = f"{body.get('tenant', status)}: {', '.join(answer.projects) or answer.body.get('code')}"
        return saw == expected

    await eventually(is_served)
    return _seen(f"{email} logs in and lists projects", expected, saw)


async def _asked(stage: Stage, query: str, database: str | None = None) -> int:
    """A number that a superuser sees."""
    conn = stage.watch if database is None else await stage.world.connect(database)
    try:
        return int(await conn.fetchval(query))
    finally:
        if conn is not stage.watch:
            await conn.close()


async def _roles(stage: Stage) -> int:
    return await _asked(stage, "SELECT count(*) FROM pg_roles WHERE rolname = 'tenant_bank'")


async def _is_ended(client: asyncpg.Connection) -> bool:
    return bool(client.is_closed())


async def _is_more(written: list[str], before: int) -> bool:
    return len(written) > before + 10


@asynccontextmanager
async def _writing(stage: Stage) -> AsyncIterator[tuple[list[str], list[str]]]:
    """Some that write as the shop, all the time: names of what was acknowledged, and what others were refused by."""
    written, refused = list[str](), list[str]()
    is_over = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            name = f"order {writer}-{number}"
            try:
                await stage.router.tenant(SHOP).execute("INSERT INTO projects (name) VALUES ($1)", name)
                written.append(name)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
                refused.append(f"{type(exc).__name__}: {exc}")
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(_WRITERS):
            tasks.create_task(write(writer))
        try:
            yield written, refused
        finally:
            is_over.set()
