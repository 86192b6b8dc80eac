"""One process of a fleet under load: `python -m benchmarks.fleet_process`, told what to do by lines of JSON.

It opens a router, and for each line of its standard input runs the callers that the line asks for; it answers each with
a line. The end of its input closes it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError

_SLOW = "SELECT pg_sleep($1)"


async def _serve() -> None:
    given = json.loads(await asyncio.to_thread(sys.stdin.readline))
    began = time.monotonic()
    async with Router(Settings.from_mapping(given["settings"])) as router:
        _say({"open_seconds": time.monotonic() - began})
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(await _load(router, json.loads(line)))


async def _load(router: Router, asked: dict[str, Any]) -> dict[str, Any]:
    """Closed loops of `tasks` callers for `seconds`, or one call of each tenant with `touch`."""
    tenants, errors = asked["tenants"], Counter[str]()
    answers, longest = 0, 0.0
    first: float | None = None
    began = time.monotonic()

    async def call(tenant: str) -> None:
        nonlocal answers, first, longest
        asked_at = time.monotonic()
        try:
            await router.tenant(tenant).fetchval(_SLOW, asked["query_seconds"])
        except (TenantProxyError, OSError) as exc:
            errors[f"{type(exc).__name__} {getattr(exc, 'sqlstate', '')}"] += 1
            await asyncio.sleep(0.01)
            return
        answers += 1
        first = first if first is not None else time.monotonic() - began
        longest = max(longest, time.monotonic() - asked_at)

    async def caller(number: int) -> None:
        rng = random.Random(number)
        weights = [1 / (rank + 1) ** asked["skew"] for rank in range(len(tenants))]
        while time.monotonic() < began + asked["seconds"]:
            await call(rng.choices(tenants, weights)[0])

    if asked.get("touch"):
        for tenant in tenants:
            await call(tenant)
    else:
        await asyncio.gather(*(caller(number) for number in range(asked["tasks"])))
    fleet = router.fleet
    return {
        "answers": answers,
        "seconds": time.monotonic() - began,
        "first": first,
        "longest": longest,
        "errors": errors,
        "granted": None if fleet is None else fleet.servers[0].granted,
        "calls": 0 if fleet is None else fleet.calls,
    }


def _say(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
