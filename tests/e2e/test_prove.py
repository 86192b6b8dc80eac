"""Does `tenantproxy prove` say the truth of a live deployment, sign it, and leave nothing behind?"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tenantproxy.demo.world import World
from tenantproxy.lifecycle.prove.canary import PREFIX
from tests.e2e.conftest import Command
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, until

PLACES = ("demo_shared", "demo_schemas", "demo_umbrella", "demo_wayne")


async def canaries(world: World) -> list[str]:
    """What is left of canary rows anywhere."""
    found = []
    for database in PLACES:
        admin = await world.connect(database)
        try:
            rows = await admin.fetch("SELECT relname::text FROM pg_class WHERE starts_with(relname, $1)", PREFIX)
            found += [row["relname"] for row in rows]
        finally:
            await admin.close()
    return found


async def test_all_holds_in_the_demos_world_by_every_door(
    demo_world: World, serve: Callable[..., Served], command: Command, tmp_path: Path
) -> None:
    config, report = demo_world.config, tmp_path / "report.json"
    served = serve(config)
    where = ("--http", served.public, "--pg", served.pg, "--timeout", "300")
    done = command("prove", "--config", str(config), *where, "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "isolation held" in done.stderr
    said: dict[str, Any] = json.loads(report.read_text())
    assert said["verdict"] == "held"
    tried = {(each["door"], each["kind"]) for each in said["results"] if each["state"] == "held"}
    doors = ("library", "port, transaction", "SQL over HTTP", "HTTP")
    assert tried >= {(door, kind) for door in doors for kind in ("row, bound", "schema", "database")}
    assert {each["state"] for each in said["results"]} == {"held", "nothing"}
    assert await canaries(demo_world) == []
    _check_signature(command, config, report)


def _check_signature(command: Command, config: Path, report: Path) -> None:
    genuine = command("prove", "--config", str(config), "--verify", str(report))
    assert (genuine.returncode, "genuine" in genuine.stderr) == (0, True)
    changed = report.with_name("changed.json")
    changed.write_text(report.read_text().replace('"schema"', '"row, bound"'))
    refused = command("prove", "--config", str(config), "--verify", str(changed))
    assert refused.returncode == 1
    assert "was changed" in refused.stderr
    other = command("prove", "--config", str(config), "--verify", str(report), TENANTPROXY_AUTH__KEY="k" * 32)
    assert other.returncode == 1


def test_what_cannot_be_tried_is_said_and_never_held(demo_world: World, command: Command) -> None:
    """No sidecar runs, and its listeners have no fixed port."""
    pair = ("--tenants", "umbrella, wayne")
    done = command("prove", "--config", str(demo_world.config), *pair, "--read-only")
    assert done.returncode == 2, done.stdout + done.stderr
    for what in ("NOT TRIED: all (database; port", "NOT TRIED: all (database; HTTP", "NOT TRIED: cross reads"):
        assert what in done.stderr
    wrong = command("prove", "--config", str(demo_world.config), "--tenants", "acme,wayne", "--door", "libary")
    assert wrong.returncode == 2
    assert "one of: library, port, sql, http" in wrong.stderr


# What a shell starts in the background ignores SIGINT, and so does all that it starts: not this process.
HEARING: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from tenantproxy.cli import main; main()"
)


@contextmanager
def running(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The library's part of it, in a process of its own."""
    arguments = ("prove", "--config", str(config), "--door", "library", "--tenants", "acme,globex")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", HEARING, *arguments],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)


async def test_a_run_that_is_interrupted_leaves_nothing_and_one_that_was_killed_is_cleaned_up_after(
    own_world: World, command: Command, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    there = "SELECT count(*) FROM pg_class WHERE starts_with(relname, $1)"
    async with AsyncExitStack() as stack:
        looking = await own_world.connect("demo_shared")  # kept: a run may take a second
        stack.push_async_callback(looking.close)
        for ending, code in ((signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGKILL, -signal.SIGKILL)):
            with running(own_world.config, log) as process:

                async def is_there(process: subprocess.Popen[bytes] = process) -> bool:
                    assert process.poll() is None, log.read_text()
                    return bool(await looking.fetchval(there, PREFIX))

                await until(is_there, "the canary rows are there")
                process.send_signal(ending)
                assert process.wait(timeout=PATIENCE) == code, log.read_text()
            assert len(await canaries(own_world)) == (ending is signal.SIGKILL)
            assert ("interrupted" in log.read_text()) == (ending is not signal.SIGKILL)
    command("prove", "--config", str(own_world.config), "--door", "http", "--tenants", "acme,globex")
    assert await canaries(own_world) == []
