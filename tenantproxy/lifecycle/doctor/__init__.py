"""Does isolation hold on every server, database and schema? Looks, ranks what it finds, and puts right what is safe."""

from tenantproxy.lifecycle.doctor.audit import AuditReport, examine
from tenantproxy.lifecycle.doctor.finding import DoctorFinding, DoctorRule, Severity, as_mapping
from tenantproxy.lifecycle.doctor.rules import RULES

__all__ = ["RULES", "AuditReport", "DoctorFinding", "DoctorRule", "Severity", "as_mapping", "examine"]
