"""What is configured, and is it right? TOML, environment and flags in; frozen settings or all problems out."""

from tenantproxy.config.auth_sections import Auth, LoginSettings, Resolve
from tenantproxy.config.backup_section import BackupSettings
from tenantproxy.config.classes import check_classes
from tenantproxy.config.fleet_section import FleetSettings, fleet_key
from tenantproxy.config.gdpr_section import GdprPart
from tenantproxy.config.load import gather, load, packed, settled, unpacked
from tenantproxy.config.migration_section import MigrationSettings
from tenantproxy.config.provision_section import ProvisionSettings
from tenantproxy.config.secret import MASK, MIN_KEY_BYTES, MIN_TOKEN_BYTES, Secret, role_password
from tenantproxy.config.sections import (
    RELOADED,
    Admin,
    AdminToken,
    Http,
    ListenerSection,
    LogSettings,
    Main,
    Metrics,
    Pg,
    PgUser,
    Pools,
)
from tenantproxy.config.server_sections import Server, ServerAdmin, ServerLogin
from tenantproxy.config.settings import Settings
from tenantproxy.config.shares import check_budgets, divided, share_of
from tenantproxy.config.show import describe, json_schema
from tenantproxy.config.sql_section import SqlSettings
from tenantproxy.config.tenant_sections import RegistrySettings, RowSettings, Schema, TenantEntry, TenantRoles, names
from tenantproxy.config.values import is_loopback, listen_address

__all__ = [
    "MASK",
    "MIN_KEY_BYTES",
    "MIN_TOKEN_BYTES",
    "RELOADED",
    "Admin",
    "AdminToken",
    "Auth",
    "BackupSettings",
    "FleetSettings",
    "GdprPart",
    "Http",
    "ListenerSection",
    "LogSettings",
    "LoginSettings",
    "Main",
    "Metrics",
    "MigrationSettings",
    "Pg",
    "PgUser",
    "Pools",
    "ProvisionSettings",
    "RegistrySettings",
    "Resolve",
    "RowSettings",
    "Schema",
    "Secret",
    "Server",
    "ServerAdmin",
    "ServerLogin",
    "Settings",
    "SqlSettings",
    "TenantEntry",
    "TenantRoles",
    "check_budgets",
    "check_classes",
    "describe",
    "divided",
    "fleet_key",
    "gather",
    "is_loopback",
    "json_schema",
    "listen_address",
    "load",
    "names",
    "packed",
    "role_password",
    "settled",
    "share_of",
    "unpacked",
]
