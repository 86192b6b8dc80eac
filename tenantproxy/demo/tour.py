"""Does tenantproxy do what it says? Each step does something real, looks at PostgreSQL or `/metrics`, and compares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import asyncpg

from tenantproxy.demo.people import EVERYWHERE, email_of
from tenantproxy.demo.stage import Seen, Stage, eventually
from tenantproxy.demo.tryouts import everything_printed
from tenantproxy.demo.world import APP_ROLE, SERVER, SHARED
from tenantproxy.errors import PoolTimeout
from tenantproxy.model import Isolation, quote_identifier

__all__ = ["STEPS", "Step", "SystemStep", "take_tour", "walk"]

DENIED: Final = "42501"

On = TypeVar("On")
SystemStep = Callable[[On], AsyncIterator[Seen]]
Step = SystemStep[Stage]


async def take_tour(stage: Stage, tell: Callable[[Seen], None], *, steps: Sequence[Step] | None = None) -> bool:
    """`walk` through these steps, or through the first tour's."""
    return await walk(stage, tell, STEPS if steps is None else steps)


async def walk(stage: On, tell: Callable[[Seen], None], steps: Sequence[SystemStep[On]]) -> bool:
    """Run the steps and `tell` each line; whether all were as expected. A step that breaks is a failed line."""
    good = True
    for step in steps:
        try:
            async for seen in step(stage):
                tell(seen)
                good = good and seen.ok
        except Exception as exc:  # noqa: BLE001 - whatever breaks a step is its result
            tell(Seen(what=step.__name__.replace("_", " "), expected="no error", saw=_told(exc), ok=False))
            good = False
    return good


async def is_ready(stage: Stage) -> AsyncIterator[Seen]:
    """The sidecar says so itself."""
    status = await stage.ready()
    yield Seen(what="GET /readyz", expected="200", saw=str(status), ok=status == 200)


async def own_rows(stage: Stage) -> AsyncIterator[Seen]:
    """Each tenant reads its own rows and no others, over HTTP and through the library."""
    for tenant in stage.world.tenants:
        over_http = (await stage.ask(tenant)).projects
        rows = await stage.router.tenant(tenant.id).fetch("SELECT name FROM projects ORDER BY name")
        in_python = tuple(row["name"] for row in rows)
        right = over_http == in_python == tenant.projects
        saw = _listed(over_http) if over_http == in_python else f"HTTP {_listed(over_http)}; {_listed(in_python)}"
        what = f"{tenant.id} ({tenant.isolation.value}) lists its projects, HTTP and library"
        yield Seen(what=what, expected=_listed(tenant.projects), saw=saw, ok=right)


async def strangers(stage: Stage) -> AsyncIterator[Seen]:
    """No token and a wrong one look the same; a header alone does not change the tenant."""
    acme, globex = stage.world.one(Isolation.ROW), stage.world.one(Isolation.ROW, 1)
    answers = [await stage.ask(), await stage.ask(Authorization="Bearer guessed")]
    saw = ", ".join(f"{answer.status} {answer.body.get('code')}" for answer in answers)
    expected = "401 unauthorized, 401 unauthorized"
    yield Seen(what="no token, wrong token", expected=expected, saw=saw, ok=saw == expected)
    mixed = await stage.ask(acme, **{"X-Tenant-ID": globex.id})
    saw, expected = f"{mixed.status} {mixed.body.get('error')}", "403 tenant mismatch"
    yield Seen(
        what=f"{acme.id}'s token with a header that names {globex.id}", expected=expected, saw=saw, ok=saw == expected
    )
    other = (await stage.ask(acme, **{"X-Agency-Database": globex.id})).projects
    what = f"{acme.id}'s token with a header that means nothing here"
    yield Seen(what=what, expected=_listed(acme.projects), saw=_listed(other), ok=other == acme.projects)


