"""Can a program make, change and remove tenants over the admin listener, and without its token none?"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantproxy.lifecycle.provision import Provisioner, ProvisioningFailed, Saga, wanted
from tenantproxy.lifecycle.signing import verified_json
from tenantproxy.model import Isolation
from tests.fault.conftest import own_world
from tests.support import described as described_by
from tests.support.described import Asked
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import until
from tests.support.world import OWN_PROJECTS, World

TOKEN = "a token of more than sixteen bytes"
READER = "a token of one who only looks"
OPERATOR = "a token of one who works by day"
PERSON = """
[[gdpr.person]]
name = "projects"
export = "select * from projects where name = 'of ' || $1"
erase = "delete from projects where name = 'of ' || $1"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Served, World]]:
    folder = tmp_path_factory.mktemp("routes")
    async with own_world() as world:
        (folder / "schema.sql").write_text(f"{OWN_PROJECTS};\n")
        (folder / "token").write_text(TOKEN)
        (folder / "key").write_text("a key that signs reports in these tests")
        (folder / "migrations").mkdir()
        (folder / "migrations" / "1_due.sql").write_text("ALTER TABLE projects ADD due date;")
        admin = f'[servers.primary.admin]\nuser = "{world.server.superuser}"\npassword = "{world.server.password}"\n'
        rest = (
            f'[provision]\nsql_files = ["schema.sql"]\nshared_database = "{world.shared.name}"\n'
            f'[migrations]\nfolder = "migrations"\n[backup]\nfolder = "{folder / "backups"}"\n'
            f'[http]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\ntoken_file = "token"\n'
            f'[admin.tokens.grafana]\nrole = "read"\ntoken = "{READER}"\n'
            f'[admin.tokens.shift]\nrole = "operate"\ntoken = "{OPERATOR}"\n'
            f'[audit]\ntable = true\n[gdpr]\nfolder = "exports"\n[auth]\nkey_file = "key"\n{PERSON}'
        )
        config = folder / "tenantproxy.toml"
        config.write_text(f"{world.toml()}{admin}{rest}")
        with a_sidecar(config, folder / "log") as served:
            yield served, world


async def ask(
    place: tuple[Served, World], method: str, path: str, body: object = None, *, key: str = "", token: str = TOKEN,
    prefer: str = "",
) -> tuple[int, Any]:  # fmt: skip
    headers = {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})
    headers |= {"Prefer": prefer} if prefer else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{place[0].admin}{path}", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def done(place: tuple[Served, World], path: str, body: object = None, *, state: str = "done", **how: str) -> Any:
    """What came of an operation that was asked for; with the same key it is the same one."""
    key = how.pop("key", f"{path} {body}".encode().hex()[-100:])
    code, begun = await ask(place, "POST", path, body, key=key, **how)
    assert (code, begun["state"]) == (202, "running"), begun
    found = dict(begun)

    async def is_over() -> bool:
        code, now = await ask(place, "GET", f"/v1/operations/{begun['id']}")
        assert code == 200
        found.update(now)
        return bool(now["state"] != "running")

    await until(is_over, f"{path} is over")
    assert found["state"] == state, found
    code, again = await ask(place, "POST", path, body, key=key, **how)
    assert (code, again) == (200, found), "it is not done twice"
    return found["result"] if state == "done" else found["error"]


