"""How does a team with an ordinary database get here? Looks at a server, and writes what would make it a deployment.

`look` and `registries` read, `recognise`, `plan` and what they use decide without I/O, `folder` and `apply` write.
"""

from tenantproxy.lifecycle.init.plan import InitPlan, InitRequest

__all__ = ["InitPlan", "InitRequest"]
