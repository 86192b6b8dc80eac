"""What do the 14 functions of Productions say of the rows in its seed.sql? Worked out by hand from those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["FUNCTIONS", "Fact"]

_HAMLET: Final = "(SELECT id FROM productions WHERE name = 'Hamlet')"
_ADA: Final = "(SELECT id FROM personnel WHERE last_name = 'Byron')"
_LAMP: Final = "(SELECT id FROM assets WHERE name = 'Spotlight')"
_HALL: Final = "(SELECT id FROM locations WHERE name = 'Main Stage')"
_OWNER: Final = "(SELECT user_id FROM organization_members WHERE role = 'owner')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A call and its rows: columns with spaces between, rows with semicolons. `shown`: its arguments, for people."""

    function: str
    arguments: str
    shown: str
    expected: str
    columns: str = "f.*"


FUNCTIONS: Final[Sequence[Fact]] = (
    Fact(function="get_budget_variance", arguments=_HAMLET, shown="(Hamlet)", expected="8000.00 6000.00 2000.00 25.00"),
    Fact(function="get_production_health", arguments=f"{_HAMLET}, '2026-03-11'", shown="(Hamlet, 11 March)",
         expected="80 4 1 1 1"),
    Fact(function="check_event_conflicts", arguments=f"{_HALL}, '2026-03-20 21:00Z', '2026-03-20 23:00Z'",
         shown="(Main Stage, 20 March 21:00, 23:00)", columns="name", expected="Opening night"),
    Fact(function="global_search", arguments="'hamlet'", shown="(hamlet)",
         columns="string_agg(title, ', ' ORDER BY title)", expected="Hamlet, Hamlet script, Opening night"),
    Fact(function="get_user_workload", arguments=f"{_OWNER}, '2026-03-09', '2026-03-13'",
         shown="(owner, 9 to 13 March)", expected="2 60.00 40.00 150.0"),
    Fact(function="calculate_asset_utilization", arguments=f"{_LAMP}, '2026-03-01', '2026-03-10'",
         shown="(Spotlight, 1 to 10 March)", expected="5 10 50.0"),
    Fact(function="get_payroll_summary", arguments="'2026-02-01', '2026-02-28'", shown="(February)",
         columns="full_name, gross, deductions, net", expected="Ada Byron 4000.00 500.00 3500.00"),
    Fact(function="get_invoice_aging", arguments="'2026-03-11'", shown="(11 March)",
         columns="string_agg(bucket || '=' || outstanding, ' ')",
         expected="current=1000.00 1-30=400.00 31-60=0 61-90=0 over 90=300.00"),
    Fact(function="get_dashboard_metrics", arguments="", shown="()", columns="string_agg(metric || '=' || value, ' ')",
         expected="active_productions=1 open_tasks=3 events=1 assets_in_use=1 outstanding=1700.00"),
    Fact(function="check_compliance_expiry", arguments="30, '2026-03-11'", shown="(30 days, 11 March)",
         columns="name, days_left", expected="Fire permit 4; Working at height 14"),
    Fact(function="get_availability", arguments=f"{_ADA}, '2026-03-10', '2026-03-13'", shown="(Ada, 10 to 13 March)",
         columns="coalesce(reason, 'free')",
         expected="free; leave: vacation; leave: vacation; assigned: stage manager"),
    Fact(function="calculate_overtime", arguments=f"{_ADA}, '2026-03-11'", shown="(Ada, week of 11 March)",
         columns="week, regular_hours, overtime_hours, overtime_pay", expected="2026-03-09 40 5.00 375.00"),
    Fact(function="get_production_timeline", arguments=_HAMLET, shown="(Hamlet)",
         columns="earliest_start, earliest_finish, is_critical",
         expected="0 3 True; 3 8 True; 3 7 False; 8 9 True"),
    Fact(function="get_financial_summary", arguments="'2026-01-01', '2026-12-31'", shown="(2026)",
         expected="9000.00 6000.00 3000.00 1700.00"),
)  # fmt: skip
