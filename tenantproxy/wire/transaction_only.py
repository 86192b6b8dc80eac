"""Which texts cannot be served where a client has a session for one transaction only, as behind a connection pooler?

They are told so, instead of working in another session than the client believes. It is a courtesy, not the wall between
tenants: a function that does it inside is a SELECT of another name. Each transaction begins in a session that was
cleaned, whatever was left there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from tenantproxy.errors import NotSupported
from tenantproxy.wire.leftovers import ADVISORY_LOCK, HELD_CURSOR, SETTING, TEMPORARY, leftovers

__all__ = ["ENDS", "first_words", "needs_session", "needs_transaction_only", "no_sessions"]

ENDS: Final = frozenset(("COMMIT", "END", "ROLLBACK", "ABORT"))
"""First words of what ends a transaction; ROLLBACK TO does not."""

_LONGEST: Final = 8192  # characters of a text that is taken apart; of a longer one only the beginning is looked at
_OPAQUE: Final = re.compile(
    r"""'[^']*'|"[^"]*"|--[^\r\n]*|/\*.*?\*/|\$(?P<tag>[A-Za-z_]?\w*)\$.*?\$(?P=tag)\$""", re.DOTALL
)
_WORDS: Final = re.compile(r"[A-Za-z_]+")
_WHY: Final = "a session lasts for one transaction there"
_SETTING: Final = (
    "settings of the session",
    "use SET LOCAL in a transaction, or true as the last argument of set_config",
)
_PREPARED: Final = ("statements prepared in SQL", "let the driver prepare them, or send the statement itself")
_BY_WORD: Final = {
    "SET": _SETTING,
    "RESET": _SETTING,
    "DISCARD": ("DISCARD", "leave it out: no session is kept"),
    "LISTEN": ("LISTEN", "listen on a server that is reached directly"),
    "LOAD": ("LOAD", "let the operator load the library: session_preload_libraries"),
    "PREPARE": _PREPARED,
    "EXECUTE": _PREPARED,
    "DEALLOCATE": _PREPARED,
}
_BY_LEFT: Final = {
    TEMPORARY: ("temporary tables", "create them ON COMMIT DROP"),
    HELD_CURSOR: ("cursors WITH HOLD", "declare them without HOLD, in a transaction"),
    ADVISORY_LOCK: ("advisory locks of the session", "take pg_advisory_xact_lock"),
    SETTING: _SETTING,
}
_CHAINS: Final = (("AND", "CHAIN"), ("WORK", "AND"), ("TRANSACTION", "AND"))
_IN_TRANSACTION: Final = ("LOCAL", "CONSTRAINTS", "TRANSACTION")


def first_words(sql: str) -> Iterator[tuple[str, ...]]:
    """The first words, in capitals, of each command in `sql` that has any."""
    if len(sql) > _LONGEST:
        sql = sql[:_LONGEST].partition(";")[0]
    for command in _OPAQUE.sub(" ", sql).split(";"):
        words = tuple(_WORDS.findall(command[:200]))[:3]
        if words:
            yield tuple(word.upper() for word in words)


@lru_cache(maxsize=1024)
def needs_session(sql: str) -> NotSupported | None:
    """Why `sql` cannot be run where no session is kept, as far as can be seen; None: it can. Raise a new one by it."""
    for words in first_words(sql):
        second = words[1] if len(words) > 1 else ""
        if words[0] in _BY_WORD and not (words[0] == "SET" and second in _IN_TRANSACTION):
            return _refusal(*_BY_WORD[words[0]])
    left = leftovers(sql.encode())
    for kind, why in _BY_LEFT.items():
        if left & kind:
            return _refusal(*why)
    return None


def needs_transaction_only(sql: str) -> NotSupported | None:
    """As `needs_session`, for clients whose settings go along with them; leftovers are looked for elsewhere."""
    has_ended = ""
    for words in first_words(sql):
        if has_ended:
            return _refusal(f"{has_ended}, and more in one text", "send what comes behind it as a message of its own")
        if words[0] in _BY_WORD and words[0] not in ("SET", "RESET"):
            return _refusal(*_BY_WORD[words[0]])
        if words[0] in ENDS and words[1:] in _CHAINS:
            return _refusal(f"{words[0]} AND CHAIN", "end the transaction, and begin another one")
        if words[0] in ENDS and "TO" not in words[1:]:
            has_ended = words[0]
    return None


def _refusal(what: str, instead: str) -> NotSupported:
    return NotSupported(f"not to be had behind a connection pooler: {what}", detail=_WHY, hint=instead)


def no_sessions() -> NotSupported:
    """The refusal of a client that wants a session from its login on."""
    return _refusal('users with pool_mode = "session"', 'set pool_mode = "transaction" for this user')
