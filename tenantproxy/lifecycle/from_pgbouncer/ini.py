"""What does a pgbouncer.ini say? Its sections, its connection strings, and the users of its auth_file.

As https://www.pgbouncer.org/config.html has it: `%include`, comments by `;` and `#`, the last of two like keys wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Ini", "read_ini"]

_MOST_BYTES: Final = 16 * 1024 * 1024
_DEEPEST: Final = 10  # as PgBouncer has it
_INCLUDE: Final = re.compile(r"%include\s+(.+)")
_SECTION: Final = re.compile(r"\[([^\]]+)\]")
_PAIR: Final = re.compile(r"""\s*([A-Za-z0-9_]+)\s*=\s*('(?:[^']|'')*'|[^\s']*)""")
_USER: Final = re.compile(r'\s*"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"')
_SECTIONS: Final = frozenset({"pgbouncer", "databases", "users", "peers"})


@dataclass(frozen=True, slots=True)
class Ini:
    """All that was read. `databases` and `users` hold the pairs of each line; `accounts` what the auth_file knows."""

    source: str
    settings: Mapping[str, str]
    databases: Mapping[str, Mapping[str, str]] = field(repr=False)  # connection strings hold passwords
    users: Mapping[str, Mapping[str, str]]
    accounts: Mapping[str, str] = field(repr=False)


def read_ini(path: Path) -> Ini:
    """Read it, what it includes, and its auth_file. Raises ConfigurationError that names the file and the line."""
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    section = ""
    for place, line in _lines(path, 0):
        found = _SECTION.fullmatch(line)
        if found is not None:
            section = found[1].strip().lower()
            if section not in _SECTIONS:
                raise _problem(
                    place, f"[{section[:60]}] is no section of PgBouncer", "look whether it is the right file"
                )
            continue
        name, sign, value = line.partition("=")
        name = name.strip()
        if not sign or not name or not section:
            raise _problem(place, "is neither a section, nor a key with a value", "write it as PgBouncer reads it")
        if section == "pgbouncer":
            name = name.lower()
        elif len(name) > 1 and name[0] == name[-1] == '"':
            name = name[1:-1].replace('""', '"')
        if section in ("databases", "users"):
            _pairs(value, place)  # a fault is told with its line
        sections[section][name] = value.strip()
    settings = sections["pgbouncer"]
    if not settings and not sections["databases"]:
        raise _problem(str(path), "has neither [pgbouncer] nor [databases]", "give the path of pgbouncer.ini")
    return Ini(
        source=path.name,
        settings=settings,
        databases={name: _pairs(text, name) for name, text in sections["databases"].items()},
        users={name: _pairs(text, name) for name, text in sections["users"].items()},
        accounts=_accounts(path, settings.get("auth_file", "")),
    )


def _lines(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        raise _problem(str(path), "is included by itself", "remove one of the %include")
    for number, line in enumerate(map(str.strip, _text(path).splitlines()), 1):
        if not line or line[0] in ";#":
            continue
        included = _INCLUDE.fullmatch(line)
        if included is None:
            yield f"{path}:{number}", line
        else:
            yield from _lines(path.parent / included[1].strip(), depth + 1)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise _problem(str(path), f"is larger than {_MOST_BYTES} bytes", "give the path of pgbouncer.ini")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise _problem(str(path), f"cannot be read: {exc.strerror or exc}", "look at the path and its rights") from None
    except UnicodeDecodeError:
        raise _problem(str(path), "is not UTF-8", "give the path of pgbouncer.ini") from None


def _pairs(text: str, place: str) -> dict[str, str]:
    """`host=a dbname='b c'`; a quote inside of quotes is doubled."""
    pairs, at = {}, 0
    while at < len(text.rstrip()):
        found = _PAIR.match(text, at)
        if found is None:
            # Nothing of the line is repeated: a password may be in it.
            raise _problem(place, "is not a connection string", "write it as key=value, with 'quotes' around spaces")
        value = found[2]
        pairs[found[1].lower()] = value[1:-1].replace("''", "'") if value[:1] == "'" else value
        at = found.end()
    return pairs


def _accounts(path: Path, auth_file: str) -> dict[str, str]:
    """Users with what is kept of their passwords; none where the file is not there, which is told elsewhere."""
    file = path.parent / auth_file
    if not auth_file or not file.is_file():
        return {}
    return {
        found[1].replace('""', '"'): found[2].replace('""', '"')
        for found in map(_USER.match, _text(file).splitlines())
        if found is not None
    }


def _problem(place: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key=place, problem=problem, fix=fix)], source="pgbouncer.ini")
