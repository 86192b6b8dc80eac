"""How do clients of the port come to speak TLS, who are they by their certificates, and how often does it fail and why?

State: what the files held when they were last read, counts, and the turns of handshakes. Changed by the listener.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from tenantproxy.connect.tls import Handshake, HandshakeTurns, Secured
from tenantproxy.errors import AuthError
from tenantproxy.metrics.pg import HANDSHAKE_RESULTS, HandshakeResult
from tenantproxy.sidecar.tls import ListenerTls

__all__ = ["Channel", "Encryption", "channel_of", "check_encryption", "encrypted_by", "is_loopback_host"]

_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA")  # in the reason of an alert
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")
_VERSION: Final = ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What carries a connection. `is_encrypted`, or else from this machine (`is_local`).

    `is_tunnel`: it is a WebSocket, whose clients send their password before they are asked for it.

    `binding`: see `ListenerTls`; `certificate`: the names in the client's own, which was verified; `server_name`: the
    one that it asked for.
    """

    is_encrypted: bool = False
    is_local: bool = False
    is_tunnel: bool = False
    binding: bytes = b""
    certificate: frozenset[str] = frozenset()
    server_name: str = ""

    @property
    def is_private(self) -> bool:
        """Whether none but the two ends can read what is said."""
        return self.is_encrypted or self.is_local


class Encryption:
    """Begins TLS with clients. `tls` None: the port has no certificate."""

    def __init__(self, tls: ListenerTls | None) -> None:
        self.tls = tls
        self.results: dict[HandshakeResult, int] = dict.fromkeys(HANDSHAKE_RESULTS, 0)
        self._turns = HandshakeTurns()

    def begin(
        self, transport: asyncio.Transport, hello: bytes, on_done: Secured, on_failed: Callable[[str], None]
    ) -> Callable[[asyncio.Transport], Channel]:
        """Begin, with what the client has said of it. `on_failed`: why it failed, for the log.

        Returns what says, once it is done, what the channel is.
        """
        assert self.tls is not None
        tls = self.tls

        def done(secured: asyncio.Transport) -> None:
            self.results["ok"] += 1
            on_done(secured)

        def failed(error: Exception) -> None:
            self.results[_result(error)] += 1
            on_failed(_told(error))

        handshake = Handshake.on(transport, tls.context, turns=self._turns, on_done=done, on_failed=failed)
        session = handshake.session
        handshake.begin(hello)
        return lambda secured: Channel(
            is_encrypted=True,
            is_local=_is_local(secured),
            binding=tls.binding,
            certificate=_names(session),
            server_name=tls.names.get(session, ""),
        )

    def timed_out(self) -> None:
        """A client stopped in the middle of its handshake."""
        self.results["timeout"] += 1


def channel_of(transport: asyncio.Transport) -> Channel:
    """That of a connection without TLS of its own."""
    known = transport.get_extra_info("channel")  # of a tunnel
    return known if isinstance(known, Channel) else Channel(is_local=_is_local(transport))


def encrypted_by(transport: asyncio.BaseTransport) -> str:
    """Version and cipher, as PgBouncer shows them: `TLSv1.3/TLS_AES_256_GCM_SHA384`; empty without TLS."""
    session: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    cipher = None if session is None else session.cipher()
    return "" if session is None or cipher is None else f"{session.version()}/{cipher[0]}"


def check_encryption(channel: Channel, required: str) -> None:
    """Raise AuthError where `[pg] ssl_required` refuses a connection as it is."""
    if not channel.is_encrypted and (required == "always" or (required == "remote" and not channel.is_local)):
        raise AuthError(
            "the connection must be encrypted (no encryption)",
            detail=f'[pg] ssl_required = "{required}"',
            hint="connect with sslmode=verify-full, or sslmode=require at least",
        )


def _is_local(transport: asyncio.BaseTransport) -> bool:
    peer = transport.get_extra_info("peername")
    return is_loopback_host(str(peer[0])) if isinstance(peer, tuple) else True  # a unix socket


@lru_cache(maxsize=1024)  # the same machines connect again and again
def is_loopback_host(host: str) -> bool:
    """Whether it is an address of this machine alone."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _names(session: ssl.SSLObject) -> frozenset[str]:
    """The common name, where there is just one, and the alternative names of the certificate that the client showed."""
    shown: Any = session.getpeercert()
    if not shown or ssl.cert_time_to_seconds(shown["notAfter"]) <= time.time():
        return frozenset()  # none; or of a session that was begun when it was good
    common = [value for part in shown["subject"] for name, value in part if name == "commonName"]
    other = [value for kind, value in shown.get("subjectAltName", ()) if kind in ("DNS", "email", "URI")]
    return frozenset([*(common if len(common) == 1 else ()), *other])


def _result(error: Exception) -> HandshakeResult:
    if not isinstance(error, ssl.SSLError):
        return "closed"
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError) or any(word in reason for word in _CERTIFICATE):
        return "certificate"
    if reason in _VERSION:
        return "version"
    if reason in _NOT_TLS:
        return "not_tls"
    return "cipher" if reason == "NO_SHARED_CIPHER" else "other"


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'it is not TLS'}"
    return "the client closed the connection while TLS began"
