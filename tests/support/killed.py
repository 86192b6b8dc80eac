"""How is a process killed behind a step of a move? By itself, with SIGKILL: forked for each move from one that waits.

`python -m tests.support.killed` reads one JSON object a line, and writes the signal that ended that move's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.lifecycle.move import MoveOptions, Mover, MoveState
from tenantproxy.model import Isolation

__all__ = ["Killed", "killed_movers"]


class Killed:
    """Moves tenants, each in a process that is killed when it has told of a state."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def move(self, mapping: Mapping[str, Any], tenant: str, to: Isolation, *, behind: MoveState) -> None:
        """Raises AssertionError where it was not killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"mapping": mapping, "tenant": tenant, "to": to.value, "behind": behind.value}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        ended_by = int(await self._process.stdout.readline())
        assert ended_by == signal.SIGKILL, f"it came to its end, by {ended_by}"


@asynccontextmanager
async def killed_movers() -> AsyncIterator[Killed]:
    """One process that forks the others."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.killed", stdin=pipe, stdout=pipe, limit=2**20
    )
    try:
        yield Killed(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _move(job: Mapping[str, Any]) -> None:
    def told(state: MoveState) -> None:
        if state == job["behind"]:
            os.kill(os.getpid(), signal.SIGKILL)

    async with Mover(Settings.from_mapping(job["mapping"]), told=told).open() as mover:
        await mover.move(job["tenant"], MoveOptions(isolation=Isolation(job["to"]), drop_old=True))


def _main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(_move(json.loads(line)))
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)


if __name__ == "__main__":
    _main()
