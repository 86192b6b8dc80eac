"""Where do settings come from? A flag wins over the environment, that over the file, that over the default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tenantproxy.config.environment import environment, put
from tenantproxy.config.section import SECRETS
from tenantproxy.config.settings import Settings, examine
from tenantproxy.config.values import GivenText
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["gather", "load", "packed", "settled", "unpacked"]

_GIVEN: Final = "\0given"  # no key of TOML


def load(
    path: str | os.PathLike[str] | None = None, *, overrides: Mapping[str, Any] | None = None, secrets: bool = True
) -> Settings:
    """The settings from the TOML file `path` (None: no file), the environment and `overrides`.

    `TENANTPROXY_POOLS__MAX_SIZE=10` is `pools.max_size`, see `environment`. `overrides` are
    the flags of a command line: `{"http.listen": "..."}` or nested as in the file. A relative `*_file` in the TOML
    starts at the TOML's own folder. `secrets=False` does not look whether secrets can be read. Raises
    ConfigurationError with every problem at once.
    """
    return settled(gather(path, overrides=overrides), source=path, secrets=secrets)


def gather(path: str | os.PathLike[str] | None = None, *, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What file, environment and flags say together, not yet looked at. Raises ConfigurationError for a broken file."""
    file = {} if path is None else _read(Path(path))
    return _merge(_merge(file, environment()), _flags(overrides or {}))


def settled(
    values: Mapping[str, Any], *, source: str | os.PathLike[str] | None = None, secrets: bool = True
) -> Settings:
    """The settings that `gather` found. Raises ConfigurationError with every problem at once."""
    settings, problems = examine(values, secrets=secrets)
    if settings is None or problems:
        raise ConfigurationError(problems, source=None if source is None else os.fspath(source))
    return settings


def packed(values: Any) -> Any:
    """What `gather` found as plain values, for a process that is to have the same settings. It holds secrets."""
    if isinstance(values, Mapping):
        return {str(key): packed(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [packed(value) for value in values]
    return {_GIVEN: [str(values), values.origin]} if isinstance(values, GivenText) else values


def unpacked(values: Any) -> Any:
    """What `packed` made, as it was."""
    if isinstance(values, dict):
        given = values.get(_GIVEN)
        if given is not None:
            return GivenText(given[0], origin=given[1])
        return {key: unpacked(value) for key, value in values.items()}
    return [unpacked(value) for value in values] if isinstance(values, list) else values


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
        return _anchor(tomllib.loads(text), path.absolute().parent)
    except OSError as exc:
        problem = f"cannot be read ({exc.strerror or type(exc).__name__})"
        fix = "name a file that exists and that this user can read"
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        problem, fix = f"is not UTF-8 (at line {line})", "save it as UTF-8"
    except tomllib.TOMLDecodeError as exc:
        problem, fix = f"is not valid TOML: {exc}", "correct that line"
    raise ConfigurationError([Problem(key=str(path), problem=problem, fix=fix)], source=str(path)) from None


def _anchor(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`table` with relative paths made absolute: a service does not start in the folder of its configuration."""
    anchored: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            paths = {kid: str(folder / path) if isinstance(path, str) and path else path for kid, path in value.items()}
            anchored[key] = paths if key in ("key_files", "system_folders") else _anchor(value, folder)
        elif key.endswith("_files") and isinstance(value, list):
            anchored[key] = [str(folder / each) if isinstance(each, str) and each else each for each in value]
        elif isinstance(value, list):
            anchored[key] = [_anchor(each, folder) if isinstance(each, dict) else each for each in value]
        elif (key.endswith("_file") or key == "folder") and isinstance(value, str) and value:
            anchored[key] = str(folder / value)
        else:
            anchored[key] = value
    return anchored


def _flags(overrides: Mapping[str, Any]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for key, value in overrides.items():
        if value is not None:
            put(tables, key.split("."), _given(value, f"the flag for {key}"))
    return tables


def _given(value: Any, origin: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _given(item, origin) for key, item in value.items()}
    return GivenText(value, origin=origin) if isinstance(value, str) else value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, table by table. A secret that comes from above replaces the other forms below."""
    merged = dict(base)
    for key, value in over.items():
        key = key if key in merged else next((known for known in merged if known.lower() == key.lower()), key)
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merge(inner, value)
            continue
        for name in SECRETS:
            forms = {name, f"{name}_file", f"{name}_env", f"{name}_files"}
            if key in forms:
                merged = {other: kept for other, kept in merged.items() if other not in forms}
        merged[key] = value
    return merged
