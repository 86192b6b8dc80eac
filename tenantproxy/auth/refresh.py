"""How does a user stay logged in? Sessions in the main database, whose refresh tokens are good once.

A refresh token is random: 16 bytes that name its family (the session), 32 that prove it. The database has hashes of
both. A client that comes with a proof that was good once ends the session, since one of the two who had it is a thief;
but within the grace, and as long as the next one was not used, he is taken for a client that missed the answer, and
gets the same next token again. That one lies in the database encrypted under the former and our key.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

import asyncpg

from tenantproxy.auth.accounts import Standing
from tenantproxy.auth.base import AuthDatabase
from tenantproxy.auth.claims import expired, invalid, no_longer_valid
from tenantproxy.auth.revocation import Revocations, lasting
from tenantproxy.auth.tokens import Tokens
from tenantproxy.auth.user_sessions import end_sessions
from tenantproxy.errors import AuthError, TenantNotFound, TenantPaused
from tenantproxy.events import LoggedOut, Observer, RefreshTokenReused, SessionEnded, ignore, tolerant
from tenantproxy.model import Tenant, TenantId, TenantStatus

__all__ = ["GRACE", "Grant", "Sessions"]

GRACE: Final = 10.0
"""Seconds in which a spent refresh token gets the same successor again."""

_TEXT: Final = re.compile(r"tpr_[A-Za-z0-9_-]{64}")
_FAMILY_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_TIMEOUT: Final = 5.0
_ENDED: Final = frozenset({TenantStatus.SUSPENDED, TenantStatus.INACTIVE, TenantStatus.DELETING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a login or a refresh gives. `session` is the `sid` of the access token."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    session: str
    tenant: Tenant
    user: str
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A row of the table, as far as it is proven: `signed` is what its MAC covers."""

    family: bytes
    id: str
    tenant: str
    user: str
    epoch: int
    claims: str

    def signed(self) -> bytes:
        parts = [self.family.hex(), self.id, self.tenant, self.user, self.epoch, self.claims]
        return b"session\0" + json.dumps(parts).encode()


class _Refresh:
    """The two halves of a refresh token. Never shown."""

    __slots__ = ("family", "secret")

    def __init__(self, family: bytes, secret: bytes) -> None:
        self.family = family
        self.secret = secret

    @classmethod
    def read(cls, text: str) -> _Refresh:
        """Raises AuthError. Whatever is not of this form, an access token above all, is not looked up."""
        if len(text) > 100 or not _TEXT.fullmatch(text):
            raise invalid()
        raw = base64.urlsafe_b64decode(text[4:])
        return cls(raw[:_FAMILY_BYTES], raw[_FAMILY_BYTES:])

    def next(self) -> _Refresh:
        return _Refresh(self.family, secrets.token_bytes(_SECRET_BYTES))

    def text(self) -> str:
        return "tpr_" + base64.urlsafe_b64encode(self.family + self.secret).decode()

    @property
    def family_hash(self) -> bytes:
        return sha256(self.family).digest()

    @property
    def secret_hash(self) -> bytes:
        return sha256(self.secret).digest()


