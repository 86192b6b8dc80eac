"""Whose is what was restored, and who may do what? As before, with the tenant's new role for its old one. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantproxy.lifecycle.backup.dump_sql import plain_name, statements
from tenantproxy.lifecycle.backup.errors import BackupDamaged
from tenantproxy.model import NOTHING, quote_identifier

__all__ = ["DumpAccess", "access_entries", "access_statements", "owner_statements"]

_ENTRY: Final = re.compile(r"\d+; \d+ \d+ (?:DEFAULT )?ACL ")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpAccess:
    """`statements` to be run; `givers`: roles in whose name some are.

    `left_out`: roles that are granted something, and are not there.
    """

    statements: tuple[str, ...]
    givers: frozenset[str]
    left_out: tuple[str, ...]


def access_entries(listing: str) -> str:
    """Of what `pg_restore --list` printed, the entries of access, for `--use-list`."""
    return "".join(f"{line}\n" for line in listing.split("\n") if _ENTRY.match(line))


def access_statements(
    text: str, *, roles: Mapping[str, str], known: Collection[str], schemas: Mapping[str, str] = NOTHING
) -> DumpAccess:
    """What `text`, of `pg_restore`, grants and revokes, with `roles` and `schemas` renamed.

    What is granted to a role that is not `known`, or by its default privileges, is left out. PostgreSQL's own functions
    are closed by provisioning. Raises BackupDamaged for anything else than GRANT, REVOKE and ALTER DEFAULT PRIVILEGES.
    """
    found, left_out, givers = [], dict[str, None](), set[str]()
    for tokens in statements(text):
        words = [token.upper() for token in tokens]
        if words[0] in ("SET", "SELECT", "RESET"):
            continue  # how pg_restore sets its session; here it is set
        if words[0] not in ("GRANT", "REVOKE") and words[:3] != ["ALTER", "DEFAULT", "PRIVILEGES"]:
            raise BackupDamaged("an entry of access in the dump does more than grant and revoke")
        if _is_postgresqls(words):
            continue
        named = {place: _role(tokens[place]) for place in _roles_at(words)}
        missing = [name for name in named.values() if name is not None and roles.get(name, name) not in known]
        if missing:
            left_out.update(dict.fromkeys(missing))
            continue
        for place, name in named.items():
            if name is not None:
                tokens[place] = quote_identifier(roles.get(name, name))
                givers |= {roles.get(name, name)} if words[place - 1] in ("ROLE", "BY") else set()
        _rename(tokens, words, schemas)
        found.append(" ".join(tokens))
    return DumpAccess(statements=tuple(found), givers=frozenset(givers), left_out=tuple(left_out))


def owner_statements(text: str, *, roles: Mapping[str, str], schemas: Mapping[str, str] = NOTHING) -> list[str]:
    """What `text`, of `pg_restore`, says of owners: ALTER ... OWNER TO, with `roles` and `schemas` renamed.

    Raises BackupDamaged for what cannot be read.
    """
    found = []
    for tokens in statements(text):
        words = [token.upper() for token in tokens]
        if words[0] != "ALTER" or words[-3:-1] != ["OWNER", "TO"]:
            continue
        name = plain_name(tokens[-1])
        tokens[-1] = quote_identifier(roles.get(name, name))
        _rename(tokens, words, schemas)
        found.append(" ".join(tokens))
    return found


def _rename(tokens: list[str], words: list[str], schemas: Mapping[str, str]) -> None:
    for place in _schemas_at(words):
        if (now := schemas.get(plain_name(tokens[place]))) is not None:
            tokens[place] = quote_identifier(now)


def _roles_at(words: list[str]) -> Iterator[int]:
    """Where the names of roles are: behind the last TO or FROM, and behind FOR ROLE and GRANTED BY."""
    givers = [place for place, word in enumerate(words) if word in ("TO", "FROM")]
    if givers:
        yield givers[-1] + 1
    for place, pair in enumerate(itertools.pairwise(words)):
        if pair in (("FOR", "ROLE"), ("GRANTED", "BY")):
            yield place + 2


def _is_postgresqls(words: list[str]) -> bool:
    """Whether it is about what PostgreSQL has; an argument of a function may be called so too."""
    on = words.index("ON") if "ON" in words else 0
    return "PG_CATALOG" in words[on + 1 : on + 4] and "." in words[on + 2 : on + 5]


def _schemas_at(words: list[str]) -> Iterator[int]:
    """Where the names of schemas are: behind ON, IN and ALTER SCHEMA, and the first part of a name that has two.

    The word alone will not do: tables, columns, arguments and roles may be called so.
    """
    depth = 0
    for place, word in enumerate(words):
        depth += {"(": 1, ")": -1}.get(word, 0)
        is_first = place + 1 < len(words) and words[place + 1] == "." and words[place - 1] != "."
        is_named = (
            not depth and place > 1 and words[place - 1] == "SCHEMA" and words[place - 2] in ("ON", "IN", "ALTER")
        )
        if is_first or is_named:
            yield place


def _role(token: str) -> str | None:
    """Its name; None: all of them."""
    return None if token.upper() == "PUBLIC" else plain_name(token)
