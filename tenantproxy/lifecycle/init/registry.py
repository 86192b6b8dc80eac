"""How is an application's own table of tenants read as a registry? Its queries, of columns that it has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantproxy.lifecycle.init.found import ColumnFound, RelationFound
from tenantproxy.lifecycle.init.recognise import Layout
from tenantproxy.model import Isolation, TenantStatus

__all__ = ["RegistryQueries", "literal", "queries", "status_column"]

_ACTIVE: Final = frozenset(
    {"active", "enabled", "live", "ok", "open", "paid", "trial", "trialing", "running", "current"}
)
_ENDED: Final = frozenset({"deleted", "archived", "removed", "terminated", "gone"})
"""No more than a name may be left of these: `deleting` is not served, and nothing is made for it."""
_STATUS: Final = ("status", "state", "tenant_status", "account_status")
_FLAGS: Final = ("is_active", "active", "enabled", "is_enabled")
_GONE: Final = ("deleted_at", "archived_at")
_ENDS: Final = ("disabled_at", "suspended_at", "deactivated_at")
_TIMES: Final = ("timestamp with time zone", "timestamp without time zone", "date")
_TIERS: Final = ("tier", "plan", "subscription_plan", "plan_name")
_REGIONS: Final = ("region",)
_WORDS: Final = ("text", "character varying", "character", "name")
_INDENT: Final = "\n         "
_LONGEST: Final = 55  # bytes of a name behind `tenant_`, which a role may have 63 of


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryQueries:
    """`query` and `list_query` of [registry], the columns that they read, and what is to be said of them."""

    query: str
    list_query: str
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


def literal(text: str) -> str:
    """`text` as a string in SQL, whatever standard_conforming_strings says: a backslash makes it an E'' string."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def status_column(registry: RelationFound) -> ColumnFound | None:
    """The column whose words say whether a tenant is served, if there is one."""
    return _first(registry, _STATUS, kinds=None)


def queries(layout: Layout, *, database: str, role: str, words: Sequence[str] = ()) -> RegistryQueries | None:
    """The queries of the layout's table of tenants; None without one.

    `database`: where row and schema tenants live; `role`: what row tenants' SQL runs as. `words`: what is in the column
    of `status_column`.
    """
    registry, key = layout.registry, layout.key
    if registry is None or key is None:
        return None
    own = f"{key.label}::text"
    parts = {"id": own, "isolation": literal(layout.isolation)}
    used = [key.name]
    if layout.isolation is Isolation.DATABASE:
        parts["database"] = own
    else:
        parts["database"] = literal(database)
    if layout.isolation is Isolation.SCHEMA:
        parts["schema"] = own
    parts["role"] = literal(role) if layout.isolation is Isolation.ROW else _role_of(own)
    status, of_status, notes = _status(registry, words)
    if status:
        parts["status"] = status
        used += of_status
    for name, candidates in (("tier", _TIERS), ("region", _REGIONS)):
        column = _first(registry, candidates, kinds=_WORDS)
        if column is not None:
            parts[name] = f"{column.label}::text"
            used.append(column.name)
    chosen = f",{_INDENT}".join(f"{sql} as {name}" for name, sql in parts.items())
    head = f"  select {chosen}\n  from {registry.label}"
    also = f" and {own} <> 'public'" if layout.isolation is Isolation.SCHEMA else ""
    return RegistryQueries(
        query=f"{head} where {own} = $1{also}",
        list_query=f"{head} where {own} > $1{also} order by {own} limit $2",
        columns=tuple(dict.fromkeys(used)),
        notes=notes,
    )


def _role_of(name: str) -> str:
    """A login role for each tenant. A long name is hashed: PostgreSQL would cut two to one."""
    return f"'tenant_' || case when octet_length({name}) <= {_LONGEST} then {name} else md5({name}) end"


def _first(registry: RelationFound, names: Iterable[str], kinds: Sequence[str] | None) -> ColumnFound | None:
    by_name: Mapping[str, ColumnFound] = {column.name.lower(): column for column in registry.columns}
    found = (by_name.get(name) for name in names)
    return next((each for each in found if each is not None and (kinds is None or each.type in kinds)), None)


def _status(registry: RelationFound, words: Sequence[str]) -> tuple[str, list[str], tuple[str, ...]]:
    """What says whether a tenant is served: a word, a flag, the time of its end, or several of them."""
    cases: list[tuple[str, str]] = []
    used = []
    for names, status in ((_GONE, "deleting"), (_ENDS, "suspended")):
        for column in _each(registry, names, _TIMES):
            cases.append((f"{column.label} is not null", status))
            used.append(column.name)
    for column in _each(registry, _FLAGS, ["boolean"]):
        cases.append((f"{column.label} is not true", "suspended"))
        used.append(column.name)
    word = status_column(registry)
    if word is None:
        return (_case(cases, "active") if cases else ""), used, ()
    cases += [(f"{word.label}::text = {literal(each)}", _meaning(each)) for each in words if _meaning(each)]
    notes: tuple[str, ...] = ()
    if not any(_meaning(each) == TenantStatus.ACTIVE for each in words):
        shown = ", ".join(words[:5]) or "the table is empty"
        what = f"{registry.label}.{word.label}: none of its values is known to mean active"
        notes = (f"{what}: no tenant is served until query and list_query say which ({shown})",)
    return _case(cases, "suspended"), [word.name, *used], notes


def _meaning(word: str) -> str:
    """The status that a word of the application's stands for; '' where it is not known, which serves no tenant."""
    low = word.lower()
    if low in _ACTIVE:
        return TenantStatus.ACTIVE
    if low in _ENDED:
        return TenantStatus.DELETING
    return low if low in set(TenantStatus) else ""


def _case(cases: Sequence[tuple[str, str]], otherwise: str) -> str:
    if not cases:
        return literal(otherwise)
    whens = f"{_INDENT}     ".join(f"when {condition} then {literal(status)}" for condition, status in cases)
    return f"case {whens}{_INDENT}     else {literal(otherwise)} end"


def _each(registry: RelationFound, names: Iterable[str], kinds: Sequence[str]) -> list[ColumnFound]:
    return [column for name in names if (column := _first(registry, [name], kinds)) is not None]
