"""Where does the running sidecar listen, and how is it known? From the configuration, or as the operator says."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from tenantproxy.config import Settings, listen_address
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.prove.base import DoorClosed

__all__ = ["http_place", "pg_place"]

Place = tuple[str, int, ssl.SSLContext | None]

_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def http_place(settings: Settings, url: str | None) -> Place:
    """Host and port of the public listener, and a TLS context where it has a certificate.

    Raises DoorClosed when the configuration names no port, ConfigurationError for what is no http address.
    """
    if url is None:
        host, port = _listening(settings.http.listen, "--http URL")
        return host, port, _context(settings.http.ssl_cert_file)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError([Problem(key="--http", problem=f"{url!r} is no address", fix="http://host:port")])
    secure = parts.scheme == "https"
    return parts.hostname, parts.port or (443 if secure else 80), (_named(settings) if secure else None)


def pg_place(settings: Settings, address: str | None) -> Place:
    """The same of the PostgreSQL port."""
    if address is None:
        host, port = _listening(settings.pg.listen, "--pg HOST:PORT")
    else:
        host, _, number = address.rpartition(":")
        if not host or not number.isdigit():
            raise ConfigurationError([Problem(key="--pg", problem=f"{address!r} is no address", fix="host:port")])
        port = int(number)
    return host.strip("[]"), port, _context(settings.pg.ssl_cert_file)


def _listening(listen: str, option: str) -> tuple[str, int]:
    host, port = listen_address(listen)
    if not port:
        raise DoorClosed(f"the configuration names no fixed port: {option}")
    return _EVERY.get(host, host), port


def _context(certificate: str) -> ssl.SSLContext | None:
    """Takes the very certificate that the configuration serves, whatever name the listener is addressed by."""
    if not certificate:
        return None
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _named(settings: Settings) -> ssl.SSLContext:
    return _context(settings.http.ssl_cert_file) or ssl.create_default_context()
