"""Which certificate does a listener show, and whose does it take? Read from files at start and at each reload."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tenantproxy.config import ListenerSection, Pg
from tenantproxy.connect.key_file import UnusableFile, load_authorities, load_certificate
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.wire.end_point import end_point

__all__ = ["ALPN", "ListenerTls", "listener_tls"]

ALPN: Final = "postgresql"
"""What a client of the PostgreSQL port names that begins with TLS: no other protocol's client is taken for one."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True, eq=False)
class ListenerTls:
    """What a listener speaks TLS with. `expires_at`: of its certificate, unix seconds.

    `binding`: the hash of the certificate by which SCRAM-SHA-256-PLUS binds a login to it; empty where RFC 5929 knows
    none for its signature. `names`: the server name that a client asked for, while its session is there.
    """

    context: ssl.SSLContext = field(repr=False)
    expires_at: float
    binding: bytes = field(default=b"", repr=False)
    names: WeakKeyDictionary[ssl.SSLObject, str] = field(default_factory=WeakKeyDictionary, repr=False)


def listener_tls(section: ListenerSection, key: str) -> ListenerTls | None:
    """As `section`, `[key]` of the configuration, says; None: it has no certificate. Raises ConfigurationError.

    A PostgreSQL client may show a certificate where there is an authority for it, an HTTP client must.
    """
    if not section.ssl_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[section.ssl_min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # PostgreSQL's own clients resume no session
    try:
        _load(context, section)
    except UnusableFile as exc:
        raise _wrong(key, exc.key, exc.why, exc.fix) from None
    _set_ciphers(context, section, key)
    certificate = _certificate(section.ssl_cert_file, key)
    binding = end_point(certificate.public_bytes(serialization.Encoding.DER))
    tls = ListenerTls(context, certificate.not_valid_after_utc.timestamp(), binding)
    if isinstance(section, Pg):
        context.set_alpn_protocols([ALPN])
        if section.ssl_tenant_domain:
            context.sni_callback = _noting(tls.names)
    else:
        context.set_alpn_protocols(["http/1.1"])
    return tls


def _noting(names: WeakKeyDictionary[ssl.SSLObject, str]) -> Callable[[ssl.SSLObject, str | None, object], None]:
    def note(session: ssl.SSLObject, name: str | None, context: object) -> None:
        if name is not None:
            names[session] = name

    return note


def _set_ciphers(context: ssl.SSLContext, section: ListenerSection, key: str) -> None:
    if section.ssl_ciphers:
        try:
            context.set_ciphers(section.ssl_ciphers)
        except ssl.SSLError:
            fix = "write a list as OpenSSL takes it, such as HIGH:!aNULL (it is for TLS 1.2; 1.3 has its own)"
            raise _wrong(key, "ssl_ciphers", "selects no cipher", fix) from None


def _load(context: ssl.SSLContext, section: ListenerSection) -> None:
    load_certificate(context, section.ssl_cert_file, section.ssl_key_file)
    if section.ssl_client_ca_file:
        load_authorities(context, section.ssl_client_ca_file, "ssl_client_ca_file")
        context.verify_mode = ssl.CERT_OPTIONAL if isinstance(section, Pg) else ssl.CERT_REQUIRED
    if section.ssl_crl_file:
        load_authorities(context, section.ssl_crl_file, "ssl_crl_file", "list of revoked certificates")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _certificate(path: str, key: str) -> x509.Certificate:
    try:
        with warnings.catch_warnings(action="ignore"):  # what it finds odd in a certificate that OpenSSL has taken
            return x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
    except (ValueError, OSError) as exc:
        problem = f"holds a certificate that cannot be read ({type(exc).__name__})"
        raise _wrong(key, "ssl_cert_file", problem, "write it as PEM") from None


def _wrong(section: str, name: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key=f"{section}.{name}", problem=problem, fix=fix)])
