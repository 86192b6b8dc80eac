"""By what is a login bound to the certificate of a connection? `tls-server-end-point` of RFC 5929, from its bytes.

The hash is that of the certificate's signature, with SHA-256 in place of MD5 and SHA-1. Nothing here verifies anything:
TLS has read the certificate before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

__all__ = ["end_point"]

_SEQUENCE: Final = 0x30
_OID: Final = 0x06
_FIRST_FIELD: Final = 0xA0
_RSA: Final = bytes.fromhex("2a864886f70d0101")  # 1.2.840.113549.1.1, PKCS #1
_ECDSA: Final = bytes.fromhex("2a8648ce3d04")  # 1.2.840.10045.4
_DSA: Final = bytes.fromhex("6086480165030403")  # 2.16.840.1.101.3.4.3
_DIGESTS: Final = bytes.fromhex("6086480165030402")  # 2.16.840.1.101.3.4.2
_PSS: Final = _RSA + b"\x0a"
_HASHES: Final[Mapping[bytes, str]] = {
    _RSA + b"\x04": "sha256",  # of MD5
    _RSA + b"\x05": "sha256",  # of SHA-1
    _RSA + b"\x0b": "sha256",
    _RSA + b"\x0c": "sha384",
    _RSA + b"\x0d": "sha512",
    _RSA + b"\x0e": "sha224",
    _ECDSA + b"\x01": "sha256",  # of SHA-1
    _ECDSA + b"\x03\x01": "sha224",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
    _DSA + b"\x01": "sha224",
    _DSA + b"\x02": "sha256",
    _DIGESTS + b"\x01": "sha256",
    _DIGESTS + b"\x02": "sha384",
    _DIGESTS + b"\x03": "sha512",
    _DIGESTS + b"\x04": "sha224",
}


def end_point(certificate: bytes) -> bytes:
    """What binds a login to `certificate` (DER); empty where its signature has no hash of its own, as with Ed25519."""
    try:
        _, whole, _ = _element(certificate)
        _, _, rest = _element(whole)  # what is signed
        kind, algorithm, _ = _element(rest)
        if kind != _SEQUENCE:
            return b""
        name = _hash_of(algorithm)
    except (IndexError, ValueError):
        return b""
    return hashlib.new(name, certificate).digest() if name else b""


def _hash_of(algorithm: bytes) -> str:
    """The hash of a signature: of an AlgorithmIdentifier without its head. "": none, or one that is not known."""
    kind, oid, parameters = _element(algorithm)
    if kind != _OID:
        return ""
    if oid != _PSS:
        return _HASHES.get(oid, "")
    _, fields, _ = _element(parameters)  # RFC 4055: the first is the hash, SHA-1 where it is left out
    if not fields or fields[0] != _FIRST_FIELD:
        return "sha256"
    _, oid, _ = _element(_element(_element(fields)[1])[1])
    return _HASHES.get(oid, "")


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The first element of DER: its kind, its content, and what is behind it. Raises IndexError, ValueError."""
    kind, size, at = data[0], data[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4:
            raise ValueError("no length of a certificate")
        at += count
        size = int.from_bytes(data[2:at], "big")
    if at + size > len(data):
        raise ValueError("it ends too soon")
    return kind, data[at : at + size], data[at + size :]
