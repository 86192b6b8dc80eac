"""Is BuildFlow's day as its description says? 25 agencies are founded, used, kept apart, saved, and one is let go."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import web

from tenantproxy.demo.stage import Seen, eventually
from tenantproxy.demo.system_stage import SystemStage, counted, seen, state, together
from tenantproxy.demo.system_world import SystemWorld
from tenantproxy.demo.tour import SystemStep
from tenantproxy.errors import PoolTimeout
from tenantproxy.router import Router

__all__ = ["STEPS", "invite", "service"]

_TABLES: Final = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
_OURS: Final = "SELECT count(*) FROM pg_database WHERE datname ~ '^agency_'"
_LATER: Final = "CREATE TABLE site_diary (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), entry text NOT NULL);\n"


def service(world: SystemWorld, router: Router) -> web.Application:
    """The platform's own application, from its folder."""
    application: web.Application = world.module("app").make_app(router, world.secret("platform_key"))
    return application


def invite(stage: SystemStage) -> Sequence[str]:
    """What can be tried while it serves, ready to be copied."""
    people = stage.world.secret("people_password")
    body = (
        f'{{"name": "Acme", "domain": "acme.example", "adminEmail": "ann@acme.example", "adminPassword": "{people}"}}'
    )
    login = f'{{"email": "ann@acme.example", "password": "{people}"}}'
    key = f"X-Platform-Key: {stage.world.secret('platform_key')}"
    return [
        "# an agency is founded",
        shlex.join(["curl", "-sS", "-H", key, "-d", body, f"{stage.url}/api/agencies"]),
        "# its administrator logs in; the answer names the agency's database",
        shlex.join(["curl", "-sS", "-d", login, f"{stage.url}/api/auth/login"]),
        "# and asks, with what he was told",
        f"curl -sS -H 'Authorization: Bearer TOKEN' -H 'X-Agency-Database: DATABASE' {stage.url}/api/projects",
    ]


async def founding(stage: SystemStage) -> AsyncIterator[Seen]:
    """Each gets a record, a database with the whole schema, and an administrator."""
    status, _ = await stage.ask("POST", "/api/agencies", _order(stage, 0))
    yield seen("POST /api/agencies without the platform's key", "401", status)
    key = stage.world.secret("platform_key")
    answers = await together(
        stage.ask("POST", "/api/agencies", _order(stage, number), **{"X-Platform-Key": key})
        for number in range(stage.size)
    )
    yield seen(
        f"POST /api/agencies, {stage.size} times", f"201: {stage.size}", counted(status for status, _ in answers)
    )
    names = stage.kept["agencies"] = [body["agencyDatabase"] for _, body in answers]
    yield seen("databases agency_<domain>_<uuid8>", str(stage.size), await stage.count(_OURS))
    tables = await together(stage.count(_TABLES, database=name) for name in names)
    yield seen("tables in each of them", f"68: {stage.size}", counted(tables))
    seed = (stage.world.config.parent / "seed.sql").read_text()
    for name in names:  # each with a row that names it
        await stage.router.tenant(name).execute(seed)
        await stage.router.tenant(name).execute("UPDATE projects SET name = $1", name)
    status, _ = await stage.ask("POST", "/api/agencies", _order(stage, 0), **{"X-Platform-Key": key})
    yield seen("the same domain again", "409", status)


async def logging_in(stage: SystemStage) -> AsyncIterator[Seen]:
    """An address and a password are enough: which agency it is, is found."""
    names = stage.kept["agencies"]
    answers = await together(stage.ask("POST", "/api/auth/login", _login(stage, n)) for n in range(stage.size))
    right = sum(body.get("agencyDatabase") == name for name, (_, body) in zip(names, answers, strict=True))
    yield seen("POST /api/auth/login of each administrator: its own agencyDatabase", str(stage.size), right)
    stage.kept["tokens"] = {name: body["token"] for name, (_, body) in zip(names, answers, strict=True)}
    status, _ = await stage.ask("POST", "/api/auth/login", {**_login(stage, 0), "password": "guess"})
    yield seen("a wrong password", "401", status)


async def requests(stage: SystemStage) -> AsyncIterator[Seen]:
    """Header and token name the same agency, or nothing is served."""
    names: list[str] = stage.kept["agencies"]
    answers = await together(_projects(stage, name, name) for name in names)
    own = sum([each["name"] for each in body] == [name] for name, (_, body) in zip(names, answers, strict=True))
    yield seen("GET /api/projects: its own row and no other", str(stage.size), own)
    pairs = [(one, other) for one, other in zip(names, names[1:] + names[:1], strict=True)]
    answers = await together(_projects(stage, one, other) for one, other in pairs)
    told = counted(f"{status} {body.get('error')}" for status, body in answers)
    yield seen("with the X-Agency-Database of another", f"403 Agency mismatch: {stage.size}", told)
    status, _ = await stage.ask("GET", "/api/projects", **{"X-Agency-Database": names[0]})
    yield seen("without a token", "401", status)
    status, _ = await stage.ask(
        "POST", "/api/projects", {"name": "Bridge"},
        **{"X-Agency-Database": names[0], "Authorization": f"Bearer {stage.kept['tokens'][names[0]]}"},
    )  # fmt: skip
    yield seen("POST /api/projects", "201", status)
    counts = await together(
        stage.count("SELECT count(*) FROM projects WHERE name = 'Bridge'", database=name) for name in names
    )
    yield seen("the new row in the agencies' databases", f"1: 1, 0: {stage.size - 1}", counted(counts))


