"""Which class of the application's own does `pkg.mod:Class` in the configuration mean? Importing it runs its module."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["make_own", "names_a_class"]


def names_a_class(text: str) -> bool:
    """Whether `text` has the form `pkg.mod:Class`."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def make_own(text: str, *arguments: object, key: str, protocol: str, has: Sequence[str]) -> Any:
    """An instance of the class that `text` names, called with `arguments`; `has` are the names that `protocol` wants.

    Raises ConfigurationError, about `key`, for whatever is wrong with it.
    """

    def refused(problem: str, fix: str) -> ConfigurationError:
        return ConfigurationError([Problem(key=key, problem=problem, fix=fix)])

    module, _, name = text.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except ImportError as exc:
        fix = "install it, or correct the name"
        raise refused(f"the module {module} cannot be imported ({type(exc).__name__})", fix) from exc
    except AttributeError:
        raise refused(f"the module {module} has no {name}", "correct the name") from None
    except Exception as exc:
        raise refused(f"the module {module} fails when it is imported ({type(exc).__name__})", "mend it") from exc
    if not callable(made):
        raise refused(f"{name} is no class", f"name a class that satisfies {protocol}")
    try:
        instance = made(*arguments)
    except ConfigurationError:
        raise
    except Exception as exc:
        raise refused(f"{name} cannot be made ({type(exc).__name__})", f"it is called with {_said(arguments)}") from exc
    if missing := [one for one in has if not hasattr(instance, one)]:
        raise refused(f"{name} has no {', '.join(missing)}", f"satisfy {protocol}")
    return instance


def _said(arguments: Sequence[object]) -> str:
    return ", ".join(f"the {type(each).__name__}" for each in arguments) if arguments else "nothing"