async def logins(stage: Stage) -> AsyncIterator[Seen]:
    """An e-mail and a password are enough without naming the tenant, and its token opens that one."""
    before = await stage.scrape()
    for kind in (Isolation.ROW, Isolation.SCHEMA, Isolation.DATABASE):
        tenant = stage.world.one(kind, 1)
        status, body = await stage.log_in(email_of(tenant.id), stage.world.people_password)
        token = f"Bearer {body.get('access_token')}"
        opened = (await stage.ask(None, **{"Authorization": token, "X-Tenant-ID": tenant.id})).projects
        saw, expected = (
            f"{status} {body.get('tenant')}: {_listed(opened)}",
            f"200 {tenant.id}: {_listed(tenant.projects)}",
        )
        yield Seen(
            what=f"{email_of(tenant.id)} logs in and lists projects", expected=expected, saw=saw, ok=saw == expected
        )
    status, body = await stage.log_in(EVERYWHERE, stage.world.people_password)
    saw = f"{status} {', '.join(sorted(one['tenant'] for one in body.get('tenants', ())))}"
    yield Seen(what=f"{EVERYWHERE} logs in", expected="200 acme, umbrella", saw=saw, ok=saw == "200 acme, umbrella")
    chosen = {"selection_token": body.get("selection_token"), "tenant": "umbrella"}
    status, body = await stage.post("/auth/select", chosen)
    saw = f"{status} {body.get('tenant')}"
    yield Seen(what="and chooses", expected="200 umbrella", saw=saw, ok=saw == "200 umbrella")
    wrong, unknown = await asyncio.gather(
        stage.log_in(EVERYWHERE, "guess"), stage.log_in("unknown@nowhere.example", "guess")
    )
    saw = ", ".join(f"{status} {body.get('title')}" for status, body in (wrong, unknown))
    expected = "401 e-mail or password is wrong, 401 e-mail or password is wrong"
    yield Seen(what="a wrong password, an unknown address", expected=expected, saw=saw, ok=saw == expected)
    after = await stage.scrape()
    more = {result: after.count("logins_total", result=result) - before.count("logins_total", result=result)
            for result in ("ok", "selection", "refused")}  # fmt: skip
    saw, expected = _labels({name: str(count) for name, count in more.items()}), '{ok="3",selection="1",refused="2"}'
    yield Seen(what="/metrics: logins_total by result", expected=expected, saw=saw, ok=saw == expected)


async def row_breakout(stage: Stage) -> AsyncIterator[Seen]:
    """Row tenants: the setting alone opens nothing, and what was tried is gone with the lease."""
    acme, globex = stage.world.one(Isolation.ROW), stage.world.one(Isolation.ROW, 1)
    async with stage.router.tenant(acme.id).connection() as conn:
        flip = f"SELECT pg_catalog.set_config('app.current_tenant_id', '{globex.id}', false)"
        await conn.execute(flip)
        yield await _refused(f"{acme.id} sets app.current_tenant_id = {globex.id} and reads", conn.fetch(_READ))
    again = (await stage.ask(globex)).projects
    what = f"{globex.id} afterwards, on the same shared connections"
    yield Seen(what=what, expected=_listed(globex.projects), saw=_listed(again), ok=again == globex.projects)
    direct = await stage.world.connect(SHARED, APP_ROLE)
    try:
        yield await _refused(f"{APP_ROLE} past tenantproxy, without a proof", direct.fetch(_READ))
    finally:
        await direct.close()


async def schema_breakout(stage: Stage) -> AsyncIterator[Seen]:
    """Schema tenants: another schema is another role's."""
    mine, theirs = stage.world.one(Isolation.SCHEMA), stage.world.one(Isolation.SCHEMA, 1)
    assert theirs.schema is not None
    async with stage.router.tenant(mine.id).connection() as conn:
        read = conn.fetch(f"SELECT name FROM {quote_identifier(theirs.schema)}.projects")
        yield await _refused(f"{mine.id} reads {theirs.schema}.projects", read)


async def database_breakout(stage: Stage) -> AsyncIterator[Seen]:
    """Database tenants: another database does not let the role in, even with its right password."""
    mine, theirs = stage.world.one(Isolation.DATABASE), stage.world.one(Isolation.DATABASE, 1)
    yield await _refused(
        f"{mine.id}'s role connects to {theirs.database}", stage.world.connect(theirs.database, mine.role)
    )


