"""How does a background worker serve many tenants? Jobs from standard input, four at a time, each for its tenant.

A job is a line such as `{"tenant": "acme", "job": "count"}`; its result is a line on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import tenantproxy
from tenantproxy import Router, TenantProxyError

WORKERS = 4


async def count() -> int:
    """A job: it asks for no tenant, it runs for one."""
    return int(await tenantproxy.current().fetchval("SELECT count(*) FROM projects"))


async def run(router: Router, line: str) -> dict[str, object]:
    """One job. A tenant that cannot be served fails its own jobs only."""
    job = json.loads(line)
    try:
        with tenantproxy.use(router.tenant(job["tenant"])):
            return {"tenant": job["tenant"], "result": await count()}
    except TenantProxyError as error:
        return {"tenant": job["tenant"], "error": error.code, "again": error.retryable}


async def worker(router: Router, jobs: asyncio.Queue[str | None]) -> None:
    """Takes jobs until there are none."""
    while (line := await jobs.get()) is not None:
        print(json.dumps(await run(router, line)), flush=True)
    jobs.put_nowait(None)  # for the next worker


async def main() -> None:
    """Until standard input ends."""
    jobs: asyncio.Queue[str | None] = asyncio.Queue()
    config = os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml")
    async with tenantproxy.open_router(config) as router, asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker(router, jobs))
        while line := await asyncio.to_thread(sys.stdin.readline):
            jobs.put_nowait(line)
        jobs.put_nowait(None)


if __name__ == "__main__":
    asyncio.run(main())
