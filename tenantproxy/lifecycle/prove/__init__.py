"""Does isolation hold in a live deployment? Tries to break it by every way in, and says what held."""

from tenantproxy.lifecycle.prove.checks import CHECKS
from tenantproxy.lifecycle.prove.report import ReportRefused, check_signing, signed_report, verified_report
from tenantproxy.lifecycle.prove.results import IsolationProof, Result, TrialState
from tenantproxy.lifecycle.prove.run import DOORS, Options, prove

__all__ = [
    "CHECKS",
    "DOORS",
    "IsolationProof",
    "Options",
    "ReportRefused",
    "Result",
    "TrialState",
    "check_signing",
    "prove",
    "signed_report",
    "verified_report",
]
