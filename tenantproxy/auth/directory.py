"""In which tenants may this e-mail address have an account? One row read in the main database, for any address.

The directory is a hint: a password is only ever checked against the tenant's own row. It holds MACs, no addresses.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from tenantproxy.auth.base import AuthDatabase
from tenantproxy.model import TenantId

__all__ = ["MAX_ENTRIES", "Directory", "DirectoryEntry", "Found", "normalised"]

MAX_ENTRIES: Final = 64
"""Entries of one address that are looked at: the oldest, so that no tenant can crowd those out that were there."""

_MAX_EMAIL_BYTES: Final = 320  # 64 before the @, 255 behind it (RFC 5321)
_PAGE: Final = 1000
_MAX_SNAPSHOT: Final = 500  # characters

_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)

# Everyone's look reads the next row too: its tenant is the decoy of those who have no entry. The snapshot says what the
# main database had committed before any password was read.
_LOOK_UP: Final = """
SELECT pg_current_snapshot()::text AS snapshot, found.* FROM (SELECT) AS always LEFT JOIN (
  (SELECT true AS is_own, tenant_id, user_id FROM tenantproxy.login_directory
   WHERE email_key = $1 ORDER BY since, tenant_id LIMIT $2)
  UNION ALL
  (SELECT false, tenant_id, user_id FROM tenantproxy.login_directory WHERE email_key > $1 ORDER BY email_key LIMIT 1)
) AS found ON true
"""
_ADD: Final = """
INSERT INTO tenantproxy.login_directory (email_key, tenant_id, user_id)
SELECT key, $1, account FROM unnest($2::bytea[], $3::text[]) AS given (key, account)
ON CONFLICT (email_key, tenant_id) DO UPDATE SET user_id = excluded.user_id
WHERE login_directory.user_id <> excluded.user_id
"""
_REMOVE: Final = "DELETE FROM tenantproxy.login_directory WHERE tenant_id = $1 AND email_key = ANY($2::bytea[])"
_REMOVE_OLD: Final = _REMOVE + " AND since < $3 RETURNING 1"
_OF_TENANT: Final = """
SELECT email_key FROM tenantproxy.login_directory WHERE tenant_id = $1 AND email_key > $2
ORDER BY email_key LIMIT $3
"""
_TENANTS: Final = """
WITH RECURSIVE each (tenant_id) AS (
  SELECT min(tenant_id) FROM tenantproxy.login_directory
  UNION ALL
  SELECT (SELECT min(d.tenant_id) FROM tenantproxy.login_directory d WHERE d.tenant_id > each.tenant_id)
  FROM each WHERE each.tenant_id IS NOT NULL)
SELECT tenant_id FROM each WHERE tenant_id IS NOT NULL
"""


def normalised(email: str) -> str | None:
    """What addresses are compared by: NFC, A-Z in lower case, without blanks around. None: it cannot be an address.

    Only ASCII letters change their case: what becomes of others depends on the language and the library that is asked.
    In PostgreSQL, whatever the collation of the database: `lower(normalize(email) COLLATE "C")`.
    """
    if len(email) > _MAX_EMAIL_BYTES:
        return None
    text = unicodedata.normalize("NFC", email.strip()).translate(_LOWER)
    local, _, domain = text.rpartition("@")
    if not local or not domain or not text.isprintable():  # also no NUL, no line ends, no half of a surrogate pair
        return None
    return text if len(text.encode()) <= _MAX_EMAIL_BYTES else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """An account that an address once had."""

    tenant: TenantId
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one look gave. `decoy`: a tenant to ask in vain when there is no entry, always the same for an address.

    `as_of`: the snapshot of the main database in which it looked, see `accounts.Account`.
    """

    entries: tuple[DirectoryEntry, ...]
    decoy: TenantId | None
    as_of: str


class Directory:
    """The table `tenantproxy.login_directory` of the main database (`install`). `pepper`: 32 bytes or more.

    Its methods raise what the database raises: PoolError, asyncpg's errors.
    """

    def __init__(self, database: AuthDatabase, *, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper

    def key(self, email: str) -> bytes:
        """What stands for a `normalised` address in the directory, in caches and in limits."""
        return hmac.digest(self._pepper, email.encode("utf-8", "surrogatepass"), "sha256")

    def derived(self, purpose: bytes) -> bytes:
        """A key for something else that has to do with addresses: another one for each purpose."""
        return hmac.digest(self._pepper, b"derived\0" + purpose, "sha256")

    async def look_up(self, key: bytes, *, timeout: float | None = None) -> Found:
        """The entries of an address, at most MAX_ENTRIES, the oldest first."""
        rows = await self._database.fetch(_LOOK_UP, key, MAX_ENTRIES, timeout=timeout)
        own = tuple(
            DirectoryEntry(tenant=TenantId(row["tenant_id"]), user=row["user_id"]) for row in rows if row["is_own"]
        )
        others = [TenantId(row["tenant_id"]) for row in rows if row["is_own"] is False]
        return Found(entries=own, decoy=others[0] if others else None, as_of=_brief(rows[0]["snapshot"]))

    async def add(self, key: bytes, tenant: TenantId, user: str, *, timeout: float | None = None) -> None:
        """Note that an address has the account `user` of `tenant`; replaces what was noted for the two."""
        await self._database.fetch(_ADD, tenant, [key], [user], timeout=timeout)

    async def remove(self, key: bytes, tenant: TenantId, *, timeout: float | None = None) -> None:
        """Note that an address has no account of `tenant`."""
        await self._database.fetch(_REMOVE, tenant, [key], timeout=timeout)

    async def reconcile(
        self, tenant: TenantId, pages: AsyncIterable[Sequence[tuple[str, str]]], *, dry_run: bool = False
    ) -> tuple[int, int]:
        """Make the entries of `tenant` those of `pages`, all its accounts as (e-mail, user): how many, how many gone.

        With `dry_run` nothing is changed. What is added by others meanwhile stays. Cancelled, it has added what it came
        to and removed nothing.
        """
        started = (await self._database.fetch("SELECT now()"))[0][0]
        keys: set[bytes] = set()
        async for page in pages:
            known = {self.key(address): user for email, user in page if (address := normalised(email)) is not None}
            if not dry_run:
                await self._database.fetch(_ADD, tenant, list(known), list(known.values()))
            keys |= known.keys()
        removed, after = 0, b""
        while True:
            rows = await self._database.fetch(_OF_TENANT, tenant, after, _PAGE)
            gone = [row[0] for row in rows if row[0] not in keys]
            if dry_run:
                removed += len(gone)
            elif gone:
                removed += len(await self._database.fetch(_REMOVE_OLD, tenant, gone, started))
            if len(rows) < _PAGE:
                return len(keys), removed
            after = rows[-1][0]

    async def tenants(self) -> list[TenantId]:
        """The tenants that have entries, in order."""
        return [TenantId(row[0]) for row in await self._database.fetch(_TENANTS)]

    async def forget(self, tenant: TenantId) -> None:
        """Remove all entries of a tenant."""
        await self._database.fetch("DELETE FROM tenantproxy.login_directory WHERE tenant_id = $1", tenant)


def _brief(snapshot: str) -> str:
    """`snapshot` in a bounded length: it is part of a token. A shorter one counts more as not yet committed."""
    if len(snapshot) <= _MAX_SNAPSHOT:
        return snapshot
    oldest = snapshot.partition(":")[0]
    return f"{oldest}:{oldest}:"
