"""How does a test run the sidecar as a process of its own? It is up when the block begins, and ends with it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running `tenantproxy serve`, and where it listens (host:port, empty where it does not)."""

    process: subprocess.Popen[str]
    public: str
    admin: str
    pg: str


@contextmanager
def a_sidecar(config: Path, log: Path, *options: str, variables: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Ready to serve. Its standard error goes to `log`."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "serve", "--config", str(config), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TENANTPROXY_HTTP__DRAIN_DELAY": "0", **(variables or {})},
        )
    try:
        line = _line(process, within=PATIENCE)
        assert line, f"the sidecar did not come up: {log.read_text()}"
        where = json.loads(line)
        yield Served(process=process, public=where["public"], admin=where["admin"], pg=where["pg"] or "")
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def _line(process: subprocess.Popen[str], *, within: float) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + within
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.1)[0]:
            return process.stdout.readline()
    return ""
