"""How long does a tenant's life take? 200 databases made, 1,000 schemas migrated, also by a process that is killed."""

from __future__ import annotations

import asyncio
import json
import platform
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import asyncpg

from benchmarks.lifecycle_move import moving
from benchmarks.lifecycle_status import stopping
from benchmarks.measure import percentile
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run
from benchmarks.table import Verdict, at_most, figure, render
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle import install_registry
from tenantproxy.lifecycle.migrate import Migrator, targets_of
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.provisioner import ensure_database, ensure_role
from tenantproxy.model import Isolation, Placement, Tenant, tenant_id

__all__ = ["main"]

TENANTS: Final = 200
IN_SEQUENCE: Final = 20  # of the same databases, made as a script makes them; the rest would take as long each
TABLES: Final = 60
STOCK: Final = 20
SCHEMAS: Final = 1_000
APP: Final = "bench_app"
PASSWORD: Final = "of the benchmark"
_TABLE: Final = (
    "CREATE TABLE t{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, parent bigint{parent},"
    " at timestamptz NOT NULL DEFAULT now()); CREATE INDEX ON t{n} (name);"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeWorld:
    """A server, its main database with our tables, a database for schemas, and a folder for files."""

    server: EmbeddedPostgres
    folder: Path

    def settings(self, **sections: Any) -> Settings:
        """The configuration that `mapping` makes."""
        return Settings.from_mapping(self.mapping(**sections))

    def mapping(self, **sections: Any) -> dict[str, Any]:
        """A configuration for it, with these sections too."""
        server = self.server
        admin = {"user": server.superuser, "password": server.password}
        primary = {"host": server.host, "port": server.port, "user": APP, "password": PASSWORD, "ssl": "disable"}
        return {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {**primary, "max_connections": 40, "admin": admin}},
            "row": {"key": "k" * 32},
            "tenant_roles": {"key": "r" * 32},
            **sections,
        }

    async def admin(self, database: str = "postgres") -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        return await asyncpg.connect(**self.server.connect_args(database))


@asynccontextmanager
async def _opened_world(major: int) -> AsyncIterator[LifeWorld]:
    with TemporaryDirectory() as folder:
        async with EmbeddedPostgres(version=major, durable=False, max_connections=100) as server:
            world = LifeWorld(server=server, folder=Path(folder))
            conn = await world.admin()
            await ensure_role(conn, APP, password=PASSWORD)
            await ensure_database(conn, "main")
            await ensure_database(conn, "shared")
            await conn.close()
            main = await world.admin("main")
            await install_registry(main, app_role=APP)
            await main.close()
            yield world


def _schema() -> str:
    parents = ["", *(f" REFERENCES t{number - 1}" for number in range(1, TABLES))]
    return "\n".join(_TABLE.format(n=number, parent=parent) for number, parent in enumerate(parents))


async def creation(world: LifeWorld, options: Options) -> Part:
    """Databases of 60 tables by `tenants create`, and as a script makes them: CREATE DATABASE, then the files."""
    path = world.folder / "schema.sql"
    path.write_text(_schema())
    settings = world.settings(provision={"sql_files": [str(path)], "parallel": 4})
    places, each = asyncio.Semaphore(4), list[float]()

    async def one(number: int) -> None:
        async with places:
            begun = time.perf_counter()
            await making.create(wanted(settings, f"bench{number}"))
            each.append(time.perf_counter() - begun)

    started = time.perf_counter()
    async with Provisioner(settings).open() as making:
        await asyncio.gather(*(one(number) for number in range(TENANTS)))
    ours = time.perf_counter() - started
    conn, started = await world.admin(), time.perf_counter()
    for number in range(IN_SEQUENCE):
        await conn.execute(f"CREATE DATABASE by_hand{number}")
        inside = await world.admin(f"by_hand{number}")
        await inside.execute(path.read_text())
        await inside.close()
    by_hand = (time.perf_counter() - started) * TENANTS / IN_SEQUENCE
    await conn.close()
    rows = [
        ("tenants create, 4 at once", figure(ours), figure(percentile(each, 50) * 1000)),
        (f"CREATE DATABASE and the file, in sequence ({IN_SEQUENCE} of them)", figure(by_hand), ""),
    ]
    faster = by_hand / ours
    return Part(
        title=f"{TENANTS} database tenants of {TABLES} tables",
        text=render(("", "seconds for all", "ms each, median"), rows),
        data={"seconds": ours, "by_hand_seconds": by_hand, "each": each},
        verdicts=(
            at_most(f"{TENANTS} database tenants, proven and registered", 60, ours, "s"),
            Verdict(target="times faster than in sequence", wanted=">= 5x", measured=f"{faster:.1f}x", met=faster >= 5),
        ),
    )


async def from_stock(world: LifeWorld, options: Options) -> Part:
    """Tenants that take a database of the stock, one after the other; and of these the same without a stock."""
    path = world.folder / "schema.sql"
    path.write_text(_schema())
    settings = world.settings(
        provision={"sql_files": [str(path)], "stock": STOCK, "database": "s_{id}", "role": "s_{id}"}
    )
    taken, made = list[float](), list[float]()
    async with Provisioner(settings).open() as making:
        begun = time.perf_counter()
        assert await making.fill_stock() == STOCK
        filled = time.perf_counter() - begun
        for number in range(2 * STOCK):
            begun = time.perf_counter()
            saga = await making.create(wanted(settings, f"stock{number}"))
            (made if saga.stocked is None else taken).append((time.perf_counter() - begun) * 1000)
    assert len(taken) == STOCK
    rows = [
        ("from the stock", figure(percentile(taken, 50)), figure(max(taken))),
        ("from the template", figure(percentile(made, 50)), figure(max(made))),
    ]
    return Part(
        title=f"{STOCK} tenants from the stock, one after the other",
        text=render(("", "ms, median", "ms, most"), rows) + f"\n\nfilled in {figure(filled)} s",
        data={"taken_ms": taken, "made_ms": made, "filled_seconds": filled},
        verdicts=(
            at_most("from the stock, median", 100, percentile(taken, 50), "ms"),
            at_most("from the stock, each", 100, max(taken), "ms"),
        ),
    )


