"""How does a new tenant come to be? A saga in the main database: each step is written down, and may be run again."""

from tenantproxy.lifecycle.provision.admin import LOCKED, FirstAdmin, first_admin
from tenantproxy.lifecycle.provision.filling import PlaceContent
from tenantproxy.lifecycle.provision.run import Provisioner, ProvisioningFailed
from tenantproxy.lifecycle.provision.state import SagaState
from tenantproxy.lifecycle.provision.stock import Stocked
from tenantproxy.lifecycle.provision.store import Saga, SagaHeld
from tenantproxy.lifecycle.provision.wanted import Wanted, wanted

__all__ = [
    "LOCKED",
    "FirstAdmin",
    "PlaceContent",
    "Provisioner",
    "ProvisioningFailed",
    "Saga",
    "SagaHeld",
    "SagaState",
    "Stocked",
    "Wanted",
    "first_admin",
    "wanted",
]
