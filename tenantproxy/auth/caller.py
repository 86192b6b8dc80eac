"""What does a request say about its caller, before it is verified? Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self, TypeAlias

from tenantproxy.auth.base import RequestContext
from tenantproxy.config.sections import Http
from tenantproxy.errors import AuthError, ConfigurationError, Problem, TenantUnresolved
from tenantproxy.events import Observer, UntrustedForwardedFor, ignore
from tenantproxy.model import NOTHING, TenantId

__all__ = [
    "SUBPROTOCOL",
    "Headers",
    "TrustedProxies",
    "bearer_token",
    "carries_token",
    "header_texts",
    "host_of",
    "session_settings",
    "unwrap_token",
]

SUBPROTOCOL: Final = "tenantproxy"
"""What a websocket is answered with that offers it, next to its token, and whose application chooses none itself."""

Headers: TypeAlias = tuple[tuple[str, str], ...]

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_MAX_HOPS: Final = 32  # of X-Forwarded-For that are looked at
_CARRIER: Final = f"{SUBPROTOCOL}.bearer."
# As Azure's gateway and IIS write a hop.
_PORTED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_OFFERED: Final = "sec-websocket-protocol"


def header_texts(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a request as `RequestContext` has them."""
    return tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw])


def host_of(values: Sequence[str]) -> str:
    """The host in the values of a request's Host headers: no port, lower case; empty when there is not exactly one."""
    if len(values) != 1:
        return ""
    host = values[0].strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def bearer_token(values: Sequence[str]) -> str | None:
    """The token in the values of a request's Authorization headers; None: another scheme, or no header.

    Raises AuthError for more than one header and for a Bearer without exactly one token.
    """
    if not values:
        return None
    if len(values) > 1:
        raise AuthError("more than one Authorization header")
    scheme, _, token = values[0].strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = token.strip(" ")
    if not token or not token.isascii() or not token.isprintable() or " " in token or "," in token:
        raise AuthError("the Authorization header is malformed", hint="send Authorization: Bearer and one token")
    return token


def carries_token(subprotocol: str) -> bool:
    """Whether it is no protocol but `tenantproxy.bearer.` and a token, as browsers send it: they have no other way."""
    return subprotocol[: len(_CARRIER)].lower() == _CARRIER


def unwrap_token(headers: Headers) -> tuple[Headers, Headers]:
    """The headers of a websocket's handshake without a token among the subprotocols, and that as Authorization.

    The first may be shown to the application; the second is empty where there is no such token.
    """
    if all(name != _OFFERED or _CARRIER not in value.lower() for name, value in headers):
        return headers, ()
    shown: list[tuple[str, str]] = []
    tokens: list[str] = []
    for name, value in headers:
        if name == _OFFERED:
            offered = [each.strip(" \t") for each in value.split(",")]
            tokens += [each[len(_CARRIER) :] for each in offered if carries_token(each)]
            value = ", ".join(each for each in offered if not carries_token(each))
            if not value:
                continue
        shown.append((name, value))
    return tuple(shown), tuple(("authorization", f"Bearer {token}") for token in tokens)


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed; `networks` are addresses or CIDR networks. ValueError otherwise.

    It sees the peer of the connection: a server that rewrites that itself (uvicorn does for proxies on the same
    machine, until `--no-proxy-headers`) has to leave it alone.
    """

    def __init__(self, networks: Iterable[str], *, observer: Observer = ignore) -> None:
        self._observer = observer
        self._is_told = False  # a peer that is not trusted sent X-Forwarded-For: said once
        self._networks: tuple[_Network, ...] = tuple(ip_network(network) for network in networks)
        self._trusts = lru_cache(maxsize=4096)(self._is_within)

    @classmethod
    def configured(cls, settings: Http, *, observer: Observer = ignore) -> Self:
        """Those of `[http] trusted_proxies`; `observer` hears of one that may be missing. Raises ConfigurationError."""
        try:
            return cls(settings.trusted_proxies, observer=observer)
        except ValueError as exc:
            fix = 'write addresses or networks, such as "10.0.0.0/8"'
            raise ConfigurationError([Problem(key="http.trusted_proxies", problem=str(exc), fix=fix)]) from None

    def trusts(self, peer: str) -> bool:
        """Whether `peer` is one of them."""
        return bool(self._networks) and self._trusts(peer)

    def client(self, peer: str | None, forwarded: Sequence[str]) -> tuple[str | None, bool]:
        """The address of the client, and whether `peer` is trusted. `forwarded`: the X-Forwarded-For headers.

        The client is the last hop that no trusted proxy is. A hop that is no address ends the walk: what is behind
        it is unknown, so it is the last proxy that is known.
        """
        if not self._networks or peer is None or not self._trusts(peer):
            if forwarded and not self._is_told:
                self._is_told = True
                self._observer(UntrustedForwardedFor(peer=peer or ""))
            return peer, False
        client = peer
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        for hop in reversed(hops[-_MAX_HOPS:]):
            ported = _PORTED.fullmatch(hop)
            address = _address(hop if ported is None else ported[1] or ported[2])
            if address is None:
                break
            client = str(address)
            if not self._trusts(client):
                break
        return client, True

    def _is_within(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text.partition("%")[0])  # a zone may hold any text, and means nothing elsewhere
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address  # ::ffff:10.0.0.1 is 10.0.0.1 on a socket for both families


def session_settings(
    context: Mapping[str, str], request: RequestContext, tenant: TenantId, *, signed: Mapping[str, str] = NOTHING
) -> dict[str, str]:
    """The session settings of `[context]` and `[signed_context]` for a request of `tenant`.

    What the request does not have is left out of the first, and empty in the second: a policy can tell a request that
    lacks it from code that says nothing of it, as the lifecycle's. Raises TenantUnresolved for a value that PostgreSQL
    cannot hold.
    """
    found: dict[str, str] = {}
    for setting, source in (*context.items(), *signed.items()):
        kind, _, name = source.partition(":")
        value = tenant if kind == "tenant" else _client_value(kind, name, request)
        if value is None and setting in signed:
            value = ""
        if value is None:
            continue
        if "\0" in value:
            raise TenantUnresolved("the request has a NUL in a value that its session needs", detail=source)
        found[setting] = value
    return found


def _client_value(kind: str, name: str, request: RequestContext) -> str | None:
    if kind == "client":
        return request.client_ip
    if kind == "header":
        values = request.header_values(name)
        return _text(", ".join(values)) if values else None
    claim = None if request.claims is None else request.claims.get(name)
    return claim if claim is None or isinstance(claim, str) else json.dumps(claim, default=dict)  # objects are frozen


def _text(value: str) -> str:
    """A header's bytes, as UTF-8 where they are."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
