"""What does docs/doctor.md say of each rule? `python -m tests.support.doctor_page` writes that part again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tenantproxy.lifecycle.doctor import RULES, DoctorRule

PAGE: Final = Path(__file__).parents[2] / "docs" / "doctor.md"

_CODES: Final = "## All codes\n"


def page() -> str:
    """The whole page: what a person wrote, then all rules."""
    head = PAGE.read_text().partition(_CODES)[0]
    lines = ["", "| code | severity | | |", "|---|---|---|---|"]
    lines += [
        f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.title} | {_mark(rule)} |"
        for rule in RULES.values()
    ]
    sections = [_section(rule) for rule in RULES.values()]
    return head + _CODES + "\n".join(lines) + "\n\n" + "\n".join(sections)


def _mark(rule: DoctorRule) -> str:
    return "safe" if rule.is_safe else "not looked at" if rule.is_blind else ""


def _section(rule: DoctorRule) -> str:
    safe = " `--fix` repairs it." if rule.is_safe else ""
    advice = f"\n\nTo do: {rule.advice}." if rule.advice else ""
    return f"### {rule.code}\n\n**{rule.title}** ({rule.severity}).{safe} {rule.why}{advice}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
