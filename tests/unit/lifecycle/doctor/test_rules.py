"""Are the rules of the audit complete: each in the documentation, and each code of the SQL files a rule?"""

from __future__ import annotations

import re
from importlib import resources

import pytest

from tenantproxy.lifecycle.doctor import RULES, DoctorFinding, Severity, as_mapping
from tenantproxy.lifecycle.doctor.data_rules import DATA_RULES
from tenantproxy.lifecycle.doctor.finding import ranked
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.lifecycle.doctor.server_rules import SERVER_RULES
from tests.support.doctor_page import PAGE, page


def test_the_page_of_the_documentation_has_every_rule_as_it_is() -> None:
    assert PAGE.read_text() == page(), "python -m tests.support.doctor_page"


def test_no_two_rules_have_the_same_code() -> None:
    assert len(RULES) == len(SERVER_RULES) + len(DATA_RULES)


def test_each_code_in_the_package_is_a_rule_and_each_rule_is_used() -> None:
    folder = resources.files("tenantproxy.lifecycle.doctor")
    texts = [each.read_text() for each in folder.iterdir() if each.name.endswith(".py") and "_rules" not in each.name]
    texts += [each.read_text() for each in folder.joinpath("sql").iterdir()]
    assert set(re.findall(r"TPD\d{3}", "\n".join(texts))) == RULES.keys()


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_the_sentence_of_a_rule_takes_object_and_detail(rule: object) -> None:
    assert isinstance(rule, type(RULES["TPD001"]))
    finding = DoctorFinding(rule=rule, object="an object", detail="a detail")
    assert "{" not in finding.what
    assert finding.what.endswith(".")


def test_what_could_not_be_looked_at_comes_first_then_the_worst() -> None:
    findings = [found("TPD003"), found("TPD098"), found("TPD084"), found("TPD081"), found("TPD001"), found("TPD001")]
    assert [each.code for each in ranked(findings)] == ["TPD001", "TPD081", "TPD084", "TPD098", "TPD003"]


def test_a_finding_for_programs_says_where_what_and_how_to_repair_it() -> None:
    finding = found("TPD084", server="s", database="d", schema="public", object="public.t", sql=("ALTER TABLE t",))
    assert as_mapping(finding) == {
        "code": "TPD084",
        "severity": Severity.HIGH,
        "server": "s",
        "database": "d",
        "schema": "public",
        "object": "public.t",
        "what": "public.t has row-level security without FORCE: its owner sees all rows.",
        "sql": ["ALTER TABLE t"],
        "advice": "",
        "fixable": True,
        "blind": False,
        "docs": "docs/doctor.md#tpd084",
    }
