"""What of long work that a program asks for over HTTP? It runs on by itself, and any process says how far it is."""

from tenantproxy.lifecycle.operations.progress import Progress, silent
from tenantproxy.lifecycle.operations.run import Finished, OperationRequest, Operations
from tenantproxy.lifecycle.operations.state import OPERATION, OperationState
from tenantproxy.lifecycle.operations.store import KeyReused, Operation

__all__ = [
    "OPERATION",
    "Finished",
    "KeyReused",
    "Operation",
    "OperationRequest",
    "OperationState",
    "Operations",
    "Progress",
    "silent",
]
