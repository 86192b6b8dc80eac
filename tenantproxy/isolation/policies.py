"""Does a policy of row-level security leave a session its own tenant's rows only? Pure: judges what the catalogue says.

Expressions are those that PostgreSQL prints (`pg_get_expr`) with a search_path of pg_catalog alone: then every
function, operator and type that is not PostgreSQL's own is printed with its schema. What is not in a form known here
counts as open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["COMMANDS", "FAITHFUL", "Policy", "Reference", "TenantForm", "open_commands", "tenant_form"]

COMMANDS: Final = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
"""The commands that policies are about, and the letter of each in pg_policy.polcmd."""

_COLUMN: Final = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_TYPE: Final = r'(?:[a-z_][a-z0-9_ ]*|(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")\.(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+"))'
_ALIAS: Final = r'(?:[a-z_]+|"[a-z_]+")'
FAITHFUL: Final = frozenset({"uuid", "text", "character varying", "bpchar", "smallint", "integer", "bigint", "numeric"})
"""PostgreSQL's own types that leave the texts of two tenants different, as it writes them without a length."""

_THROUGH: Final = re.compile(
    rf"({_COLUMN}) = ANY \(ARRAY\( SELECT (?P<alias>{_COLUMN})\.({_COLUMN})"
    rf"\s+FROM (?:ONLY )?({_COLUMN}\.(?P<table>{_COLUMN}))(?: (?P<named>{_COLUMN}))?\s+WHERE (?P<condition>\(.*\))\)\)",
    re.DOTALL,
)
"""Rows that refer to rows of another table, those of the session's tenant."""

_SIGNED: Final = r"tenantproxy\.(?:bound_tenant|current_tenant)\(\)"