class Sessions:
    """Begins, continues and ends sessions. Holds nothing itself: any process may do the next step.

    Needs tokens of our own (`tokens.are_own`), and what `sessions.sql` installs in `database`. `standing` (the
    router's) is asked at each refresh who the person is by now; without it a session keeps what the login gave.
    """

    def __init__(
        self,
        database: AuthDatabase,
        tokens: Tokens,
        *,
        revocations: Revocations | None = None,
        standing: Standing | None = None,
        grace: float = GRACE,
        observer: Observer = ignore,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._revocations = revocations
        self._standing = standing
        self._grace = grace
        self._seconds = lasting(tokens.settings)
        self._observer = tolerant(observer)

    async def open(
        self,
        *,
        tenant: Tenant,
        user: str,
        role: str | None = None,
        claims: Mapping[str, object] | None = None,
        session: str | None = None,
        as_of: str = "",
        is_chosen: bool = False,
    ) -> Grant:
        """Begin a session of a caller who has proven to be `user` of `tenant`.

        `role` and `claims` go into every access token of the session, until `standing` has newer ones. `session` is its
        id, by default a new one: of two that begin with the same, one raises AuthError. `as_of` is that of the
        `Account`: where all sessions of the user were ended since then, TokenExpired. `is_chosen`: some time has passed
        since the password was right, so `standing` is asked as at a refresh. PostgreSQL's own errors pass through.
        """
        refresh = _Refresh(secrets.token_bytes(_FAMILY_BYTES), secrets.token_bytes(_SECRET_BYTES))
        kept: Mapping[str, Any] = {"role": role, "claims": dict(claims or {})}
        if is_chosen and self._standing is not None:
            found = await self._stands(self._standing, TenantId(tenant.id), user)
            if found is None:
                raise invalid()
            kept = found
        begun = _Session(
            family=refresh.family_hash,
            id=session if session is not None else secrets.token_urlsafe(16),
            tenant=tenant.id,
            user=user,
            epoch=self._tokens.epoch(tenant),
            claims=json.dumps(
                kept, separators=(",", ":"), allow_nan=False, default=dict
            ),  # those of a token are frozen
        )
        grant = self._grant(begun, tenant, refresh, kept)
        kid, mac = self._tokens.seal(begun.signed())
        try:
            rows = await self._database.fetch(
                "SELECT tenantproxy.open_session($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                begun.family,
                begun.id,
                begun.tenant,
                begun.user,
                begun.epoch,
                begun.claims,
                kid,
                mac,
                refresh.secret_hash,
                self._tokens.settings.refresh_ttl,
                self._tokens.settings.session_ttl,
                as_of or None,
                timeout=_TIMEOUT,
            )
        except asyncpg.UniqueViolationError:
            raise invalid() from None
        if not rows[0][0]:
            raise no_longer_valid()
        return grant

    async def refresh(self, refresh_token: str) -> Grant:
        """The next access and refresh token of the session; the given one is spent.

        Raises TokenExpired where it was not used for too long or the tenant moved or ended; another AuthError for one
        that is unknown or was spent before, or whose account is gone: then the session is over. RegistryUnavailable,
        LoginUnavailable: it is not spent, try again.
        """
        old = _Refresh.read(refresh_token)
        session = await self._find(old)
        tenant = await self._tenant_of(session)
        kept = await self._kept(session)
        new = old.next()
        grant = self._grant(session, tenant, new, kept)  # before the old one is spent: claims may be too long
        kid, mac = self._tokens.seal(session.signed())
        rows = await self._database.fetch(
            "SELECT * FROM tenantproxy.rotate_session($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            session.family,
            old.secret_hash,
            new.secret_hash,
            _crossed(new.secret, self._pad(old, kid)),
            kid,
            mac,
            self._tokens.settings.refresh_ttl,
            self._grace,
            self._seconds,
            timeout=_TIMEOUT,
        )
        outcome = rows[0]["o_outcome"]
        if outcome == "again":
            try:
                pad = self._pad(old, rows[0]["o_kid"])
            except KeyError:
                raise expired() from None  # another process has a newer key: as in `_find`
            new = _Refresh(old.family, _crossed(rows[0]["o_sealed"], pad))
        elif outcome != "rotated":
            if outcome == "reused":
                self._note(session.id)
                self._observer(RefreshTokenReused(tenant=session.tenant))
                self._observer(SessionEnded(tenant=session.tenant, user=session.user, reason="reused", sessions=1))
            raise invalid()
        return replace(grant, refresh_token=new.text())

    async def close(self, refresh_token: str) -> bool:
        """Log out: the session's refresh and access tokens are worth nothing. Whether there was one.

        A token of another form is no error: the user is logged out either way.
        """
        try:
            refresh = _Refresh.read(refresh_token)
        except AuthError:
            return False
        rows = await self._database.fetch(
            "SELECT tenant, user_id FROM tenantproxy.find_session($1)", refresh.family_hash, timeout=_TIMEOUT
        )
        ended = await self._end(family=refresh.family_hash) > 0
        if ended and rows:
            self._observer(LoggedOut(tenant=rows[0]["tenant"], user=rows[0]["user_id"]))
        return ended

    async def close_session(self, session: str, *, tenant: str = "", user: str = "") -> bool:
        """End one session by its `sid`; whether there was one. Its access tokens are revoked in any case.

        `tenant` and `user` are those of its access token, for the event LoggedOut.
        """
        ended = await self._end(session=session)
        if ended:
            self._observer(LoggedOut(tenant=tenant, user=user))
        if not ended and self._revocations is not None:
            await self._revocations.revoke_session(session)
        return ended > 0

    async def close_user(self, tenant: str, user: str) -> int:
        """End all sessions of one user, as after a change of the password; how many."""
        ended = await self._end(tenant=tenant, user=user)
        self._observer(SessionEnded(tenant=tenant, user=user, reason="ended", sessions=ended))
        return ended

    async def _end(
        self,
        *,
        family: bytes | None = None,
        session: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
    ) -> int:
        ended = await end_sessions(
            self._database, self._seconds, family=family, session=session, tenant=tenant, user=user
        )
        for each in ended:
            self._note(each)
        return len(ended)

    def _note(self, session: str) -> None:
        if self._revocations is not None:
            self._revocations.note("session", session, self._seconds)

    async def _find(self, refresh: _Refresh) -> _Session:
        rows = await self._database.fetch(
            "SELECT * FROM tenantproxy.find_session($1)", refresh.family_hash, timeout=_TIMEOUT
        )
        if not rows:
            raise invalid()
        row = rows[0]
        if row["expired"]:
            raise expired()
        session = _Session(
            family=refresh.family_hash,
            id=row["id"],
            tenant=row["tenant"],
            user=row["user_id"],
            epoch=row["epoch"],
            claims=row["claims"],
        )
        try:
            _, mac = self._tokens.seal(session.signed(), row["kid"])
        except KeyError:
            raise expired() from None  # a key that was taken out takes its sessions along
        if not hmac.compare_digest(mac, row["mac"]):
            raise invalid()  # the row was not written by us
        return session

    async def _tenant_of(self, session: _Session) -> Tenant:
        try:
            tenant = await self._tokens.look_up(session.tenant)
        except TenantNotFound:
            tenant = None
        if tenant is None or tenant.status in _ENDED:
            await self._end(session=session.id)
            self._observer(SessionEnded(tenant=session.tenant, user=session.user, reason="tenant_gone", sessions=1))
            raise expired()
        if tenant.status is not TenantStatus.ACTIVE:
            raise TenantPaused(
                "the tenant is paused by an operator", hint="it comes back: try again later", retry_after=5.0
            )
        if self._tokens.epoch(tenant) != session.epoch:
            raise expired()  # not ended: what this process knows may be a moment old
        return tenant

    async def _kept(self, session: _Session) -> Mapping[str, Any]:
        """The role and the claims of the next access token: today's, where they can be looked up."""
        if self._standing is None:
            kept: dict[str, Any] = json.loads(session.claims)
            return kept
        found = await self._stands(self._standing, TenantId(session.tenant), session.user)
        if found is None:
            await self._end(session=session.id)
            self._observer(SessionEnded(tenant=session.tenant, user=session.user, reason="account_gone", sessions=1))
            raise invalid()
        return found

    async def _stands(self, standing: Standing, tenant: TenantId, user: str) -> dict[str, Any] | None:
        """The role and the claims that the account has by now; None: there is no such account any more."""
        found = await standing.claims_of(tenant, user, timeout=_TIMEOUT)
        if found is None:
            return None
        claims = dict(found)
        role = claims.pop("role", None)
        return {"role": None if role is None else str(role), "claims": claims}

    def _pad(self, refresh: _Refresh, kid: str) -> bytes:
        """What hides a successor: different for each token, known only with the token or our key."""
        return self._tokens.seal(b"successor\0" + refresh.family + refresh.secret, kid)[1]

    def _grant(self, session: _Session, tenant: Tenant, refresh: _Refresh, kept: Mapping[str, Any]) -> Grant:
        token = self._tokens.issue(
            tenant=tenant, user=session.user, role=kept["role"], session=session.id, claims=kept["claims"]
        )
        return Grant(
            access_token=token,
            refresh_token=refresh.text(),
            expires_in=int(self._tokens.settings.access_ttl),
            session=session.id,
            tenant=tenant,
            user=session.user,
            claims=kept,
        )


def _crossed(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
