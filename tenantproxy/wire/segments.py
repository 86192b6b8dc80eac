"""What matters of a text that is to run in a transaction which we began for its client? How it begins one itself."""

from __future__ import annotations

import re
from typing import Final

from tenantproxy.errors import NotSupported
from tenantproxy.wire.transaction_only import needs_transaction_only

__all__ = ["BEHIND_THE_END", "begins_with", "cannot_run", "ends", "instead", "is_begun_already"]

_BEGIN: Final = re.compile(
    rb"\s*(?:BEGIN(?:\s+(?:WORK|TRANSACTION))?|START\s+TRANSACTION)((?:[\s,]+[A-Za-z]+)*)\s*;?\s*", re.IGNORECASE
)
_ALREADY: Final = b"C25001\0"  # a warning to BEGIN within a transaction


_END: Final = re.compile(
    rb"\s*(?:(?:COMMIT|END|ABORT)\b|ROLLBACK\b(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)|PREPARE\s+TRANSACTION\b)",
    re.IGNORECASE,
)
BEHIND_THE_END: Final = (
    b'SELECT pg_catalog."not to be had behind a connection pooler: COMMIT, and more before a Sync"()'
)
"""Fails, with a text that says why."""


def ends(text: bytes) -> bool:
    """Whether a statement ends the transaction, as far as its first word tells."""
    return _END.match(text) is not None


def begins_with(text: bytes) -> str | None:
    """The modes of a BEGIN that is all of `text`, as ` READ ONLY`; None: it is another one."""
    found = _BEGIN.fullmatch(text)
    return None if found is None else "".join(f" {word}" for word in re.findall("[A-Z]+", found[1].decode().upper()))


def cannot_run(text: bytes) -> NotSupported | None:
    """Why `text` cannot be run where no session is kept, as far as its commands tell; None: it can."""
    return needs_transaction_only(text.decode("utf-8", "replace"))


def instead(refusal: NotSupported) -> bytes:
    """A text that fails as `refusal` says, and does nothing else."""
    fields = {"ERRCODE": refusal.sqlstate, "MESSAGE": refusal.message, "DETAIL": refusal.detail, "HINT": refusal.hint}
    said = ", ".join(f"{name} = '{_literal(text)}'" for name, text in fields.items() if text)
    return f"DO $tenantproxy$BEGIN RAISE EXCEPTION USING {said}; END$tenantproxy$".encode()


def _literal(text: str) -> str:
    return text.replace("'", "''")


def is_begun_already(notice: bytes) -> bool:
    """Whether a notice warns that a transaction is in progress already."""
    return _ALREADY in notice
