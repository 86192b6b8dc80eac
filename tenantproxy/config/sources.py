"""Which sources may `[resolve] agree` name? Reads their form; imports nothing of the application's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from tenantproxy.config.auth_sections import Resolve
from tenantproxy.config.own import names_a_class
from tenantproxy.config.problems import nearest
from tenantproxy.errors import Problem

__all__ = ["check_header_name", "check_path_template", "read_source", "resolve_problems"]

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+")  # a token, RFC 9110 5.6.2
_PLACE: Final = "{tenant}"
_EXAMPLES: Final = {
    "claim": "claim:tenant", "header": "header:X-Tenant-ID", "subdomain": "subdomain:example.com",
    "path": "path:/t/{tenant}/",
}  # fmt: skip
_FIX: Final = 'write "claim:NAME", "header:NAME", "subdomain:DOMAIN", "path:/TEMPLATE/{tenant}/" or "pkg.mod:Class"'


def resolve_problems(resolve: Resolve) -> Iterator[Problem]:
    """What no request could be resolved with."""
    if not resolve.agree:
        yield Problem(key="resolve.agree", problem="is empty", fix='write ["claim:tenant"] or more sources')
    for number, text in enumerate(resolve.agree):
        try:
            read_source(text)
        except ValueError as exc:
            yield Problem(key=f"resolve.agree.{number}", problem=str(exc), fix=_FIX)


def read_source(text: str) -> tuple[str, str]:
    """The kind of a source and what it is called: ("header", "X-Tenant-ID"), or ("", text) for `pkg.mod:Class`.

    Raises ValueError, which says what is wrong with it.
    """
    kind, _, name = text.partition(":")
    if kind in _EXAMPLES:
        if not name:
            raise ValueError(f"{kind!r} must say which one, such as {_EXAMPLES[kind]!r}")
        _check(kind, name)
        return kind, name
    close = nearest(kind, _EXAMPLES)
    if close and "." not in kind:  # `clam:tid` would be looked for among modules
        raise ValueError(f"{text!r} names a source that does not exist; did you mean {close}:{name or '...'}?")
    if not names_a_class(text) or ("." not in kind and not _is_importable(kind)):
        raise ValueError(f"{text!r} names a source that does not exist")
    if not _is_importable(kind):
        raise ValueError(f"names {text!r}, but the module {kind} cannot be imported here")
    return "", text


def _check(kind: str, name: str) -> None:
    if kind == "header":
        check_header_name(name)
    elif kind == "path":
        check_path_template(name)
    elif kind == "subdomain" and not name.strip("."):
        raise ValueError("a domain is needed, such as example.com")


def check_header_name(name: str) -> None:
    """Raises ValueError for what cannot be the name of a header."""
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")


def check_path_template(template: str) -> list[str]:
    """The segments of a template for paths. Raises ValueError."""
    segments = template.strip("/").split("/")
    if not template.startswith("/") or segments.count(_PLACE) != 1 or template.count("{") != 1:
        raise ValueError(f"{template!r} must begin with / and have {_PLACE} once, as a whole segment")
    return segments


def _is_importable(module: str) -> bool:
    """Whether its outermost package is installed: looking further would run code of the application's."""
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
