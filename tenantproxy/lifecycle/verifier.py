"""How is a password given to a server that must not see it? As its SCRAM-SHA-256 verifier (RFC 5803), as psql does."""

from __future__ import annotations

from tenantproxy.wire.scram import Verifier

__all__ = ["scram_verifier"]


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """What PostgreSQL stores for `password`; it holds no quote, so it may stand in a statement and in the server's log.

    Raises ValueError unless the password is printable ASCII: the passwords of roles are generated.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise ValueError("the password of a role must be printable ASCII")
    return Verifier.of_password(password, salt=salt).text()
