"""Which rules are there? All of them, by code."""

from __future__ import annotations

from typing import Final

from tenantproxy.lifecycle.doctor.data_rules import DATA_RULES
from tenantproxy.lifecycle.doctor.finding import DoctorFinding, DoctorRule
from tenantproxy.lifecycle.doctor.server_rules import SERVER_RULES

__all__ = ["RULES", "found"]

RULES: Final[dict[str, DoctorRule]] = {rule.code: rule for rule in (*SERVER_RULES, *DATA_RULES)}


def found(code: str, **where: object) -> DoctorFinding:
    """A finding of the rule `code`; `where` are the other fields of DoctorFinding."""
    return DoctorFinding(rule=RULES[code], **where)  # type: ignore[arg-type]
