"""Can the bench of the reference platforms be believed? What it takes for a foreign row, a lost one, and a cause."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from benchmarks.systems_ledger import Ledger, Refused
from benchmarks.systems_platforms import PLATFORMS
from benchmarks.systems_run import Load, verdicts_of
from tenantproxy.demo.system_show import SYSTEMS
from tenantproxy.errors import ConnectFailed


def missed(ledger: Ledger, *, plant: bool = False) -> list[str]:
    found = verdicts_of("bitnexus", ledger, Load(operations=0, plant=plant))
    return [one.target.partition(": ")[2] for one in found if not one.met]


@pytest.mark.parametrize(("rows", "foreign"), [([("a", "a/1")], 0), ([("a", "b/1")], 1), ([("b", "b/1"), ("a",)], 1)])
def test_a_row_that_names_another_tenant_is_foreign(rows: list[tuple[str, ...]], foreign: int) -> None:
    ledger = Ledger()
    ledger.seen("library", "a", rows)
    assert (ledger.foreign, ledger.rows) == (foreign, len(rows))
    assert missed(ledger) == ["rows of another tenant"] * foreign
    assert missed(ledger, plant=True) == ["foreign rows"] * (not foreign)


def test_where_all_read_each_others_rows_only_their_owners_must_agree() -> None:
    ledger = Ledger(is_open=True)
    ledger.seen("library", "a", [("b", "b/1"), ("b", "a/1")])
    assert ledger.foreign == 1


def test_a_row_that_was_acknowledged_must_be_there_once_and_whole() -> None:
    ledger = Ledger(paired={"a/2"}, undone={"a/4"})
    ledger.acknowledged["a"] += ["a/1", "a/2", "a/3"]
    ledger.settle([("a", "a/1", 0), ("a", "a/1", 0), ("a", "a/2", 0), ("a", "a/4", 0), ("b", "a/5", 0)])
    assert (ledger.lost, ledger.doubled, ledger.revived, ledger.foreign) == (2, 1, 1, 1)
    ledger = Ledger(paired={"a/2"}, undone={"a/4"})
    ledger.acknowledged["a"] += ["a/1", "a/2"]
    ledger.settle([("a", "a/1", 0), ("a", "a/2", 1), ("a", "a/3", 0)])  # the third: no one heard of it
    assert missed(ledger) == []


def test_an_acknowledged_row_that_cannot_be_read_is_missing() -> None:
    ledger = Ledger()
    ledger.read_back("port", "a/1", [("a", "a/1")])
    ledger.read_back("port", "a/1", [])
    assert missed(ledger) == ["acknowledged rows that are missing"]


def test_an_error_is_explained_by_what_the_faults_do_and_by_nothing_else() -> None:
    ledger = Ledger()
    for exc in (ConnectFailed("none"), asyncpg.AdminShutdownError("ended"), Refused("57014"), ConnectionResetError()):
        ledger.failed("library", exc)
    assert missed(ledger) == []
    for other in (asyncpg.InsufficientPrivilegeError("no"), Refused("08P01"), Refused("http 403"), TimeoutError()):
        ledger.failed("library", other)
    ledger.failed("library", asyncpg.InternalClientError("another operation (2) is in progress"))
    ledger.failed("library", asyncpg.InternalClientError("another operation (12) is in progress"))
    assert ledger.unexplained.total() == 5
    assert ledger.explained.total() == 5


def test_each_platform_of_the_demo_is_in_the_bench_or_its_page_says_that_it_is_not() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks" / "systems.md").read_text()
    untried = page.partition("## What was not tried")[2]
    assert PLATFORMS.keys() <= SYSTEMS.keys()
    for name in SYSTEMS.keys() - PLATFORMS.keys():
        assert SYSTEMS[name].title.partition(",")[0] in untried
