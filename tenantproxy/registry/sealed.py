"""Is an entry that others kept for us really what one of us wrote, for this tenant? Signs entries, and reads them."""

from __future__ import annotations

import hmac
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from tenantproxy.config import Settings
from tenantproxy.model import NOTHING, Isolation, Limits, Placement, Tenant, TenantId, TenantStatus

__all__ = ["MAX_BYTES", "Forged", "Seal"]

MAX_BYTES: Final = 64 * 1024
"""A longer entry is neither written nor read."""

_MAC: Final = 32
_STAMP: Final = 8
_MICROS: Final = 1_000_000
_FORM: Final = b"tenantproxy registry 1\0"  # another form of the content gets another number


class Forged(ValueError):
    """An entry that no process with this key and configuration wrote for this tenant; its text is the reason."""


class Seal:
    """Signs with `key` for one configuration: another registry, or servers elsewhere, have other names and other keys.

    So nothing that a process wrote which means another server by the same name can be read.
    """

    def __init__(self, key: bytes, settings: Settings) -> None:
        self._key = hmac.digest(key, _FORM + _scope(settings), "sha256")
        self._prefix = f"tenantproxy:{hmac.digest(self._key, b'name', 'sha256')[:8].hex()}:"
        self._servers = frozenset(settings.servers)
        self._rows = not settings.row.signed or bool(settings.row.keys())

    def __repr__(self) -> str:
        return f"Seal({self._prefix!r})"

    def name(self, tenant: TenantId) -> str:
        """Under which key the tenant's entry is kept."""
        return self._prefix + tenant

    def seal(self, tenant: Tenant, read_at: float) -> bytes:
        """The entry of `tenant`, read at the source at `read_at` (a unix timestamp)."""
        body = int(read_at * _MICROS).to_bytes(_STAMP, "big") + json.dumps(_content(tenant)).encode()
        return self._mac(tenant.id, body) + body

    def open(self, tenant: TenantId, entry: bytes) -> tuple[Tenant, float]:
        """What `seal` was given. Raises Forged, unless this very entry was sealed for this very tenant."""
        if len(entry) > MAX_BYTES:
            raise Forged("too long")
        mac, body = entry[:_MAC], entry[_MAC:]
        if not hmac.compare_digest(mac, self._mac(tenant, body)):
            raise Forged("not signed for this tenant")
        try:
            found = _tenant(tenant, json.loads(body[_STAMP:]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise Forged("content") from exc
        is_row = found.placement.isolation is Isolation.ROW
        if found.placement.server not in self._servers or (is_row and not self._rows):
            raise Forged("place")
        return found, int.from_bytes(body[:_STAMP], "big") / _MICROS

    def _mac(self, tenant: TenantId, body: bytes) -> bytes:
        return hmac.digest(self._key, b"entry\0" + tenant.encode() + b"\0" + body, "sha256")


def _scope(settings: Settings) -> bytes:
    registry = settings.registry
    servers = {name: [one.host, one.port, list(one.hosts)] for name, one in settings.servers.items()}
    of_source = [registry.source, registry.query, registry.mongodb.model_dump(mode="json")]
    clusters = {name: list(one.hosts) for name, one in settings.mongo.clusters.items()}
    rows = not settings.row.signed or bool(settings.row.keys())
    main = [settings.main.server, settings.main.database]
    return json.dumps([of_source, main, servers, clusters, rows], sort_keys=True, default=str).encode()


def _content(tenant: Tenant) -> Mapping[str, Any]:
    place, limits = tenant.placement, tenant.limits
    return {
        "place": [place.isolation, place.server, place.database, place.schema, place.role],
        "status": tenant.status,
        "tier": tenant.tier,
        "region": tenant.region,
        "limits": [limits.max_size, limits.max_waiting, limits.acquire_timeout],
        "epoch": tenant.epoch,
        "settings": dict(tenant.settings),
        "systems": dict(tenant.systems),
    }


def _tenant(tenant: TenantId, content: Mapping[str, Any]) -> Tenant:
    isolation, server, database, schema, role = content["place"]
    max_size, max_waiting, acquire_timeout = content["limits"]
    return Tenant(
        id=tenant,
        placement=Placement(
            isolation=Isolation(isolation),
            server=sys.intern(server),
            database=sys.intern(database),
            schema=schema,
            role=role,
        ),
        status=TenantStatus(content["status"]),
        tier=sys.intern(content["tier"]),
        region=content["region"],
        limits=Limits(max_size=max_size, max_waiting=max_waiting, acquire_timeout=acquire_timeout),
        epoch=content["epoch"],
        settings=content["settings"] or NOTHING,
        systems=content["systems"] or NOTHING,
    )
