"""Which class of the application's own does `pkg.mod:Class` in the configuration mean? Importing it runs its module."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["find_own", "make_own", "names_a_class"]


def names_a_class(text: str) -> bool:
    """Whether `text` has the form `pkg.mod:Class`."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_own(text: str, *, key: str, protocol: str) -> Any:
    """The class that `text` names, imported. Raises ConfigurationError, about `key`, when it cannot be imported."""
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as exc:
        fix = "install it, or correct the name"
        raise _refused(key, f"the module {module} cannot be imported ({type(exc).__name__})", fix) from exc
    except AttributeError:
        raise _refused(key, f"the module {module} has no {name}", "correct the name") from None
    except Exception as exc:
        problem = f"the module {module} fails when it is imported ({type(exc).__name__})"
        raise _refused(key, problem, "correct the module") from exc
    if not callable(found):
        raise _refused(key, f"{name} is no class", f"name a class that satisfies {protocol}")
    return found


def make_own(text: str, *arguments: object, key: str, protocol: str, has: Sequence[str]) -> Any:
    """An instance of the class that `text` names, called with `arguments`; `has` are the names that `protocol` wants.

    Raises ConfigurationError, about `key`, for whatever is wrong with it.
    """
    made, name = find_own(text, key=key, protocol=protocol), text.partition(":")[2]
    try:
        instance = made(*arguments)
    except ConfigurationError:
        raise
    except Exception as exc:
        problem, fix = f"{name} cannot be made ({type(exc).__name__})", f"it is called with {_said(arguments)}"
        raise _refused(key, problem, fix) from exc
    if missing := [one for one in has if not hasattr(instance, one)]:
        raise _refused(key, f"{name} has no {', '.join(missing)}", f"satisfy {protocol}")
    return instance


def _refused(key: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key=key, problem=problem, fix=fix)])


def _said(arguments: Sequence[object]) -> str:
    return ", ".join(f"the {type(each).__name__}" for each in arguments) if arguments else "nothing"
