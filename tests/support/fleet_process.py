"""A process of a fleet for a test to stop, continue and kill: a router whose clients never stop asking."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

_PROGRAM: Final = """
import asyncio, json, sys

from tenantproxy import Router
from tenantproxy.config import Settings

async def client(router, tenant):
    while True:
        try:
            await router.tenant(tenant).fetchval("SELECT pg_sleep(0.02)")
        except Exception:
            await asyncio.sleep(0.05)

async def main():
    given = json.loads(sys.stdin.readline())
    async with Router(Settings.from_mapping(given["settings"])) as router:
        print(router.fleet.process, flush=True)
        clients = [asyncio.ensure_future(client(router, given["tenant"])) for _ in range(given["clients"])]
        await asyncio.to_thread(sys.stdin.readline)
        for each in clients:
            each.cancel()

asyncio.run(main())
"""


@contextmanager
def a_process(mapping: Mapping[str, Any], tenant: str, clients: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its id in the fleet. It is killed at the end, whatever it does then."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"settings": mapping, "tenant": tenant, "clients": clients}) + "\n")
        process.stdin.flush()
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()
