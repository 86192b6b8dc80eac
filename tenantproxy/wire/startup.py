"""What does a client say first, and what of it may it have? Nothing here has been authenticated yet.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP. A listener calls `read_first` with
all bytes that came until it returns something; answers SslRequest with ACCEPTED and begins TLS, or with REFUSED as
GssRequest, takes their 8 bytes off and calls again, with what it answered so far; then sends `negotiate(startup)` and
asks `wanted(startup)`. The settings of a SessionWish are for the time after authentication.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from tenantproxy.errors import AuthError, InvalidSetting, NotSupported, ProtocolError
from tenantproxy.wire import settings
from tenantproxy.wire.frames import NEGOTIATE, TERMINATE, frame
from tenantproxy.wire.untracked import untracked

__all__ = [
    "ACCEPTED",
    "DIRECT_TLS",
    "GSS_REQUEST",
    "MAX_PACKET",
    "REFUSED",
    "REQUEST_SIZE",
    "SSL_REQUEST",
    "VERSION_3_0",
    "CancelRequest",
    "DirectTls",
    "First",
    "GssRequest",
    "SessionWish",
    "SslRequest",
    "Startup",
    "TerminateRequest",
    "is_terminate",
    "negotiate",
    "options",
    "read_first",
    "wanted",
]

MAX_PACKET: Final = 10_000  # MAX_STARTUP_PACKET_LENGTH of PostgreSQL
REQUEST_SIZE: Final = 8  # an SslRequest or GssRequest
ACCEPTED: Final = b"S"
REFUSED: Final = b"N"

VERSION_3_0: Final = 3 << 16

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_NEVER_A_VERSION: Final = 1234  # as the major version: one of the requests
_SECRETS: Final = range(4, 257)  # bytes of a cancel key
_TLS_HANDSHAKE: Final = 0x16
_SPECIAL: Final = {b"user", b"database", b"options", b"replication"}  # at most once each
_PROTOCOL_OPTION: Final = b"_pq_."
_TERMINATE: Final = frame(TERMINATE)
_NO: Final = {b"false", b"off", b"no", b"0", b"f", b"n"}


@dataclass(frozen=True, slots=True)
class SslRequest:
    """May we speak TLS? Take REQUEST_SIZE bytes off, answer, and read on."""


@dataclass(frozen=True, slots=True)
class GssRequest:
    """May we speak GSSAPI encryption? Take REQUEST_SIZE bytes off, answer, and read on."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel what runs for the client that was given this key. Never answered; the connection ends."""

    pid: int
    secret: bytes

    def __repr__(self) -> str:
        return f"CancelRequest(pid={self.pid})"


@dataclass(frozen=True, slots=True)
class Startup:
    """A session is asked for. `size`: how many bytes to take off; what stands behind them is the next message."""

    version: tuple[int, int]
    parameters: tuple[tuple[bytes, bytes], ...]
    size: int


@dataclass(frozen=True, slots=True)
class TerminateRequest:
    """The client has changed its mind, as one does that wanted encryption. Never answered; the connection ends."""


@dataclass(frozen=True, slots=True)
class DirectTls:
    """TLS begins with the first byte: take nothing off, for all of it is TLS's. The client must name our protocol."""


First: TypeAlias = SslRequest | GssRequest | CancelRequest | Startup | TerminateRequest | DirectTls

SSL_REQUEST: Final = SslRequest()
GSS_REQUEST: Final = GssRequest()
TERMINATE_REQUEST: Final = TerminateRequest()
DIRECT_TLS: Final = DirectTls()


def read_first(buffer: bytes | bytearray, *, answered: Collection[First] = (), has_tls: bool = False) -> First | None:
    """The first packet of a client; None: more bytes are needed. `answered`: the requests so far.

    `has_tls`: TLS may begin without a request, where nothing was said before. Raises ProtocolError as soon as the bytes
    cannot become a packet: a length is believed only within MAX_PACKET.
    """
    if buffer and buffer[0] == _TLS_HANDSHAKE:
        return _direct(has_tls=has_tls, answered=answered)
    if is_terminate(buffer):
        return TERMINATE_REQUEST if len(buffer) >= len(_TERMINATE) else None
    if len(buffer) < 4:
        return None
    size = int.from_bytes(buffer[:4], "big")
    if not 8 <= size <= MAX_PACKET:
        raise _impossible(buffer, size)
    if len(buffer) < 8:
        return None
    code = int.from_bytes(buffer[4:8], "big")
    if code in (_SSL, _GSS):
        return _request(SSL_REQUEST if code == _SSL else GSS_REQUEST, buffer, size, answered)
    if code == _CANCEL:
        if size - 12 not in _SECRETS:
            raise ProtocolError("a cancel request has the wrong length")
    elif code >> 16 != 3:
        raise _no_version(code)
    if len(buffer) < size:
        return None
    packet = bytes(buffer[8:size])
    if code == _CANCEL:
        return CancelRequest(pid=int.from_bytes(packet[:4], "big"), secret=packet[4:])
    return Startup(version=(3, code & 0xFFFF), parameters=_parameters(packet), size=size)


def _direct(*, has_tls: bool, answered: Collection[First]) -> First:
    if has_tls and not answered:
        return DIRECT_TLS
    raise ProtocolError(
        "TLS without an SSLRequest before it is not supported here",
        hint="use sslnegotiation=postgres" if has_tls else "the port has no certificate: see [pg] ssl_cert_file",
    )


