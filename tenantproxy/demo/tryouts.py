"""What can a user type while the demo runs? Commands with working credentials; the tour runs the very same ones."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tenantproxy.demo.commands import ourselves, run_command
from tenantproxy.demo.people import EVERYWHERE, email_of
from tenantproxy.demo.routes import PROJECTS
from tenantproxy.demo.stage import Seen, Stage
from tenantproxy.demo.world import APP_ROLE, PG_USER, SHARED, DemoTenant, World
from tenantproxy.model import Isolation

__all__ = ["Tryout", "everything_printed", "tryouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tryout:
    """One command. `shows`: what its output must have in it; `fails`: whether it must end with an error."""

    about: str
    command: tuple[str, ...] = field(repr=False)  # with a token or a password in it
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    shows: str
    fails: bool = False

    def line(self) -> str:
        """As one types it in a shell."""
        return " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.command)]
        )


def tryouts(
    world: World, tokens: Mapping[str, str], *, public_url: str, admin_url: str, pg_address: str
) -> list[Tryout]:
    """Everything the demo prints, in this order."""
    own = ourselves()
    config = ("--config", str(world.config))
    acme = world.one(Isolation.ROW)
    projects = f"{public_url}{PROJECTS}"
    found = [
        _login(f"{tenant.id}'s Ann logs in", public_url, email_of(tenant.id), world.people_password, "access_token")
        for tenant in (acme, world.one(Isolation.SCHEMA), world.one(Isolation.DATABASE))
    ]
    found += [
        _login("Zoe is in two tenants", public_url, EVERYWHERE, world.people_password, "selection_token"),
        _login("a guessed password", public_url, EVERYWHERE, "guess", "invalid_credentials"),
    ]
    found += [
        Tryout(
            about=f"{tenant.id} ({tenant.isolation.value}) lists its projects",
            command=("curl", "-s", "-H", f"Authorization: Bearer {tokens[tenant.id]}", projects),
            shows=tenant.projects[0],
        )
        for tenant in world.tenants
    ]
    found += [
        *(_over_http(tenant, world, public_url) for tenant in (acme, world.one(Isolation.DATABASE))),
        Tryout(
            about=f"SQL over HTTP with {acme.id}'s token",
            command=(
                "curl",
                "-s",
                "-H",
                f"Authorization: Bearer {tokens[acme.id]}",
                "-H",
                "Neon-Array-Mode: true",
                "-d",
                json.dumps({"query": "select name from projects order by name"}),
                f"{public_url}/sql",
            ),
            shows=acme.projects[0],
        ),
        Tryout(about="a list without a token", command=("curl", "-s", projects), shows="unauthorized"),
        Tryout(about="is it ready?", command=("curl", "-s", f"{admin_url}/readyz?verbose"), shows="[+] router open"),
        Tryout(about="its metrics", command=("curl", "-s", f"{admin_url}/metrics"), shows="tenantproxy_pools "),
        Tryout(about="its pools", command=("curl", "-s", f"{admin_url}/v1/pools"), shows='"pools"'),
    ]
    psql = world.server.bin_dir / "psql"
    if psql.exists():
        found += [_over_the_port(str(psql), tenant, world, pg_address) for tenant in world.tenants]
        found.append(
            Tryout(
                about=f"{acme.id} on the PostgreSQL port says that it is another tenant",
                command=(
                    *_psql(str(psql), acme, pg_address),
                    "select set_config('app.current_tenant_id', 'globex', false); select * from projects",
                ),
                environment={"PGPASSWORD": world.pg_password},
                shows="ERROR:  tenantproxy:",
                fails=True,
            )
        )
        where = ("-h", world.server.host, "-p", str(world.server.port), "-U", APP_ROLE, "-d", SHARED)
        found.append(
            Tryout(
                about="straight to PostgreSQL as the app role: without a proof nothing can be read",
                command=(str(psql), "-X", *where, "-c", "select * from projects"),
                environment={"PGPASSWORD": world.password(APP_ROLE)},
                shows="ERROR:  tenantproxy:",
                fails=True,
            )
        )
    found += [
        Tryout(about="the tenants", command=(*own, "tenants", "list", *config), shows="umbrella"),
        Tryout(
            about=f"SQL as {acme.id}",
            command=(*own, "sql", acme.id, "select * from projects", *config),
            shows=acme.projects[0],
        ),
        Tryout(about="the pools, as a table", command=(*own, "pools", "--url", admin_url), shows="limit"),
    ]
    return found


def _psql(psql: str, tenant: DemoTenant, pg_address: str) -> tuple[str, ...]:
    return (psql, "-X", f"postgresql://{PG_USER}@{pg_address}/{tenant.id}", "-c")


def _over_the_port(psql: str, tenant: DemoTenant, world: World, pg_address: str) -> Tryout:
    return Tryout(
        about=f"psql, or any client in any language, as {tenant.id} ({tenant.isolation.value})",
        command=(*_psql(psql, tenant, pg_address), "select name from projects"),
        environment={"PGPASSWORD": world.pg_password},
        shows=tenant.projects[0],
    )


def _over_http(tenant: DemoTenant, world: World, public_url: str) -> Tryout:
    where = f"Neon-Connection-String: postgresql://{PG_USER}:{world.pg_password}@any.host/{tenant.id}"
    body = json.dumps({"query": "select name from projects where name = $1", "params": [tenant.projects[1]]})
    return Tryout(
        about=f"SQL over HTTP as {tenant.id} ({tenant.isolation.value}), as Neon's clients speak it",
        command=("curl", "-s", "-H", where, "-d", body, f"{public_url}/sql"),
        shows=tenant.projects[1],
    )


def _login(about: str, public_url: str, email: str, password: str, shows: str) -> Tryout:
    body = json.dumps({"email": email, "password": password})
    command = ("curl", "-s", "-H", "Content-Type: application/json", "-d", body, f"{public_url}/auth/login")
    return Tryout(about=about, command=command, shows=shows)


async def everything_printed(stage: Stage) -> AsyncIterator[Seen]:
    """Each command that the demo prints does what it is printed for."""
    printed = tryouts(
        stage.world, stage.tokens, public_url=stage.public_url, admin_url=stage.admin_url, pg_address=stage.pg_address
    )
    at_once = asyncio.Semaphore(os.cpu_count() or 2)

    async def tried(tryout: Tryout) -> Seen:
        async with at_once:
            code, output = await _run(tryout, stage.http)
        right = tryout.shows in output and (code != 0) == tryout.fails
        what = f"{Path(tryout.command[0]).name}: {tryout.about}"
        saw = tryout.shows if right else f"exit {code}: {output.strip()[-300:]}"
        return Seen(
            what=what, expected=f"{'an error' if tryout.fails else 'exit 0'}, shows {tryout.shows}", saw=saw, ok=right
        )

    for seen in await asyncio.gather(*map(tried, printed)):
        yield seen


async def _run(tryout: Tryout, http: aiohttp.ClientSession) -> tuple[int, str]:
    if tryout.command[0] == "curl" and shutil.which("curl") is None:
        return await _curl(tryout.command, http)
    typed = await run_command(tryout.command, tryout.environment)
    return typed.code, typed.out + typed.err


async def _curl(command: tuple[str, ...], http: aiohttp.ClientSession) -> tuple[int, str]:
    """What curl would do, on a machine without it."""
    headers = dict(each.split(": ", 1) for flag, each in itertools.pairwise(command) if flag == "-H")
    data = next((each for flag, each in itertools.pairwise(command) if flag == "-d"), None)
    async with http.request("GET" if data is None else "POST", command[-1], headers=headers, data=data) as response:
        return 0, await response.text()
