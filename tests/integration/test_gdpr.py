"""Is all that tenants hold of a person exported, and erased, of that person alone, and can the report be trusted?"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.cli import gdpr
from tenantproxy.config import Settings
from tenantproxy.lifecycle.gdpr import Person
from tenantproxy.lifecycle.prove import verified_report
from tenantproxy.lifecycle.signing import ReportRefused, verified_json
from tests.support.lasting import lasting as kept
from tests.support.logins import PASSWORD, change, directory, failure, login_settings, populate
from tests.support.waiting import until
from tests.support.world import World, a_world

ANNA: Final = "anna@example.com"
BEN: Final = "ben@example.com"
AUTH: Final = {"key": "a key that signs reports in these tests"}
PARTS: Final = (
    {
        "name": "account",
        "export": "select id, email, role from users where lower(email) = $1",
        "erase": "update users set email = null, password_hash = '!', is_active = false where lower(email) = $1",
    },
    {"name": "projects", "by": "user", "export": "select * from projects where name = 'of ' || $1",
     "erase": "delete from projects where name = 'of ' || $1"},
)  # fmt: skip


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(a_world(request.getfixturevalue("postgres"), rows=2, schemas=1, databases=1, furnish=people)) as world:
        yield world


async def people(world: World) -> None:
    await populate(world, {tenant.id: (ANNA, BEN) for tenant in world.tenants if tenant.id != "row2"})
    for tenant in world.tenants:
        column, value = ("tenant_id, ", f"'{tenant.id}', ") if tenant.id.startswith("row") else ("", "")
        for number in (1, 2):
            await change(
                world, tenant.id, f"INSERT INTO projects ({column}name) VALUES ({value}'of {tenant.id}-{number}')"
            )


def settings_of(world: World, **changes: Any) -> Settings:
    return login_settings(world, lookup=False, gdpr={"person": list(PARTS)}, auth=AUTH, **changes)


def counts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    assert not gdpr.has_failed(rows), rows
    return {(row["tenant"], row["what"]): row["rows"] for row in rows}


HELD: Final = {
    (tenant, part): int(tenant != "row2")
    for tenant in ("row1", "row2", "schema1", "database1")
    for part in ("account", "projects")
}


async def test_a_person_is_exported_from_all_tenants_with_what_is_signed(house: World, tmp_path: Path) -> None:
    settings, into = settings_of(house), tmp_path / "anna"
    rows = await gdpr.export(settings, (), Person(email="  Anna@Example.com"), into)
    assert counts(rows) == HELD
    manifest = json.loads((into / "manifest.json").read_text())
    for name, each in manifest.items():
        data = (into / name).read_bytes()
        assert sha256(data).hexdigest() == each["sha256"]
        assert BEN not in data.decode()
        assert (into / name).stat().st_mode & 0o077 == 0
    (line,) = (into / "schema1" / "account.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "schema1-1", "email": ANNA, "role": "member"}
    text = (into / "report.json").read_text()
    assert ANNA not in text
    report = gdpr.verify(settings, into / "report.json")
    assert report["files"] == manifest
    assert report["is_complete"] is True
    assert report["person"] == hmac.digest(bytes.fromhex(report["nonce"]), ANNA.encode(), "sha256").hex()
    with pytest.raises(ReportRefused, match="was changed"):
        verified_json("gdpr", text.replace('"is_complete": true', '"is_complete": false'), settings)
    with pytest.raises(ReportRefused):
        verified_report(text, settings)  # one kind cannot be taken for another
    with pytest.raises(ConfigurationError, match="exists already"):
        await gdpr.export(settings, (), Person(email=ANNA), into)


async def test_a_tenants_export_is_what_it_holds_and_nothing_of_others(house: World, tmp_path: Path) -> None:
    await gdpr.export(settings_of(house), ("row1", "schema1", "database1"), None, tmp_path / "all")
    for tenant, schema in (("row1", "public"), ("schema1", "schema1"), ("database1", "public")):
        found = (tmp_path / "all" / tenant / f"{schema}.projects.jsonl").read_text()
        names = {json.loads(line)["name"] for line in found.splitlines()}
        assert f"{tenant} 1" in names
        assert all(tenant in name for name in names)
        assert ANNA in (tmp_path / "all" / tenant / f"{schema}.users.jsonl").read_text()


async def test_nothing_is_left_of_an_export_that_is_ended_in_the_middle(house: World, tmp_path: Path) -> None:
    into, row1 = tmp_path / "ended", next(each for each in house.tenants if each.id == "row1")
    async with house.database(row1).connect() as locking:
        await locking.execute("BEGIN; LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        task = asyncio.ensure_future(gdpr.export(settings_of(house), ("schema1", "row1"), None, into))
        await until(lambda: list(tmp_path.rglob("*.users.jsonl")), "a part of it is there")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await locking.execute("ROLLBACK")
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []


async def test_a_tenant_that_never_answers_is_told_and_the_others_are_exported(house: World, tmp_path: Path) -> None:
    schema1 = next(each for each in house.tenants if each.id == "schema1")
    gdpr_settings = {"person": list(PARTS), "timeout": 2.0}
    settings = login_settings(house, lookup=False, gdpr=gdpr_settings, auth=AUTH)
    async with house.database(schema1).connect() as holding, holding.transaction():
        await holding.execute("LOCK TABLE schema1.projects")
        rows = await gdpr.export(settings, ("schema1", "database1"), Person(email=ANNA), tmp_path / "held")
    assert [(row["tenant"], row["error"] is not None) for row in rows] == [
        ("database1", False), ("database1", False), ("schema1", True),
    ]  # fmt: skip


async def test_an_erasure_counts_first_and_then_takes_one_person_with_logins_and_directory(house: World) -> None:
    settings, person = settings_of(house), Person(email=BEN)
    async with Router(settings) as router:
        assert len(await router.login(BEN, PASSWORD)) == 3
        key = router.logins.directory.key(BEN)
        for tenant in ("row1", "schema1", "database1"):
            await router.logins.directory.add(key, next(t.id for t in house.tenants if t.id == tenant), f"{tenant}-2")
    tried, _ = await gdpr.erase(settings, (), person, dry_run=True, signed=False)
    assert counts(tried) == HELD
    done, text = await gdpr.erase(settings, (), person, dry_run=False, signed=True)
    assert counts(done) == HELD, "the trial changed nothing"
    assert verified_json("gdpr", text, settings)["rows"] == done
    again, _ = await gdpr.erase(settings, (), person, dry_run=False, signed=False)
    assert set(counts(again).values()) == {0}
    assert not {user for _, user in await directory(house.main)} & {"row1-2", "schema1-2", "database1-2"}
    async with Router(settings) as router:
        assert await failure(router.login(BEN, PASSWORD)) == "InvalidCredentials"
        assert len(await router.login(ANNA, PASSWORD)) == 3
        for tenant in ("row1", "schema1", "database1"):
            names = [row["name"] for row in await router.tenant(tenant).fetch("SELECT name FROM projects")]
            assert f"of {tenant}-1" in names
            assert f"of {tenant}-2" not in names


async def test_an_erasure_that_fails_leaves_the_person_whole_in_that_tenant_and_says_so(house: World) -> None:
    broken = {"name": "last", "erase": "delete from projects where id = 1 / (length($1) - length($1))"}
    settings = login_settings(house, lookup=False, gdpr={"person": [*PARTS, broken]}, auth=AUTH)
    rows, text = await gdpr.erase(settings, ("row1",), Person(user="row1-1"), dry_run=False, signed=True)
    assert rows[0]["error"] is None, "by e-mail alone: nothing was to be done"
    rows, text = await gdpr.erase(settings, ("row1",), Person(email=ANNA), dry_run=False, signed=True)
    assert "22012" in rows[0]["error"]
    assert verified_json("gdpr", text, settings)["is_complete"] is False
    async with Router(settings) as router:
        assert [account.tenant for account in await router.login(ANNA, PASSWORD, tenant="row1")] == ["row1"]


async def test_what_is_missing_is_told_before_any_tenant_is_asked(house: World, tmp_path: Path) -> None:
    settings, nothing = settings_of(house), login_settings(house, lookup=False, auth={"key": "k" * 32})
    for asked, said in (
        (gdpr.export(settings, (), None, tmp_path / "x"), "of whom"),
        (gdpr.export(settings, (), Person(email="anna"), tmp_path / "x"), "no e-mail address"),
        (gdpr.export(settings, ("none",), None, tmp_path / "x"), "tenant none: is not registered"),
        (gdpr.export(nothing, (), Person(email=ANNA), tmp_path / "x"), "has no export"),
        (gdpr.export(settings, (), Person(user="1"), tmp_path / "x"), "id of one tenant"),
        (gdpr.export(login_settings(house, lookup=False), ("row1",), None, tmp_path / "x"), "it signs the report"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            await asked