async def test_a_tenant_is_made_migrated_saved_stopped_and_deleted_by_requests(place: tuple[Served, World]) -> None:
    code, planned = await ask(place, "POST", "/v1/tenants", {"id": "acme", "dry_run": True})
    assert (code, planned["status"], planned["database"]) == (200, "would_create", "tenant_acme")
    wanted = {"id": "acme", "isolation": "schema", "tier": "gold"}
    first, again = await asyncio.gather(*(ask(place, "POST", "/v1/tenants", wanted, key="k1") for _ in range(2)))
    codes = sorted((first[0], again[0]))
    assert codes in ([201, 201], [201, 409]), "made once; the other one is told that it is under way, or made"
    code, made = await ask(place, "POST", "/v1/tenants", wanted, key="k1")
    assert (code, made["status"], made["schema"]) == (201, "active", "tenant_acme")
    code, shown = await ask(place, "GET", "/v1/tenants/acme")
    assert (code, shown["status"], shown["tier"]) == (200, "active", "gold")
    saved = await done(place, "/v1/tenants/acme/backup")
    assert saved["kind"] == "schema"
    assert (await ask(place, "GET", "/v1/tenants/acme/backups"))[1]["backups"] == [saved]
    verified = await done(place, f"/v1/backups/{saved['backup']}/verify")
    assert verified["verified_at"]
    restored = await done(place, f"/v1/backups/{saved['backup']}/restore", {"as": "acme2"})
    assert (restored["id"], restored["status"]) == ("acme2", "active")
    assert (await done(place, "/v1/tenants/acme/migrate"))["places"][0]["error"] is None
    code, moved = await ask(place, "POST", "/v1/tenants/acme/migrate", {"dry_run": True})
    assert (code, [each["left"] for each in moved["places"]]) == (200, [0]), "it came with what there is"
    code, stopped = await ask(place, "POST", "/v1/tenants/acme/suspend")
    assert (code, stopped["after"]) == (200, "suspended")
    assert (await ask(place, "POST", "/v1/tenants/acme/resume"))[1]["after"] == "active"
    code, going = await ask(place, "DELETE", "/v1/tenants/acme", {"id": "acme"})
    assert (code, going["state"]) == (200, "waiting")
    assert (await ask(place, "POST", "/v1/tenants/acme/undelete"))[1]["after"] == "active"
    code, gone = await ask(place, "DELETE", "/v1/tenants/acme", {"id": "acme", "grace_days": 0})
    assert (code, gone["state"]) == (200, "deleted")
    assert gone["backup"]
    code, _ = await ask(place, "POST", "/v1/tenants", wanted)
    assert code == 409, "its name is not given again"
    async with place[1].main.connect() as admin:
        asked = await admin.fetch(
            "SELECT detail->>'change' AS change, detail->>'by' AS by FROM tenantproxy.audit_log"
            " WHERE kind = 'tenant_change_asked' AND tenant = 'acme' ORDER BY at"
        )
        ended = await admin.fetchval(
            "SELECT count(*) FROM tenantproxy.audit_log WHERE kind = 'operation_ended' AND tenant = 'acme'"
            " AND detail->>'change' = 'backup' AND detail->>'outcome' = 'done'"
        )
    assert {each["change"] for each in asked} >= {"create", "backup", "migrate", "suspend", "resume", "delete"}
    assert {each["by"] for each in asked} == {"admin"}
    assert ended == 1


