"""Does the audit judge what a server says of itself: version, clock, encryption, pooler, and budgets?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tenantproxy.lifecycle.doctor.local import ServerFacts, budget_findings, server_findings

GOOD = ServerFacts(
    name="primary",
    host="127.0.0.1",
    version=180000,
    identity="7",
    max_connections=100,
    reserved=3,
    budget=97,
    encrypted=False,
    offset=0.0,
    pid=1,
    told_pid=1,
)


def test_a_good_server_has_no_finding() -> None:
    assert list(server_findings(GOOD)) == []
    assert list(budget_findings([GOOD])) == []


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(GOOD, version=140019), "TPD031"),
        (replace(GOOD, version=150013), "TPD031"),
        (replace(GOOD, version=160009), "TPD031"),
        (replace(GOOD, version=170005), "TPD031"),
        (replace(GOOD, pid=2), "TPD038"),
        (replace(GOOD, offset=-1.5), "TPD039"),
        (replace(GOOD, host="db.example"), "TPD040"),
    ],
)
def test_what_a_server_says_of_itself_is_judged(facts: ServerFacts, code: str) -> None:
    assert [each.code for each in server_findings(facts)] == [code]


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, version=150014),
        replace(GOOD, host="/run/postgresql"),
        replace(GOOD, host="::1"),
        replace(GOOD, pid=2, offset=9.0, is_pooled=True),
    ],
)
def test_what_is_good_enough_is_no_finding(facts: ServerFacts) -> None:
    assert list(server_findings(facts)) == []


def test_sections_of_one_server_have_its_connections_together() -> None:
    half = replace(GOOD, budget=60)
    assert list(budget_findings([half, replace(half, name="other", identity="8")])) == []
    finding = next(budget_findings([half, replace(half, name="other")]))
    assert finding.code == "TPD041"
    assert finding.what == (
        "The budgets of [servers.primary] and [servers.other] are 120 connections,"
        " and the server has 97 (100 less 3 reserved)."
    )
    assert finding.sql == ("ALTER SYSTEM SET max_connections = 123",)
