"""For whom are policies and user mappings? For roles that may have another name where they come back, or are not there.

Only the names behind TO and FOR change: the rest of a statement is what PostgreSQL wrote. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantproxy.lifecycle.backup.dump_sql import placed_statements, plain_name
from tenantproxy.lifecycle.backup.errors import BackupDamaged, RestoreRefused
from tenantproxy.model import quote_identifier

__all__ = ["NamedRoles", "named_roles", "renamed_policies"]

_Tokens = Sequence[tuple[str, int]]
_POLICY: Final = ["CREATE", "POLICY"]
_MAPPING: Final = ["CREATE", "USER", "MAPPING", "FOR"]
_COMMENT: Final = ["COMMENT", "ON"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRoles:
    """`statements` to be run; `notes`: what an operator should hear of."""

    statements: tuple[str, ...]
    notes: tuple[str, ...]


def named_roles(text: str, *, roles: Mapping[str, str], known: Collection[str]) -> NamedRoles:
    """What `text`, of `pg_restore`, says in policies, comments of those and user mappings, with `roles` renamed.

    A role that is not `known` is left out, and so is a policy for none but such: less is seen then. Raises
    RestoreRefused for a restrictive policy that names one, BackupDamaged for any other statement.
    """
    found, notes, left = [], list[str](), set[str]()
    for tokens in placed_statements(text):
        words = [token.upper() for token, _ in tokens]
        if words[0] in ("SET", "SELECT"):
            continue  # how pg_restore sets its session
        statement = _text(text, tokens)
        if words[:4] == _MAPPING:
            role = _renamed(tokens[4][0], roles)
            if role is not None and role not in known:
                notes.append(f"the role {role} is not here: its user mapping is left out")
                continue
            statement = _replaced(text, tokens, 4, 5, [role])
        elif words[:2] == _POLICY:
            policy = _named(tokens, 2)
            if (place := _roles_at(words)) is not None:
                named = _roles_in(tokens[slice(*place)], roles)
                there = [role for role in named if role is None or role in known]
                if lacking := sorted({role for role in named if role is not None} - set(known)):
                    notes.append(_lacking(policy, lacking, is_restrictive=_is_restrictive(words, place[0])))
                if not there:
                    left.add(policy)
                    continue
                statement = _replaced(text, tokens, *place, there)
        elif words[:2] != _COMMENT:
            raise BackupDamaged("an entry of a policy in the dump does more than make one")
        elif words[2] == "POLICY" and _named(tokens, 3) in left:
            continue
        found.append(statement)
    return NamedRoles(statements=tuple(found), notes=tuple(notes))


def renamed_policies(text: str, roles: Mapping[str, str]) -> str:
    """`text`, of pg_dump, with `roles` renamed in its policies. Raises BackupDamaged for what cannot be read."""
    parts, end = list[str](), 0
    for tokens in placed_statements(text):
        words = [token.upper() for token, _ in tokens]
        if words[:2] == _POLICY and (place := _roles_at(words)) is not None:
            named = _roles_in(tokens[slice(*place)], roles)
            parts += [text[end : tokens[0][1]], _replaced(text, tokens, *place, named)]
            end = tokens[-1][1] + len(tokens[-1][0])
    return "".join([*parts, text[end:]])


def _roles_at(words: Sequence[str]) -> tuple[int, int] | None:
    """From where to where the roles of a policy are; None: it is for all. No name is one of these words unquoted."""
    heads = [place for place, word in enumerate(words) if word in ("TO", "USING", "WITH")]
    if not heads or words[heads[0]] != "TO":
        return None
    return heads[0] + 1, heads[1] if len(heads) > 1 else len(words)


def _roles_in(tokens: _Tokens, roles: Mapping[str, str]) -> list[str | None]:
    return [_renamed(each, roles) for each, _ in tokens if each != ","]


def _is_restrictive(words: Sequence[str], end: int) -> bool:
    """Behind AS: a policy or a table of that name has none before it."""
    return any(words[place : place + 2] == ["AS", "RESTRICTIVE"] for place in range(end))


def _lacking(policy: str, roles: Sequence[str], *, is_restrictive: bool) -> str:
    names = ", ".join(roles)
    if is_restrictive:
        raise RestoreRefused(
            f"the policy {policy} is restrictive, and for roles that are not here: {names}",
            hint="create them first: CREATE ROLE",
        )
    return f"the policy {policy} is for roles that are not here, and not for them any more: {names}"


def _named(tokens: _Tokens, start: int) -> str:
    """A policy and its table, as the dump writes them: `name ON schema.table`."""
    name, _, *table = (token for token, _ in tokens[start : start + 5])
    return f"{name} on {''.join(table)}"


def _renamed(token: str, roles: Mapping[str, str]) -> str | None:
    """The role that is meant; None: all of them."""
    return None if token.upper() == "PUBLIC" else roles.get(plain_name(token), plain_name(token))


def _replaced(text: str, tokens: _Tokens, start: int, end: int, roles: Sequence[str | None]) -> str:
    """The statement with other roles from one token to before another."""
    names = ", ".join(dict.fromkeys("PUBLIC" if role is None else quote_identifier(role) for role in roles))
    return f"{text[tokens[0][1] : tokens[start][1]]}{names} {_text(text, tokens[end:])}".rstrip()


def _text(text: str, tokens: _Tokens) -> str:
    return text[tokens[0][1] : tokens[-1][1] + len(tokens[-1][0])] if tokens else ""
