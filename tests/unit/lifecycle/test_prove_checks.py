"""Does a check of the isolation proof see its leak? Behind a door that plays a deployment, sound or with one hole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tenantproxy.lifecycle.prove import TrialState, sql_checks
from tenantproxy.lifecycle.prove.base import Pair, Rows, Trial
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.model import Isolation, Placement, Tenant, tenant_id

PLACE = Placement(isolation=Isolation.ROW, server="primary", database="shared")
FIRST, SECOND = (Tenant(id=tenant_id(name), placement=PLACE) for name in ("acme", "globex"))
PAIR = Pair(first=FIRST, second=SECOND, kind="row, bound", setting="app.current_tenant_id")


class FakeRows:
    """Canary rows that nothing changes."""

    table = "canary"

    def place(self, tenant: Tenant) -> str:
        return "public.canary"

    def secret(self, tenant: Tenant) -> str:
        return f"secret of {tenant.id}"

    async def damage(self) -> str | None:
        return None


class FakeDeployment:
    """One backend, and a hole: it `mixes` answers of sessions at once, or `keeps` the tenant of a cancelled one."""

    name = "fake"
    turns_each_time = False

    def __init__(self, *, mixes: bool = False, keeps: bool = False) -> None:
        self.mixes = mixes
        self.keeps = keeps
        self.bound: Tenant | None = None
        self.stale: Tenant | None = None
        self.unread: list[Rows] = []

    @asynccontextmanager
    async def session(self, tenant: Tenant) -> AsyncIterator[FakeSession]:
        try:
            yield FakeSession(self, self.stale or tenant)
        except asyncio.CancelledError:
            self.stale = tenant if self.keeps else None
            raise


class FakeSession:
    def __init__(self, deployment: FakeDeployment, tenant: Tenant) -> None:
        self.deployment = deployment
        self.tenant = tenant

    async def ask(self, sql: str) -> Rows:
        if "pg_sleep" in sql:
            await asyncio.Event().wait()
        answer = self._answer(sql)
        if not self.deployment.mixes:
            return answer
        self.deployment.unread.append(answer)
        await asyncio.sleep(0)
        return self.deployment.unread.pop()

    def _answer(self, sql: str) -> Rows:
        if "bound_tenant" in sql:
            return [[self.tenant.id]]
        if "FROM canary" in sql:
            return [[self.tenant.id, FakeRows().secret(self.tenant)]]
        said = re.match(r"SELECT '(\w+)', pg_catalog.pg_backend_pid\(\)", sql)
        return [[said[1], "7"]] if said else []


def trial(deployment: FakeDeployment) -> Trial:
    return Trial(pair=PAIR, door=deployment, canary=FakeRows(), clients=4)


async def test_a_sound_deployment_holds() -> None:
    for check in (sql_checks.own_rows, sql_checks.parallel_turns, sql_checks.cancelled):
        outcome = Outcome()
        await check(trial(FakeDeployment()), outcome)
        assert outcome.state is TrialState.HELD, outcome.detail


async def test_answers_that_reach_another_client_are_seen_by_parallel_turns() -> None:
    outcome = Outcome()
    await sql_checks.parallel_turns(trial(FakeDeployment(mixes=True)), outcome)
    assert outcome.state is TrialState.LEAK
    assert "an answer to another question came" in outcome.detail


async def test_a_tenant_that_a_cancelled_call_leaves_is_seen_by_cancellation() -> None:
    outcome = Outcome()
    await sql_checks.cancelled(trial(FakeDeployment(keeps=True)), outcome)
    assert outcome.state is TrialState.LEAK
    assert "the session is not globex's" in outcome.detail


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(), TrialState.UNTRIED),
        (Outcome(held=3), TrialState.HELD),
        (Outcome(held=3, untried=["half of it"]), TrialState.UNTRIED),
        (Outcome(held=3, untried=["half of it"], leaks=["a row"]), TrialState.LEAK),
        (Outcome(open="they share a role"), TrialState.OPEN),
        (Outcome(nothing="no schemas"), TrialState.NOTHING),
    ],
)
def test_what_was_not_tried_whole_never_counts_as_held(outcome: Outcome, state: TrialState) -> None:
    assert outcome.state is state
