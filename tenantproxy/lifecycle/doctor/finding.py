"""What does the audit find? Values: a rule with a stable code, and a finding, which is where a rule is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

__all__ = ["DoctorFinding", "DoctorRule", "Severity", "as_mapping", "ranked"]

PAGE: Final = "docs/doctor.md"


class Severity(StrEnum):
    """CRITICAL: a tenant can reach another one's data now. NOTE: worth knowing; alone it is no reason to fail."""

    CRITICAL = "critical"
    HIGH = "high"
    WARNING = "warning"
    NOTE = "note"


_ORDER: Final = {severity: number for number, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRule:
    """One thing that is looked for. `code` never changes its meaning.

    `says` is one sentence with `{object}` and `{detail}`. `why` is for the documentation, `advice` what to do where no
    SQL does it, or in addition to it. `is_safe`: its SQL only takes away what no tenant needs, or adds what isolation
    needs, and may be run at any time. `is_blind`: something could not be looked at.
    """

    code: str
    severity: Severity
    title: str
    says: str
    why: str
    advice: str = ""
    is_safe: bool = False
    is_blind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """Where a rule is broken. `sql`: statements for `database` (the main one where it is empty), in order."""

    rule: DoctorRule = field(repr=False)
    server: str = ""
    database: str = ""
    schema: str = ""
    object: str = ""
    detail: str = ""
    sql: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """Of its rule."""
        return self.rule.code

    @property
    def what(self) -> str:
        """One sentence."""
        return self.rule.says.format(object=self.object, detail=self.detail)

    @property
    def is_fixable(self) -> bool:
        """Whether `--fix` runs its SQL."""
        return self.rule.is_safe and bool(self.sql)

    @property
    def docs(self) -> str:
        """The part of the page that explains it."""
        return f"{PAGE}#{self.rule.code.lower()}"


def ranked(findings: Iterable[DoctorFinding]) -> tuple[DoctorFinding, ...]:
    """Each once: what could not be looked at, then the worst first, then by place."""
    return tuple(
        sorted(
            dict.fromkeys(findings),
            key=lambda each: (
                not each.rule.is_blind,
                _ORDER[each.rule.severity],
                each.code,
                each.server,
                each.database,
                each.schema,
                each.object,
            ),
        )
    )


def as_mapping(finding: DoctorFinding) -> dict[str, Any]:
    """As `--json` prints it."""
    rule = finding.rule
    return {
        "code": rule.code,
        "severity": rule.severity.value,
        "server": finding.server,
        "database": finding.database,
        "schema": finding.schema,
        "object": finding.object,
        "what": finding.what,
        "sql": list(finding.sql),
        "advice": rule.advice,
        "fixable": finding.is_fixable,
        "blind": rule.is_blind,
        "docs": finding.docs,
    }
