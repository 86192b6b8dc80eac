"""What does a command leave behind in its session, as far as its tag tells? And which few texts matter to a relay?

A tag is what CommandComplete says, without the NUL that ends it. It is hygiene between the clients of one tenant, not
the wall between tenants: a function that sets something is a SELECT to it, CREATE TEMP TABLE AS has the tag SELECT.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import product
from typing import Final, Literal

__all__ = [
    "ALL",
    "PLANNED",
    "READ",
    "VACATING",
    "WATCHED",
    "Every",
    "bare",
    "changes_meanings",
    "deallocate_of",
    "deallocate_within",
    "is_local",
    "is_of_a_moment",
    "is_temporary",
    "leaves_state",
    "pins",
    "unbinds",
    "vacates",
    "word_of",
]

# By the first word. What is not here leaves something: SET, RESET, DISCARD (the settings are not what we believed),
# CREATE (perhaps TEMP), DECLARE (perhaps WITH HOLD), LISTEN, PREPARE, DEALLOCATE, LOAD; DO and CALL may do any of it,
# and so may a command that does not exist yet. UNLISTEN only takes away what a LISTEN has left, which was seen.
_LEAVES_NOTHING: Final = frozenset(
    b"SELECT INSERT UPDATE DELETE MERGE COPY BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE FETCH MOVE CLOSE SHOW"
    b" EXPLAIN ANALYZE VACUUM TRUNCATE LOCK NOTIFY UNLISTEN ALTER DROP GRANT REVOKE COMMENT REINDEX REFRESH CLUSTER"
    b" CHECKPOINT".split()
)
_OF_THE_TRANSACTION: Final = {b"SET CONSTRAINTS", b"PREPARE TRANSACTION"}
_PINS: Final = {b"LISTEN", b"PREPARE"}
_DEFINES: Final = frozenset((b"ALTER", b"CREATE", b"DROP"))
# No name in a text stands for these, or for something of another type when one of them changes.
_SAME_MEANINGS: Final = (
    b"DATABASE", b"EVENT", b"INDEX", b"POLICY", b"PUBLICATION", b"ROLE", b"SEQUENCE", b"STATISTICS", b"SUBSCRIPTION",
    b"SYSTEM", b"TABLESPACE", b"TRIGGER", b"USER",
)  # fmt: skip
_UNBINDS: Final = {b"RESET", b"DISCARD ALL", b"DISCARD SEQUENCES"}


def _written(*words: bytes) -> frozenset[bytes]:
    return frozenset(
        bytes(letters) for text in words for letters in product(*((letter, letter | 0x20) for letter in text))
    )


VACATING: Final = _written(b"DRO", b"ALT", b"CRE")
"""How the texts begin that `vacates` reads."""

WATCHED: Final = _written(b"SET", b"RES", b"DIS", b"DEA", b"SAV", b"DEC")
"""How the texts begin that a relay reads: SET, RESET, DISCARD, DEALLOCATE, SAVEPOINT, DECLARE."""

PLANNED: Final = _written(b"SEL", b"INS", b"UPD", b"DEL", b"MER", b"WIT", b"VAL", b"TAB")
"""How the texts begin that a server makes a plan for. No word of another statement begins so."""

READ: Final = WATCHED | VACATING
"""Both."""


_BEFORE_A_WORD: Final = re.compile(
    rb"(?:[ \t\r\n\f\v]++ | --[^\r\n\0]*+ | /\*(?:[^*/\0]|\*(?!/)|/(?!\*))*+\*/ )++", re.VERBOSE
)


def word_of(data: bytes, at: int) -> bytes:
    """The first three letters of the text that begins at `at`, behind blanks and comments."""
    if data[at : at + 1] <= b"/":  # else it begins with a word, as most do
        before = _BEFORE_A_WORD.match(data, at)
        at = at if before is None else before.end()
    return data[at : at + 3]


class Every(Enum):
    """All prepared statements."""

    ALL = "ALL"


ALL: Final = Every.ALL


_OF_A_MOMENT: Final = re.compile(rb"\bnow\b(?!\s*\()|\btoday\b|\btomorrow\b|\byesterday\b")


def is_of_a_moment(sql: bytes) -> bool:
    """Whether it may hold a literal that a server reads when it parses: `'now'` stays the time of that.

    It is parsed for each client then, and each time. A column of such a name costs no more than that.
    """
    low = sql.lower()  # mostly none of them is there, and to look for a word in any case costs four times as much
    return (b"now" in low or b"day" in low or b"tomorrow" in low) and _OF_A_MOMENT.search(low) is not None


def leaves_state(tag: bytes) -> bool:
    """Whether the session may not be what it was before: give the backend back dirty, unless it is known better.

    Known better is a SET or RESET that `settings.read_set` read, and what `is_local` says leaves nothing.
    """
    return tag.partition(b" ")[0] not in _LEAVES_NOTHING and tag not in _OF_THE_TRANSACTION


def pins(tag: bytes) -> bool:
    """Whether the client waits for something that only this backend has: notifications, a statement prepared in SQL.

    Of temporary tables, cursors WITH HOLD and advisory locks a tag says nothing; they end with the lease.
    """
    return tag in _PINS


def unbinds(tag: bytes) -> bool:
    """Whether a shared backend may be without its tenant from now on: bind it again before anything else."""
    return tag in _UNBINDS


_NAME: Final = rb"(?:([A-Za-z_\x80-\xff][\w$\x80-\xff]*)|\"((?:[^\"\0]|\"\")+)\")"
_DEALLOCATE: Final = re.compile(rb"DEALLOCATE(?:\s+PREPARE)?(?:\s+|(?=\"))" + _NAME, re.IGNORECASE)
_WITHIN: Final = re.compile(
    rb"SAVEPOINT\s+" + _NAME + rb"\s*;\s*(DEALLOCATE[^;]+);\s*RELEASE\s+(?:SAVEPOINT\s+)?" + _NAME, re.IGNORECASE
)
# A value may be anything that cannot end the statement. A name has to follow: `SET local .x = 1` sets `local.x`.
_LOCAL: Final = re.compile(rb"SET\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\s+[A-Za-z_\"\x80-\xff][^;]*", re.IGNORECASE)
_VACATES: Final = (
    re.compile(rb"DROP\s+DATABASE\s+(?:IF\s+EXISTS\s+)?" + _NAME + rb"(?:\s*(?:WITH\s*)?\([^;]*\))?", re.IGNORECASE),
    re.compile(rb"ALTER\s+DATABASE\s+" + _NAME + rb"\s+(?:RENAME\s+TO|SET\s+TABLESPACE)\s[^;]+", re.IGNORECASE),
    re.compile(rb"CREATE\s+DATABASE\s[^;]+?\sTEMPLATE(?:\s*=\s*|\s+)" + _NAME + rb"(?:\s[^;]*)?", re.IGNORECASE),
)
_MAX_NAME: Final = 63  # longer ones the server cuts in SQL, and not in the protocol
_MAX_TEXT: Final = 400
_MAX_TEMPORARY: Final = 8192
_TEMPORARY: Final = re.compile(
    rb"CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\s[^;]*", re.IGNORECASE
)


def bare(sql: bytes) -> bytes:
    """`sql` without blanks around it and the semicolon at its end."""
    text = sql.strip()
    return text[:-1].rstrip() if text.endswith(b";") else text


def deallocate_of(sql: bytes) -> bytes | Literal[Every.ALL] | None:
    """The name in `DEALLOCATE [PREPARE] name`, as the server knows it; ALL for `DEALLOCATE ALL`.

    None for everything else: several statements, comments, names that the server would cut.
    """
    found = _DEALLOCATE.fullmatch(bare(sql)) if len(sql) <= _MAX_TEXT else None
    if found is None:
        return None
    plain, quoted = found.groups()
    if quoted is None and plain.lower() == b"all":
        return ALL
    name: bytes = plain.lower() if quoted is None else quoted.replace(b'""', b'"')
    return name if len(name) <= _MAX_NAME else None


def deallocate_within(sql: bytes) -> bytes | None:
    """The name in `SAVEPOINT x; DEALLOCATE name; RELEASE x`: so psqlODBC does in a transaction. None for all else."""
    found = _WITHIN.fullmatch(bare(sql)) if len(sql) <= _MAX_TEXT else None
    if found is None:
        return None
    plain, quoted, deallocate, released_plain, released_quoted = found.groups()
    if quoted != released_quoted or (plain or b"").lower() != (released_plain or b"").lower():
        return None
    name = deallocate_of(deallocate)
    return name if isinstance(name, bytes) else None


def vacates(sql: bytes) -> bytes | None:
    """The database that this one statement needs to be without other connections, as the server knows its name.

    It is dropped, renamed or moved, or a template. None for everything else.
    """
    if len(sql) > _MAX_TEXT:
        return None
    text = bare(sql)
    for pattern in _VACATES:
        found = pattern.fullmatch(text)
        if found is not None:
            plain, quoted = found.groups()
            name: bytes = plain.lower() if quoted is None else quoted.replace(b'""', b'"')
            return name[:_MAX_NAME]
    return None


def changes_meanings(tag: bytes) -> bool:
    """Whether a text may mean something else in this database, for parameters and rows of other types, once that holds.

    What a comment, a right or an index changes is not that. CREATE TABLE AS has the tag of a SELECT.
    """
    verb, _, rest = tag.partition(b" ")
    return (verb in _DEFINES and not rest.startswith(_SAME_MEANINGS)) or tag == b"IMPORT FOREIGN SCHEMA"


def is_temporary(sql: bytes) -> bool:
    """Whether this one statement, whose tag is CREATE, creates what no other session sees."""
    return len(sql) <= _MAX_TEMPORARY and _TEMPORARY.fullmatch(bare(sql)) is not None


def is_local(sql: bytes) -> bool:
    """Whether this one statement, whose tag is SET, sets something for its transaction only."""
    return len(sql) <= _MAX_TEXT and _LOCAL.fullmatch(bare(sql)) is not None
