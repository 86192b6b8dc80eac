"""What do strangers send for a token? Forged by hand, since a library would not write most of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any


def b64(raw: bytes) -> str:
    """As the parts of a token are written."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token, unverified."""
    header, payload, _ = token.split(".")
    return json.loads(base64.urlsafe_b64decode(header + "==")), json.loads(base64.urlsafe_b64decode(payload + "=="))


def signed(header: object, payload: object, key: bytes) -> str:
    """A token with this header and these claims (JSON, or text taken as it is), with HMAC-SHA256 whatever it says."""
    head, body = (b64((one if isinstance(one, str) else json.dumps(one)).encode()) for one in (header, payload))
    mac = hmac.digest(key, f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{b64(mac)}"


def changed(token: str, key: bytes, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """`token` with other header fields and claims, signed again; None takes one out."""
    head, body = parts(token)
    return signed(_without_none(head | dict(header or {})), _without_none(body | claims), key)


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
