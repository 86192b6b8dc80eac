"""Which words and names of a statement were meant as values? Told one after the other; pure.

Values that need no quotation: those of settings, what follows PASSWORD, CONNECTION or OPTIONS in a statement that makes
or changes something, and the data behind a COPY from the client. Names in double quotes, which others than PostgreSQL
take for texts, are told where they are names: next to a dot, or where a column or a table may stand.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CUT", "Values"]

CUT: Final = "..."
"""Nothing that follows is told."""

_DATA: Final = frozenset(
    ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE", "VALUES", "TABLE", "FETCH", "CALL", "EXECUTE", "NOTIFY")
)
_OTHER: Final = frozenset(
    ("ALTER", "COMMENT", "COPY", "CREATE", "DO", "DROP", "GRANT", "IMPORT", "REVOKE", "SECURITY", "SET")
)
"""The word that says of which kind a statement is: EXPLAIN, PREPARE and what is misspelt may stand before it."""
_SECRET: Final = frozenset(("PASSWORD", "IDENTIFIED", "CONNECTION", "OPTIONS", "PASSFILE"))
_UNTIL_SECRET: Final = frozenset(("=", "BY"))
_NO_SECRET: Final = frozenset(("NULL", "?", ",", ")", "LIMIT"))
_SESSION: Final = frozenset(("SESSION", "LOCAL"))
_NO_SETTINGS: Final = frozenset(("TRANSACTION", "ROLE", "CONSTRAINTS", "CHARACTERISTICS", "AUTHORIZATION"))
_COPY_OPTIONS: Final = frozenset(
    ("WITH", "(", ")", ",", "?", "FORMAT", "CSV", "TEXT", "BINARY", "HEADER", "DELIMITER", "NULL", "QUOTE", "ESCAPE")
)
_BEFORE_VALUES: Final = frozenset((
    *"=<>!~+-*/%|&^@:#`", "LIKE", "ILIKE", "VALUES", "IN", "BETWEEN", "IS", "DEFAULT", "LIMIT", "OFFSET", "THEN",
    "ELSE", "ARRAY", "ESCAPE", "PASSWORD", "E", "B", "X", "N",
))  # fmt: skip
_BEFORE_NAMES: Final = frozenset((
    "AND", "AS", "BY", "CONFLICT", "DISTINCT", "FROM", "HAVING", "INCLUDE", "INDEX", "INTO", "JOIN", "KEY", "NOT", "ON",
    "OR", "SELECT", "UNIQUE", "USING", "WHERE",
))  # fmt: skip
"""Words in front of a parenthesis in which names stand."""


class Values:
    """State: what the statement was found to be so far; `;` begins the next one."""

    __slots__ = (
        "_has_set", "_is_between", "_is_head", "_is_hiding", "_is_secret_next", "_kind", "_last", "_last_is_name",
        "_names", "_setting", "_stdin",
    )  # fmt: skip

    def __init__(self) -> None:
        self._stdin = False
        self._begin()

    def _begin(self) -> None:
        self._kind = self._last = ""
        self._last_is_name = self._has_set = self._is_between = self._is_hiding = self._is_secret_next = False
        self._is_head = True  # before the values, the query or the condition
        self._setting = 0  # of a SET: how many tokens belong to what it sets; -1: to no setting
        self._names = [True]  # for each open parenthesis, whether names stand in it

    def shown(self, part: str, *, is_name: bool, is_qualified: bool) -> str:
        """`part`, what is told in its place, nothing, or `CUT`. `is_name`: in double quotes; a dot is behind it."""
        if part == ";":
            self._begin()
            return part
        if self._stdin and not self._last:
            return CUT
        if self._is_hiding:
            return ""
        word = '"' if is_name else part.upper()
        if self._stdin and word not in _COPY_OPTIONS:
            return CUT
        self._is_hiding = self._is_secret(word)  # to the end: what was typed may be several words
        is_value = self._is_hiding or (is_name and not is_qualified and not self._is_for_name())
        self._follow(word)
        return "?" if is_value else part

    def _is_secret(self, word: str) -> bool:
        """Whether a value begins that needs no quotation."""
        if self._has_set and self._kind not in _DATA and self._last in ("TO", "="):
            return True
        if self._last == "IS" and self._kind in ("SECURITY", "COMMENT") and word not in ("NULL", "?"):
            return True
        if self._is_secret_next and word not in _UNTIL_SECRET:
            self._is_secret_next = False
            return word not in _NO_SECRET
        return self._kind == "SET" and self._is_behind_setting(word)

    def _is_behind_setting(self, word: str) -> bool:
        """Whether the name of what is set is over, and neither TO nor = follows."""
        if self._setting < 0 or (word in _SESSION and not self._setting):
            return False
        if not self._setting and word in _NO_SETTINGS:
            self._setting = -1
            return False
        self._setting += 1
        return self._setting > 1 and word not in (".", "TO", "=") and self._last != "."

    def _is_for_name(self) -> bool:
        """Whether what is in double quotes here is a name."""
        if self._last in (",", "("):
            return self._names[-1] and self._kind not in ("NOTIFY", "EXECUTE")
        if self._last == "TO":
            return self._kind not in _DATA
        return self._last not in _BEFORE_VALUES

    def _follow(self, word: str) -> None:
        if word == "(":
            self._names.append(self._are_names_in())
        elif word == ")":
            self._names = self._names[:-1] or [True]
        elif word in ("SELECT", "FROM", "RETURNING", "ON", "WHERE"):
            self._names[-1] = True
        if word in ("SELECT", "VALUES", "WHERE", "DEFAULT"):
            self._is_head = False
        if not self._kind and (word in _DATA or word in _OTHER):
            self._kind = word
        self._has_set = self._has_set or word == "SET"
        self._stdin = self._stdin or (word == "STDIN" and self._kind == "COPY")
        if word in _SECRET and self._kind not in _DATA:
            self._is_secret_next = True
        if word == "BETWEEN":
            self._is_between = True
        elif word == "AND" and self._is_between:
            self._is_between, word = False, "BETWEEN"
        self._last_is_name = word == '"'
        self._last = word

    def _are_names_in(self) -> bool:
        """Whether names stand in the parenthesis that is opened."""
        if self._last == "(":
            return self._names[-1]
        if self._last in _BEFORE_NAMES or (self._last_is_name and self._is_head):
            return True
        return self._is_head and len(self._names) == 1 and self._kind in ("INSERT", "COPY", "CREATE")
