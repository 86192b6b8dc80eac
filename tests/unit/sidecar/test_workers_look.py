"""What does a supervisor show and audit of several workers, also of those that have ended?"""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.auth.audit import AuditTable
from tenantproxy.events import AdminChangeAnswered, ServerDown, ServiceCommanded
from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.sidecar.page.rows import Look
from tenantproxy.sidecar.workers.audit_relay import record
from tenantproxy.sidecar.workers.link import LinkLost
from tenantproxy.sidecar.workers.look import GatheredEvents, WorkerLook, joined_looks, without_pools
from tests.support.fake_workers import KeptWorkers
from tests.support.waiting import until
from tests.unit.sidecar.test_page_feed import WAITS, a_pool, stats_of


def look(used: int = 1, **more: Any) -> Look:
    return Look(stats=stats_of(a_pool("acme", used)), **more)


def told(*events: tuple[int, float, str], starved: tuple[tuple[str, str, int], ...] = ()) -> WorkerLook:
    rows = [{"n": number, "at": at, "kind": kind, "fields": {}} for number, at, kind in events]
    return WorkerLook(look=look(), events=rows, last=events[-1][0] if events else 0, starved=starved)


def kinds(events: GatheredEvents) -> list[tuple[str, object]]:
    return [(each["kind"], each["fields"].get("worker")) for each in events.since(0)]


def test_events_of_workers_are_told_once_each_in_the_order_of_their_times() -> None:
    events = GatheredEvents()
    events.hear({1: told((1, 10.0, "a"), (2, 30.0, "c")), 2: told((1, 20.0, "b"))})
    assert events.heard == {1: 2, 2: 1}
    events.hear({1: told((2, 30.0, "c"), (3, 40.0, "d"))})
    events(ServerDown(server="primary", error="x"))
    assert kinds(events) == [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("server_down", None)]
    assert [each["n"] for each in events.since(3)] == [4, 5]


def test_a_worker_that_took_the_place_of_another_counts_anew_and_nothing_is_lost() -> None:
    events = GatheredEvents()
    events.hear({1: told((1, 1.0, "a"), starved=(("acme", "connect", 3),)), 2: told(starved=(("acme", "connect", 1),))})
    events.gone(1)
    assert events.heard == {2: 0}
    events.hear({1: told((1, 2.0, "b"), starved=(("acme", "connect", 2), ("globex", "connect", 1)))})
    assert kinds(events) == [("a", 1), ("b", 1)]
    assert events.starved(5) == [("acme", "connect", 6), ("globex", "connect", 1)]


def part(used: int) -> FleetStats:
    server = FleetServerStats(
        server="primary", granted=used + 1, target=used, wanted=1.5, used=used, cap=40, processes=2, ghosts=0
    )
    return FleetStats(fleet="f", process=str(used), servers=(server,), last_renewal=0.0, calls=0, failures=0)


def test_the_page_of_workers_has_the_sum_of_what_each_has_and_counts() -> None:
    one = look(2, logins={"ok": 1}, clients={"pg": (3, 10)}, fleet=part(1), own=["a"])
    two = look(3, logins={"ok": 2, "failed": 1}, clients={"pg": (4, 10)}, fleet=part(5), own=["b"])
    past = without_pools(look(9, logins={"ok": 10}), without_pools(look(9, logins={"ok": 100}), None))
    found = joined_looks([one, two], past, ["acme"])
    assert found.logins == {"ok": 113, "failed": 1}
    assert found.clients == {"pg": (7, 20)}
    assert found.stats.exhaustions == {"connect": 8}
    waits = next(iter(found.stats.acquire_wait.values()))
    assert (waits.bounds, waits.counts) == (WAITS.bounds, (12, 8, 4))
    assert [(each.label, each.used) for each in found.stats.pools] == [("acme", 5)], "those that ended have none"
    assert found.fleet is not None
    assert [(each.granted, each.used, each.wanted, each.cap) for each in found.fleet.servers] == [(8, 6, 3.0, 40)]
    assert found.own == ["a", "b"]


# --- the audit log ---------------------------------------------------------------------------------------------------
@pytest.fixture
async def kept() -> KeptWorkers:
    return KeptWorkers()


RELOADED = ServiceCommanded(by="SIGHUP", change="reload", outcome="done")


async def test_what_the_supervisor_is_asked_waits_for_a_worker_that_can_write_it(kept: KeptWorkers) -> None:
    kept.supervisor.tell(RELOADED)
    kept.supervisor.tell(ServerDown(server="primary", error="is no change"))
    dead = await kept.worker(is_ready=False)
    dead.answers["audit"] = LinkLost("gone")
    await kept.get_ready()
    await until(lambda: "audit" in dead.verbs, "the first one is asked, and dies")
    kept.places.clear()
    living = await kept.worker()
    await until(lambda: "audit" in living.verbs, "the next one hears of it")
    (told,) = [body for verb, body in living.asked if verb == "audit"]
    assert told["fields"] == {
        "by": "SIGHUP", "change": "reload", "outcome": "done", "tenant": "", "user": "", "address": ""
    }  # fmt: skip


def test_a_worker_writes_what_it_was_told_as_of_its_time() -> None:
    table = AuditTable(None)  # type: ignore[arg-type]
    change = {"by": "ann", "change": "POST /v1/reload", "tenant": "", "user": "", "address": "::1", "status": 200}
    record(table, {"kind": AdminChangeAnswered.__name__, "at": 7.0, "fields": change})
    record(None, {"kind": AdminChangeAnswered.__name__, "at": 7.0, "fields": change})
    (row,) = table._queue
    assert (row["at"], row["kind"], row["address"]) == (7.0, "admin_change_answered", "::1")
    with pytest.raises(KeyError):
        record(table, {"kind": "Event", "at": 7.0, "fields": {}})
