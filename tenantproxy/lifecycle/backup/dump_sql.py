"""Which statements are in what pg_dump or pg_restore wrote? Each as a list of SQL tokens. Pure.

A name with a semicolon or a newline in it is a name, and the text of a function is one token, whatever it says. What is
between BEGIN ATOMIC and END, and between the brackets of a rule, belongs to the statement that it is in: as statements
of their own they could go from one function to another unseen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from tenantproxy.lifecycle.backup.errors import BackupDamaged

__all__ = ["other_definitions", "placed_statements", "plain_name", "statements"]

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|--[^\n]*(?:\n|$))|(?P<name>"(?:[^"]|"")+")|(?P<text>'(?:[^']|'')*'|[eE]'(?:[^'\\]|\\.|'')*')"""
    r"""|(?P<body>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)|(?P<end>;)"""
    r"""|(?P<word>[^\s"';(),.]+)|(?P<mark>[(),.])""",
    re.DOTALL,
)
_TOLD: Final = 120  # characters


def statements(text: str) -> Iterator[list[str]]:
    """The tokens of each. Raises BackupDamaged for what cannot be read."""
    for placed in placed_statements(text):
        yield [token for token, _ in placed]


def placed_statements(text: str) -> Iterator[list[tuple[str, int]]]:
    """As `statements`, each token with where it begins in `text`. Raises BackupDamaged."""
    tokens: list[str] = []
    places: list[int] = []
    place, depth, is_atomic = 0, 0, False
    while place < len(text):
        if text.startswith("\\", place) and (place == 0 or text[place - 1] == "\n"):  # \restrict: for psql alone
            place = text.find("\n", place) + 1 or len(text)
            continue
        found = _TOKEN.match(text, place)
        if found is None:
            raise BackupDamaged("a statement in the dump cannot be read")
        place = found.end()
        if found["blank"]:
            continue
        if found["end"] and not depth and not is_atomic:
            if tokens:
                yield list(zip(tokens, places, strict=True))
            tokens, places = [], []
            continue
        tokens.append(found[0])
        places.append(found.start())
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if found["word"] and not depth:
            is_atomic = _begins_body(tokens) or (is_atomic and not _ends_body(tokens))
    if tokens:
        raise BackupDamaged("the last statement in the dump is cut off")


def _begins_body(tokens: list[str]) -> bool:
    """Whether the last of them begin what a function does, in the words of SQL's standard."""
    words = [token.upper() for token in (*tokens[:2], *tokens[-2:])]
    return (
        len(tokens) > 3
        and words[0] == "CREATE"
        and words[1] in ("FUNCTION", "PROCEDURE")
        and (words[2:] == ["BEGIN", "ATOMIC"] and tokens[-3] != ".")
    )


def _ends_body(tokens: list[str]) -> bool:
    """Whether the last of them is its END, and not that of a CASE."""
    return tokens[-1].upper() == "END" and tokens[-2].upper() in (";", "ATOMIC")


def plain_name(token: str) -> str:
    """The name that a token is."""
    return token[1:-1].replace('""', '"') if token.startswith('"') else token


def other_definitions(saved: str, found: str, *, ours: Collection[str]) -> list[str]:
    """What `found`, defines otherwise than `saved`, both of pg_dump, in any order; the beginning of each.

    `ours`: schemas that were there before, and have their own comments and rights.
    """
    there, wanted = (Counter(_definitions(text, ours)) for text in (found, saved))
    return [each[:_TOLD] for each in [*(there - wanted), *(wanted - there)]]


def _definitions(text: str, ours: Collection[str]) -> Iterator[str]:
    for tokens in statements(text):
        words = [token.upper() for token in tokens]
        if words[0] == "SET" or words[:2] == ["SELECT", "PG_CATALOG"]:
            continue  # of the session
        if not _is_of_ours(tokens, words, ours):
            yield " ".join(tokens)


def _is_of_ours(tokens: list[str], words: list[str], ours: Collection[str]) -> bool:
    """Whether it is about a schema that was there, or rights on what is PostgreSQL's or the admin user's."""
    if words[:2] == ["CREATE", "SCHEMA"]:
        return plain_name(tokens[2]) in ours
    if words[:3] == ["COMMENT", "ON", "SCHEMA"]:
        return plain_name(tokens[3]) in ours
    if words[0] not in ("GRANT", "REVOKE"):
        return False
    on = words.index("ON")  # a column of that name would be quoted
    if words[on + 1] == "SCHEMA":
        return plain_name(tokens[on + 2]) in ours
    return words[on + 1 : on + 4] in (["FUNCTION", "PG_CATALOG", "."], ["FOREIGN", "DATA", "WRAPPER"])
