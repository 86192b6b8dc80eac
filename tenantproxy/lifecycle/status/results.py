"""What became of a tenant by a command? Values."""

from __future__ import annotations

from dataclasses import dataclass

from tenantproxy.model import TenantStatus

__all__ = ["Removed", "StatusChanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """A tenant that was `before` is `after` now.

    `is_closed`: its place is closed at the server too, so that not even a process that hears of nothing reaches it.
    `ended`: sessions that the server had to end, as their processes did not.
    """

    tenant: str
    before: TenantStatus
    after: TenantStatus
    is_closed: bool
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How far the removal of a tenant is.

    `state`: waiting (until `final_at`, unix time), backed_up or removed; at the end deleted or archived. `backup`: the
    one that holds what was removed. `left`: what is still there, as it was not made for this tenant by us.
    """

    tenant: str
    state: str
    final_at: float | None = None
    backup: str | None = None
    left: tuple[str, ...] = ()
