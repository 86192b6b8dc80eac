"""How does a tour run a command as one types it? In a process of its own, with what it prints and its exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Typed", "ourselves", "run_command"]

_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """How a command ended: its exit code, and what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str


def ourselves() -> tuple[str, ...]:
    """The command line of this installation; its folder need not be on the PATH."""
    script = Path(sys.executable).with_name("tenantproxy")
    return (str(script),) if script.exists() else (sys.executable, "-m", "tenantproxy")


async def run_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> Typed:
    """Run it, in `folder`. Raises OSError where there is no such program, TimeoutError behind two minutes; it ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {}), "LC_ALL": "C", "COLUMNS": "200"},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Typed(code=process.returncode or 0, out=out.decode(errors="replace"), err=err.decode(errors="replace"))