async def pools(stage: SystemStage) -> AsyncIterator[Seen]:
    """20 connections to the main database, 10 to each agency's; one more waits."""
    settings = stage.router.settings
    yield seen("[main] max_size, [pools] max_size", "20, 10", f"{settings.main.max_size}, {settings.pools.max_size}")
    one, other = stage.kept["agencies"][:2]
    async with AsyncExitStack() as stack:
        for _ in range(settings.pools.max_size):
            await stack.enter_async_context(stage.router.tenant(one).connection())
        found = await stage.count("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", one)
        yield seen("one agency holds all it may: pg_stat_activity", "10", found)
        try:
            async with stage.router.tenant(one).connection(timeout=0.1):
                saw = "served"
        except PoolTimeout:
            saw = "PoolTimeout"
        yield seen("it asks for one more", "PoolTimeout", saw)
        status, _ = await _projects(stage, other, other)
        yield seen("another agency meanwhile", "200", status)
    async with AsyncExitStack() as stack:
        # Two are kept for the registry and logins.
        for _ in range(settings.main.max_size - 2):
            await stack.enter_async_context(stage.router.main().connection())
        found = await stage.count("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", settings.main.database)
        yield seen("connections to the main database, at most 20", "True", found <= settings.main.max_size + 1)


async def monitoring(stage: SystemStage) -> AsyncIterator[Seen]:
    """How many agencies, how large, how many connections."""
    status, body = await stage.ask("GET", "/api/agencies", **{"X-Platform-Key": stage.world.secret("platform_key")})
    rows = body["agencies"]
    sized = sum(row["bytes"] > 1_000_000 and row["connections"] >= 0 for row in rows)
    saw = f"{status} {body['count']} {sized}"
    yield seen("GET /api/agencies: each with its size and connections", f"200 {stage.size} {stage.size}", saw)
    asked = {row["agencyDatabase"]: row["bytes"] for row in rows}
    equal = [asked[name] == await stage.count("SELECT pg_database_size($1::name)", name) for name in asked]
    yield seen("sizes are PostgreSQL's", str(stage.size), sum(equal))


async def migration(stage: SystemStage) -> AsyncIterator[Seen]:
    """The next version of the schema, in every agency."""
    (stage.world.config.parent / "migrations" / "0024_site_diary.sql").write_text(_LATER)
    yield await stage.command("migrate run", f"24: {stage.size}", lambda rows: counted(row["version"] for row in rows))
    tables = await together(stage.count(_TABLES, database=name) for name in stage.kept["agencies"])
    yield seen("tables in each of them", f"69: {stage.size}", counted(tables))


async def saving(stage: SystemStage) -> AsyncIterator[Seen]:
    """All are saved and restored into a scratch place; one comes back under another name."""
    yield await stage.command(
        "backup create --all", f"saved: {stage.size + 1}", lambda rows: counted(row["state"] for row in rows)
    )
    yield await stage.command(
        "backup verify", f"True: {stage.size + 1}", lambda rows: counted(bool(row["verified_at"]) for row in rows)
    )
    first = stage.kept["agencies"][0]
    again = stage.kept["again"] = f"{first[:-9]}_restored"
    yield await stage.command(
        f"backup restore {first} --as {again}", f"restored {again}", lambda row: f"{row['state']} {row['tenant']}"
    )
    rows = await stage.router.tenant(again).fetch("SELECT name FROM projects ORDER BY name")
    yield seen("its projects", f"Bridge, {first}", ", ".join(sorted(row["name"] for row in rows)))


async def letting_go(stage: SystemStage) -> AsyncIterator[Seen]:
    """An agency that is not active any more is saved and refused; its neighbours are served."""
    last, neighbour = stage.kept["agencies"][-1], stage.kept["agencies"][0]
    yield await stage.command(f"tenants archive {last}", "archived", state)
    await stage.router.main().execute("UPDATE agencies SET status = 'archived' WHERE database_name = $1", last)
    heard = ""

    async def refused() -> bool:
        nonlocal heard
        status, _ = await _projects(stage, last, last)
        heard = str(status)
        return status != 200

    await eventually(refused)
    yield seen("with the token that it had", "401", heard)
    may = await stage.count("SELECT count(*) FROM pg_roles WHERE rolname = $1 AND rolcanlogin", last)
    yield seen("its role may log in at the server", "0", may)
    status, _ = await stage.ask("POST", "/api/auth/login", _login(stage, stage.size - 1))
    yield seen("its administrator logs in", "401", status)
    status, _ = await _projects(stage, neighbour, neighbour)
    yield seen("another agency", "200", status)


async def verdict(stage: SystemStage) -> AsyncIterator[Seen]:
    """Does isolation hold, as the catalogues say it and as an attacker finds it?"""
    first, again = stage.kept["agencies"][0], stage.kept["again"]
    yield await stage.command("doctor", "exit 0")
    yield await stage.command(f"prove --door library --tenants {first},{again} --timeout 300", "exit 0")


STEPS: Final[Sequence[SystemStep[SystemStage]]] = (
    founding, logging_in, requests, pools, monitoring, migration, saving, letting_go, verdict,
)  # fmt: skip


def _order(stage: SystemStage, number: int) -> dict[str, str]:
    domain = f"company{number:02d}.example"
    return {
        "name": f"Company {number:02d}", "domain": domain, "adminEmail": f"admin@{domain}",
        "adminPassword": stage.world.secret("people_password"),
    }  # fmt: skip


def _login(stage: SystemStage, number: int) -> dict[str, str]:
    order = _order(stage, number)
    return {"email": order["adminEmail"], "password": order["adminPassword"]}


async def _projects(stage: SystemStage, whose: str, header: str) -> tuple[int, Any]:
    token = stage.kept["tokens"][whose]
    headers = {"Authorization": f"Bearer {token}", "X-Agency-Database": header}
    return await stage.ask("GET", "/api/projects", **headers)
