"""Does the other side know the password? SCRAM-SHA-256 (RFC 5802, 7677), both sides of it.

No password crosses the wire, and a server needs none to check one: a `Verifier` is enough. Messages come from
strangers: each has a limit, and all that can be wrong with one is a ProtocolError. The exchange may be
bound to the TLS connection: SCRAM-SHA-256-PLUS with tls-server-end-point (RFC 5929).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64encode
from binascii import Error as NotBase64
from binascii import a2b_base64
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from tenantproxy.errors import InvalidCredentials, ProtocolError
from tenantproxy.wire.saslprep import saslprep

__all__ = [
    "DEFAULT_ITERATIONS",
    "MAX_ITERATIONS",
    "MAX_MESSAGE",
    "MECHANISM",
    "MECHANISM_PLUS",
    "ClientExchange",
    "ServerExchange",
    "Verifier",
]

MECHANISM: Final = b"SCRAM-SHA-256"
MECHANISM_PLUS: Final = b"SCRAM-SHA-256-PLUS"
DEFAULT_ITERATIONS: Final = 4096
MAX_ITERATIONS: Final = 1_000_000  # a third of a second of work
MAX_MESSAGE: Final = 2048
_MAX_NONCE: Final = 512
_MAX_SALT: Final = 256
_NONCE_BYTES: Final = 18
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_BINDING_FLAG: Final = b"p=tls-server-end-point"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password. Not a password, but its holder can try many: never shown."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `SCRAM-SHA-256$iterations:salt$stored:server`, as PostgreSQL's pg_authid has it. Raises ValueError."""
        found = re.fullmatch(r"SCRAM-SHA-256\$(\d{1,10}):([^$:]{1,400})\$([^$:]{1,100}):([^$:]{1,100})", text.strip())
        if found is None:
            raise ValueError("a verifier is SCRAM-SHA-256$iterations:salt$stored key:server key")
        iterations = int(found[1])
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise ValueError(f"a verifier has 1 to {MAX_ITERATIONS} iterations")
        try:
            salt, stored, server = (a2b_base64(part.encode(), strict_mode=True) for part in found.groups()[1:])
        except (NotBase64, UnicodeEncodeError):
            raise ValueError("a part of the verifier is not base64") from None
        if not salt or len(salt) > _MAX_SALT or len(stored) != _KEY_BYTES or len(server) != _KEY_BYTES:
            raise ValueError("a part of the verifier has the wrong length")
        return cls(iterations, salt, stored, server)

    @classmethod
    def of_password(cls, password: str, *, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None) -> Self:
        """Of a password; ValueError for an empty one."""
        if not password:
            raise ValueError("a password is empty")
        salt = os.urandom(_SALT_BYTES) if salt is None else salt
        client_key, server_key = _keys(saslprep(password), salt, iterations)
        return cls(iterations, salt, _hash(client_key), server_key)

    def text(self) -> str:
        """As `parse` reads it."""
        salt, stored, server = (b64encode(key).decode() for key in (self.salt, self.stored_key, self.server_key))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def matches(self, password: str) -> bool:
        """Whether it was made of this password. As slow as its iterations, 1-2 ms with 4096."""
        client_key, _ = _keys(saslprep(password), self.salt, self.iterations)
        return hmac.compare_digest(_hash(client_key), self.stored_key)


