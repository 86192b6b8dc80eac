"""What of a text may reach a terminal? Nothing that moves its cursor, hides, or turns other characters around. Pure.

Tenants name objects, clients call themselves, and servers write errors as they like. Control characters (C0 and C1),
marks of direction and of no width, line separators, halves of surrogate pairs and what Unicode has not assigned are no
printable characters, letters of any language are.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["json_text", "line_text", "printable"]


def printable(text: str) -> str:
    """`text` of several lines, with U+FFFD for each other character that is not printable."""
    return text if text.isprintable() else "\n".join(map(line_text, text.split("\n")))


def line_text(text: str) -> str:
    """The same of one line: an end of line cannot begin another one either."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


def json_text(value: object, **options: Any) -> str:
    """`value` as JSON in which everything is escaped that is not printable. `options`: those of `json.dumps`."""
    text = json.dumps(value, ensure_ascii=False, **options)  # which ends lines between values alone
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
