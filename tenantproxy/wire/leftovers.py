"""Which texts may leave something in their session that no tag tells of? Searched for a few words, any case, anywhere.

It is hygiene between the clients of one tenant, not the wall between tenants: a function that does it inside is a
SELECT of another name. What tags tell of (SET, LISTEN, DO, CALL, LOAD, ...) is in `commands`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "ADVISORY_LOCK",
    "ANYTHING",
    "CUSTOM",
    "HELD_CURSOR",
    "MARGIN",
    "RELEASES",
    "RESETS_ALL",
    "SETTING",
    "SUSPECT",
    "TEMPORARY",
    "leftovers",
    "leftovers_of_part",
]

SETTING: Final = 1
TEMPORARY: Final = 2  # tables, views, sequences, functions
ADVISORY_LOCK: Final = 4
HELD_CURSOR: Final = 8
CUSTOM: Final = 128  # settings of a client's own, like `app.user_id`: no catalogue of the server lists them
ANYTHING: Final = SETTING | TEMPORARY | ADVISORY_LOCK | HELD_CURSOR | CUSTOM
RELEASES: Final = 16  # leaves nothing, and may end what is left
RESETS_ALL: Final = 256  # and every setting

SUSPECT: Final = re.compile(rb"_(?:[cC][oO][nN][fF]|[lL][oO][cC][kK]|[lL][iI][mM][iI]|[uU][nN][lL][oO])").search
"""First, for it is asked of each text: None, and no `temp` in the text in lower case, means no leftovers. A literal at
the beginning lets it skip what lies between underscores; alternatives in any case cost five times as much."""

MARGIN: Final = 24
"""Bytes of a part that are searched again with the next one: longer than any word."""

_SET_CONFIG: Final = re.compile(rb"set_config|\bset_limit\s*\(", re.IGNORECASE)
_LOCK: Final = re.compile(rb"advisory_lock", re.IGNORECASE)
# A comment may hide the word before it. A column that is named so does not count. No expression here looks at a byte
# more than a few times, whatever the text.
_TEMPORARY: Final = re.compile(
    rb"\bpg_temp|(?:\b(?:CREATE|REPLACE|INTO|LOCAL|GLOBAL)\s+|\*/\s*)TEMP(?:ORARY)?\b", re.IGNORECASE
)
_DROPPED: Final = re.compile(rb"\bON\s+COMMIT\s+DROP\b", re.IGNORECASE)
_HOLD: Final = re.compile(rb"\bWITH\s+HOLD\b", re.IGNORECASE)
_UNLOCK: Final = re.compile(rb"advisory_unlock", re.IGNORECASE)
_BEHIND_LINE_COMMENT: Final = re.compile(rb"[\r\n][ \t\f\v]*TEMP(?:ORARY)?\b", re.IGNORECASE)
_LISTED: Final = re.compile(rb"set_config\s*\(\s*'[^'.\\]+'|\bset_limit\s*\(", re.IGNORECASE)  # no dot: none of its own
# For the transaction alone, but for what plans are made with and no server reports; or of what a server reports, which
# goes along with the client.
_KEEPS_NOTHING: Final = re.compile(
    rb"""set_config \s* \( \s* (?:
        '(?!(?:extra_float_digits|bytea_output|array_nulls|transform_null_equals)')[^'\\]+' \s* ,
        \s* (?: '[^'\\]*' | \$[0-9]+ (?:::(?:text|varchar))? ) \s* , \s* true
      | '(?:TimeZone|DateStyle|IntervalStyle|client_encoding|application_name|standard_conforming_strings)' \s* ,
        \s* (?: '[^'\\]*' | \$[0-9]+ (?:::(?:text|varchar))? ) \s* , \s* (?:true|false)
    ) \s* \)""",
    re.IGNORECASE | re.VERBOSE,
)


def leftovers(sql: bytes) -> int:
    """What the session may keep of this text: some of ANYTHING, and RELEASES; 0 for nothing.

    `sql` may have a NUL before and behind it, and bytes that are none of it behind that.
    """
    found = 0
    low = sql.lower()
    if b"temp" in low and _leaves_tables(sql):
        found = TEMPORARY
    if b"hold" in low and _HOLD.search(sql):
        found |= HELD_CURSOR
    if SUSPECT(sql):
        if _LOCK.search(sql):
            found |= ADVISORY_LOCK
        if _UNLOCK.search(sql):
            found |= RELEASES
        if _SET_CONFIG.search(sql) and _SET_CONFIG.search(_KEEPS_NOTHING.sub(b"", sql)):
            found |= SETTING
            if len(_SET_CONFIG.findall(sql)) != len(_LISTED.findall(sql)):
                found |= CUSTOM
    return found


def _leaves_tables(sql: bytes) -> bool:
    if b"--" in sql and _BEHIND_LINE_COMMENT.search(sql):
        return True
    named = len(_TEMPORARY.findall(sql))
    return named > 0 and named != len(_DROPPED.findall(sql))


def leftovers_of_part(part: bytes) -> int:
    """The same of some bytes of a text: what is cut off may say that it is for the transaction alone, or not."""
    found = TEMPORARY if b"temp" in part.lower() else 0
    if SUSPECT(part):
        found |= ADVISORY_LOCK if _LOCK.search(part) else 0
        found |= SETTING | CUSTOM if _SET_CONFIG.search(part) else 0
        found |= RELEASES if _UNLOCK.search(part) else 0
    return found
