"""How many clients of each tenant keep a backend for what they left in its session? Places, and what is used of them.

Only the listener asks for it. A tenant's places are there as long as a client of the tenant is.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from tenantproxy.config import Pg
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import TenantId
from tenantproxy.wire.session_features import PinPlaces

__all__ = ["Pinning"]


class Pinning:
    """The places of all tenants. `pg` holds the limit."""

    def __init__(self, pg: Pg) -> None:
        self.pg = pg
        self._refused = [0]
        self._places: WeakValueDictionary[TenantId, PinPlaces] = WeakValueDictionary()

    def places(self, tenant: TenantId, max_size: int) -> PinPlaces:
        """A tenant's, for one more of its clients: by default half of its `max_size`, one at least."""
        limit = self.pg.max_pinned
        if limit is None:
            limit = max(1, max_size // 2)
        places = self._places.get(tenant)
        if places is None:
            places = self._places[tenant] = PinPlaces(limit, self._refused)
        places.limit = limit
        return places

    def usage(self) -> LimitUsage:
        """Of the tenant that uses most."""
        all_places = dict(self._places)
        most = max(all_places, key=lambda tenant: all_places[tenant].used, default=None)
        if most is None:
            return LimitUsage("max_pinned", self.pg.max_pinned or 0, 0, "", self._refused[0])
        return LimitUsage("max_pinned", all_places[most].limit, all_places[most].used, most, self._refused[0])
