"""Give it a tenant identifier; it lends you a PostgreSQL connection that is proven to be that tenant's."""

from tenantproxy.config import Settings
from tenantproxy.config.version import VERSION
from tenantproxy.context import current, use
from tenantproxy.errors import (
    AccessDenied,
    AuthError,
    BudgetExhausted,
    ConfigurationError,
    ConnectFailed,
    InvalidCredentials,
    IsolationError,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolTimeout,
    ProtocolError,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantProxyError,
    TenantSuspended,
    TenantUnresolved,
    TokenExpired,
    TooManyAttempts,
)
from tenantproxy.model import Isolation, Limits, Placement, Tenant, TenantId, TenantStatus
from tenantproxy.router import Router, open_router
from tenantproxy.scope import Scope, TenantScope

__all__ = [
    "AccessDenied",
    "AuthError",
    "BudgetExhausted",
    "ConfigurationError",
    "ConnectFailed",
    "InvalidCredentials",
    "Isolation",
    "IsolationError",
    "Limits",
    "Placement",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "ProtocolError",
    "RegistryUnavailable",
    "Router",
    "Scope",
    "Settings",
    "Tenant",
    "TenantError",
    "TenantId",
    "TenantNotFound",
    "TenantPaused",
    "TenantProxyError",
    "TenantScope",
    "TenantStatus",
    "TenantSuspended",
    "TenantUnresolved",
    "TokenExpired",
    "TooManyAttempts",
    "__version__",
    "current",
    "open_router",
    "use",
]

__version__ = VERSION