async def test_all_tenants_are_saved_tried_and_pruned_by_requests(place: tuple[Served, World]) -> None:
    code, would = await ask(place, "POST", "/v1/backups", {"all": True, "dry_run": True})
    assert code == 200
    assert {("main", "would_save"), ("row1", "would_save")} <= {(x["tenant"], x["state"]) for x in would["backups"]}
    first, other = (await done(place, "/v1/backups", {"tenants": ["row1", "database1"]}))["backups"]
    assert [(each["tenant"], each["state"]) for each in (first, other)] == [("row1", "saved"), ("database1", "saved")]
    again = (await done(place, "/v1/backups", {"resume": True}))["backups"]
    assert [each["state"] for each in again] == ["whole_before"] * 2
    (second,) = (await done(place, "/v1/backups", {"tenants": ["row1"]}))["backups"]
    names = [other["backup"], second["backup"]]
    assert (await ask(place, "POST", "/v1/backups/verify", {"backups": names, "dry_run": True}))[0] == 200
    tried = (await done(place, "/v1/backups/verify", {"backups": names}))["backups"]
    assert [(each["backup"], each["error"]) for each in tried] == [(name, None) for name in names]
    assert all(each["verified_at"] for each in tried)
    rules = {"tenants": ["row1"], "keep": 1}
    code, would = await ask(place, "POST", "/v1/backups/prune", {**rules, "dry_run": True})
    assert (code, would) == (200, {"backups": [first["backup"]]})
    assert await done(place, "/v1/backups/prune", rules) == {"backups": [first["backup"]]}
    kept = (await ask(place, "GET", "/v1/tenants/row1/backups"))[1]["backups"]
    assert [each["backup"] for each in kept] == [second["backup"]]
    refused = await done(place, "/v1/backups", {"tenants": ["nowhere"]}, state="failed")
    assert "nowhere: is not registered" in refused["title"]
    for path, body in (
        ("", {}), ("", {"all": True, "tenants": ["row1"]}), ("/verify", {"backups": ["/etc/passwd"]}),
        ("/prune", {"keep": -1}), ("/prune", {"keep": True}),
    ):  # fmt: skip
        assert (await ask(place, "POST", f"/v1/backups{path}", body))[0] == 400, (path, body)


async def test_a_tenant_is_moved_by_a_request_after_a_dry_run(place: tuple[Served, World]) -> None:
    code, _ = await ask(place, "POST", "/v1/tenants", {"id": "mover", "isolation": "schema"})
    assert code == 201
    code, would = await ask(place, "POST", "/v1/tenants/mover/move", {"isolation": "database", "dry_run": True})
    assert (code, would["status"], would["isolation"]) == (200, "would_move", "database"), would
    assert (await ask(place, "GET", "/v1/tenants/mover"))[1]["isolation"] == "schema"
    moved = await done(place, "/v1/tenants/mover/move", {"isolation": "database"})
    assert moved["placement"]["isolation"] == "database"
    code, shown = await ask(place, "GET", "/v1/tenants/mover")
    assert (shown["isolation"], shown["status"]) == ("database", "active")
    assert shown["database"] == moved["placement"]["database"]
    refused = await done(place, "/v1/tenants/mover/move", {"server": "nowhere"}, state="failed")
    assert "nowhere" in f"{refused['title']} {refused['detail']}"


async def test_what_is_cancelled_in_the_middle_leaves_nothing_and_may_be_asked_for_again(
    place: tuple[Served, World],
) -> None:
    world = place[1]
    assert (await ask(place, "POST", "/v1/tenants", {"id": "calm", "isolation": "schema"}))[0] == 201
    saved = await done(place, "/v1/tenants/calm/backup")
    waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock')"
    asked = {
        "/v1/tenants/calm/backup": ("tenant_calm.projects", None),
        "/v1/backups": ("tenant_calm.projects", {"tenants": ["calm"]}),
        f"/v1/backups/{saved['backup']}/restore": ("tenantproxy_migrations.applied", {"as": "calmer"}),
    }
    async with world.shared.connect() as locking, world.main.connect() as looking:
        for path, (table, body) in asked.items():
            async with locking.transaction():
                await locking.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                code, begun = await ask(place, "POST", path, body, key=f"cancelled-{path[-7:]}")
                assert (code, begun.get("is_cancelling")) == (202, False), begun

                async def is_waiting() -> bool:
                    return bool(await looking.fetchval(waits, world.shared.name))

                await until(is_waiting, "it is in the middle")
                cancel = f"/v1/operations/{begun['id']}/cancel"
                assert (await ask(place, "POST", cancel, token=READER))[0] == 403
                code, ending = await ask(place, "POST", cancel, token=OPERATOR)
                assert (code, ending["is_cancelling"]) == (202, True)

                async def is_over() -> bool:
                    now = (await ask(place, "GET", f"/v1/operations/{begun['id']}"))[1]  # noqa: B023 - awaited here
                    return bool(now["state"] == "cancelled")

                await until(is_over, "it is cancelled")
            assert (await ask(place, "POST", cancel))[0] == 200, "it is by now"
        assert not await locking.fetchval("SELECT to_regnamespace('tenant_calmer') IS NOT NULL")
        assert not await locking.fetchval("SELECT count(*) FROM pg_roles WHERE rolname LIKE '%calmer%'")
        audit = (
            "SELECT count(*) FROM tenantproxy.audit_log WHERE detail->>'change' = 'cancel' AND detail->>'by' = 'shift'"
        )
        assert await looking.fetchval(audit) == len(asked)
    assert (await ask(place, "GET", "/v1/tenants/unfinished"))[1]["tenants"] == []
    assert (await ask(place, "GET", "/v1/tenants/calm/backups"))[1]["backups"] == [saved]
    again = await done(place, f"/v1/backups/{saved['backup']}/restore", {"as": "calmer"})
    assert again["status"] == "active"
    assert (await ask(place, "POST", f"/v1/operations/{10**9}/cancel"))[0] == 404


