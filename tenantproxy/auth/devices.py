"""Tokens of devices that logged in before: an attempt with one has an allowance of its own, wherever it comes from.

A token is no credential: it proves a former login of one e-mail address, and the password is needed all the same.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final

__all__ = ["DeviceTokens"]

_SECONDS: Final = 180 * 86_400
_ID_BYTES: Final = 8
_TIME_BYTES: Final = 8
_MAC_BYTES: Final = 32
_TEXT: Final = re.compile(r"tpd_[A-Za-z0-9_-]{64}")


class DeviceTokens:
    """Makes and reads them; `key` is kept secret, and another one makes all of them worthless."""

    def __init__(self, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(key, b"device tokens", "sha256")
        self._clock = clock

    def issue(self, account: bytes) -> str:
        """A token for a device of `account`, the e-mail's key; good for half a year."""
        device = secrets.token_bytes(_ID_BYTES)
        until = (int(self._clock()) + _SECONDS).to_bytes(_TIME_BYTES, "big")
        return "tpd_" + urlsafe_b64encode(device + until + self._mac(account, device + until)).decode()

    def check(self, token: str, account: bytes) -> bytes | None:
        """The device's id; None: this is no token for `account`, or its time is over."""
        if not _TEXT.fullmatch(token):
            return None
        raw = urlsafe_b64decode(token[4:])
        signed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(account, signed)):
            return None
        return signed[:_ID_BYTES] if int.from_bytes(signed[_ID_BYTES:], "big") > self._clock() else None

    def _mac(self, account: bytes, signed: bytes) -> bytes:
        return hmac.digest(self._key, account + signed, "sha256")
