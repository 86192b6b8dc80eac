"""Whose does the public listener say that a request is? Tokens that are good, stolen, forged, and headers that lie."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import json
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tenantproxy.config import Settings
from tenantproxy.lifecycle.prove.base import DoorClosed, Pair
from tenantproxy.lifecycle.prove.results import Outcome

__all__ = ["HttpDoor", "foreign_headers", "forged_tokens", "honest_tokens"]

_CHECK: Final = "/auth/check"
_TIMEOUT: Final = 10.0
_REFUSED: Final = (400, 401, 403)
_DEFAULT_HEADER: Final = "X-Tenant-ID"

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDoor:
    """The public listener at `host`:`port`, and a token of each tenant of the pair."""

    host: str
    port: int
    context: ssl.SSLContext | None = field(default=None, repr=False)
    tokens: Mapping[str, str] = field(repr=False)
    headers: tuple[str, ...] = (_DEFAULT_HEADER,)  # that may name a tenant
    name: str = "HTTP"

    async def whose(self, headers: Headers) -> tuple[int, str | None]:
        """Status, and the tenant that the listener names. Raises DoorClosed."""
        try:
            return await asyncio.to_thread(self._ask, headers)
        except (OSError, http.client.HTTPException) as exc:
            raise DoorClosed(f"no sidecar answers at {self.host}:{self.port} ({exc})") from None

    def _ask(self, headers: Headers) -> tuple[int, str | None]:
        kind = http.client.HTTPConnection if self.context is None else http.client.HTTPSConnection
        more: dict[str, Any] = {} if self.context is None else {"context": self.context}
        conn = kind(self.host, self.port, timeout=_TIMEOUT, **more)
        try:
            conn.putrequest("GET", _CHECK)
            for name, value in headers:
                conn.putheader(name, value)
            conn.endheaders()
            answer = conn.getresponse()
            answer.read()
            return answer.status, answer.getheader("X-Tenant-Id")
        finally:
            conn.close()

    def bearer(self, tenant: str) -> tuple[str, str]:
        """The header with the tenant's own token."""
        return bearer(self.tokens[tenant])


def naming_headers(settings: Settings) -> tuple[str, ...]:
    """The headers that may name a tenant, those that the configuration knows first."""
    known = [text.partition(":")[2] for text in settings.resolve.agree if text.startswith("header:")]
    return tuple(dict.fromkeys([*known, _DEFAULT_HEADER]))


def bearer(token: str) -> tuple[str, str]:
    """As a client sends a token."""
    return ("Authorization", f"Bearer {token}")


async def honest_tokens(door: HttpDoor, pair: Pair, outcome: Outcome) -> None:
    """Each tenant's own token is taken, and is its own: else what is refused below means nothing."""
    for tenant in (pair.first, pair.second):
        status, said = await door.whose([door.bearer(tenant.id)])
        if status == 200 and said == tenant.id:
            outcome.judge(tenant.id, None)
        elif status == 200:
            outcome.judge(tenant.id, "its token opens another tenant")
        else:
            outcome.untried.append(f"a token of {tenant.id} that this configuration signs is answered {status}")


async def foreign_headers(door: HttpDoor, pair: Pair, outcome: Outcome) -> None:
    """A header that names the second, with the token of the first, with none, twice: never opens the second."""
    first, second = pair.first.id, pair.second.id
    own = door.bearer(first)
    for header in door.headers:
        cases: dict[str, Headers] = {
            f"{header} with another's token": [own, (header, second)],
            f"{header} twice": [own, (header, first), (header, second)],
            f"{header} twice, the other way round": [own, (header, second), (header, first)],
            f"{header} with a list": [own, (header, f"{first}, {second}")],
            f"{header} without a token": [(header, second)],
            f"{header} as of a proxy": [(header, second), ("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=::1")],
            f"{header} with an empty token": [("Authorization", "Bearer "), (header, second)],
        }
        for case, headers in cases.items():
            status, said = await door.whose(headers)
            outcome.judge(case, _opened(status, said, first, has_token=own in headers))
    cases = {
        "no token": [],
        "two tokens": [own, door.bearer(second)],
        "X-Tenant-Id of an answer": [own, ("X-Tenant-Database", pair.second.placement.database)],
    }
    for case, headers in cases.items():
        status, said = await door.whose(headers)
        outcome.judge(case, _opened(status, said, first, has_token=own in headers))


def _opened(status: int, said: str | None, first: str, *, has_token: bool) -> str | None:
    if status != 200:
        return None if status in _REFUSED else f"it is answered {status}"
    if said == first and has_token:
        return None
    return "the request is taken for another tenant's" if has_token else "it is let in without a token"


async def forged_tokens(door: HttpDoor, pair: Pair, outcome: Outcome) -> None:
    """Tokens that no configured key signed, or that were changed, are refused."""
    for case, token in forgeries(door.tokens[pair.first.id], door.tokens[pair.second.id], pair.second.id).items():
        status, _ = await door.whose([bearer(token)])
        outcome.judge(case, None if status in _REFUSED else f"it is answered {status}")


# --- forging ---------------------------------------------------------------------------------------------------------
def forgeries(first: str, second: str, victim: str) -> dict[str, str]:
    """By name, tokens that name `victim` and are no good. `first`, `second`: good ones of both tenants."""
    header, claims, signature = first.split(".")
    head, body = _said(header), _said(claims)
    theirs = _said(second.split(".")[1])
    secret = secrets.token_bytes(32)
    kid = {"kid": head["kid"]} if "kid" in head else {}
    signing = {"alg": "HS256", "typ": "JWT", **kid}
    found = {
        "the claims of the other, the signature of the first": f"{header}.{_part(theirs)}.{signature}",
        "no signature": f"{header}.{_part(theirs)}.",
        "another key": _signed(signing, theirs, secret),
        "an empty key": _signed(signing, theirs, b""),
        "the name of the key as the key": _signed(signing, theirs, str(head.get("kid", "")).encode()),
        "a key id that is a path": _signed(signing | {"kid": "../../../../dev/null"}, theirs, b""),
        "a key in its own header": _signed(signing | {"jwk": {"kty": "oct", "k": _encoded(secret)}}, theirs, secret),
        "a key at an address of its own": _signed(signing | {"jku": "http://127.0.0.1:9/keys"}, theirs, secret),
        "another signature's end": second[:-6] + ("AAAAAA" if second[-6:] != "AAAAAA" else "BBBBBB"),
        "claims twice": f"{header}.{_encoded(_twice(body, victim))}.{signature}",
        "expired, by another key": _signed(signing, theirs | {"exp": int(time.time()) - 3600}, secret),
    }
    for spelling in ("none", "None", "NONE", "nOnE"):
        found[f"alg {spelling}"] = f"{_part({'alg': spelling, 'typ': 'JWT', **kid})}.{_part(theirs)}."
    return found


def _twice(body: Mapping[str, Any], victim: str) -> bytes:
    """JSON in which every claim that names the tenant stands twice: readers differ in which one they take."""
    text = json.dumps(body)
    return f'{{"tid": {json.dumps(victim)}, "tenant": {json.dumps(victim)}, {text[1:]}'.encode()


def _signed(header: Mapping[str, Any], body: Mapping[str, Any], key: bytes) -> str:
    message = f"{_part(header)}.{_part(body)}"
    return f"{message}.{_encoded(hmac.digest(key, message.encode(), 'sha256'))}"


def _part(value: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(value, separators=(",", ":")).encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _said(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
