"""Which trace does a client say that its request belongs to? W3C's traceparent of version 00, said once. Pure.

What is said twice, is longer, of another version or not exactly as the standard writes it is none: it comes from
outside, and a trace is worth no guess. Source: https://www.w3.org/TR/trace-context/, and sqlcommenter's format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["traceparent_in", "traceparent_of"]

_WHOLE: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_NAME: Final = "traceparent"
_COMMENTED: Final = re.compile(rf"{_NAME}='([^']{{0,64}})'")
_ENDS: Final = 1_000  # characters at both ends in which a comment is looked for


def traceparent_of(values: Sequence[str]) -> str:
    """The traceparent of a request with these headers of that name; empty: it has none, or not one that counts."""
    return values[0] if len(values) == 1 and _WHOLE.fullmatch(values[0]) else ""


def traceparent_in(text: str) -> str:
    """The traceparent in a comment that sqlcommenter put at an end of `text`; empty: none is there, or several are.

    A statement may claim any parent, by a literal too: all that it says is which trace its own client belongs to.
    """
    ends = text if len(text) <= 2 * _ENDS else f"{text[:_ENDS]} {text[-_ENDS:]}"
    return traceparent_of(_COMMENTED.findall(ends)) if _NAME in ends else ""
