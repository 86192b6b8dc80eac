"""Which access token does a client bring? OAUTHBEARER (RFC 7628) as PostgreSQL 18 speaks it, the server's side.

The client sends its token in its first message, and is in when that is accepted. Else, and where it sends none to hear
what it needs, it is told where tokens are to be had, answers with one byte, and is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import ProtocolError

__all__ = ["BEARER", "BearerExchange", "Discovery"]

BEARER: Final = b"OAUTHBEARER"

_SEPARATOR: Final = b"\x01"
_KEY: Final = re.compile(rb"[A-Za-z]+")
_VALUE: Final = re.compile(rb"[!-~ \t\r\n]*")
_TOKEN: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")  # RFC 6750, 2.1
_CONFIGURATION: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where tokens are to be had: the issuer's URL, and the scopes to ask for."""

    issuer: str
    scope: str = ""


class BearerExchange:
    """One client's token. `first` with its first message; `challenge` where that is not enough, then `final`."""

    __slots__ = ("challenge",)

    def __init__(self, discovery: Discovery) -> None:
        known = {"status": "invalid_token", "openid-configuration": discovery.issuer.rstrip("/") + _CONFIGURATION}
        if discovery.scope:
            known["scope"] = discovery.scope
        self.challenge: Final = json.dumps(known).encode()

    def first(self, message: bytes) -> str | None:
        """The token; None: the client asks where one is to be had. Raises ProtocolError."""
        header, separator, rest = message.partition(_SEPARATOR)
        if header[:2] not in (b"n,", b"y,"):
            raise _malformed("channel binding is not supported with it" if header[:2] == b"p=" else "it has no header")
        if not separator or not header.endswith(b",") or header.count(b",") != 2:
            raise _malformed("its header ends too soon")
        if header[2:-1]:
            raise _malformed("an authorization identity is not supported")
        value = _auth(rest)
        if not value:
            return None
        found = _TOKEN.fullmatch(value)
        if found is None:
            raise _malformed("the value of auth is not a bearer token")
        return found[1].decode()

    def final(self, message: bytes) -> None:
        """What a client answers that has heard `challenge`. Raises ProtocolError."""
        if message != _SEPARATOR:
            raise _malformed("the answer to a refusal is one byte, 0x01")


def _auth(pairs: bytes) -> bytes:
    """The value of `auth` among pairs of key and value, each with a separator behind it, and one more at the end."""
    if not pairs.endswith(_SEPARATOR * 2) and pairs != _SEPARATOR:
        raise _malformed("it ends too soon")
    found: bytes | None = None
    for pair in pairs[:-2].split(_SEPARATOR):
        key, equals, value = pair.partition(b"=")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise _malformed("something in it is not a pair of a key and a value")
        if key == b"auth":
            if found is not None:
                raise _malformed("it has two values of auth")
            found = value
    if found is None:
        raise _malformed("it has no value of auth")
    return found


def _malformed(why: str) -> ProtocolError:
    return ProtocolError("malformed OAUTHBEARER message", detail=why)
