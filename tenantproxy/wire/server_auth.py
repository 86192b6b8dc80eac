"""How do we log in at a PostgreSQL server? Sans-I/O: `begin` out, its messages in, until it is ready.

A server is not trusted more than a client: each message and all of them together have a limit, and the ways to log in
are those that were allowed, so that no impostor gets our password by asking for less.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    ERROR,
    HEADER,
    IDLE,
    NOTICE,
    PARAMETER_STATUS,
    PASSWORD,
    READY,
    frame,
    length_of,
)
from tenantproxy.wire.scram import MECHANISM, MECHANISM_PLUS, ClientExchange
from tenantproxy.wire.startup import MAX_PACKET, VERSION_3_0

__all__ = ["DEFAULT_METHODS", "METHODS", "BackendLogin", "ChannelBinding", "ServerRefusal", "startup_message"]

METHODS: Final = ("scram-sha-256", "md5", "password", "none")  # libpq's words for require_auth; none is trust
DEFAULT_METHODS: Final = ("scram-sha-256",)

ChannelBinding: TypeAlias = Literal["disable", "prefer", "require"]
"""Whether a login is bound to the server's certificate (SCRAM-SHA-256-PLUS), in libpq's words."""

MAX_MESSAGE: Final = 65536
MAX_LOGIN: Final = 1024 * 1024  # bytes of all messages of a login
MAX_PARAMETERS: Final = 200
_SECRETS: Final = range(4, 257)  # bytes of a cancel key
_CRASHED: Final = "57P02"

_OK, _CLEARTEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12


@dataclass(frozen=True, slots=True)
class ServerRefusal:
    """The ErrorResponse with which a server ended a login. `message` is the server's, cut to a sane length."""

    sqlstate: str
    message: str


