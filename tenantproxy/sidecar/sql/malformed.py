"""What is a request of SQL over HTTP refused with that cannot be read, or asks for too much? Errors in words."""

from __future__ import annotations

from tenantproxy.errors import ProtocolError, StatementTooLong

__all__ = ["malformed", "too_large", "utf8"]


def malformed(message: str, detail: str | None = None) -> ProtocolError:
    """It is no request."""
    hint = 'send {"query": "select $1", "params": [1]}, or {"queries": [...]} for one transaction'
    return ProtocolError(message, detail=detail, hint=hint)


def too_large(what: str, size: int, key: str, limit: int) -> StatementTooLong:
    """The error for more of something than `[sql]` lets a request have."""
    return StatementTooLong(
        f"too many {what}", detail=f"{size}, and [sql] {key} = {limit}", hint=f"send less at once, or raise [sql] {key}"
    )


def utf8(text: str, what: str) -> bytes:
    """The bytes of a text of JSON. Raises ProtocolError for one that has none: half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise malformed(f"{what} is not UTF-8") from None
