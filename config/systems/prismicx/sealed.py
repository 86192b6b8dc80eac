"""A column that only the service can read: AES-256-GCM, with keys that are not in the database.

The hook is `KeyOf`: the tenant's key, from wherever keys are kept. `keys_from` derives them from one secret file; a
key service is asked in its place.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KeyOf = Callable[[str], Awaitable[bytes]]
"""The 32 bytes that a tenant's columns are encrypted with."""

_NONCE = 12


def keys_from(secret: bytes) -> KeyOf:
    """A key for each tenant, derived from one secret of at least 32 bytes."""
    if len(secret) < 32:
        raise ValueError("the secret of the columns is too short: openssl rand -hex 32")

    async def key_of(tenant: str) -> bytes:
        return HKDF(SHA256(), 32, salt=None, info=b"prismicx column " + tenant.encode()).derive(secret)

    return key_of


class SealedColumn:
    """One column. What it holds belongs to its tenant, row and column: elsewhere it cannot be opened."""

    def __init__(self, name: str, key_of: KeyOf) -> None:
        self._name, self._key_of = name, key_of

    async def seal(self, tenant: str, row: str, text: str) -> bytes:
        """What is written into the column."""
        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(await self._key_of(tenant)).encrypt(nonce, text.encode(), self._about(tenant, row))

    async def open(self, tenant: str, row: str, sealed: bytes | None) -> str | None:
        """The text of it. Raises cryptography.exceptions.InvalidTag where it is not this row's, or another key's."""
        if sealed is None:
            return None
        opened = AESGCM(await self._key_of(tenant)).decrypt(sealed[:_NONCE], sealed[_NONCE:], self._about(tenant, row))
        return opened.decode()

    def _about(self, tenant: str, row: str) -> bytes:
        return f"{self._name}\0{tenant}\0{row}".encode()
