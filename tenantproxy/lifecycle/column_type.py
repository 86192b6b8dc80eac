"""Which types can name a tenant, and how is the session's tenant, a text, compared with a column of each?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

__all__ = ["ColumnType", "Comparison", "ParentTable", "describe_type", "unusable_ids"]

_AS_TEXT: Final = frozenset({"text", "character varying", "name"})  # compared with a text as they are
# The column of a domain is printed with its base type. None of these can make two values one, as a length could.
_DOMAIN: Final = re.compile(r"^([^=:]+)::(?:uuid|smallint|integer|bigint|numeric|bpchar|[^=:.]+\.[^=:.]+)=")
_CAST: Final = {
    "uuid": "uuid",
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "numeric": "numeric",
    "character": "bpchar",  # `character` alone would mean character(1), and cut the tenant to one letter
    "bpchar": "bpchar",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """The type of a column. `name`: as PostgreSQL writes it; `base`: without domains and length; `length`: at most."""

    name: str
    base: str
    is_enum: bool = False
    length: int | None = None
    collation_is_deterministic: bool = True

    @property
    def cast(self) -> str | None:
        """What the tenant is cast to; '' for nothing, None when a column of this type cannot name a tenant."""
        if not self.collation_is_deterministic:
            return None
        if self.base in _AS_TEXT:
            return ""
        return self.base if self.is_enum else _CAST.get(self.base)

    def objection(self) -> str | None:
        """Why a column of this type cannot name a tenant; None: it can."""
        if self.cast is not None:
            return None
        if not self.collation_is_deterministic:
            return f"is {self.name} with a collation that calls different texts equal: two tenants could be one"
        if self.base.endswith("citext"):
            return f"is {self.name}, which ignores case: tenants that differ by case would be one"
        return f"is {self.name}, which cannot name a tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentTable:
    """Where rows find whose they are: they refer to `key` of `table`, whose `column` names the tenant. Quoted.

    `cast`: what the tenant is cast to there, '' for nothing.
    """

    table: str
    key: str
    column: str
    cast: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The rule of a policy. `signed`: against the proven tenant, else the plain setting, which proves nothing.

    `parent`: where the rows of its table find whose they are; None: they say so themselves.
    """

    signed: bool
    setting: str
    parent: ParentTable | None = None

    def rule(self, column: str, cast: str) -> str:
        """True for the rows of the session's tenant. The sub-select makes it one call a statement, not one a row.

        Through a parent it is an array, looked up once a statement as well, so that an index on `column` serves: with
        IN or EXISTS PostgreSQL reads the rows of all tenants.
        """
        if (parent := self.parent) is None:
            return self._is_tenants(column, cast)
        condition = self._is_tenants(f"parent.{parent.column}", parent.cast)
        return f"{column} = ANY (ARRAY(SELECT parent.{parent.key} FROM {parent.table} parent WHERE {condition}))"

    def _is_tenants(self, column: str, cast: str) -> str:
        return f"{column} = (SELECT {self._tenant}){f'::{cast}' if cast else ''}"

    def default(self, cast: str) -> str | None:
        """The column's value where a statement gives none; None: that is not to be told, it refers to a parent.

        Not a sub-select: a DEFAULT must not hold one.
        """
        if self.parent is not None:
            return None
        return f"({self._tenant})::{cast}" if cast else self._tenant

    @property
    def _tenant(self) -> str:
        if self.signed:
            return "tenantproxy.bound_tenant()"
        return f"nullif(pg_catalog.current_setting('{self.setting}', true), '')"

    def says(self, expression: str | None, wanted: str) -> bool:
        """Whether `expression`, as PostgreSQL prints it, is `wanted`, one of our rules or defaults."""
        return expression is not None and _plain(expression) == _plain(wanted)


def _plain(expression: str) -> str:
    """Without what PostgreSQL adds when it prints one of our expressions. They hold no AND, OR or second operator."""
    text = re.sub(r"\bAS (bound_tenant|\"?nullif\"?)", "", expression.replace("pg_catalog.", ""))
    text = re.sub(r'[\s()"]|::text(?![a-z_])', "", text.replace("NULLIF", "nullif"))
    return _DOMAIN.sub(r"\1=", text)


# A domain has its length where it says its base type; a domain over a domain further down.
_TYPE: Final = """
WITH RECURSIVE step AS (
  SELECT a.atttypid AS oid, a.atttypmod AS typmod, a.attcollation AS collation, 0 AS depth
  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped
  UNION ALL
  SELECT t.typbasetype, greatest(step.typmod, t.typtypmod), step.collation, depth + 1
  FROM step JOIN pg_type t ON t.oid = step.oid WHERE t.typtype = 'd')
SELECT format_type(base.oid, NULL) AS base, base.typmod, t.typtype = 'e' AS is_enum,
       coalesce(c.collisdeterministic, true) AS collation_is_deterministic,
       (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
        WHERE a.attrelid = $1 AND a.attname = $2) AS name
FROM (SELECT * FROM step ORDER BY depth DESC LIMIT 1) base
JOIN pg_type t ON t.oid = base.oid LEFT JOIN pg_collation c ON c.oid = base.collation
"""


async def describe_type(conn: asyncpg.Connection, relation: int, column: str) -> ColumnType:
    """The type of a column that exists; `relation` is its oid. With search_path = pg_catalog."""
    row = await conn.fetchrow(_TYPE, relation, column)
    assert row is not None
    has_length = row["base"] in ("character varying", "character", "bpchar") and row["typmod"] > 4
    return ColumnType(
        name=row["name"],
        base=row["base"],
        is_enum=row["is_enum"],
        length=row["typmod"] - 4 if has_length else None,
        collation_is_deterministic=row["collation_is_deterministic"],
    )


async def unusable_ids(conn: asyncpg.Connection, kind: ColumnType, tenants: Sequence[str]) -> list[str]:
    """Of the tenant ids those that no row of a column of this type can name, and those that another one also names.

    Each with its reason. The server itself judges: a batch at a time, halved until what it refuses is found.
    """
    if not tenants or kind.cast is None:
        return []
    found = [f"{one} (longer than {kind.length})" for one in tenants if kind.length and len(one) > kind.length]
    good = [one for one in tenants if not (kind.length and len(one) > kind.length)]
    bad = await _refused(conn, kind.name, good)
    found += [f"{one} (not a {kind.name})" for one in bad]
    if kind.cast:
        left = [one for one in good if one not in set(bad)]
        rows = await conn.fetch(
            f"SELECT array_agg(id ORDER BY id) FROM unnest($1::text[]) id GROUP BY id::{kind.cast} HAVING count(*) > 1",
            left,
        )
        found += [f"{' and '.join(row[0])} (the same {kind.name})" for row in rows]
    return found


async def _refused(conn: asyncpg.Connection, kind: str, tenants: list[str]) -> list[str]:
    if not tenants:
        return []
    try:
        async with conn.transaction():
            await conn.fetchval(f"SELECT count(id::{kind}) FROM unnest($1::text[]) id", tenants)
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
        if len(tenants) == 1:
            return tenants
        half = len(tenants) // 2
        return [*await _refused(conn, kind, tenants[:half]), *await _refused(conn, kind, tenants[half:])]
    return []
