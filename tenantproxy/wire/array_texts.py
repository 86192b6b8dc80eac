"""How is an array written as PostgreSQL's text? Read into lists of texts, and written from them. Pure.

https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO, with a comma between elements, as all types have it but
`box`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any, Final

__all__ = ["reading_array", "writing_array"]

_BOUNDS: Final = re.compile(r"(?:\[[+-]?\d+:[+-]?\d+\])+=")
_TOKEN: Final = re.compile(r'[{},]|"(?:[^"\\]++|\\.)*+"|[^{},"]+', re.DOTALL)  # possessive: it keeps no way back
_BACKSLASH: Final = "\ud800"  # stands for one: no text that was read from UTF-8 has it
_ESCAPES: Final = str.maketrans({'"': '\\"', "\\": "\\\\"})
_DEEPEST: Final = 6  # MAXDIM of PostgreSQL
_STEP: Final = 1000  # words or elements: an array may be as long as a request or its result


def reading_array(text: str, element: Callable[[str], Any]) -> Generator[None, None, list[Any]]:
    """The elements of an array, lists of them where it has more dimensions; NULL is None. ValueError where it is none.

    `element` reads the text of one. In small steps, for `slices.found_in_slices`.
    """
    bounds = _BOUNDS.match(text)
    stack: list[list[Any]] = []
    done: list[Any] | None = None
    for number, match in enumerate(_TOKEN.finditer(text, 0 if bounds is None else bounds.end()), 1):
        if number % _STEP == 0:
            yield
        token = match[0]
        if done is not None:
            raise ValueError("something stands behind an array")
        if token == "{":  # noqa: S105
            stack.append([])
        elif not stack:
            raise ValueError("an array begins with a brace")
        elif token == "}":  # noqa: S105
            ended = stack.pop()
            if stack:
                stack[-1].append(ended)
            else:
                done = ended
        elif token[0] == '"':
            plain = token[1:-1].replace("\\\\", _BACKSLASH).replace("\\", "").replace(_BACKSLASH, "\\")
            stack[-1].append(element(plain))
        elif token != ",":  # noqa: S105
            stack[-1].append(None if token == "NULL" else element(token))  # noqa: S105
    if done is None:
        raise ValueError("an array has no end")
    return done


def writing_array(values: Sequence[Any], element: Callable[[Any], str | None]) -> Generator[None, None, str]:
    """`values` as an array; lists in them are its further dimensions. ValueError for more than PostgreSQL has.

    `element` writes one that is no list; None: it is NULL. In small steps, as `reading_array`.
    """
    return _writing(values, element, 1, count(1))


def _writing(
    values: Sequence[Any], element: Callable[[Any], str | None], depth: int, numbers: count[int]
) -> Generator[None, None, str]:
    if depth > _DEEPEST:
        raise ValueError(f"an array has {_DEEPEST} dimensions at most")
    parts: list[str] = []
    for value in values:
        if next(numbers) % _STEP == 0:
            yield
        if isinstance(value, list):
            parts.append((yield from _writing(value, element, depth + 1, numbers)))
        else:
            text = element(value)
            parts.append("NULL" if text is None else f'"{text.translate(_ESCAPES)}"')
    return "{" + ",".join(parts) + "}"
