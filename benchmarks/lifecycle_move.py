"""How long do the requests of a tenant wait while it is moved? 100 MB, under four writers, to another server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from benchmarks.part import Options, Part
from benchmarks.table import Verdict, at_most, figure, render
from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.move import MoveOptions, Mover
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.provisioner import ensure_role

if TYPE_CHECKING:
    from benchmarks.lifecycle import LifeWorld

__all__ = ["moving"]

APP: Final = "bench_app"
PASSWORD: Final = "of the benchmark"

MEGABYTES: Final = 100
WRITERS: Final = 4
PAUSE_SECONDS: Final = 2.0
_TABLES: Final = """
CREATE TABLE filler (id bigint PRIMARY KEY, name text NOT NULL, payload text NOT NULL, at timestamptz NOT NULL);
CREATE INDEX filler_name ON filler (name);
CREATE TABLE writes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer int NOT NULL, number int NOT NULL);
"""
_FILL: Final = """
INSERT INTO filler SELECT n, md5(n::text), repeat(md5((n * 7)::text), 6), now() FROM generate_series(1, $1::int) n
"""
_ROWS_A_MEGABYTE: Final = 3_500


class _Writers:
    """Each inserts one row after the other; a request that waits for the move is one that takes long."""

    def __init__(self, router: Router, tenant: str) -> None:
        self.acknowledged: Counter[tuple[int, int]] = Counter()
        self.errors: Counter[str] = Counter()
        self.longest = 0.0
        self._scope = router.tenant(tenant)
        self._is_over = False

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._is_over:
            number += 1
            begun = time.perf_counter()
            try:
                await self._scope.execute("INSERT INTO writes (writer, number) VALUES ($1, $2)", writer, number)
            except Exception as exc:  # noqa: BLE001 - what is measured: whatever it is, it is counted
                self.errors[type(exc).__name__] += 1
                continue
            self.longest = max(self.longest, time.perf_counter() - begun)
            self.acknowledged[writer, number] += 1

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(self._write(number)) for number in range(WRITERS)]
        await asyncio.sleep(1)
        try:
            yield
            await asyncio.sleep(1)
        finally:
            self._is_over = True
            await asyncio.gather(*tasks)


async def moving(world: LifeWorld, options: Options) -> Part:
    """A database tenant of 100 MB to a second server: by logical replication, and copied in the pause."""
    rows, verdicts, data = [], [], {}
    logical = {"wal_level": "logical", "max_wal_senders": "8", "max_replication_slots": "8"}
    path = world.folder / "move.sql"
    path.write_text(_TABLES)
    with (
        EmbeddedPostgres(version=18, durable=False, settings=logical) as first,
        EmbeddedPostgres(version=18, durable=False) as second,
    ):
        for server in (first, second):
            conn = await asyncpg.connect(**server.connect_args("postgres"))
            await ensure_role(conn, APP, password=PASSWORD)
            await conn.close()
        servers = {name: _server(each) for name, each in (("first", first), ("second", second))}
        mapping = world.mapping(
            provision={"sql_files": [str(path)], "server": "first"}, pools={"acquire_timeout": 15.0}
        )
        mapping["servers"] |= servers
        settings = Settings.from_mapping(mapping)
        for tenant, replicate in (("followed", True), ("copied", False)):
            async with Provisioner(settings).open() as making:
                await making.create(wanted(settings, tenant))
            inside = await asyncpg.connect(**first.connect_args(f"tenant_{tenant}"))
            await inside.execute(_FILL, round(MEGABYTES * _ROWS_A_MEGABYTE * options.scale))
            size = await inside.fetchval("SELECT pg_database_size(current_database())") / 2**20
            await inside.close()
            async with Router(settings) as router:
                await router.listener.listening.wait()
                writers = _Writers(router, tenant)
                async with writers.writing(), Mover(settings).open() as mover:
                    begun = time.perf_counter()
                    moved = await mover.move(tenant, MoveOptions(server="second", replicate=replicate))
                    seconds = time.perf_counter() - begun
                there = await router.tenant(tenant).fetch(
                    "SELECT writer, number, count(*) AS n FROM writes GROUP BY 1, 2"
                )
            assert moved.followed is replicate
            found = {(row["writer"], row["number"]): row["n"] for row in there}
            lost = sum(key not in found for key in writers.acknowledged)
            doubled = sum(count > 1 for count in found.values())
            errors = dict(writers.errors)
            way = "logical replication" if replicate else "copied in the pause"
            rows.append(
                (way, figure(size), figure(seconds), figure(moved.paused_seconds), figure(writers.longest),
                 str(len(writers.acknowledged)), f"{lost}, {doubled}", str(errors or 0))
            )  # fmt: skip
            data[tenant] = {"megabytes": size, "seconds": seconds, "paused": moved.paused_seconds,
                            "longest": writers.longest, "lost": lost, "doubled": doubled, "errors": errors}  # fmt: skip
            if replicate:
                verdicts.append(
                    at_most("longest write of four during a move of 100 MB", PAUSE_SECONDS, writers.longest, "s")
                )
            verdicts.append(
                Verdict(
                    target=f"lost, doubled ({way})",
                    wanted="0, 0",
                    measured=f"{lost}, {doubled}",
                    met=not lost + doubled,
                )
            )
    heads = ("", "MB", "seconds", "paused, s", "longest write, s", "acknowledged", "lost, doubled", "errors")
    return Part(
        title=f"A database tenant of {MEGABYTES} MB moved to another server under {WRITERS} writers",
        text=render(heads, rows), data=data, verdicts=tuple(verdicts),
    )  # fmt: skip


def _server(server: EmbeddedPostgres) -> dict[str, Any]:
    admin = {"user": server.superuser, "password": server.password}
    place = {"host": server.host, "port": server.port, "user": APP, "password": PASSWORD, "ssl": "disable"}
    return {**place, "max_connections": 20, "admin": admin}
