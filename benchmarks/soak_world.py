"""Where does the soak happen? A deployment without tenants, its sidecar in a process of its own, and how tenants come.

Times that a day has room for are as much shorter as the day is: connections idle and live, and entries are kept, for
seconds. State: who is there, and whose rows were seen where they do not belong.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import aiohttp
import asyncpg

from benchmarks.probed import Probed, probed
from tenantproxy.auth.tokens import NothingRevoked, Tokens
from tenantproxy.config import Settings, load
from tenantproxy.demo.life_world import SHARED_BY_ALL, build_life_world
from tenantproxy.demo.world import World
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.status import delete
from tenantproxy.model import Isolation, Placement, Tenant, tenant_id

__all__ = ["BUDGET", "NAMED", "OPS", "ROWS", "Kind", "Resident", "SoakWorld", "log_of", "open_soak_world", "reloaded"]

Kind = Literal["row", "made row", "schema", "database"]
"""`row` tenants are entered into the registry by the application; the others are made over the admin listener."""

BUDGET: Final = 40  # connections to the server, as the configuration has it
NAMED: Final = 50  # tenants that have series
OPS: Final = "soak_ops"
ROWS: Final = 3  # of each tenant, marked by its name
_MAKERS: Final = 3  # tenants made or removed with admin credentials at once
_MAIN: Final = "life_main"
_POOLS: Final = "max_pools = 25\nidle_timeout = 4.0\nmax_lifetime = 50.0\nshared_size = 15\nmax_waiting = 50\n"
_REGISTRY: Final = "cache_ttl = 2.0\nnegative_ttl = 1.0\nmax_entries = 500\nstale_for = 50.0\n"
_MORE: Final = f"""
[metrics]
max_tenants = {NAMED}
[admin.tokens.soak]
role = "admin"
token_file = "soak_token"
[pg.users.{OPS}]
password_file = "ops_password"
console = true
"""


@dataclass(slots=True)
class Resident:
    """A tenant that is there. `epoch`: as of its last change; `is_stopped`: suspended just now."""

    id: str
    kind: Kind
    epoch: int = 0
    is_stopped: bool = False
    token: str = field(default="", repr=False)  # the one that it has, until the epoch is another one

    def tenant(self) -> Tenant:
        """For a token."""
        place = Placement(isolation=Isolation.ROW, server="primary", database=SHARED_BY_ALL)
        return Tenant(id=tenant_id(self.id), placement=place, epoch=self.epoch)


@dataclass(slots=True)
class SoakWorld:
    """All that the soak has, and what it has seen. `wrong`: rows of another tenant, or none where there are some."""

    world: World
    settings: Settings
    sidecar: Probed
    http: aiohttp.ClientSession
    tokens: Tokens
    admin_token: str = field(repr=False)
    ops_password: str = field(repr=False)
    main: asyncpg.Pool
    shared: asyncpg.Pool
    present: dict[str, Resident] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    making: int = 0  # tenants that are made or removed with admin credentials, or wait for it
    makers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAKERS))

    def check(self, door: str, tenant: str, names: list[str | None]) -> None:
        """Note what came by a door: every row must be that tenant's, and all of its rows must be there."""
        self.answers[door] += 1
        if sorted(str(name) for name in names) != [f"{tenant} {number}" for number in range(ROWS)]:
            self.wrong.append(f"{door} as {tenant}: {names[:5]}")

    # --- the admin listener ------------------------------------------------------------------------------------------
    async def ask(self, method: str, path: str, body: object = None, *, key: str = "") -> tuple[int, bytes]:
        """A request to the admin listener: its status and body."""
        headers = {"Authorization": f"Bearer {self.admin_token}"} | ({"Idempotency-Key": key} if key else {})
        url = f"{self.sidecar.admin}{path}"
        async with self.http.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.read()

    # --- tenants come and go -----------------------------------------------------------------------------------------
    async def come(self, name: str, kind: Kind) -> Resident:
        """It is there when this returns, with its rows. RuntimeError where it could not be made."""
        if kind == "row":
            await self.main.execute(
                "INSERT INTO tenantproxy.tenants (id, isolation, database) VALUES ($1, 'row', $2)", name, SHARED_BY_ALL
            )
        else:
            body = {"id": name, "isolation": kind.removeprefix("made ")}
            async with self._maker():
                status, said = await self.ask("POST", "/v1/tenants", body, key=f"make-{name}")
            if status != 201:
                raise RuntimeError(f"{name} was not made: {status} {said[:300]!r}")
        self.done[f"came: {kind}"] += 1
        resident = self.present[name] = Resident(name, kind)
        return resident

    async def go(self, resident: Resident) -> None:
        """Nothing of it is left when this returns."""
        del self.present[resident.id]
        if resident.kind == "row":
            await self.main.execute("DELETE FROM tenantproxy.tenants WHERE id = $1", resident.id)
            await self.shared.execute("DELETE FROM projects WHERE tenant_id = $1", resident.id)
        else:
            async with self._maker():
                await delete(self.settings, resident.id, grace_days=0, no_backup=True)
        self.done[f"went: {resident.kind}"] += 1

    @asynccontextmanager
    async def _maker(self) -> AsyncIterator[None]:
        self.making += 1
        try:
            async with self.makers:
                yield
        finally:
            self.making -= 1

    async def stop(self, resident: Resident, rng: random.Random) -> None:
        """Suspend it for a moment: what it is answered meanwhile is refused."""
        resident.is_stopped = True
        try:
            await self.ask("POST", f"/v1/tenants/{resident.id}/suspend", {})
            await asyncio.sleep(rng.random())
        finally:
            await self.ask("POST", f"/v1/tenants/{resident.id}/resume", {})
            found = await self.main.fetchval("SELECT epoch FROM tenantproxy.tenants WHERE id = $1", resident.id)
            resident.epoch, resident.token, resident.is_stopped = found or 0, "", False
        self.done["suspended and resumed"] += 1

    def token(self, resident: Resident) -> str:
        """Its access token, as a login would have given it."""
        resident.token = resident.token or self.new_token(resident)
        return resident.token

    def new_token(self, resident: Resident) -> str:
        """One more."""
        return self.tokens.issue(tenant=resident.tenant(), user="soak")