class BackendLogin:
    """One login. `parameters`: what goes into the startup packet, `user` among it; `password` is asked for when needed.

    `is_done`: the session is ready; `parameters`, `pid` and `secret` are what the server said. `refusal`: it refused.
    `binding`: of the certificate that the server has shown, see `end_point`; empty without TLS.
    Every method raises ProtocolError for a server that breaks the protocol, or that wants us to log in otherwise than
    is allowed.
    """

    __slots__ = (
        "_binding",
        "_buffer",
        "_exchange",
        "_is_bound",
        "_methods",
        "_must_bind",
        "_password",
        "_proven",
        "_seen",
        "_state",
        "_user",
        "begin",
        "is_done",
        "parameters",
        "pid",
        "refusal",
        "secret",
    )

    def __init__(
        self,
        parameters: Mapping[str, str],
        password: Callable[[], str],
        *,
        methods: Collection[str] = DEFAULT_METHODS,
        binding: bytes = b"",
        channel_binding: ChannelBinding = "prefer",
    ) -> None:
        self.begin: Final = startup_message(parameters)
        self.is_done = False
        self.refusal: ServerRefusal | None = None
        self.parameters: dict[bytes, bytes] = {}
        self.pid = 0
        self.secret = b""
        self._user = parameters["user"]
        self._password = password
        self._methods = methods
        self._binding = b"" if channel_binding == "disable" else binding
        self._must_bind = channel_binding == "require"
        self._exchange: ClientExchange | None = None
        self._is_bound = False
        self._proven = "none"  # how we have shown who we are; a SCRAM server has shown it too
        self._state = _ASKED
        self._buffer = b""
        self._seen = 0  # bytes of all messages

    def receive(self, data: bytes) -> bytes:
        """Bytes came, cut anywhere: what to send now. Look at `is_done` and `refusal` then."""
        if self._is_over():
            raise ProtocolError("the server said more than it was asked")
        data = self._buffer + data
        out = b""
        at = 0
        while len(data) - at >= HEADER and not self._is_over():
            end = at + length_of(data, at)
            if end - at > MAX_MESSAGE:
                raise ProtocolError("a message of the login is too long", detail=f"{end - at} bytes")
            if end > len(data):
                break
            out += self.feed(data[at], data[at + HEADER : end])
            at = end
        self._buffer = data[at:]
        if self.is_done and self._buffer:
            self._hear_behind(self._buffer)
        return out

    def _hear_behind(self, data: bytes) -> None:
        """A server that shuts down may end a session as it begins; nothing else may come behind the end of a login.

        That another of its processes has crashed it says as a warning, before it closes the connection.
        """
        self._refused(data[HEADER:])
        assert self.refusal is not None
        if data[0] != ERROR and not (data[0] == NOTICE and self.refusal.sqlstate == _CRASHED):
            self.refusal = None
            raise ProtocolError("the server said more than it was asked")
        self.is_done = False

    def _refused(self, payload: bytes) -> None:
        fields = read_error(payload)
        self.refusal = ServerRefusal(fields["C"], fields["M"])

    def _is_over(self) -> bool:
        return self.is_done or self.refusal is not None

    def feed(self, kind: int, payload: bytes) -> bytes:
        """As `receive`, for a caller that takes the messages apart."""
        if self._is_over():
            raise ProtocolError("the server said more than it was asked")
        self._seen += HEADER + len(payload)
        if self._seen > MAX_LOGIN:
            raise ProtocolError("the server said too much before it was ready", detail=f"more than {MAX_LOGIN} bytes")
        if kind == NOTICE:
            return b""
        if kind == ERROR:
            self._refused(payload)
            return b""
        step = _STEPS.get((self._state, kind))
        if step is None:
            raise ProtocolError("the server did not answer a login", detail=f"kind {kind:#04x} while {self._state}")
        return step(self, payload)

    # --- authentication ----------------------------------------------------------------------------------------------
    def _authenticate(self, payload: bytes) -> bytes:
        if len(payload) < 4:
            raise ProtocolError("an authentication request ends too soon")
        wanted, data = int.from_bytes(payload[:4], "big"), payload[4:]
        if wanted == _OK:
            return self._accepted()
        if self._exchange is not None and wanted in (_SASL_CONTINUE, _SASL_FINAL):
            return self._scram(wanted, data)
        if self._proven != "none" or self._exchange is not None:
            raise ProtocolError("the server asked for a second proof")
        if wanted == _SASL:
            return self._begin_scram(data)
        if wanted == _MD5 and len(data) == 4:
            return self._answer("md5", _md5(self._user, self._secret("md5"), data))
        if wanted == _CLEARTEXT and not data:
            return self._answer("password", self._secret("password").encode())
        raise ProtocolError(
            "the server wants a way to log in that we do not have", detail=f"authentication request {wanted}"
        )

    def _secret(self, method: str) -> str:
        self._allow(method)
        password = self._password()
        if not password or "\0" in password:
            raise ProtocolError("the server asks for a password, and ours is empty or contains a NUL byte")
        return password

    def _allow(self, method: str) -> None:
        self._check_bound()
        if method not in self._methods:
            raise ProtocolError(
                f"the server wants us to log in by {method!r}, which is not allowed",
                detail="allowed are " + ", ".join(self._methods),
                hint="let the server ask for scram-sha-256 (pg_hba.conf, and a password that was set under it)",
            )

    def _answer(self, method: str, proof: bytes) -> bytes:
        self._proven = method
        return frame(PASSWORD, proof + b"\0")

    def _begin_scram(self, mechanisms: bytes) -> bytes:
        offered = mechanisms.split(b"\0")
        self._is_bound = bool(self._binding) and MECHANISM_PLUS in offered
        chosen = MECHANISM_PLUS if self._is_bound else MECHANISM
        if chosen not in offered:
            raise ProtocolError("the server offers no SASL mechanism that we have")
        binding = self._binding if self._is_bound else b""
        self._exchange = ClientExchange(self._secret("scram-sha-256"), binding=binding, could=bool(self._binding))
        first = self._exchange.first()
        return frame(PASSWORD, chosen + b"\0" + len(first).to_bytes(4, "big") + first)

    def _check_bound(self) -> None:
        if self._must_bind and not self._is_bound:
            raise ProtocolError(
                'the login is not bound to the certificate of the server, and channel_binding = "require"',
                detail="the server does not offer SCRAM-SHA-256-PLUS, or has shown no certificate to bind it to",
                hint="let it ask for scram-sha-256 by hostssl in pg_hba.conf; nothing may end TLS before it",
            )

    def _scram(self, wanted: int, data: bytes) -> bytes:
        assert self._exchange is not None
        if wanted == _SASL_CONTINUE:
            return frame(PASSWORD, self._exchange.final(data))
        self._exchange.verify(data)
        self._proven = "scram-sha-256"
        return b""

    def _accepted(self) -> bytes:
        if self._exchange is not None and self._proven == "none":
            raise ProtocolError("the server did not show that it knows the password")
        self._allow(self._proven)
        self._state = _LET_IN
        return b""

    # --- the session begins ------------------------------------------------------------------------------------------
    def _take_parameter(self, payload: bytes) -> bytes:
        name, value, end = (*payload.split(b"\0"), b"?", b"?")[:3]
        if not name or end or payload.count(b"\0") != 2:
            raise ProtocolError("a ParameterStatus is malformed")
        self.parameters[name] = value
        if len(self.parameters) > MAX_PARAMETERS:
            raise ProtocolError("the server reports too many settings", detail=f"more than {MAX_PARAMETERS}")
        return b""

    def _take_key(self, payload: bytes) -> bytes:
        if len(payload) - 4 not in _SECRETS:
            raise ProtocolError("a BackendKeyData has an impossible length", detail=f"{len(payload)} bytes")
        self.pid, self.secret = int.from_bytes(payload[:4], "big"), payload[4:]
        return b""

    def _end(self, payload: bytes) -> bytes:
        if payload != bytes([IDLE]):
            raise ProtocolError("the server is ready, and not idle")
        if not self.secret:
            raise ProtocolError("the server did not say which backend it is")  # a proof names its process
        self.is_done = True
        self._state = _READY
        return b""


_ASKED: Final = "authenticating"
_LET_IN: Final = "let in"
_READY: Final = "ready"

_STEPS: Final[Mapping[tuple[str, int], Callable[[BackendLogin, bytes], bytes]]] = {
    (_ASKED, AUTHENTICATION): BackendLogin._authenticate,
    (_LET_IN, PARAMETER_STATUS): BackendLogin._take_parameter,
    (_LET_IN, BACKEND_KEY_DATA): BackendLogin._take_key,
    (_LET_IN, READY): BackendLogin._end,
}
"""What may come when, in addition to ErrorResponse and NoticeResponse."""


def _md5(user: str, password: str, salt: bytes) -> bytes:
    """PostgreSQL's own scheme, broken since long: only where it was allowed."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """The startup packet of a client, us: `user`, `database` and what is to be pinned. Raises ProtocolError."""
    body = b""
    for name, value in parameters.items():
        if not name or "\0" in name or "\0" in value:
            raise ProtocolError("a startup parameter has no name, or contains a NUL byte")
        body += name.encode() + b"\0" + value.encode() + b"\0"
    size = 9 + len(body)
    if size > MAX_PACKET:
        raise ProtocolError("a startup packet is too long", detail=f"{size} bytes, at most {MAX_PACKET}")
    return struct.pack("!II", size, VERSION_3_0) + body + b"\0"
