"""The variables of the environment that are configuration: `TENANTPROXY_SECTION__KEY`.

A variable that looks like one and is none is told to the log, with the name that was probably meant.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tenantproxy.config.problems import is_table, nearest
from tenantproxy.config.settings import DELIMITER, PREFIX, Settings
from tenantproxy.config.values import GivenText
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["environment", "put", "strangers"]

_log = logging.getLogger(__name__)

_DEEPEST: Final = 20  # tables in tables; no key of the configuration is so deep
_ALIKE: Final = re.compile(r"TENANT_?PROXY_", re.IGNORECASE)
_ELSEWHERE: Final = frozenset(
    {"TENANTPROXY_CONFIG", "TENANTPROXY_NATIVE", "TENANTPROXY_FLEET_SIZE"}
)  # of other modules
# What Kubernetes and Docker set for a service that is called tenantproxy.
_OF_A_SERVICE: Final = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP)(_\w+)?)")


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The nested tables that `variables` name, in any case; leaves remember their variable.

    A table may be given as one JSON object: `TENANTPROXY_SERVERS__PRIMARY={"host": "db", "user": "app"}`.
    """
    for variable, meant in strangers(variables):
        hint = f"did you mean {meant}?" if meant else f"keys are {PREFIX}SECTION{DELIMITER}KEY"
        _log.warning("the environment variable %s is ignored: %s", variable, hint)
    tables: dict[str, Any] = {}
    for variable, text in sorted(variables.items()):
        parts = _parts(variable)
        if parts:
            put(tables, parts, _value(parts, GivenText(text, origin=variable)))
    return tables


def _parts(variable: str) -> list[str]:
    """The keys that `variable` names; none when it is not ours."""
    if not variable.upper().startswith(PREFIX):
        return []
    parts = variable[len(PREFIX) :].lower().split(DELIMITER)
    return parts if all(parts) and (len(parts) > 1 or parts[0] in Settings.model_fields) else []


def _value(parts: list[str], text: GivenText) -> Any:
    if not text.lstrip().startswith("{") or not is_table(parts, Settings):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text  # told as what it is: text where a table must be
    except RecursionError:
        raise _too_deep(text) from None
    if _is_deeper(found, _DEEPEST):
        raise _too_deep(text)
    return _given(found, text.origin)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether tables and lists are nested in more than so many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (levels == 0 or any(_is_deeper(item, levels - 1) for item in inner))


def _too_deep(text: GivenText) -> ConfigurationError:
    problem, fix = "is JSON that is nested too deeply", f"nest at most {_DEEPEST} tables and lists"
    return ConfigurationError([Problem(key=text.origin, problem=problem, fix=fix)])


def _given(value: Any, origin: str) -> Any:
    if isinstance(value, dict):
        return {key: _given(item, origin) for key, item in value.items()}
    return GivenText(value, origin=origin) if isinstance(value, str) else value


def strangers(variables: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The variables that look like ours and are not, each with the name that was probably meant."""
    for variable in sorted(variables):
        match = _ALIKE.match(variable)
        rest = variable[match.end() :].upper() if match else ""
        if not rest or variable.upper() in _ELSEWHERE or _parts(variable) or _OF_A_SERVICE.fullmatch(rest):
            continue
        yield variable, _meant(rest)


def _meant(rest: str) -> str | None:
    parts = rest.lower().split(DELIMITER)
    if len(parts) > 1 and all(parts):
        return f"{PREFIX}{rest}"
    for section in Settings.model_fields:
        if rest.lower().startswith(f"{section}_"):
            return f"{PREFIX}{section.upper()}{DELIMITER}{rest[len(section) :].strip('_')}"
    close = nearest(parts[0].partition("_")[0], Settings.model_fields)
    return None if close is None else f"{PREFIX}{close.upper()}{DELIMITER}..."


def put(tables: dict[str, Any], parts: Iterable[str], value: Any) -> None:
    """Set the key that `parts` name, making the tables on the way."""
    *path, last = parts
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = tables[part] = {}
        tables = inner
    if isinstance(value, dict) and isinstance(tables.get(last), dict):
        tables[last].update(value)
    else:
        tables[last] = value
