"""How are tenants kept apart now, and which table lists them? Decided from what was found, without I/O."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.init.found import ColumnFound, InitFound, RelationFound
from tenantproxy.model import Isolation

__all__ = ["Layout", "named_like_a_place", "recognise", "tenant_columns"]

_STEMS: Final = {
    "tenant": 9, "organization": 5, "organisation": 5, "org": 4, "agency": 5, "company": 4, "account": 3,
    "workspace": 3,
    "customer": 2, "client": 2, "team": 2, "shop": 3, "store": 2, "school": 3, "clinic": 3, "firm": 3, "site": 1,
    "merchant": 3, "partner": 1, "practice": 2, "hotel": 2, "community": 1, "business": 2,
}  # fmt: skip
_KEYS: Final = ("id", "uuid", "key", "code", "slug")
_PLACES: Final = frozenset(
    {
        "schema_name", "schema", "tenant_schema", "database_name", "database", "db_name", "dbname", "db", "datname",
        "tenant_database", "subdomain", "slug", "name", "code", "domain", "tenant_name", "tenant_id", "identifier",
        "id",
    }
)  # fmt: skip
_TEXT: Final = frozenset({"text", "character varying", "name", "character", "uuid"})
_TELLING: Final = ("schema", "database", "db")  # in the name of a column, so that one value is enough
_MOST: Final = 0.5  # of its values must name schemas or databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What keeps tenants apart, or is to.

    `column`: of row tenants. `registry`: the table that lists the tenants, if any; `key`: its
    column that is the tenant's identifier: what `column` refers to, or the name of a schema or database.
    """

    isolation: Isolation
    column: str | None = None
    registry: RelationFound | None = None
    key: ColumnFound | None = None
    others: tuple[tuple[str, int], ...] = ()
    """Other columns that could have been meant, and in how many tables they are."""


def named_like_a_place(column: ColumnFound) -> bool:
    """Whether a column may hold the names of schemas or databases."""
    return column.type in _TEXT and column.name.lower() in _PLACES


def tenant_columns(found: InitFound) -> list[tuple[str, int]]:
    """Columns whose name says that they name a tenant, with how many tables have them; the likeliest first."""
    counted = Counter(column.name for table in found.tables for column in table.columns if _stem(column.name))
    return sorted(counted.items(), key=lambda each: (-each[1] * _STEMS[_stem(each[0]) or ""], each[0]))


def _stem(column: str) -> str | None:
    """What a column such as company_id or tenantId speaks of."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column).lower().split("_")
    if len(words) == 1 and words[0] == "tenant":
        return "tenant"
    return words[0] if len(words) == 2 and words[0] in _STEMS and words[1] in _KEYS else None


def recognise(found: InitFound, *, wanted: Isolation | None = None, column: str | None = None) -> Layout:
    """The layout, or the one of the kind `wanted`. `column`: what says whose a row is, where it is known.

    Raises ConfigurationError where there is nothing that speaks of tenants, or not of the kind wanted.
    """
    if column is not None and wanted not in (None, Isolation.ROW):
        raise _wrong("--column", f"is of row tenants, and --tenants is {wanted}", "leave one of them out")
    for isolation in (wanted,) if wanted is not None else ((Isolation.ROW,) if column is not None else Isolation):
        layout = _OF[isolation](found, column)
        if layout is not None:
            return layout
    if column is not None:
        similar = ", ".join(name for name, _ in tenant_columns(found)) or "none that look like it"
        raise _wrong("--column", f"no table of this database has a column {column!r}", f"there are: {similar}")
    looked = "" if wanted is None else f" of the kind {wanted}"
    raise _wrong(
        "DSN",
        f"leads to a database in which no tenants{looked} are recognised: no table has a column such as tenant_id,"
        " and none lists schemas or databases",
        "name the column that says whose a row is: --column NAME; or the database in which the table of tenants is",
    )


def _wrong(key: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key=key, problem=problem, fix=fix)], source="init")


def _by_values(found: InitFound, isolation: Isolation) -> Layout | None:
    """The table whose column names schemas, or databases, of this server."""
    best: tuple[int, str, str] | None = None
    for each in found.values:
        named = each.schemas if isolation is Isolation.SCHEMA else each.databases
        enough = 1 if any(word in each.column.lower() for word in _TELLING) else 2
        if named >= max(enough, each.values * _MOST) and (best is None or named > best[0]):
            best = (named, each.table, each.column)
    if best is None:
        return None
    registry = found.relation(best[1])
    return Layout(isolation=isolation, registry=registry, key=registry.column(best[2]) if registry else None)


def _databases(found: InitFound, column: str | None) -> Layout | None:
    return _by_values(found, Isolation.DATABASE)


def _schemas(found: InitFound, column: str | None) -> Layout | None:
    return _by_values(found, Isolation.SCHEMA)


def _shared(found: InitFound, column: str | None) -> Layout | None:
    known = tenant_columns(found)
    if column is None:
        if not known:
            return None
        column = known[0][0]
    elif not any(table.column(column) for table in found.tables):
        return None
    registry, key = _referred_to(found, column) or _named_after(found, column) or (None, None)
    others = tuple(each for each in known if each[0] != column)
    return Layout(isolation=Isolation.ROW, column=column, registry=registry, key=key, others=others)


_OF: Final = {Isolation.DATABASE: _databases, Isolation.SCHEMA: _schemas, Isolation.ROW: _shared}


def _referred_to(found: InitFound, column: str) -> tuple[RelationFound, ColumnFound] | None:
    """What most foreign keys of the column lead to."""
    led = Counter((key.target, key.target_columns[0]) for key in found.keys if key.columns == (column,))
    for (label, name), _ in led.most_common():
        table = found.relation(label)
        key = table.column(name) if table is not None else None
        if table is not None and key is not None:
            return table, key
    return None


def _named_after(found: InitFound, column: str) -> tuple[RelationFound, ColumnFound] | None:
    """The table of the column's name, in the singular or the plural: `companies` of `company_id`."""
    stem = _stem(column)
    if stem is None:
        return None
    plurals = {stem, f"{stem}s", f"{stem.removesuffix('y')}ies", f"{stem}es"}
    for table in found.tables:
        if table.name.lower() in plurals and table.column(column) is None:
            for name in ("id", column, "uuid", "key", "slug", "code"):
                if (key := table.column(name)) is not None:
                    return table, key
    return None
