"""In which process does a project run? One that answers each line of JSON with one, and that ends with this one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError

__all__ = ["ToolProject", "ToolWorkers"]

_CHILD: Final = Path(__file__).with_name("tool") / "child.py"
_LONGEST: Final = 64 * 1024 * 1024  # bytes of an answer
_PATIENCE: Final = 60.0  # seconds that a project may take to say which migrations it has


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProject:
    """A project in `folder`: `tool` is alembic or django, `python` what runs it, `settings` Django's module."""

    tool: str
    folder: str
    python: str
    settings: str

    def command(self) -> list[str]:
        """What is started."""
        python = self.python or sys.executable
        return [python, str(_CHILD), self.tool, str(Path(self.folder).resolve()), self.settings]

    def describe(self) -> list[dict[str, Any]]:
        """Its migrations, see the tools. Waits for a process. Raises ConfigurationError where that fails."""
        try:
            done = subprocess.run(
                [*self.command(), "describe"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise _unusable(f"cannot be run: {type(exc).__name__}") from None
        try:
            found: list[dict[str, Any]] = json.loads(done.stdout)
        except ValueError:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _unusable(f"cannot be loaded: {lines[-1] if lines else done.returncode}") from None
        return found


def _unusable(problem: str) -> ConfigurationError:
    fix = "name its folder, and in migrations.python the Python that has what it needs"
    return ConfigurationError([Problem(key="migrations.folder", problem=problem, fix=fix)])


class ToolWorkers:
    """The processes of one project: as many as are asked at once, kept until `close`.

    State: those that wait for work.
    """

    def __init__(self, project: ToolProject) -> None:
        self._project = project
        self._idle: list[asyncio.subprocess.Process] = []

    async def ask(self, place: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer. Raises TenantProxyError where the process ends instead. Cancelled, the process is ended."""
        async with self._worker() as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(json.dumps(place).encode() + b"\n")
            await worker.stdin.drain()
            line = await worker.stdout.readline()
            if not line:
                raise TenantProxyError(f"the process that runs {self._project.tool} ended: {await worker.wait()}")
            answer: dict[str, Any] = json.loads(line)
            return answer

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncio.subprocess.Process]:
        worker = self._idle.pop() if self._idle else await self._start()
        try:
            yield worker
        except BaseException:
            await _end(worker)
            raise
        self._idle.append(worker)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._project.command(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, limit=_LONGEST, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    async def close(self) -> None:
        """End those that wait."""
        while self._idle:
            await _end(self._idle.pop())


async def _end(worker: asyncio.subprocess.Process) -> None:
    if worker.returncode is None:
        worker.kill()
    await asyncio.shield(worker.wait())