async def test_the_undo_of_a_restore_leaves_what_another_one_began(place: tuple[Served, World]) -> None:
    world = place[1]
    settings = world.settings(registry="postgres", provision={"shared_database": world.shared.name})

    def dies(_: Saga) -> None:
        raise ConnectionResetError("the process is gone")

    async with Provisioner(settings, done=dies).open() as making:
        with pytest.raises(ProvisioningFailed):
            await making.create(wanted(settings, "twin", isolation=Isolation.SCHEMA))
    (saved,) = (await done(place, "/v1/backups", {"tenants": ["database1"]}, key="of-the-twin"))["backups"]
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%tenantproxy.tenants%'"
    )
    async with world.main.connect() as locking, world.main.connect() as looking:
        async with locking.transaction():
            await locking.execute("LOCK TABLE tenantproxy.tenants IN ACCESS EXCLUSIVE MODE")
            path = f"/v1/backups/{saved['backup']}/restore"
            code, begun = await ask(place, "POST", path, {"as": "twin"}, key="as-the-twin")
            assert code == 202

            async def is_waiting() -> bool:
                return bool(await looking.fetchval(waits))

            await until(is_waiting, "a restore that has begun nothing yet")
            assert (await ask(place, "POST", f"/v1/operations/{begun['id']}/cancel"))[0] == 202

            async def is_heard() -> bool:
                return not await looking.fetchval(waits)

            await until(is_heard, "it heard of that")

        async def is_over() -> bool:
            return bool((await ask(place, "GET", f"/v1/operations/{begun['id']}"))[1]["state"] == "cancelled")

        await until(is_over, "it is cancelled")
    assert [each["id"] for each in (await ask(place, "GET", "/v1/tenants/unfinished"))[1]["tenants"]] == ["twin"]
    assert (await ask(place, "POST", "/v1/tenants/twin/abandon"))[0] == 200