class Reference(NamedTuple):
    """A foreign key of one column. `table`: to which, with its schema; all as PostgreSQL writes them in SQL."""

    column: str
    key: str
    table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy of a table that applies to our role. `command`: a letter of COMMANDS, or `*`.

    `for_all_roles`: it has no TO clause. `using` and `check`: its expressions, None where it has none.
    `calls_others`: it depends on a function that is neither PostgreSQL's nor ours. `is_loose`: it compares a column
    whose collation calls different texts equal. `is_moved`: a foreign key gives such a column what may be another
    tenant's, past all policies. `follows`: tables and columns, written by the role, whose values one gives to such a
    column. `keeping`: the types of the operator's own in it, with their schema,
    that leave the texts of two tenants different: enums, and domains over FAITHFUL types without a length.
    `through`: the references of its table to tables whose rows are known to be each one tenant's.
    """

    name: str
    permissive: bool
    command: str
    for_all_roles: bool
    using: str | None
    check: str | None
    calls_others: bool = False
    is_loose: bool = False
    is_moved: bool = False
    follows: tuple[tuple[str, str], ...] = ()
    keeping: tuple[str, ...] = ()
    through: tuple[Reference, ...] = ()

    def applies_to(self, command: str) -> bool:
        """Whether it is asked for this command, a key of COMMANDS."""
        return self.command in ("*", COMMANDS[command])


class TenantForm:
    """The expressions that compare a column with the session's tenant: `column = (SELECT tenantproxy.bound_tenant())`.

    With `setting`, also those that compare it with that setting, which proves nothing and is for unsigned tenants. And
    `column = ANY (ARRAY(SELECT p.key FROM parent p WHERE p.column = (SELECT ...)))`, where the table has that reference
    to a parent whose rows are known to be each one tenant's: a foreign key, so that `key` is unique there.
    """

    def __init__(self, setting: str | None = None) -> None:
        self.is_signed: Final = setting is None
        tenant = _SIGNED
        if setting is not None:
            plain = rf"current_setting\('{re.escape(setting)}'::text(?:, (?:true|false))?\)"
            tenant = rf"(?:{_SIGNED}|{plain}|NULLIF\({plain}, ''::text\))"
        cast = rf"(?:{tenant}|\({tenant}\)::({_TYPE}))"
        selected = rf"\( SELECT {cast}(?: AS {_ALIAS})?\)"
        value = rf"(?:{cast}|{selected}|\({selected}\)::({_TYPE}))"
        # A column of a domain is compared as what the domain is made of.
        value = rf"(?:{value}|\({value}\)::({_TYPE})|\(\({selected}\)::({_TYPE})\)::({_TYPE}))"
        column = rf"(?:{_COLUMN}|\({_COLUMN}\)::({_TYPE}))"
        self._form: Final = re.compile(rf"{column} = {value}|{value} = {column}")  # its groups are the casts
        self.holds: Final = lru_cache(maxsize=1024)(self._holds)
        """Whether rows for which the expression is true are the session's tenant's. Most tables say the same."""

    def _holds(
        self,
        expression: str | None,
        keeping: tuple[str, ...] = (),
        through: tuple[Reference, ...] = (),
        is_moved: bool = False,
        about: str | None = None,
    ) -> bool:
        return expression is not None and any(
            (not is_moved and self._is_one(each, keeping) and (about is None or _is_about(each, about)))
            or (about is None and bool(through) and self._is_through(each, keeping, through))
            for each in _conjuncts(expression)
        )

    def _is_through(self, expression: str, keeping: tuple[str, ...], through: tuple[Reference, ...]) -> bool:
        found = _THROUGH.fullmatch(expression)
        if found is None or Reference(*found.group(1, 3, 4)) not in through:
            return False
        condition, alias = found["condition"], f"{found['alias']}."
        if found["alias"] != (found["named"] or found["table"]) or _end_of_group(condition) != len(condition) - 1:
            return False
        condition = _bare(condition)
        opening = "(" if condition.startswith(f"({alias}") else ""  # a column that is cast: `(parent.tenant)::text`
        return condition.startswith(opening + alias) and self._is_one(
            opening + condition.removeprefix(opening + alias), keeping
        )

    def _is_one(self, expression: str, keeping: tuple[str, ...]) -> bool:
        found = self._form.fullmatch(expression)
        # `name` and "char" cut texts off, and so does a domain over a type with a length.
        return found is not None and all(cast is None or cast in FAITHFUL or cast in keeping for cast in found.groups())


@lru_cache(maxsize=64)
def tenant_form(setting: str | None = None) -> TenantForm:
    """The one of that setting: what is known of its expressions outlives the configuration that it was made for."""
    return TenantForm(setting)


def open_commands(
    policies: tuple[Policy, ...], commands: tuple[str, ...], form: TenantForm, about: str | None = None
) -> tuple[str, ...]:
    """Why `commands` (keys of COMMANDS) are open, one reason for each that is. `about`: by this column (quoted) alone.

    A row is let through when one permissive policy and every restrictive one says so: closed is a command without a
    permissive policy, one with a restrictive policy of our form, or one whose permissive policies all are of our form.
    """
    reasons = [_open(policies, command, form, about) for command in commands]
    return tuple(reason for reason in reasons if reason is not None)


@lru_cache(maxsize=4096)
def _open(policies: tuple[Policy, ...], command: str, form: TenantForm, about: str | None) -> str | None:
    applying = [policy for policy in policies if policy.applies_to(command)]
    for clause in ("using", "check"):
        if clause == ("check" if command in ("SELECT", "DELETE") else "using" if command == "INSERT" else ""):
            continue  # a command reads rows, writes rows, or (UPDATE) both
        if any(
            _holds(policy, clause, form, about) and policy.for_all_roles for policy in applying if not policy.permissive
        ):
            continue
        for policy in applying:
            if policy.permissive and not _holds(policy, clause, form, about):
                done = _DONE[command, clause]
                return f"its policy {policy.name!r}, as far as can be told, lets others' rows be {done}"
    return None


_DONE: Final = {
    ("SELECT", "using"): "read",
    ("INSERT", "check"): "inserted",
    ("UPDATE", "using"): "updated",
    ("UPDATE", "check"): "written",
    ("DELETE", "using"): "deleted",
}


def _holds(policy: Policy, clause: str, form: TenantForm, about: str | None) -> bool:
    expression = policy.using
    if clause == "check" and policy.check is not None:
        expression = policy.check  # without one, rows that are written are held against USING
    # A function that casts to a type of the operator's own may do anything.
    keeping = () if policy.calls_others else policy.keeping
    return not policy.is_loose and form.holds(expression, keeping, policy.through, policy.is_moved, about)


def _is_about(comparison: str, column: str) -> bool:
    """Whether it is this column, quoted, that a comparison of the tenant's form compares."""
    left, right = f"{column} = ", f" = {column}"
    return (
        comparison.startswith((left, f"({column})::"))
        or comparison.endswith(right)
        or f"{right[:3]}({column})::" in comparison
    )


def _conjuncts(expression: str) -> list[str]:
    """The parts of which all must be true: `((a = b) AND (c))` as `a = b`, `c`. PostgreSQL puts each in parentheses."""
    expression = _bare(expression)
    parts = _split(expression)
    if len(parts) == 1:
        return parts
    return [conjunct for part in parts for conjunct in _conjuncts(part)]


def _bare(expression: str) -> str:
    """`expression` without the parentheses around all of it."""
    while expression.startswith("(") and _end_of_group(expression) == len(expression) - 1:
        inner = expression[1:-1]
        if inner.startswith(" SELECT "):
            break  # a sub-select, which needs its own
        expression = inner
    return expression


def _end_of_group(expression: str) -> int:
    return next((at for at, depth in _depths(expression) if depth == 0), -1)


def _split(expression: str) -> list[str]:
    parts, start = [], 0
    for at, depth in _depths(expression):
        if depth == 0 and expression.startswith(" AND ", at):
            parts.append(expression[start:at])
            start = at + 5
    return [*parts, expression[start:]]


def _depths(expression: str) -> Iterable[tuple[int, int]]:
    """Each character outside of quotes with the count of parentheses that are open after it."""
    depth, quote = 0, ""
    for at, char in enumerate(expression):
        if quote:
            quote = "" if char == quote else quote  # a doubled quote closes and opens again
        elif char in "'\"":
            quote = char
        else:
            depth += (char == "(") - (char == ")")
            yield at, depth
