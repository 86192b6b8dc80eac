"""How does a client in any language reach its tenant? PostgreSQL's own protocol, on tenantproxy's port."""

from __future__ import annotations

from tenantproxy.sidecar.pg.port import PgPort, Reread

__all__ = ["PgPort", "Reread"]
