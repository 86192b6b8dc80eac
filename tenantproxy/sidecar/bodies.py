"""What does a request to the admin listener ask for? Its body, headers and query, checked; 400 says what is wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

__all__ = ["body_of", "idempotency_key", "is_text", "one_of", "prefers_async", "raw_body", "whole_number"]

_BODY_SECONDS: Final = 10.0
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
T = TypeVar("T")


async def body_of(request: web.Request, known: Mapping[str, type], *, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The members of the JSON object, each of its type; `list` is one of texts. No body: an empty object."""
    raw = await raw_body(request)
    if raw and request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="application/json is needed")
    try:
        given = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(reason="the body is not JSON") from None
    if not isinstance(given, dict):
        raise web.HTTPBadRequest(reason="the body is not a JSON object")
    if given.keys() - known.keys():
        names = f"known are: {', '.join(sorted(known))}" if known else "none is known"
        raise web.HTTPBadRequest(reason=f"unknown member; {names}")
    for name, value in given.items():
        _check_type(name, value, known[name])
    if missing := [name for name in needed if name not in given]:
        raise web.HTTPBadRequest(reason=f"{missing[0]} is missing")
    return given


def _check_type(name: str, value: object, kind: type) -> None:
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise web.HTTPBadRequest(reason=f"{name} is not a {kind.__name__}")
    texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    if not all(isinstance(each, str) for each in texts):
        raise web.HTTPBadRequest(reason=f"{name} is not a list of texts")
    if not all(is_text(each) for each in texts):
        raise web.HTTPBadRequest(reason=f"{name} has a character that PostgreSQL's texts cannot have")


async def raw_body(request: web.Request) -> bytes:
    """All of it; a client that does not send it is not waited for."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body did not come in time") from None


def is_text(text: str) -> bool:
    """Whether PostgreSQL can hold it: no NUL, and no half of a pair of surrogates."""
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def idempotency_key(request: web.Request) -> str | None:
    """By which the same request is known when it comes again."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise web.HTTPBadRequest(reason="Idempotency-Key is one word of at most 200 visible ASCII characters")
    return given[0]


def prefers_async(request: web.Request) -> bool:
    """Whether it asks for an operation to look at, instead of the end: `Prefer: respond-async` (RFC 7240)."""
    given = ",".join(request.headers.getall("Prefer", []))
    return "respond-async" in {each.partition(";")[0].strip().lower() for each in given.split(",")}


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """The number that `text` is."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or not least <= int(text) <= most:
        raise web.HTTPBadRequest(reason=f"{name} is a number from {least} to {most}")
    return int(text)


def one_of(kind: type[T], text: str | None, name: str) -> T | None:
    """The member of an enumeration that `text` is; None: none was given."""
    try:
        return None if text is None else kind(text)  # type: ignore[call-arg]
    except ValueError:
        words = ", ".join(str(each) for each in kind)  # type: ignore[attr-defined]
        raise web.HTTPBadRequest(reason=f"{name} is one of {words}") from None
