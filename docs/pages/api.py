"""The page of the Python API: the public names of its modules, from their signatures and docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["MODULES", "page"]

MODULES: Final = (
    "tenantproxy",
    "tenantproxy.errors",
    "tenantproxy.config",
    "tenantproxy.middleware.asgi",
    "tenantproxy.middleware.aiohttp",
    "tenantproxy.middleware.django",
    "tenantproxy.middleware.logs",
    "tenantproxy.sqlalchemy",
    "tenantproxy.metrics",
    "tenantproxy.auth.resolvers",
    "tenantproxy.auth.tokens",
    "tenantproxy.registry.base",
    "tenantproxy.lifecycle.provision",
    "tenantproxy.lifecycle.migrate",
    "tenantproxy.lifecycle.prove",
    "tenantproxy.lifecycle.doctor",
    "tenantproxy.testing",
    "tenantproxy.embedded",
)
"""What applications import, from the commonest on."""

_HEAD: Final = """# Python API

Every public name, with its own words. Whatever is not here is the package's own and changes without notice.
The sections of the configuration (`tenantproxy.config`) have their keys on [another page](configuration-keys.md).
"""


def page() -> str:
    """The whole page."""
    told: set[int] = set()
    return _HEAD + "".join(_module(name, told) for name in MODULES)


def _module(name: str, told: set[int]) -> str:
    module = importlib.import_module(name)
    parts = [f"\n## {name}\n\n{_first_paragraph(module)}\n"]
    for public in module.__all__:
        value = getattr(module, public)
        is_error = inspect.isclass(value) and issubclass(value, BaseException)
        if id(value) in told or (is_error and name == "tenantproxy"):
            continue  # told by a module before this one; errors by `tenantproxy.errors`
        if inspect.isclass(value) or inspect.isfunction(value):
            told.add(id(value))
        parts.append(_name(public, value))
    return "".join(parts)


def _name(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return _class(name, value)
    if inspect.isroutine(value):
        return f"\n### {name}\n\n{_signature(name, value)}\n\n{_doc(value)}\n"
    return f"\n### {name}\n\n`{_cut(_plain(value))}`\n"


def _class(name: str, kind: type) -> str:
    head = f"\n### {name}\n\n"
    if issubclass(kind, enum.Enum):
        values = ", ".join(f"`{member.value}`" for member in kind)
        return f"{head}{_doc(kind)}\n\nValues: {values}.\n"
    if issubclass(kind, BaseException):
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        return f"{head}{_doc(kind)}\n\nA kind of {bases}.\n"
    if hasattr(kind, "model_fields"):  # of the configuration
        return f"{head}{_doc(kind)}\n"
    return head + _signature(name, kind) + f"\n\n{_doc(kind)}\n" + "".join(_members(kind))


def _members(kind: type) -> Iterator[str]:
    """Public methods and properties, those of our own base classes too, in the order in which they are written."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("tenantproxy"):
            found.update({name: value for name, value in vars(base).items() if not name.startswith("_")})
    for name, value in found.items():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            yield f"\n- **{name}**: {_nested(_doc(value))}\n"
        elif inspect.isfunction(value):
            yield f"\n- {_signature(name, value)}\n\n  {_nested(_doc(value))}\n"


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"`{name}`"
    shown = [each for each in signature.parameters.values() if each.name not in {"self", "cls"}]
    text = str(signature.replace(parameters=shown))
    text = re.sub(r"<(?:object|function|factory)[^>]*>", "...", text).replace("'", "")
    prefix = "async " if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value) else ""
    return f"`{prefix}{name}{text}`"


def _first_paragraph(module: Any) -> str:
    return _escaped(inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0])


def _doc(value: Any) -> str:
    return _escaped(inspect.cleandoc(value.__doc__ or ""))


def _escaped(text: str) -> str:
    """Docstrings are Markdown, but for what looks like a tag or a link and is code."""
    parts = re.split(r"(`[^`]*`|^(?: {4}.*\n?)+)", text, flags=re.M)
    return "".join(part if index % 2 else re.sub(r"([<>\[\]*{}])", r"\\\1", part) for index, part in enumerate(parts))


def _nested(text: str) -> str:
    return text.replace("\n", "\n  ")


def _plain(value: Any) -> str:
    if isinstance(value, str | int | float | tuple | frozenset):
        return str(sorted(value) if isinstance(value, frozenset) else value).replace("`", "'")
    return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."