def is_terminate(buffer: bytes | bytearray) -> bool:
    """Whether a Terminate, or the beginning of one, is what an unauthenticated client says next."""
    return buffer[:1] == _TERMINATE[:1] and _TERMINATE.startswith(buffer[: len(_TERMINATE)])


def _request(
    request: SslRequest | GssRequest, buffer: bytes | bytearray, size: int, answered: Collection[First]
) -> First:
    if size != REQUEST_SIZE:
        raise ProtocolError("a request for encryption has the wrong length")
    if request in answered:
        raise ProtocolError("a client asked twice for the same encryption")
    if len(buffer) > REQUEST_SIZE:
        # What came in plain text before the answer may be from a man in the middle (CVE-2021-23214).
        raise ProtocolError("a client sent something behind its request for encryption, without waiting for the answer")
    return request


def _impossible(buffer: bytes | bytearray, size: int) -> ProtocolError:
    if buffer[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD"):
        return ProtocolError("this is not an HTTP port", hint="it speaks PostgreSQL's protocol")
    if buffer[:1] == b"p":
        return ProtocolError("a password came before a startup packet")
    return ProtocolError("this is not a startup packet", detail=f"its length would be {size} bytes")


def _no_version(code: int) -> ProtocolError:
    if code >> 16 == _NEVER_A_VERSION:
        return ProtocolError("an unknown request", detail=f"its code is {code}")
    return NotSupported(
        f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.0",
    )


def _parameters(packet: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of strings that each end with a NUL, and one NUL more."""
    *texts, end, rest = packet.split(b"\0") if packet.count(b"\0") >= 1 else (b"", b"?", b"?")
    if end or rest or len(texts) % 2:
        raise ProtocolError("invalid startup packet layout", hint="it ends with a NUL byte behind its last value")
    try:
        packet.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a startup packet is not UTF-8") from None
    names = texts[::2]
    if not all(names):
        raise ProtocolError("invalid startup packet layout: a parameter has no name")
    for name in _SPECIAL:
        if names.count(name) > 1:
            raise ProtocolError(f"the startup parameter {name.decode()!r} is there twice")
    return tuple(zip(names, texts[1::2], strict=True))


def negotiate(startup: Startup) -> bytes:
    """What to send before anything else: NegotiateProtocolVersion to a client that wants more than 3.0, or nothing."""
    unknown = [name for name, _ in startup.parameters if name.startswith(_PROTOCOL_OPTION)]
    if startup.version == (3, 0) and not unknown:
        return b""
    head = struct.pack("!II", VERSION_3_0, len(unknown))
    return frame(NEGOTIATE, head + b"".join(name + b"\0" for name in unknown))


def options(value: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The settings in the startup parameter `options`: `-c name=value` and `--name=value`, as a server reads them.

    Blanks separate, a backslash keeps the next byte as it is, and a dash in a name is an underscore. Raises
    InvalidSetting for any other switch.
    """
    words = iter(_words(value))
    found: list[tuple[bytes, bytes]] = []
    for word in words:
        if word == b"-c":
            setting = next(words, b"")
        elif word.startswith((b"-c", b"--")):
            setting = word[2:]
        else:
            raise InvalidSetting(
                "a switch in the startup options is not supported", hint="supported are -c name=value and --name=value"
            )
        name, equals, said = setting.partition(b"=")
        if not name or not equals:
            raise InvalidSetting("a setting in the startup options has no value", hint="write -c name=value")
        found.append((name.replace(b"-", b"_"), said))
    return tuple(found)


def _words(value: bytes) -> list[bytes]:
    """As pg_split_opts of PostgreSQL."""
    words: list[bytes] = []
    word: bytearray | None = None
    escaped = False
    for byte in value:
        if not escaped and byte in b" \t\n\v\f\r":
            if word is not None:
                words.append(bytes(word))
            word = None
            continue
        word = bytearray() if word is None else word
        if not escaped and byte == 0x5C:
            escaped = True
            continue
        word.append(byte)
        escaped = False
    return words if word is None else [*words, bytes(word)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWish:
    """What a client wants to be let into, and how its session shall be set once it is in.

    `tenants`: whatever its parameter and its options name as `tenant`, which must all mean the same one. `others`:
    settings that are not tracked.
    """

    user: bytes
    database: bytes
    tenants: tuple[bytes, ...] = ()
    others: settings.Settings = settings.NO_SETTINGS
    settings: settings.Settings = settings.NO_SETTINGS


def wanted(startup: Startup) -> SessionWish:
    """What the startup packet asks for. A parameter of its own counts more than one in its `options`.

    Raises AuthError without a user, InvalidSetting for a tracked setting (`values.CHECKS`) with a bad value and for one
    that no client may have, NotSupported for replication.
    """
    special = {name: value for name, value in startup.parameters if name in _SPECIAL}
    user = special.get(b"user", b"")
    if not user:
        raise AuthError("no PostgreSQL user name specified in startup packet")
    if special.get(b"replication", b"no").lower() not in _NO:
        raise NotSupported("replication is not supported", hint="connect to the server itself")
    asked = options(special.get(b"options", b"")) + tuple(
        (name, value)
        for name, value in startup.parameters
        if name not in _SPECIAL and not name.startswith(_PROTOCOL_OPTION)
    )
    return SessionWish(
        user=user,
        database=special.get(b"database") or user,
        tenants=tuple(dict.fromkeys(value for name, value in asked if name == b"tenant")),
        settings=settings.of(settings.checked(name, value) for name, value in asked if settings.canonical(name)),
        others=tuple(
            untracked(name, value) for name, value in asked if name != b"tenant" and not settings.canonical(name)
        ),
    )