_RUN: Final = """
import asyncio, json, sys
from benchmarks.lifecycle import migrate_all
asyncio.run(migrate_all(json.load(sys.stdin)))
"""


async def migrate_all(mapping: Mapping[str, Any]) -> None:
    """What the process does that is killed; its configuration comes by a pipe, for it holds passwords."""
    settings = Settings.from_mapping(mapping)
    migrator = Migrator(settings)
    migrator.read()
    await migrator.run(targets_of(settings, _schemas()))


def _schemas() -> list[Tenant]:
    return [
        Tenant(
            id=tenant_id(f"s{number}"),
            placement=Placement(isolation=Isolation.SCHEMA, server="primary", database="shared", schema=f"s{number}"),
        )
        for number in range(SCHEMAS)
    ]


_FILES: Final = {
    "1_orders.sql": "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric); CREATE INDEX ON orders (total)",
    "2_once.sql": "INSERT INTO orders VALUES (1, 0)",
    "3_again.sql": "UPDATE orders SET total = total + 1; ALTER TABLE orders ADD note text",
}


async def migration(world: LifeWorld, options: Options) -> Part:
    """Schemas brought up by three files: in one go, and by a process that is killed half-way and one that goes on."""
    folder = world.folder / "migrations"
    folder.mkdir()
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    taken = {}
    for way in ("in one go", "killed half-way, and again"):
        conn = await world.admin("shared")
        await conn.execute("DROP SCHEMA IF EXISTS tenantproxy_migrations CASCADE")
        for tenant in _schemas():
            await conn.execute(f"DROP SCHEMA IF EXISTS {tenant.id} CASCADE; CREATE SCHEMA {tenant.id}")
        begun = time.perf_counter()
        if way != "in one go":
            await _killed(world, folder, conn)
        await _finished(world, folder)
        taken[way] = time.perf_counter() - begun
        done = await conn.fetch("SELECT place, count(*) AS files FROM tenantproxy_migrations.applied GROUP BY place")
        wrong = [row for row in done if row["files"] != len(_FILES)]
        sums = await asyncio.gather(*(_sum(world, [each.id for each in part]) for part in _parts(_schemas(), 4)))
        await conn.close()
        assert len(done) == SCHEMAS, f"{SCHEMAS - len(done)} were skipped"
        assert not wrong, wrong
        assert sum(sums) == SCHEMAS, "a file was applied twice, or not at all"
    rows = [(way, figure(seconds)) for way, seconds in taken.items()]
    return Part(
        title=f"{SCHEMAS} schema tenants, {len(_FILES)} files",
        text=render(("", "seconds"), rows),
        data=dict(taken),
        verdicts=(
            at_most(f"{SCHEMAS} schema tenants migrated", 60, taken["in one go"], "s"),
            Verdict(target="killed (-9) half-way: repeated, skipped", wanted="0, 0", measured="0, 0", met=True),
        ),
    )


def _parts(tenants: Sequence[Tenant], count: int) -> list[Sequence[Tenant]]:
    return [tenants[number::count] for number in range(count)]


async def _sum(world: LifeWorld, schemas: Sequence[str]) -> int:
    """What the third file left in all of them: 1 in each."""
    conn = await world.admin("shared")
    try:
        return sum([int(await conn.fetchval(f"SELECT sum(total) FROM {schema}.orders")) for schema in schemas])
    finally:
        await conn.close()


async def _process(world: LifeWorld, folder: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _RUN, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(world.mapping(migrations={"folder": str(folder)})).encode())
    process.stdin.close()
    return process


async def _killed(world: LifeWorld, folder: Path, conn: asyncpg.Connection) -> None:
    process = await _process(world, folder)
    query = "SELECT count(*) FROM tenantproxy_migrations.applied"
    while await _count(conn, query) < SCHEMAS * len(_FILES) // 2:
        await asyncio.sleep(0.01)
        assert process.returncode is None, "it ended before it was half-way"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    main = await world.admin("main")  # half a minute in which another process would wait for it is not what is measured
    await main.execute("UPDATE tenantproxy.migration_runs SET seen_at = now() - interval '1 hour'")
    await main.close()


async def _count(conn: asyncpg.Connection, query: str) -> int:
    try:
        found: int = await conn.fetchval(query)
    except asyncpg.UndefinedTableError:
        return 0
    return found


async def _finished(world: LifeWorld, folder: Path) -> None:
    process = await _process(world, folder)
    assert await process.wait() == 0


PARTS: Final[dict[str, Callable[[LifeWorld, Options], Awaitable[Part]]]] = {
    "move": moving,
    "status": stopping,
    "creation": creation,
    "stock": from_stock,
    "migration": migration,
}


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    asked = parser_of("lifecycle", __doc__, PARTS, rounds=1).parse_args(arguments)
    return run(asked, PARTS, partial(_run, asked.postgres), {})


async def _run(postgres: int, names: Sequence[str]) -> Done:
    async with _opened_world(postgres) as world:
        environment = {"PostgreSQL": world.server.version, "Python": platform.python_version(), **machine()}
        return environment, await in_turn(names, PARTS, world, Options(rounds=1), environment)