def _configured(world: World, folder: Path) -> tuple[str, str]:
    """Shorter times and more users in its file; the admin token and the password of the console."""
    token, password = secrets.token_hex(24), secrets.token_hex(24)
    for name, secret in (("soak_token", token), ("ops_password", password)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    text = world.config.read_text().replace("[pools]\n", f"[pools]\n{_POOLS}")
    text = text.replace("[registry]\n", f"[registry]\n{_REGISTRY}").replace(
        "acquire_timeout = 30.0", "acquire_timeout = 10.0"
    )
    world.config.write_text(text + _MORE)
    return token, password


@asynccontextmanager
async def open_soak_world(*, version: int | None = None) -> AsyncIterator[SoakWorld]:
    """The server and the sidecar; gone with everything when the block ends."""
    with tempfile.TemporaryDirectory(prefix="tenantproxy-soak-") as place:
        folder = Path(place)
        async with EmbeddedPostgres(version=version, max_connections=3 * BUDGET, durable=False) as server:
            world = await build_life_world(server, folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")
            token, password = _configured(world, folder)
            settings = load(world.config)
            assert settings.servers["primary"].max_connections == BUDGET
            async with (
                probed(world.config, folder / "log") as sidecar,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http,
                asyncpg.create_pool(**server.connect_args(_MAIN), min_size=1, max_size=4) as main,
                asyncpg.create_pool(**server.connect_args(SHARED_BY_ALL), min_size=1, max_size=4) as shared,
            ):
                yield SoakWorld(
                    world=world, settings=settings, sidecar=sidecar, http=http,
                    tokens=Tokens(settings.auth, tenants=None, revoked=NothingRevoked()),
                    admin_token=token, ops_password=password, main=main, shared=shared,
                )  # fmt: skip


def reloaded(world: SoakWorld) -> None:
    """Change what a reload takes over."""
    text = world.world.config.read_text()
    old, new = (
        ("max_size = 5\n", "max_size = 6\n") if "max_size = 5\n" in text else ("max_size = 6\n", "max_size = 5\n")
    )
    world.world.config.write_text(text.replace(old, new))


def log_of(world: SoakWorld) -> str:
    """What the sidecar wrote."""
    return (world.world.config.parent / "log").read_text(errors="replace")