async def test_a_whole_tenant_is_erased_with_its_backups_and_the_report_is_genuine(place: tuple[Served, World]) -> None:
    code, _ = await ask(place, "POST", "/v1/tenants", {"id": "goner", "isolation": "database"})
    assert code == 201
    await done(place, "/v1/tenants/goner/backup")
    exported = await done(place, "/v1/tenants/goner/export")
    assert (Path(exported["folder"]) / "goner" / "public.projects.jsonl").exists()
    code, would = await ask(place, "POST", "/v1/tenants/goner/erase", {"id": "goner", "dry_run": True})
    assert (code, would["state"], len(would["backups"])) == (200, "would_erase", 1), would
    code, refused = await ask(place, "POST", "/v1/tenants/goner/erase", {"id": "acme"})
    assert (code, refused["title"]) == (400, "the id in the body is another one")
    erased = await done(place, "/v1/tenants/goner/erase", {"id": "goner"})
    assert (erased["state"], erased["is_complete"], erased["left"]) == ("erased", True, []), erased
    assert len(erased["backups"]) == 2, "the last one too"
    assert erased["audit_entries"] > 0
    assert (await ask(place, "GET", "/v1/tenants/goner/backups"))[1]["backups"] == []
    assert (await ask(place, "GET", "/v1/tenants/goner"))[0] == 404
    assert (await ask(place, "POST", "/v1/tenants", {"id": "goner"}))[0] == 409, "its name is not given again"
    auth = {"key": "a key that signs reports in these tests"}
    genuine = verified_json("gdpr", json.dumps(erased["report"]), place[1].settings(auth=auth))
    assert (genuine["tenant"], genuine["what"]) == ("goner", "erase tenant")
    again = await done(place, "/v1/tenants/goner/erase", {"id": "goner"}, key="another-try")
    assert (again["state"], again["backups"]) == ("erased", [])


async def test_what_is_held_of_a_person_is_exported_and_erased_by_requests(place: tuple[Served, World]) -> None:
    address = "anna@example.com"
    row1 = next(each for each in place[1].tenants if each.id == "row1")
    async with place[1].database(row1).connect() as admin:
        await admin.execute("INSERT INTO projects (tenant_id, name) VALUES ('row1', $1)", f"of {address}")
    body = {"email": address, "tenants": ["row1"]}
    exported = await done(place, "/v1/persons/export", body)
    assert [(each["tenant"], each["what"], each["rows"]) for each in exported["rows"]] == [("row1", "projects", 1)]
    assert address in (Path(exported["folder"]) / "row1" / "projects.jsonl").read_text()
    for dry_run in (True, False):
        erased = await done(place, "/v1/persons/erase", {**body, "dry_run": dry_run})
        assert erased["rows"][0]["rows"] == 1
        assert address not in json.dumps(erased)
    assert (await done(place, "/v1/persons/erase", body, key="once-more"))["rows"][0]["rows"] == 0
    async with place[1].main.connect() as admin:
        kept = await admin.fetchval("SELECT string_agg(o::text, ' ') FROM tenantproxy.operations o")
    assert address not in kept


async def test_the_audit_and_the_proof_are_run_by_requests_and_their_results_stay(place: tuple[Served, World]) -> None:
    audited = await done(place, "/v1/doctor", {"tenants": ["row1"]})
    assert audited["complete"] is True
    assert audited["databases"] >= 1
    proven = await done(place, "/v1/prove", {"checks": ["cross reads"], "read_only": True})
    assert "leak" not in {each["state"] for each in proven["results"]}
    assert proven["report"]["signature"]
    code, listed = await ask(place, "GET", "/v1/operations?limit=2")
    assert [each["change"] for each in listed["operations"]] == ["prove", "doctor"]
    code, older = await ask(place, "GET", f"/v1/operations?limit=2&before={listed['next']}")
    assert (code, len(older["operations"])) == (200, 2)
    planned = (await ask(place, "POST", "/v1/migrations", {"dry_run": True}))[1]
    assert {each["place"] for each in planned["places"]}


async def test_short_work_is_an_operation_too_where_that_is_preferred(place: tuple[Served, World]) -> None:
    made = await done(place, "/v1/tenants", {"id": "later", "isolation": "schema"}, prefer="respond-async")
    assert (made["id"], made["status"]) == ("later", "active")
    for verb, after in (("suspend", "suspended"), ("resume", "active")):
        path = f"/v1/tenants/later/{verb}"
        code, would = await ask(place, "POST", path, {"dry_run": True})
        assert (code, would["state"]) == (200, f"would_{verb}")
        before = (await ask(place, "GET", "/v1/tenants/later"))[1]["status"]
        assert before != after, "a dry run changes nothing"
        assert (await ask(place, "POST", path))[1]["after"] == after


