"""How is a validation error told to the operator? The key, what is wrong, and the fix; never the value of a secret."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError

from tenantproxy.config.values import GivenText, kind_of
from tenantproxy.errors import Problem

__all__ = ["is_table", "nearest", "translate"]

INCONSISTENT: Final = "inconsistent"
"""The error type under which `Settings` hands over the problems between its sections."""


def translate(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """The problems in `error`, in the order of the keys; `model` is what was validated."""
    problems: list[Problem] = []
    for entry in error.errors(include_url=False):
        context = entry.get("ctx", {})
        if entry["type"] == INCONSISTENT:
            problems += context["problems"]
        else:
            problems.append(_problem(entry["type"], tuple(map(str, entry["loc"])), entry.get("input"), context, model))
    return problems


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of `words`, None when none resembles it."""
    known = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def is_table(parts: Iterable[str], model: type[BaseModel]) -> bool:
    """Whether the key that `parts` name, in `model`, is a table of keys or of names."""
    names = tuple(parts)
    walked, _, target = _walk(names, model)
    return len(walked) == len(names) and any(_model(one) or _origin(one) is Mapping for one in _plain(target))


def _problem(
    kind: str, loc: tuple[str, ...], value: object, context: Mapping[str, Any], model: type[BaseModel]
) -> Problem:
    loc, owner, target = _walk(loc, model)
    key = ".".join(loc)
    name = loc[-1] if loc else "the configuration"
    problem, fix = _explain(kind, name, value, context, owner, target)
    if kind == "extra_forbidden" and isinstance(value, Mapping) and len(loc) > 2:
        quoted = f'[{".".join(loc[:-2])}."{loc[-2]}.{loc[-1]}"]'
        fix = f"did you mean {quoted}? A name with a dot in it stands in quotes; or {fix}"
    fix = fix.replace("[...", f"[{'.'.join((*loc[:-1], ''))}")
    if isinstance(value, GivenText):
        problem += f" (from {value.origin})"
    return Problem(key=key or name, problem=problem, fix=fix)


def _explain(
    kind: str, name: str, value: object, context: Mapping[str, Any], owner: type[BaseModel] | None, target: object
) -> tuple[str, str]:
    match kind:
        case "extra_forbidden":
            return _unknown(name, owner)
        case "missing":
            return _missing(name, owner)
        case "wrong_kind" | "int_parsing" | "float_parsing" | "bool_parsing" | "int_from_float":
            wanted = context.get("wanted") or {"i": "a whole number", "f": "a number", "b": "true or false"}[kind[0]]
            return f"must be {wanted}, not {_kind(kind, value)}", f"write {wanted}"
        case "dict_type" | "mapping_type":
            return f"must be a table, not {kind_of(value)}", f"write [{name}.NAME] for each"
        case "secret_type":
            return f"must be text, not {kind_of(value)}", f"write {name} in quotes, or better {name}_file"
        case "literal_error" | "enum":
            return _not_one_of(value, target)
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return _out_of_range(kind, value, context)
        case "finite_number":
            return "must be a finite number", "write a number of seconds"
        case "string_too_short":
            return "is empty", f"give {name} a value, or leave it out where it has a default"
        case "told":
            return str(context["problem"]), str(context["fix"])
        case _:
            return f"is not valid ({kind.replace('_', ' ')})", f"correct {name}"


def _kind(kind: str, value: object) -> str:
    return "a fraction" if kind == "int_from_float" else kind_of(value)


def _unknown(name: str, owner: type[BaseModel] | None) -> tuple[str, str]:
    keys = _keys(owner) if owner else []
    close = nearest(name, keys)
    below = None if close or owner is None else _below(name, owner)
    if below is not None:
        return "is unknown here", f"it is a key of [...{below}.NAME]: write it there, for each"
    fix = f"did you mean {close}?" if close else f"remove it; the keys here are {', '.join(sorted(keys))}"
    return "is unknown", fix


def _below(name: str, owner: type[BaseModel]) -> str | None:
    """The table of named entries in `owner` whose entries have the key `name`."""
    for key, field in owner.model_fields.items():
        for one in _plain(field.annotation):
            inner = _model(typing.get_args(one)[1]) if _origin(one) is Mapping else None
            if inner is not None and name in _keys(inner):
                return field.alias or key
    return None


def _missing(name: str, owner: type[BaseModel] | None) -> tuple[str, str]:
    field = owner.model_fields.get(name) if owner else None
    if field is not None and field.examples:
        return "is missing", f'add {name} = "{field.examples[0]}"'
    if name == "main":
        return "is missing", 'add [main] with server = "..." and database = "..."'
    return "is missing", f"add {name}"


def _not_one_of(value: object, target: object) -> tuple[str, str]:
    choices = _choices(target)
    listed = ", ".join(choices)
    close = nearest(value, choices) if isinstance(value, str) else None
    return f"must be one of {listed}", f"did you mean {close}?" if close else f"write one of {listed}"


def _out_of_range(kind: str, value: object, context: Mapping[str, Any]) -> tuple[str, str]:
    limit = next(context[bound] for bound in ("gt", "ge", "lt", "le") if bound in context)
    words = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }[kind]
    number = f"{limit:g}" if isinstance(limit, float) else str(limit)
    return f"is {value}, but must be {words} {number}", f"write a value that is {words} {number}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _walk(loc: tuple[str, ...], model: type[BaseModel]) -> tuple[tuple[str, ...], type[BaseModel] | None, object]:
    """The part of `loc` that names keys, the model that owns the last of them, and what that one is annotated with.

    Pydantic adds the branches of a union and list positions to a location: those are left out.
    """
    target: object = model
    owner: type[BaseModel] | None = None
    names: list[str] = []
    for part in loc:
        inner = _model(target)
        if inner is not None:
            owner = inner
            names.append(part)
            by_key = {field.alias or name: field for name, field in inner.model_fields.items()}
            target = by_key[part].annotation if part in by_key else None
        elif _origin(target) is Mapping:
            names.append(part)
            target = typing.get_args(target)[1]
        elif part.isdigit():
            names.append(part)
            target = next((typing.get_args(one)[0] for one in _plain(target) if _origin(one) is tuple), None)
    return tuple(names), owner, target


def _plain(annotation: object) -> list[object]:
    """`annotation` without Annotated and Optional: its alternatives."""
    if hasattr(annotation, "__metadata__"):
        return _plain(typing.get_args(annotation)[0])
    if _origin(annotation) in (typing.Union, types.UnionType):
        return [one for arg in typing.get_args(annotation) if arg is not type(None) for one in _plain(arg)]
    return [annotation]


def _origin(annotation: object) -> object:
    origin = typing.get_origin(annotation)
    return Mapping if isinstance(origin, type) and issubclass(origin, Mapping) else origin


def _model(annotation: object) -> type[BaseModel] | None:
    return next((one for one in _plain(annotation) if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _choices(annotation: object) -> list[str]:
    choices: list[str] = []
    for one in _plain(annotation):
        if _origin(one) is Literal:
            choices += map(str, typing.get_args(one))
        elif isinstance(one, type) and issubclass(one, StrEnum):
            choices += [str(value) for value in one]
    return choices
