"""What does `tenantproxy doctor` show, run and answer? Findings for a reader or a program, repairs, an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Settings
from tenantproxy.lifecycle.doctor import AuditReport, DoctorFinding, Severity, as_mapping, examine
from tenantproxy.lifecycle.doctor.repair import DoctorRepair, audit_mapping, repair
from tenantproxy.printable import json_text, line_text

__all__ = ["DoctorRequest", "run_doctor"]

_STYLES: Final = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """What was typed."""

    servers: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    is_fixing: bool = False
    is_dry: bool = False
    as_json: bool = False


async def run_doctor(settings: Settings, request: DoctorRequest) -> int:
    """Look, repair when that is asked for, look again, and show it. Returns the exit code."""
    report = await _examine(settings, request)
    repairs: list[DoctorRepair] = []
    would = [finding for finding in report.findings if finding.is_fixable] if request.is_fixing else []
    if would and not request.is_dry:
        repairs = await repair(settings, would)
        report = await _examine(settings, request)
    planned = would if request.is_dry else []
    if request.as_json:
        sys.stdout.write(json_text(_answer(report, repairs, planned), indent=2) + "\n")
    else:
        _show(report, repairs, planned)
    return report.exit_code


async def _examine(settings: Settings, request: DoctorRequest) -> AuditReport:
    with progress_bar() as bar:
        task = bar.add_task("looking", total=None)
        return await examine(
            settings,
            servers=request.servers,
            tenants=request.tenants,
            ignored=request.ignored,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _answer(report: AuditReport, repairs: Sequence[DoctorRepair], planned: Sequence[DoctorFinding]) -> dict[str, Any]:
    return audit_mapping(report, repairs) | {"would_repair": [as_mapping(finding) for finding in planned]}


def _show(report: AuditReport, repairs: Sequence[DoctorRepair], planned: Sequence[DoctorFinding]) -> None:
    console = Console(soft_wrap=True, highlight=False)

    def say(text: str, style: str = "") -> None:
        # What tenants name their objects must not move the cursor of an operator's terminal.
        console.print(line_text(text), markup=False, style=style or None)

    for each in repairs:
        outcome = f"not repaired: {each.error}" if each.error else "repaired"
        say(f"{outcome}: {each.finding.code} {_place(each.finding)}", "red" if each.error else "green")
        _show_sql(each.finding, say)
    for finding in planned:
        say(f"would repair: {finding.code} {_place(finding)}")
        _show_sql(finding, say)
    if repairs or planned:
        say("")
    for finding in report.findings:
        say(f"{finding.rule.severity:<8} {finding.code} {_place(finding)}", _STYLES[finding.rule.severity])
        say(f"  {finding.what}")
        _show_sql(finding, say)
        if finding.rule.advice:
            say(f"  {finding.rule.advice}")
        say(f"  {finding.docs}", "dim")
    say(_total(report))


def _show_sql(finding: DoctorFinding, say: Any) -> None:
    for statement in finding.sql:
        say(f"  {statement};")


def _place(finding: DoctorFinding) -> str:
    where = "/".join(part for part in (finding.server, finding.database) if part)
    return " ".join(part for part in (where, finding.object) if part)


def _total(report: AuditReport) -> str:
    counts = [(each, sum(finding.rule.severity is each for finding in report.findings)) for each in Severity]
    found = ", ".join(f"{count} {severity}" for severity, count in counts if count) or "nothing found"
    looked = f"{report.servers} server{'s' * (report.servers != 1)}, {report.databases} databases looked at"
    fixable = sum(finding.is_fixable for finding in report.findings)
    more = f"; --fix repairs {fixable} of them" if fixable else ""
    blind = "; NOT ALL COULD BE LOOKED AT" if report.exit_code == 2 else ""
    return f"{found}; {looked}{more}{blind}"
