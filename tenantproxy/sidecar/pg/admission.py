"""Which clients may the port have? Counts of them by tenant, user and address.

Only the listener changes it. Counters: no call costs more because there are more clients.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tenantproxy.config import Pg
from tenantproxy.errors import TooManyClients
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import TenantId
from tenantproxy.sidecar.places import network_of

__all__ = ["Admission", "ClientPlace", "address_of"]

_LOOPBACK: Final = ("127.", "::1", "::/64")


def address_of(peername: object) -> str:
    """What a connection counts as: its IPv4 address, or the IPv6 network of 64 bits; "": it has none."""
    return sys.intern(network_of(str(peername[0]))) if isinstance(peername, tuple) and peername else ""


class ClientPlace:
    """What one client counts for; released once. `tenant` None: it is on the console."""

    __slots__ = ("address", "is_left", "tenant", "user")

    def __init__(self, tenant: TenantId | None, user: str, address: str) -> None:
        self.tenant = tenant
        self.user = user
        self.address = address
        self.is_left = False


class Admission:
    """The clients that have logged in. `pg` holds the limits, and is replaced when they are reloaded.

    Clients of the console count against `max_clients` only beyond the `reserved_clients`, which are theirs alone, and
    against no other limit: an operator must be able to look at a port that is full.
    """

    def __init__(self, pg: Pg) -> None:
        self.pg = pg
        self.refusals: dict[str, int] = dict.fromkeys(_NAMES, 0)
        self._consoles = self._clients = 0
        self._tenants: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether there is no place for a client of a tenant."""
        beyond = max(0, self._consoles - self.pg.reserved_clients)
        return self._clients + beyond >= self.pg.max_clients

    def check_total(self) -> None:
        """Raise TooManyClients where `is_full`."""
        if self.is_full:
            raise self._refused("max_clients", "no more connections allowed (max_client_conn)", self.pg.max_clients)

    def take(self, tenant: TenantId | None, user: str, address: str) -> ClientPlace:
        """A place for one more client. Raises TooManyClients with the limit that was met."""
        pg = self.pg
        if tenant is None:
            if self._consoles >= pg.reserved_clients:
                self.check_total()
            self._consoles += 1
            return ClientPlace(None, user, address)
        self.check_total()
        if _is_met(self._tenants[tenant], pg.per_tenant):
            what = f'too many connections for database "{tenant}"'
            raise self._refused("max_clients_per_tenant", what, pg.per_tenant)
        if _is_met(self._users[user], limit := pg.of_user(user)):
            what = f'too many connections for role "{user}"'
            raise self._refused("max_clients_per_user", what, limit, is_own=pg.is_own(user), user=user)
        if _is_met(self._addresses[address], limit := self._of_address(address)):
            what = f"too many connections from {address}"
            raise self._refused("max_clients_per_address", what, limit)
        self._clients += 1
        self._tenants[tenant] += 1
        self._users[user] += 1
        self._addresses[address] += 1
        return ClientPlace(tenant, user, address)

    def leave(self, place: ClientPlace) -> None:
        """A client has left, or could not be served. Safe to call again."""
        if place.is_left:
            return
        place.is_left = True
        if place.tenant is None:
            self._consoles -= 1
            return
        self._clients -= 1
        _less(self._tenants, place.tenant)
        _less(self._users, place.user)
        _less(self._addresses, place.address)

    def _of_address(self, address: str) -> int:
        """The limit of an address; 0: it has none."""
        pg = self.pg
        is_exempt = pg.max_clients_per_address is None and (not address or address.startswith(_LOOPBACK))
        return 0 if is_exempt else pg.per_address

    def _refused(self, name: str, what: str, limit: int, *, is_own: bool = False, user: str = "") -> TooManyClients:
        self.refusals[name] += 1
        key = f"[pg.users.{user}] max_clients" if is_own else f"[pg] {name}"
        hint = f"close idle connections, or raise {key}"
        return TooManyClients(what, detail=f"{key} = {limit}", hint=hint)

    def usage(self) -> Iterator[LimitUsage]:
        """What is used of each limit now. Looks at all clients' tenants, users and addresses: for operators."""
        pg = self.pg
        most: list[tuple[str, int, Counter[str]]] = [
            ("max_clients_per_tenant", pg.per_tenant, self._tenants),
            ("max_clients_per_user", pg.max_clients_per_user, self._users),
            ("max_clients_per_address", pg.per_address, self._addresses),
        ]
        yield LimitUsage("max_clients", pg.max_clients, self._clients, "", self.refusals["max_clients"])
        for name, limit, counts in most:
            holder = max(counts, key=counts.__getitem__, default="")
            yield LimitUsage(name, limit, counts[holder] if holder else 0, holder, self.refusals[name])
        yield LimitUsage("reserved_clients", pg.reserved_clients, self._consoles, "", 0)


_NAMES: Final = ("max_clients", "max_clients_per_tenant", "max_clients_per_user", "max_clients_per_address")


def _is_met(count: int, limit: int) -> bool:
    return 0 < limit <= count


def _less(counts: Counter[str], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
