"""Can an operator move, stop and remove tenants from the command line, and is what cannot be done said clearly?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tenantproxy.cli.main import app
from tests.fault.conftest import own_world
from tests.support.lasting import lasting
from tests.support.world import OWN_PROJECTS, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing:
    """`tenantproxy tenants ...` with one configuration, in this process."""

    config: Path

    def said(self, *args: str, code: int = 0) -> Any:
        """What it answers to a program."""
        done = CliRunner().invoke(app, ["tenants", *args, "--config", str(self.config), "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def one(self, *args: str, code: int = 0) -> dict[str, Any]:
        """The one row of it."""
        (row,) = self.said(*args, code=code)
        assert isinstance(row, dict)
        return row

    def refused(self, *args: str, code: int = 1) -> str:
        """What it says to a person when it does nothing."""
        done = CliRunner().invoke(app, ["tenants", *args, "--config", str(self.config)])
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        return " ".join(done.stderr.split())

    def query(self, tenant: str, text: str) -> str:
        """What `tenantproxy sql` says, as the tenant."""
        return CliRunner().invoke(app, ["sql", tenant, text, "--config", str(self.config), "--json"]).output

    def sees(self, tenant: str) -> int:
        """How many projects it has."""
        (row,) = json.loads(self.query(tenant, "select count(*) as n from projects"))
        return int(row["n"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Typing]]:
    folder = tmp_path_factory.mktemp("life")
    with lasting(own_world()) as world:
        (folder / "schema.sql").write_text(f"{OWN_PROJECTS};\nINSERT INTO projects (name) VALUES ('one'), ('two');\n")
        admin = f'[servers.primary.admin]\nuser = "{world.server.superuser}"\npassword = "{world.server.password}"\n'
        rest = (
            f'[provision]\nsql_files = ["schema.sql"]\nshared_database = "{world.shared.name}"\n'
            f'[backup]\nfolder = "{folder / "backups"}"\n'
        )
        config = folder / "tenantproxy.toml"
        config.write_text(f"{world.toml()}{admin}{rest}")
        yield world, Typing(config=config)


@pytest.fixture
def tenants(place: tuple[World, Typing]) -> Typing:
    return place[1]


def test_a_tenant_is_moved_and_what_cannot_be_is_refused_by_name(tenants: Typing) -> None:
    tenants.said("create", "mover", "--isolation", "schema")
    planned = tenants.said("move", "mover", "--to-kind", "database", "--dry-run")
    assert (planned["state"], planned["database"]) == ("would_move", "tenant_mover")
    assert tenants.said("show", "mover")["isolation"] == "schema", "nothing was done"
    done = tenants.said("move", "mover", "--to-kind", "database", "--drop-old")
    assert {key: done[key] for key in ("state", "isolation", "database", "rows", "left")} == {
        "state": "moved", "isolation": "database", "database": "tenant_mover", "rows": 2, "left": "",
    }  # fmt: skip
    assert done["paused_seconds"] > 0
    assert tenants.sees("mover") == 2
    assert tenants.said("move", "mover", "--abort") == {"tenant": "mover", "state": "nothing was interrupted"}
    for args, told in (
        (("mover",), "is a database tenant on primary already"),
        (("mover", "--to-server", "nowhere"), "there is no [servers.nowhere]"),
        (("unknown", "--to-kind", "schema"), "there is no such tenant"),
    ):
        assert told in tenants.refused("move", *args)
    for wrong in (["mover", "--to-kind", "castle"], ["mover", "--drain", "0"], []):
        tenants.refused("move", *wrong, code=2)


def test_a_suspended_tenant_is_refused_until_it_is_resumed(tenants: Typing) -> None:
    tenants.said("create", "stopper", "--isolation", "schema")
    assert tenants.one("suspend", "stopper", "--dry-run")["state"] == "would_suspend"
    assert tenants.one("archive", "stopper", "--dry-run")["before"] == "active"
    assert tenants.sees("stopper") == 2, "nothing was done"
    assert tenants.one("suspend", "stopper") == {
        "tenant": "stopper", "before": "active", "after": "suspended", "is_closed": True, "ended": 0,
    }  # fmt: skip
    assert "the tenant is suspended" in tenants.query("stopper", "select 1")
    assert tenants.one("suspend", "stopper")["before"] == "suspended", "again is no error"
    assert tenants.one("resume", "stopper", "--dry-run")["before"] == "suspended"
    assert tenants.one("resume", "stopper")["after"] == "active"
    assert tenants.sees("stopper") == 2
    both = tenants.said("suspend", "unknown", "stopper", code=1)
    assert [(row["tenant"], row["after"]) for row in both] == [("unknown", None), ("stopper", "suspended")]
    assert "no such tenant" in both[0]["error"]
    for name in ("suspend", "resume"):
        assert "there is no such tenant" in tenants.refused(name, "unknown")
        tenants.refused(name, code=2)


def test_a_tenant_is_archived_and_resumed_with_what_it_had(tenants: Typing) -> None:
    tenants.said("create", "shelf", "--isolation", "database")
    kept = tenants.one("archive", "shelf")
    assert (kept["state"], kept["backup"].partition("/")[0]) == ("archived", "shelf")
    assert tenants.said("show", "shelf")["status"] == "inactive"
    assert tenants.one("resume", "shelf")["before"] == "inactive"
    assert tenants.sees("shelf") == 2
    dropped = tenants.one("archive", "shelf", "--drop-place")
    assert (dropped["state"], dropped["left"]) == ("archived", "")
    for args in (("shelf",), ("shelf", "--dry-run")):
        assert "is archived, and what it had was removed" in tenants.refused("resume", *args)
    assert "there is no such tenant" in tenants.refused("archive", "unknown")


def test_a_deletion_is_planned_waits_is_taken_back_and_is_final(tenants: Typing) -> None:
    tenants.said("create", "goer", "--isolation", "schema")
    planned = tenants.one("delete", "goer", "--dry-run")
    assert (planned["state"], planned["left"]) == ("would_delete", "")
    assert tenants.sees("goer") == 2, "nothing was done"
    waiting = tenants.one("delete", "goer")
    assert (waiting["state"], waiting["final_at"] is not None) == ("waiting", True)
    assert "--grace 0 removes it now" in tenants.refused("delete", "goer")
    assert tenants.one("undelete", "goer", "--dry-run")["state"] == "would_undelete"
    for name in ("suspend", "archive"):
        assert "is being deleted" in tenants.refused(name, "goer", "--dry-run")
    assert "is being deleted" in tenants.refused("move", "goer", "--to-kind", "database")
    assert tenants.one("undelete", "goer")["after"] == "active"
    assert tenants.sees("goer") == 2
    for args in (("goer",), ("goer", "--dry-run")):
        assert "was not deleted" in tenants.refused("undelete", *args)
    assert tenants.said("delete", "--due") == []
    gone = tenants.one("delete", "goer", "--grace", "0")
    assert (gone["state"], gone["left"], gone["backup"].partition("/")[0]) == ("deleted", "", "goer")
    assert "there is no such tenant" in tenants.refused("delete", "goer")
    assert "a name is not given again" in tenants.one("create", "goer", code=1)["error"]


@pytest.mark.parametrize(
    "args",
    [
        (), ("row1", "--due"), ("row1", "--grace", "-1"), ("row1", "--no-backup"),
        ("row1", "--no-backup", "--yes-i-mean-it", "row2"), ("row1", "row2", "--no-backup", "--yes-i-mean-it", "row1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_deletion_that_is_typed_wrong_deletes_nothing(tenants: Typing, args: tuple[str, ...]) -> None:
    tenants.refused("delete", *args, code=2)
    assert tenants.said("show", "row1")["status"] == "active"


def test_without_a_folder_for_backups_nothing_is_archived_or_removed(tenants: Typing, tmp_path: Path) -> None:
    config = tmp_path / "tenantproxy.toml"
    text = tenants.config.read_text().partition("[backup]")[0]
    config.write_text(text.replace('"schema.sql"', f'"{tenants.config.parent / "schema.sql"}"'))
    without = Typing(config=config)
    assert "backup.folder is missing" in without.refused("archive", "row1").replace(": ", " ")
    assert "there is no backup of it" in without.refused("delete", "row1", "--grace", "0")
    assert without.one("undelete", "row1")["after"] == "active"