async def test_the_registered_tenants_are_listed_in_pages_of_one_status_or_kind(place: tuple[Served, World]) -> None:
    known = [each.id for each in place[1].tenants]
    found: list[str] = []
    after = ""
    while True:
        code, page = await ask(place, "GET", f"/v1/tenants?limit=2&after={after}")
        assert code == 200
        assert len(page["tenants"]) <= 2
        found += [each["id"] for each in page["tenants"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert sorted(set(known)) == [each for each in found if each in known]
    rows = (await ask(place, "GET", "/v1/tenants?isolation=row"))[1]["tenants"]
    assert {each["isolation"] for each in rows} == {"row"}
    assert (await ask(place, "GET", "/v1/tenants?status=suspended"))[1] == {"tenants": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "said"),
    [
        ("GET", "/v1/tenants?limit=0", None, 400, "from 1 to 1000"),
        ("GET", "/v1/tenants?limit=99999999999999999999", None, 400, "from 1 to 1000"),
        ("GET", "/v1/tenants?status=gone", None, 400, "status is one of"),
        ("GET", "/v1/tenants/none", None, 404, "not found"),
        ("POST", "/v1/tenants", {}, 400, "id is missing"),
        ("POST", "/v1/tenants", {"id": 7}, 400, "id is not a str"),
        ("POST", "/v1/tenants", {"id": "x", "colour": "red"}, 400, "unknown member"),
        ("POST", "/v1/tenants", [], 400, "not a JSON object"),
        ("POST", "/v1/tenants", {"id": "../x"}, 404, "cannot be a tenant identifier"),
        ("POST", "/v1/tenants", {"id": "x", "isolation": "castle"}, 400, "isolation is one of"),
        ("POST", "/v1/tenants", {"id": "x", "server": "nowhere"}, 409, "nowhere"),
        ("POST", "/v1/tenants/none/suspend", None, 404, "there is no such tenant"),
        ("POST", "/v1/tenants/row1/finish", None, 409, "is not being made"),
        ("POST", "/v1/tenants/row1/paint", None, 404, "no such action"),
        ("POST", "/v1/tenants/row1/move", {"isolation": "castle"}, 400, "isolation is one of"),
        ("POST", "/v1/tenants/row1/erase", None, 400, "id is missing"),
        ("POST", "/v1/persons/erase", {"email": "a@b.example", "user": "7"}, 400, "name one of"),
        ("POST", "/v1/persons/erase", {"user": "7"}, 400, "name it in tenants"),
        ("POST", "/v1/persons/erase", {"tenants": [7]}, 400, "list of texts"),
        ("POST", "/v1/backups/row1/..%2f..%2fetc/verify", None, 404, "not found"),
        ("POST", "/v1/prove", {"http": "http://127.0.0.1:1"}, 400, "unknown member"),
        ("POST", "/v1/prove", {"timeout": 1e9}, 400, "from 1 to 600"),
        ("GET", "/v1/operations/999999999", None, 404, "not found"),
        ("GET", "/v1/operations/x", None, 400, "is a number"),
        ("GET", "/v1/tenants?after=a%20b", None, 400, "no tenant identifier"),
        ("POST", "/v1/tenants/row1/migrate", {"to": True}, 400, "to is not a str"),
        ("DELETE", "/v1/tenants/row1", None, 400, "id is missing"),
        ("DELETE", "/v1/tenants/row1", {"id": "row2"}, 400, "another one"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_and_nothing_is_changed(
    place: tuple[Served, World], method: str, path: str, body: object, code: int, said: str
) -> None:
    before = (await ask(place, "GET", "/v1/tenants"))[1]
    given, problem = await ask(place, method, path, body)
    assert (given, problem["status"]) == (code, code), problem
    assert said in f"{problem['title']} {problem.get('detail', '')}"
    assert (await ask(place, "GET", "/v1/tenants"))[1] == before


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_without_the_token_nothing_is_made_or_removed(place: tuple[Served, World], method: str) -> None:
    path = "/v1/tenants" if method == "POST" else "/v1/tenants/row1"
    code, _ = await ask(place, method, path, {"id": "row1"}, token="another token of sixteen bytes")
    assert code == 401


async def test_where_admin_has_no_token_tenants_can_be_listed_and_not_changed(tmp_path: Path) -> None:
    async with own_world() as world:
        config = tmp_path / "tenantproxy.toml"
        config.write_text(f'{world.toml()}[http]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n')
        with a_sidecar(config, tmp_path / "log") as served:
            assert (await ask((served, world), "GET", "/v1/tenants"))[0] == 200
            for method, path in (
                ("POST", "/v1/tenants"),
                ("DELETE", "/v1/tenants/row1"),
                ("POST", "/v1/tenants/row1/suspend"),
            ):
                code, problem = await ask(
                    (served, world), method, path, {"id": "row1"} if "suspend" not in path else None
                )
                assert (code, problem["code"]) == (403, "access_denied")


def test_each_route_hears_of_a_missing_token_and_of_each_role_that_is_too_weak(place: tuple[Served, World]) -> None:
    url = place[0].admin
    roles = {"read": READER, "operate": OPERATOR, "admin": TOKEN}
    described = json.loads(described_by.ask(url, Asked(method="GET", path="/v1/openapi.json"), READER).body)
    ranks = list(roles)
    refused = 0
    for method, path, operation in described_by.operations(described):
        least = operation["x-role"]
        if least is None:
            continue
        asked = Asked(method=method, path=re.sub(r"{\w+}", "none", path))
        told = described_by.ask(url, asked, None)
        assert (told.status, json.loads(told.body)["title"]) == (401, "the admin token is missing"), path
        for role in ranks[: ranks.index(least)]:
            told = described_by.ask(url, asked, roles[role])
            assert told.status == 403, path
            assert f"needs the role {least}" in json.loads(told.body)["title"]
            refused += 1
    assert refused > 20


def test_whatever_is_asked_is_answered_as_it_is_described(place: tuple[Served, World]) -> None:
    url = place[0].admin
    described = json.loads(described_by.ask(url, Asked(method="GET", path="/v1/openapi.json"), READER).body)
    heavy = ("/v1/upgrade", "/v1/reload", "/v1/drain", "/v1/restart", "/v1/doctor", "/v1/prove", "/v1/migrations")
    known = [each for each in described_by.operations(described) if each[0] == "GET" or each[1] not in heavy]
    known = [each for each in known if each[1] != "/v1/events"]  # which has no end
    dry = ("/v1/tenants", "/v1/persons/export", "/v1/persons/erase")
    one = st.sampled_from(known).flatmap(
        lambda each: st.tuples(st.just(each), described_by.requests(each, {"dry_run": True} if each[1] in dry else {}))
    )

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(one)
    def looked_at(drawn: tuple[tuple[str, str, Mapping[str, Any]], Asked]) -> None:
        (_, _, operation), asked = drawn
        told = described_by.ask(url, asked, TOKEN)
        assert not list(described_by.complaints(operation, told)), (asked, told)
        assert TOKEN.encode() not in told.body

    looked_at()


async def test_sessions_of_a_user_are_listed_and_ended_one_by_one_and_together(place: tuple[Served, World]) -> None:
    async with place[1].main.connect() as admin:
        for number in range(3):
            await admin.execute(
                "SELECT tenantproxy.open_session($1, $2, 'row1', 'ada/1', 1, '{}', 'k', '', '', 60, 3600)",
                secrets.token_bytes(32), f"session{number}",
            )  # fmt: skip
    path = "/v1/tenants/row1/users/ada%2F1/sessions"
    code, found = await ask(place, "GET", path, token=READER)
    assert (code, {each["id"] for each in found["sessions"]}) == (200, {"session0", "session1", "session2"})
    assert (await ask(place, "GET", path.replace("row1", "row2"), token=READER))[1] == {"sessions": []}
    other = path.replace("ada", "eve")
    assert (await ask(place, "DELETE", f"{other}/session1", token=OPERATOR))[0] == 404, "it is of another user"
    assert (await ask(place, "DELETE", f"{path}/session1", token=OPERATOR)) == (200, {"ended": 1})
    assert (await ask(place, "DELETE", path, token=OPERATOR)) == (200, {"ended": 2})
    assert (await ask(place, "DELETE", path, token=OPERATOR)) == (200, {"ended": 0})
    assert (await ask(place, "GET", path, token=READER))[1] == {"sessions": []}

    async def is_audited() -> bool:
        async with place[1].main.connect() as admin:
            rows = await admin.fetch(
                "SELECT detail->>'by' AS by, detail->>'status' AS status FROM tenantproxy.audit_log"
                " WHERE kind = 'admin_change_answered' AND user_id = 'ada/1' AND tenant = 'row1' ORDER BY id"
            )
        return [(each["by"], each["status"]) for each in rows] == [("shift", "200")] * 3

    await until(is_audited, "the audit table has each change with the name of its token")


@pytest.fixture(scope="module")
def several(place: tuple[Served, World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, World]]:
    """The same configuration and world, served by two workers."""
    given = place[0].process.args
    assert isinstance(given, list)
    config = Path(str(given[given.index("--config") + 1]))
    with a_sidecar(config, tmp_path_factory.mktemp("several") / "log", "--workers", "2") as served:
        yield served, place[1]


async def test_several_workers_answer_for_tenants_and_operations_and_audit_who_asked(
    several: tuple[Served, World],
) -> None:
    code, listed = await ask(several, "GET", "/v1/tenants?limit=2", token=READER)
    assert (code, len(listed["tenants"])) == (200, 2)
    assert (await ask(several, "POST", "/v1/tenants", {"id": "x"}, token=OPERATOR))[0] == 403
    code, made = await ask(several, "POST", "/v1/tenants", {"id": "spread", "isolation": "schema"}, key="spread")
    assert (code, made["status"]) == (201, "active"), made
    assert (await ask(several, "POST", "/v1/tenants/spread/suspend", token=OPERATOR))[1]["after"] == "suspended"
    assert (await ask(several, "POST", "/v1/tenants/spread/resume", {"dry_run": True}))[1]["state"] == "would_resume"
    saved = await done(several, "/v1/tenants/spread/backup")
    assert saved["kind"] == "schema"
    code, problem = await ask(several, "POST", "/v1/tenants/spread/erase", {"id": "other"})
    assert (code, problem["title"]) == (400, "the id in the body is another one")
    code, problem = await ask(several, "POST", "/v1/tenants/..%2F..%2Fetc/backup")
    assert (code, problem["code"]) == (404, "unknown_tenant")
    assert (await ask(several, "GET", "/v1/operations?limit=1"))[1]["operations"][0]["change"] == "backup"
    assert (await ask(several, "GET", "/v1/tenants/spread/users/u/sessions", token=READER))[0] in (200, 409)
    described = (await ask(several, "GET", "/v1/openapi.json"))[1]
    assert "/v1/tenants/{tenant}/suspend" in described["paths"]

    async def by() -> set[tuple[str, str]]:
        async with several[1].main.connect() as admin:
            rows = await admin.fetch(
                "SELECT detail->>'by' AS by, detail->>'change' AS change FROM tenantproxy.audit_log"
                " WHERE kind = 'tenant_change_asked' AND tenant = 'spread'"
            )
        return {(each["by"], each["change"]) for each in rows}

    async def is_audited() -> bool:
        return await by() >= {("admin", "create"), ("shift", "suspend"), ("admin", "backup")}

    await until(is_audited, "it is in the audit table")
