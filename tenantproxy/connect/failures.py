"""What does it mean that a connect failed? Sorts the errors of asyncpg and the system into ours. Pure.

A restart shows as a mix of refused, reset and 57P03; 53300 has three texts: only types and SQLSTATEs are looked at.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

import asyncpg

from tenantproxy.connect.checks import BEHIND_POOLER, WrongRole
from tenantproxy.connect.host_look import HostMoved, NoHost
from tenantproxy.connect.key_file import UnusableFile
from tenantproxy.connect.refusals import place_of
from tenantproxy.errors import BudgetExhausted, ConnectFailed, ProtocolError, TenantProxyError
from tenantproxy.model import PoolKey
from tenantproxy.pools.backoff import Failure
from tenantproxy.pools.exhaustion import unreachable

__all__ = ["LOST", "Refused", "Unconfirmed", "classify", "describe", "no_tls"]

LOST: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)
"""What asyncpg raises when the server refuses, or is not there any more; the last when found out in mid-statement."""

_BUSY = {
    "57P03": ("the PostgreSQL server is starting up, shutting down or recovering", "it is retried until then"),
    "57P01": ("the PostgreSQL server is shutting down", "it is retried until then"),
    "57P02": ("a process of the PostgreSQL server has crashed, and it recovers", "it is retried until then"),
    "53200": ("the PostgreSQL server is out of memory", "see the server's log"),
    "58000": ("the PostgreSQL server failed", "see the server's log"),
}
_CERTIFICATE: Final = {  # X509_V_ERR_*, of OpenSSL's x509_vfy.h
    10: "it has expired",
    9: "it is not valid yet",
    18: "it is self-signed, and not the one that is trusted here",
    19: "it is signed by an authority that is not trusted here",
    20: "it is signed by an authority that is not trusted here",
    21: "it is signed by an authority that is not trusted here",
    12: "the list of revoked certificates has expired",
    3: "there is no list of revoked certificates of its authority",
    23: "it has been revoked",
    62: "it is not for the host name that is configured here",
    64: "it is not for the address that is configured here",
}
_ALERTS: Final = {  # what a server says to the certificate that it is shown
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our certificate has been revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate, and we have none",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no version of TLS that is allowed here",
}
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # says nothing of the server
_NO_READER: Final = ("28P01", "28000", "42501")
_DENIED = {
    "08P01": ("what answers does not take our startup packet, as a connection pooler may not", BEHIND_POOLER),
    "26000": ("the server does not know what was just prepared, as behind a transaction pooler", BEHIND_POOLER),
    "28P01": (
        "the PostgreSQL server refused our password",
        "see user and password of this server in the configuration",
    ),
    "28000": (
        "the PostgreSQL server refused our role",
        "see whether the role may log in, and the server's pg_hba.conf",
    ),
    "3D000": ("the database does not exist", "correct [main] database or the tenant's entry, or create the database"),
    "42501": ("our role may not connect to the database", "GRANT CONNECT ON DATABASE ... TO the tenant's role"),
}


class Refused(Exception):
    """The server answered with an error. Its text is not kept: it may hold values.

    `confirmed`: how much of the expected answer had come before.
    """

    def __init__(self, sqlstate: str, confirmed: int = 0) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate
        self.confirmed = confirmed


class Unconfirmed(Exception):
    """The server did not answer a bind or a reset as it must.

    `kind` is the wire's type of the message that was not expected; 0: not known, or not even one.
    """

    def __init__(self, kind: int = 0) -> None:
        super().__init__(f"kind {kind:#04x}")
        self.kind = kind


def classify(error: BaseException, key: PoolKey) -> tuple[TenantProxyError, Failure]:
    """The error for those who wait, and what the server is. Texts of drivers are not passed on."""
    where = place_of(key)
    if isinstance(error, ProtocolError):  # the server's, and no fault of a client who hears of it
        return ConnectFailed(error.message, detail=error.detail or where, hint=error.hint, retry_after=5.0), "denied"
    if isinstance(error, WrongRole):
        return error, "unfit"
    if isinstance(error, TenantProxyError):
        return error, "denied"
    if isinstance(error, NoHost):
        return _no_host(error, where, key)
    if (below := _tls_below(error)) is not None:
        return _untrusted(below, where, key), "denied"
    if isinstance(error, asyncpg.PostgresError | Refused):
        state = error.sqlstate or ""
        if state == "53300":
            return _too_many(where), "full"
        if state.startswith("08") and state not in _DENIED:
            return unreachable(where), "refused"
        if state in _BUSY:
            message, hint = _BUSY[state]
            return ConnectFailed(message, detail=f"{where}, SQLSTATE {state}", hint=hint, retry_after=1.0), "busy"
        message, hint = _DENIED.get(state, ("the PostgreSQL server refused the connection", "see the server's log"))
        if key.reader and state in _NO_READER:
            message, hint = "the role that only reads cannot log in", "make it: `tenantproxy install --roles`"
        detail = f"{where}, SQLSTATE {state}"
        return ConnectFailed(message, detail=detail, hint=hint, retry_after=5.0, refusal=state), "denied"
    found = _of_the_system(error, where, key)
    if found is not None:
        return found
    message, hint = "opening a connection failed", "see the log for its class"
    detail = f"{where}, {describe(error)}"
    return _lasting(message, detail, hint=hint), "denied"


def _no_host(error: NoHost, where: str, key: PoolKey) -> tuple[TenantProxyError, Failure]:
    """Of several hosts. While one answers, a failover may be under way: callers wait for its end."""
    if error.is_wrong:
        hint = f"see hosts and system_identifier of [servers.{key.server}]"
        return _lasting(error.reason, where, hint=hint), "denied"
    if error.answers:
        hint = "a failover may be under way; see the hosts of this server in the log, and target_session_attrs"
        return ConnectFailed(error.reason, detail=where, hint=hint, retry_after=1.0), "busy"
    if error.cause is None or isinstance(error.cause, TimeoutError):
        return unreachable(where), "refused"
    return classify(error.cause, key)


def _tls_below(error: BaseException) -> ssl.SSLError | None:
    """What TLS said, where asyncpg's error is that the connection ended: with TLS 1.3 a server refuses us late."""
    cause = error.__cause__ or error.__context__
    if not isinstance(error, asyncpg.PostgresConnectionError | ConnectionError):
        return None
    return cause if isinstance(cause, ssl.SSLError) else None


