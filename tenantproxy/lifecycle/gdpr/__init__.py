"""What do tenants hold of a person, and of themselves? Exported as JSON lines, or erased, with a signed report."""

from tenantproxy.lifecycle.gdpr.answer import erase, export, has_failed, verify
from tenantproxy.lifecycle.gdpr.archive import ExportFolder
from tenantproxy.lifecycle.gdpr.gone import TenantErased, erase_tenant
from tenantproxy.lifecycle.gdpr.person import Person, check_parts, erase_person, export_person
from tenantproxy.lifecycle.gdpr.whole import export_tenant

__all__ = [
    "ExportFolder",
    "Person",
    "TenantErased",
    "check_parts",
    "erase",
    "erase_person",
    "erase_tenant",
    "export",
    "export_person",
    "export_tenant",
    "has_failed",
    "verify",
]
