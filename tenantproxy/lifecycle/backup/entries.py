"""What in a dump needs the admin user, and what is read in without its rights? By the list of `pg_restore`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["DumpEntries", "defined_entries", "made_entries", "sort_entries"]

_ENTRY: Final = re.compile(r"\d+; \d+ \d+ (?P<what>.*)")
_DATA: Final = "TABLE DATA|BLOBS|BLOB DATA|SEQUENCE SET|MATERIALIZED VIEW DATA|STATISTICS DATA|ACL|DEFAULT ACL"
_NAMED: Final = re.compile(r"POLICY |COMMENT .* POLICY |USER MAPPING - USER MAPPING (?!public )")
_NOT_MADE: Final = re.compile(rf"(?:{_DATA}|COMMENT) ")
_NOT_DEFINED: Final = re.compile(
    rf"(?:{_DATA}|BLOB|BLOB METADATA|EVENT TRIGGER|COMMENT - (?:LARGE OBJECTS?|EVENT TRIGGER)) "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpEntries:
    """Entries for `--use-list`. `admin`: comments of what is there, and rows of extensions' own tables.

    `named`: what is for roles that may have other names: policies, comments of those, and user mappings. `left_out`:
    event triggers, which run with the rights of each user of their database, by name.
    """

    loader: str
    admin: str
    named: str
    large_objects: bool
    foreign_servers: bool
    left_out: tuple[str, ...]


def sort_entries(
    listing: str, *, extension_schemas: Collection[str], extension_tables: Collection[tuple[str, str]]
) -> DumpEntries:
    """What `pg_restore --list` printed. The extensions and their schemas are there already.

    Behind each name is its owner's: one that has a blank in it is taken for more of the name, and read in by the role.
    """
    there = {f"SCHEMA - {name}" for name in extension_schemas if name != "public"}
    of_admin = {f"COMMENT - SCHEMA {name}" for name in ("public", *extension_schemas)}
    of_admin |= {f"TABLE DATA {schema} {name}" for schema, name in extension_tables}
    loader, admin, naming, left_out = [], [], [], []
    large_objects = foreign_servers = False
    for line in listing.split("\n"):
        found = _ENTRY.match(line)
        if found is None:
            continue
        what, named = found["what"], found["what"].rpartition(" ")[0]
        if what.startswith("EXTENSION - ") or named in there:
            continue
        if what.startswith(("EVENT TRIGGER ", "COMMENT - EVENT TRIGGER ")):
            if what.startswith("EVENT"):
                left_out.append(what.removeprefix("EVENT TRIGGER - ").rpartition(" ")[0])
        elif what.startswith("COMMENT - EXTENSION ") or named in of_admin:
            admin.append(line)
        elif _NAMED.match(what):  # a comment that only looks so is run by the same role, a little later
            naming.append(line)
        else:
            loader.append(line)
            large_objects = large_objects or what.startswith("BLOB")
            foreign_servers = foreign_servers or what.startswith("SERVER ")
    return DumpEntries(
        loader=_lines(loader), admin=_lines(admin), named=_lines(naming), large_objects=large_objects,
        foreign_servers=foreign_servers, left_out=tuple(left_out),
    )  # fmt: skip


def made_entries(listing: str) -> str:
    """Those of what has an owner, without its rows."""
    return _without(_NOT_MADE, listing)


def defined_entries(listing: str) -> str:
    """Those of what pg_dump --schema-only writes, without rights and event triggers."""
    return _without(_NOT_DEFINED, listing)


def _without(some: re.Pattern[str], listing: str) -> str:
    found = ((line, _ENTRY.match(line)) for line in listing.split("\n"))
    return _lines([line for line, entry in found if entry is not None and not some.match(entry["what"])])


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