def _of_the_system(error: BaseException, where: str, key: PoolKey) -> tuple[TenantProxyError, Failure] | None:
    """What the network, TLS or this machine said; None for what is none of theirs."""
    if isinstance(error, HostMoved):
        message, hint = "the PostgreSQL server moved to another host meanwhile", "it is tried again there"
        return ConnectFailed(message, detail=where, hint=hint, retry_after=0.1), "busy"
    if isinstance(error, TimeoutError):
        message, hint = "the PostgreSQL server did not answer in time", "see whether it is reachable and not overloaded"
        return ConnectFailed(message, detail=where, hint=hint, retry_after=1.0), "busy"
    if isinstance(error, OSError) and error.errno in _OURS:
        return _no_descriptors(where), "busy"
    if isinstance(error, UnusableFile):
        section = f"[servers.{key.server}]"
        what = "a file that TLS with the PostgreSQL server needs cannot be used"
        return _lasting(what, f"{where}, {error.key} {error.why}", hint=f"see {section}: {error.fix}"), "denied"
    if isinstance(error, ssl.SSLError):
        return _untrusted(error, where, key), "denied"
    if isinstance(error, socket.gaierror):
        found = ConnectFailed(
            "the host name of the PostgreSQL server cannot be resolved",
            detail=where,
            hint=f"see host of [servers.{key.server}], and the DNS of this machine",
            retry_after=1.0,
        )
        return _caused(found, error), "refused"
    if isinstance(error, asyncpg.ClientConfigurationError):  # the rest of what it is said for, `config check` refuses
        return _no_authority(where, key), "denied"
    if isinstance(error, ConnectionError) and "SSL" in str(error):  # asyncpg's, and it has no class of its own
        return no_tls(where), "denied"
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return unreachable(where), "refused"
    return None


def _lasting(message: str, detail: str, *, hint: str) -> ConnectFailed:
    """What goes on until an operator changes something: tried again all the same, but seldom."""
    return ConnectFailed(message, detail=detail, hint=hint, retry_after=5.0, lasting=True)


def no_tls(where: str) -> ConnectFailed:
    """The server refuses TLS, and `ssl` asks for it."""
    return _lasting(
        "the PostgreSQL server does not offer TLS",
        where,
        hint="switch it on there (ssl = on), or say here that it need not be (ssl = 'prefer')",
    )


def _no_authority(where: str, key: PoolKey) -> ConnectFailed:
    """`ssl` asks to verify the server's certificate, and there is nothing to verify it with."""
    return _lasting(
        "the certificate of the PostgreSQL server cannot be verified",
        f"{where}, there is no root certificate",
        hint=f"name the file of the authority's certificate in ssl_root_cert_file of [servers.{key.server}]; without it"
        " ~/.postgresql/root.crt is read",
    )


def _untrusted(error: ssl.SSLError, where: str, key: PoolKey) -> ConnectFailed:
    section = f"[servers.{key.server}]"
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "reason", None) or ""  # OpenSSL's; what is not raised by it has none
        found = _lasting(
            "TLS with the PostgreSQL server failed",
            f"{where}, {_ALERTS.get(reason) or reason or type(error).__name__}",
            hint=f"see ssl, ssl_cert_file and ssl_key_file of {section}, and the server's log",
        )
        return _caused(found, error)
    found = _lasting(
        "the certificate of the PostgreSQL server is not accepted",
        f"{where}, {_CERTIFICATE.get(error.verify_code, 'it cannot be verified')}",
        hint=f"see ssl_root_cert_file and host of {section}, and ssl_cert_file of the server",
    )
    return _caused(found, error)


def _caused(found: ConnectFailed, error: BaseException) -> ConnectFailed:
    """For operators: the cause may name hosts, which the error itself does not tell those who are served."""
    found.__cause__ = error
    return found


def _too_many(where: str) -> BudgetExhausted:
    return BudgetExhausted(
        "the PostgreSQL server, database or role has no connection left",
        detail=f"{where}, SQLSTATE 53300",
        hint="others use them too: lower the server's max_connections here by as many as they need, or raise the limit"
        " of the server, the database or the role",
        retry_after=1.0,
    )


def _no_descriptors(where: str) -> BudgetExhausted:
    return BudgetExhausted(
        "this process can open no more connections",
        detail=where,
        hint="let it have more file descriptors (ulimit -n) and memory, or lower max_clients",
        retry_after=1.0,
    )


def describe(error: BaseException) -> str:
    """The class and SQLSTATE of `error`: what may be logged. Texts may hold values or addresses."""
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {state}" if state else type(error).__name__
