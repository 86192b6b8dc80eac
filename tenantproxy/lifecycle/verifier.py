"""How is a password given to a server that must not see it? As its SCRAM-SHA-256 verifier (RFC 5803), as psql does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

__all__ = ["scram_verifier"]

_ITERATIONS: Final = 4096  # PostgreSQL's default


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """What PostgreSQL stores for `password`; it holds no quote, so it may stand in a statement and in the server's log.

    Raises ValueError unless the password is printable ASCII: others need SASLprep, and role passwords are generated.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise ValueError("the password of a role must be printable ASCII")
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_ITERATIONS}:{_text(salt)}${_text(stored)}:{_text(server)}"


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