async def exhaustion(stage: Stage) -> AsyncIterator[Seen]:
    """A tenant that holds all it may is told so, at once in words and in `/metrics`; its neighbour is served."""
    tenant, neighbour = stage.world.one(Isolation.SCHEMA), stage.world.one(Isolation.SCHEMA, 1)
    scope, limit = stage.router.tenant(tenant.id), stage.router.settings.pools.max_size
    before = await stage.scrape()
    async with scope.connection(), scope.connection():
        held = await stage.backends(tenant.role)
        what = f"{tenant.id} holds {limit} connections: pg_stat_activity"
        yield Seen(what=what, expected=str(limit), saw=str(held), ok=held == limit)
        error = await _failure(scope.fetch(_READ))
        saw = _told(error)
        right = isinstance(error, PoolTimeout) and str(limit) in saw
        yield Seen(what=f"{tenant.id} asks for one more", expected=f"PoolTimeout that names {limit}", saw=saw, ok=right)
        refused, served = await asyncio.gather(stage.ask(tenant), stage.ask(neighbour))
        saw = f"{refused.status} {refused.body.get('code')}, {served.status}"
        what = f"the same over HTTP, and {neighbour.id} meanwhile"
        yield Seen(what=what, expected="503 pool_timeout, 200", saw=saw, ok=saw == "503 pool_timeout, 200")
    after = await stage.scrape()
    for name, labels in (
        ("exhaustions_total", {"tenant": tenant.id, "cause": "tenant_limit"}),
        ("pool_acquires_total", {"tenant": tenant.id, "result": "timeout"}),
    ):
        more = after.count(name, **labels) - before.count(name, **labels)
        yield Seen(what=f"/metrics: {name}{_labels(labels)}", expected="+2", saw=f"{more:+d}", ok=more == 2)


async def eviction(stage: Stage) -> AsyncIterator[Seen]:
    """One pool too many: the least recently used one is closed, on the server too, and comes back when asked for."""
    first, *others = sorted(stage.world.tenants, key=lambda tenant: tenant.isolation is not Isolation.DATABASE)
    limit = stage.router.settings.pools.max_pools
    await stage.ask(first)
    before, had = await stage.scrape(), await stage.backends(first.role)
    for tenant in others:
        await stage.ask(tenant)

    async def gone() -> bool:
        return await stage.backends(first.role) == 0

    await eventually(gone)
    saw = f"{had} -> {await stage.backends(first.role)}"
    what = f"{first.id}'s backends in pg_stat_activity, then {len(others)} others come ({limit} pools may stay)"
    yield Seen(what=what, expected="1 -> 0", saw=saw, ok=saw == "1 -> 0")
    after = await stage.scrape()
    more = after.count("pool_evictions_total", reason="lru") - before.count("pool_evictions_total", reason="lru")
    kept, pools = after.get("pool_connections", pool=first.id, state="idle"), after.count("pools")
    saw = f"lru {more:+d}, pools {pools}, {first.id}'s series {'gone' if kept is None else 'kept'}"
    right = more >= 1 and pools <= limit + 1 and kept is None  # the main pool is not among those that may be evicted
    yield Seen(
        what="/metrics after that",
        expected=f"lru +1 or more, pools <= {limit} and the main one, series gone",
        saw=saw,
        ok=right,
    )
    back = (await stage.ask(first)).projects
    reopened = (await stage.scrape()).count("pool_opens_total", reason="reopen")
    saw = f"{_listed(back)}; reopen {reopened}"
    right = back == first.projects and reopened >= 1
    yield Seen(what=f"{first.id} again", expected=f"{_listed(first.projects)}; reopen >= 1", saw=saw, ok=right)


async def the_sum(stage: Stage) -> AsyncIterator[Seen]:
    """What we count is what PostgreSQL counts."""
    counted = backends = 0

    async def equal() -> bool:
        nonlocal counted, backends
        counted = (await stage.scrape()).count("server_connections", server=SERVER)
        backends = await stage.backends()
        return counted == backends

    right = await eventually(equal)
    budget = stage.router.settings.servers[SERVER].max_connections
    yield Seen(
        what=f"connections in /metrics, backends in pg_stat_activity (budget {budget})",
        expected="equal",
        saw=f"{counted}, {backends}",
        ok=right and counted > 0,
    )


STEPS: Final[Sequence[Step]] = (
    is_ready, own_rows, strangers, logins, row_breakout, schema_breakout, database_breakout, exhaustion, eviction,
    everything_printed, the_sum,
)  # fmt: skip

_READ: Final = "SELECT name FROM projects"


async def _refused(what: str, attempt: Awaitable[object]) -> Seen:
    error = await _failure(attempt)
    right = isinstance(error, asyncpg.PostgresError) and error.sqlstate == DENIED
    return Seen(what=what, expected=DENIED, saw=_told(error), ok=right)


async def _failure(attempt: Awaitable[object]) -> Exception | None:
    try:
        result = await attempt
    except Exception as exc:  # noqa: BLE001 - which error it is, is what is looked at
        return exc
    if isinstance(result, asyncpg.Connection):
        await result.close()
    return None


def _told(error: Exception | None) -> str:
    if error is None:
        return "no error"
    if isinstance(error, asyncpg.PostgresError):
        return f"{error.sqlstate} {error.args[0]}"
    return f"{type(error).__name__}: {error}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
