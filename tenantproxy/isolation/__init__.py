"""How is a session made one tenant's? Pure: decisions as values, applied by the holder of the connection."""

from tenantproxy.isolation.base import Pins, Plan, search_path, startup_pins
from tenantproxy.isolation.database import DatabasePlan
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.row import RowPlan
from tenantproxy.isolation.schema import SchemaPlan

__all__ = ["DatabasePlan", "Pins", "Plan", "RowPlan", "SchemaPlan", "Signer", "search_path", "startup_pins"]