class ServerExchange:
    """One client's proof. `first` with its first message, `final` with its second, each once and in this order.

    `binding`: what the channel is bound by, the hash of the certificate that the client was shown; empty: nothing.
    """

    __slots__ = ("_binding", "_bound", "_first_bare", "_nonce", "_server_first", "_verifier")

    def __init__(self, verifier: Verifier, *, nonce: bytes | None = None, binding: bytes = b"") -> None:
        self._verifier = verifier
        self._binding = binding
        self._nonce = _new_nonce() if nonce is None else nonce
        self._bound = b""  # what the client's second message must say of the channel
        self._first_bare = b""
        self._server_first = b""

    def first(self, message: bytes, *, plus: bool = False) -> bytes:
        """The challenge. `plus`: the client chose SCRAM-SHA-256-PLUS, which must have been offered."""
        if self._server_first:
            raise _malformed("the exchange has begun before")
        _check_size(message)
        header, self._first_bare = _split_header(message, plus=plus, is_offered=bool(self._binding))
        self._bound = header + self._binding if plus else header
        attributes = _attributes(self._first_bare, b"nr")
        client_nonce = _nonce(attributes[1])
        self._nonce = client_nonce + self._nonce
        salt = b64encode(self._verifier.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes:
        """The server's own proof. Raises InvalidCredentials when the client does not know the password."""
        if not self._server_first:
            raise _malformed("the exchange has not begun")
        _check_size(message)
        without_proof, comma, proof_text = message.rpartition(b",p=")
        if not comma:
            raise _malformed("the proof is not the last attribute")
        bound, nonce = _attributes(without_proof, b"cr")[:2]
        if not hmac.compare_digest(_base64(bound, "the channel binding"), self._bound):
            # Of another certificate, too: a man in the middle has ended the client's TLS with one of its own.
            raise _malformed("the channel binding is not that of the first message and of this connection")
        if not hmac.compare_digest(nonce, self._nonce):
            raise _malformed("the nonce is not the one of this exchange")
        proof = _base64(proof_text, "the proof")
        if len(proof) != _KEY_BYTES:
            raise _malformed("the proof has the wrong length")
        said = b",".join((self._first_bare, self._server_first, without_proof))
        client_key = _xor(proof, _hmac(self._verifier.stored_key, said))
        if not hmac.compare_digest(_hash(client_key), self._verifier.stored_key):
            raise InvalidCredentials("password authentication failed")
        return b"v=" + b64encode(_hmac(self._verifier.server_key, said))


class ClientExchange:
    """Our proof to a server, and its proof to us. `first`, `final` and `verify`, each once and in this order.

    `binding`: for SCRAM-SHA-256-PLUS, the hash of the certificate that the server has shown; empty: without it. `could`
    have it, had the server offered it: a man in the middle may have taken the offer out, which the server hears so.
    """

    __slots__ = ("_binding", "_first_bare", "_header", "_nonce", "_password", "_signature")

    def __init__(self, password: str, *, nonce: bytes | None = None, binding: bytes = b"", could: bool = False) -> None:
        if not password:
            raise ProtocolError("the server asks for a password, and ours is empty")
        self._password = password
        self._nonce = _new_nonce() if nonce is None else nonce
        self._binding = binding
        self._header = _BINDING_FLAG + b",," if binding else b"y,," if could else b"n,,"
        self._first_bare = b"n=,r=" + self._nonce
        self._signature = b""

    def first(self) -> bytes:
        """Our first message. PostgreSQL takes the user's name from the startup packet."""
        return self._header + self._first_bare

    def final(self, message: bytes) -> bytes:
        """Our answer to the server's challenge. Refuses one that is not for us, or costs too much to answer."""
        if self._signature:
            raise _malformed("the server asked twice")
        _check_size(message)
        nonce, salt_text, iterations_text = _attributes(message, b"rsi")[:3]
        _nonce(nonce)
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise _malformed("the server's nonce does not go on where ours ended")
        salt = _base64(salt_text, "the salt")
        if not 0 < len(salt) <= _MAX_SALT:
            raise _malformed("the salt has an impossible length")
        if not re.fullmatch(rb"[1-9][0-9]{0,9}", iterations_text) or int(iterations_text) > MAX_ITERATIONS:
            raise _malformed(f"the iterations are not a number up to {MAX_ITERATIONS}")
        client_key, server_key = _kept_keys(self._password, salt, int(iterations_text))
        without_proof = b"c=" + b64encode(self._header + self._binding) + b",r=" + nonce
        said = b",".join((self._first_bare, message, without_proof))
        self._signature = _hmac(server_key, said)
        return without_proof + b",p=" + b64encode(_xor(client_key, _hmac(_hash(client_key), said)))

    def verify(self, message: bytes) -> None:
        """The server's last message: does it know our password? Raises ProtocolError when not."""
        _check_size(message)
        if message.startswith(b"e="):
            raise ProtocolError("the server refused the SCRAM exchange")
        if not self._signature or message[:2] != b"v=":
            raise _malformed("the server's signature is missing")
        if not hmac.compare_digest(_base64(message[2:].partition(b",")[0], "the signature"), self._signature):
            raise ProtocolError("the server does not know the password", hint="is it the server it should be?")


# --- the parts of messages -------------------------------------------------------------------------------------------
def _malformed(why: str) -> ProtocolError:
    return ProtocolError("malformed SCRAM message", detail=why)


def _check_size(message: bytes) -> None:
    if len(message) > MAX_MESSAGE:
        raise _malformed(f"it is longer than {MAX_MESSAGE} bytes")


def _split_header(message: bytes, *, plus: bool, is_offered: bool) -> tuple[bytes, bytes]:
    """The GS2 header, which says how the client wants to bind the channel, and what stands behind it."""
    flag, _, rest = message.partition(b",")
    if plus and flag != _BINDING_FLAG:
        raise _malformed("the only channel binding there is is tls-server-end-point")
    if flag.startswith(b"p=") and not plus:
        raise _malformed("channel binding was not offered")
    if flag not in (b"n", b"y") and not plus:
        raise _malformed("it does not begin with a channel binding flag")
    if flag == b"y" and is_offered:
        # RFC 5802, 6: it did not see our offer, so the list of mechanisms was changed on its way.
        raise _malformed("the client supports channel binding, and thinks that it was not offered")
    identity, comma, bare = rest.partition(b",")
    if identity:
        raise _malformed("an authorization identity is not supported")
    if not comma:
        raise _malformed("it ends too soon")
    return flag + b",,", bare


def _attributes(message: bytes, names: bytes) -> list[bytes]:
    """The values of the attributes `names`, which come first and in this order. What comes behind is optional."""
    parts = message.split(b",")
    if parts[0].startswith(b"m="):
        raise _malformed("it asks for an extension that is not supported")
    if len(parts) < len(names):
        raise _malformed("an attribute is missing")
    for part, name in zip(parts, names, strict=False):
        if part[:2] != bytes([name]) + b"=":
            raise _malformed(f"the attribute {chr(name)} is not where it should be")
    if not all(re.match(rb"[A-Za-z]=", part) for part in parts[len(names) :]):
        raise _malformed("something in it is not an attribute")
    return [part[2:] for part in parts]


def _nonce(nonce: bytes) -> bytes:
    if not 0 < len(nonce) <= _MAX_NONCE or not re.fullmatch(rb"[!-+\--~]+", nonce):
        raise _malformed("the nonce is empty, too long or not printable")
    return nonce


def _base64(text: bytes, what: str) -> bytes:
    try:
        data = a2b_base64(text, strict_mode=True)
    except NotBase64:
        raise _malformed(f"{what} is not base64") from None
    if b64encode(data) != text:  # bits to spare at its end, and not zero
        raise _malformed(f"{what} is not base64")
    return data


def _new_nonce() -> bytes:
    return b64encode(os.urandom(_NONCE_BYTES))


# --- the arithmetic --------------------------------------------------------------------------------------------------
def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(_KEY_BYTES, "big")


def _keys(password: bytes, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """The client's key and the server's."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key")


@lru_cache(maxsize=64)
def _kept_keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """As `_keys`, for our own logins: a server's salt stays the same, and a pool logs in often."""
    return _keys(saslprep(password), salt, iterations)
