"""What does the middleware cost, and does it ever mix tenants up? The same applications with it and without."""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from benchmarks.measure import Spread
from benchmarks.ours import row_entries
from benchmarks.part import Options, Part
from benchmarks.table import Verdict, at_most, figure, render, spread
from benchmarks.webapps import FRAMEWORKS, App, asgi_call, bare, fastapi_app, http_scope
from benchmarks.world import ROW_TENANTS, World
from tenantproxy import Router
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth, Secret
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.model import tenant_id

__all__ = ["cost", "interleaved"]

ADDED_LIMIT_US: Final = 60.0
CALLS: Final = 4_000  # of each application in each round
REQUESTS: Final = 100_000  # through each framework
TASKS: Final = 200
HEADER: Final = "x-tenant-id"


async def cost(world: World, options: Options) -> Part:
    """CPU of one process for a request: each application bare, then with the middleware, in turns."""
    async with Router(_settings(world)) as router:
        tokens = _tokens(router)
        headers = await _headers(router, tokens, ROW_TENANTS[0])
        by_hand = http_scope(headers)
        routed = fastapi_app()
        with_it = fastapi_app()
        with_it.add_middleware(TenantMiddleware, router=router, tokens=tokens)
        subjects: dict[str, tuple[App, Mapping[str, Any]]] = {
            "bare": (bare, by_hand),
            "bare, again": (bare, by_hand),
            "bare + middleware": (TenantMiddleware(bare, router=router, tokens=tokens), by_hand),
            "FastAPI": (routed, {**by_hand, "path": "/plain", "raw_path": b"/plain"}),
            "FastAPI + middleware": (with_it, {**by_hand, "path": "/plain", "raw_path": b"/plain"}),
        }
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(options.rounds):
            for name, (app, scope) in subjects.items():
                taken[name].append(await _cpu_us(app, scope))
    added = {
        "the middleware adds to a bare application": _added(taken["bare + middleware"], taken["bare"]),
        "the middleware adds to FastAPI": _added(taken["FastAPI + middleware"], taken["FastAPI"]),
    }
    noise = _added(taken["bare, again"], taken["bare"])
    rows = [(name, f"{spread(Spread.of(values))} us") for name, values in taken.items()]
    rows += [(name, f"{spread(value)} us") for name, value in added.items()]
    control = Verdict(
        target="control: a bare application against itself", wanted="within 3 us",
        measured=f"{spread(noise)} us", met=abs(noise.median) <= 3.0, control=True,
    )  # fmt: skip
    return Part(
        title="CPU of a request with a cached token, without a server",
        text=render(("", "median [p25-p75]"), rows),
        data={name: asdict(Spread.of(values)) for name, values in taken.items()}
        | {name: asdict(value) for name, value in added.items()},
        verdicts=(control, *(at_most(name, ADDED_LIMIT_US, value, "us") for name, value in added.items())),
    )


async def _cpu_us(app: App, scope: Mapping[str, Any]) -> float:
    for _ in range(100):
        assert await asgi_call(app, scope) == b"ok"
    gc.collect()
    start = time.process_time()
    for _ in range(CALLS):
        await asgi_call(app, scope)
    return (time.process_time() - start) / CALLS * 1e6


def _added(more: list[float], less: list[float]) -> Spread:
    return Spread.of(one - other for one, other in zip(more, less, strict=True))


async def interleaved(world: World, options: Options) -> Part:
    """200 tasks of 20 row tenants of one table, through each framework: who is asked, and who answers?"""
    wanted = max(TASKS, round(REQUESTS * options.scale))
    rows: list[tuple[str, ...]] = []
    data: dict[str, object] = {}
    wrong_in_all = 0
    for name, make in FRAMEWORKS.items():
        async with Router(_settings(world)) as router:
            tokens = _tokens(router)
            headers = {tenant: await _headers(router, tokens, tenant) for tenant in ROW_TENANTS}
            start = time.perf_counter()
            wrong = 0
            async with make(router, tokens) as ask:
                numbers = itertools.count()

                async def client() -> None:
                    nonlocal wrong
                    while (number := next(numbers)) < wanted:  # noqa: B023  # awaited before the next round
                        tenant = ROW_TENANTS[number % len(ROW_TENANTS)]
                        wrong += await ask(headers[tenant]) != f"{tenant} {tenant} {tenant}"  # noqa: B023

                async with asyncio.TaskGroup() as group:
                    for _ in range(TASKS):
                        group.create_task(client())
            pace = wanted / (time.perf_counter() - start)
        wrong_in_all += wrong
        rows.append((name, f"{wanted:,}", str(wrong), figure(pace)))
        data[name] = {"requests": wanted, "wrong": wrong, "per_second": pace}
    verdict = Verdict(
        target=f"requests of {wanted:,} x {len(FRAMEWORKS)} that saw another tenant, or failed", wanted="0",
        measured=str(wrong_in_all), met=wrong_in_all == 0,
    )  # fmt: skip
    head = ("200 tasks of 20 tenants", "requests", "wrong", "per second")
    return Part(title="Interleaved", text=render(head, rows), data=data, verdicts=(verdict,))


def _settings(world: World) -> Any:
    return world.settings(row_entries("bench_signed"), shared_size=20)


def _tokens(router: Router) -> Tokens:
    return Tokens(Auth(key=Secret.inline(secrets.token_urlsafe(48))), tenants=router.registry)


async def _headers(router: Router, tokens: Tokens, tenant: str) -> dict[str, str]:
    token = tokens.issue(tenant=await router.registry.get(tenant_id(tenant)), user="user-7", role="member")
    return {"authorization": f"Bearer {token}", HEADER: tenant}
