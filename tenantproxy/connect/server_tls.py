"""With what does a connection to a server speak TLS, for both drivers?"""

from __future__ import annotations

import ssl
from typing import Any

from tenantproxy.config import Server
from tenantproxy.connect.key_file import load_authorities, load_certificate

__all__ = ["ssl_argument", "tls_context"]


def tls_context(server: Server) -> ssl.SSLContext:
    """What a server's certificate is checked against, and which certificate it is shown. Raises UnusableFile.

    The files are read each time: a new certificate needs no restart.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = server.ssl == "verify-full"
    if server.ssl_root_cert_file and server.ssl not in ("allow", "prefer"):  # of "require" it makes "verify-ca": libpq
        load_authorities(context, server.ssl_root_cert_file, "ssl_root_cert_file")
    elif server.ssl in ("verify-ca", "verify-full"):
        context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    if server.ssl_crl_file and context.verify_mode is not ssl.CERT_NONE:
        load_authorities(context, server.ssl_crl_file, "ssl_crl_file", "list of revoked certificates")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if server.ssl_cert_file:
        load_certificate(context, server.ssl_cert_file, server.ssl_key_file)
    return context


def ssl_argument(server: Server) -> Any:
    """libpq's word, or a context when certificates are named."""
    if server.host.startswith("/"):
        return False
    if not (server.ssl_root_cert_file or server.ssl_cert_file):
        return server.ssl if server.ssl != "disable" else False
    return tls_context(server)
