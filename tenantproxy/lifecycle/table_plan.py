"""What is still to be done until each tenant sees and writes only its own rows of a table? Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from tenantproxy.errors import Problem
from tenantproxy.lifecycle.change import Change, ChangePlan
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.table_facts import Access, Relation, TableFacts
from tenantproxy.model import quote_identifier

__all__ = ["POLICIES", "isolation_changes", "plan_table"]

_RESTRICTIVE: Final = {True: "tenantproxy_signed", False: "tenantproxy_setting"}
POLICIES: Final = ("tenantproxy", *_RESTRICTIVE.values())
"""The names of our policies: alone on a table; RESTRICTIVE next to others, signed; the same on the plain setting."""

_COMMANDS: Final = {"a": "INSERT", "r": "SELECT", "w": "UPDATE", "d": "DELETE"}
_SETTING: Final = re.compile(r"current_setting\('([^']+)'")
_NO_TABLE: Final = {
    "v": (
        "is a view, and policies stand on tables",
        "name its tables, and create it WITH (security_invoker = true)",
    ),
    "m": (
        "is a materialized view, and no policy can stand on it",
        "take it from the role that tenants' SQL runs as",
    ),
    "f": ("is a foreign table, and no policy can stand on it", "isolate it on the server where it is"),
}


def no_table(kind: str, table: str) -> Problem:
    """Why a relation of another kind than a table cannot be isolated."""
    problem, fix = _NO_TABLE.get(kind, ("is not a table", "name a table"))
    return Problem(key=f"--table {table}", problem=problem, fix=fix)


def plan_table(
    facts: TableFacts,
    comparison: Comparison,
    *,
    unusable: Sequence[str] = (),
    creating: Collection[str] = (),
    also: Sequence[Change] = (),
) -> ChangePlan:
    """The plan of one table and its partitions.

    `unusable`: registered tenants that its column cannot name; `creating`: roles that are about to be created.
    `also`: what else its owner has to do, behind the policies.
    """
    root = facts.relations[0]
    problems = [*_problems(facts, unusable, creating, names_tenant=comparison.parent is None)]
    if problems:
        return ChangePlan(problems=tuple(problems))
    cast = facts.kind.cast or ""
    changes: list[Change] = []
    for relation in facts.relations:
        if relation.kind != "f":
            changes += isolation_changes(relation, quote_identifier(facts.column), cast, comparison)
            changes += _default(relation, quote_identifier(facts.column), cast, comparison)
    changes += also
    changes += _indexes(facts)
    for access in facts.access:
        changes += _grants(facts, access)
    missing = tuple(_missing(facts)) if changes else ()
    return ChangePlan(changes=tuple(changes), notes=tuple(_notes(facts, root, comparison)), missing=missing)


def isolation_changes(relation: Relation, column: str, cast: str, comparison: Comparison) -> Iterator[Change]:
    """The policy, and row-level security for the owner too. `column` is quoted.

    Permissive policies add up, so ours is RESTRICTIVE where others apply to tenants. Never a TO clause: any
    tenant may run DROP OWNED BY the role of all tenants, which drops every policy TO it.
    """
    rule = comparison.rule(column, cast)
    ours = [policy for policy in relation.policies if policy.name in POLICIES]
    is_restrictive = any(
        policy.permissive and policy.applies for policy in relation.policies if policy.name not in POLICIES
    )
    name = _RESTRICTIVE[comparison.signed] if is_restrictive else "tenantproxy"
    good = [
        policy
        for policy in ours
        if (policy.name, policy.permissive, policy.command, policy.for_all_roles)
        == (name, not is_restrictive, "*", True)
        and comparison.says(policy.reads, rule)
        and comparison.says(policy.writes, rule)
    ]
    for policy in ours:
        if policy not in good:
            what = f"{relation.name}: drop the policy {policy.name}, which says something else"
            yield Change(what=what, sql=f"DROP POLICY {policy.name} ON {relation.name}")
    if not good:
        manner = "RESTRICTIVE" if is_restrictive else "PERMISSIVE"
        yield Change(
            what=f"{relation.name}: {manner.lower()} policy {name}",
            sql=f"CREATE POLICY {name} ON {relation.name} AS {manner} USING ({rule}) WITH CHECK ({rule})",
        )
    if not (relation.enabled and relation.forced):
        yield Change(
            what=f"{relation.name}: row-level security, for its owner too",
            sql=f"ALTER TABLE {relation.name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )


def _default(relation: Relation, column: str, cast: str, comparison: Comparison) -> Iterator[Change]:
    wanted = comparison.default(cast)
    if wanted is None or not relation.settable or comparison.says(relation.default, wanted):
        return
    instead = "" if relation.default is None else f", instead of {relation.default}"
    yield Change(
        what=f"{relation.name}: {column} is the session's tenant by default{instead}",
        sql=f"ALTER TABLE ONLY {relation.name} ALTER COLUMN {column} SET DEFAULT {wanted}",
    )


def _indexes(facts: TableFacts) -> Iterator[Change]:
    """Leaves first, one at a time and without blocking writers; the parent's then only takes them in."""
    column = quote_identifier(facts.column)
    for relation in facts.relations[::-1]:
        if relation.has_index or relation.kind == "f":
            continue
        for broken in relation.broken:
            what = f"{relation.name}: drop the index {broken}, whose build failed"
            yield Change(what=what, sql=f"DROP INDEX CONCURRENTLY {broken}", concurrently=True)
        word = "CONCURRENTLY " if relation.kind == "r" else ""  # not possible on a partitioned table, and quick there
        what = f"{relation.name}: index on {column}"
        yield Change(what=what, sql=f"CREATE INDEX {word}ON {relation.name} ({column})", concurrently=True)


def _grants(facts: TableFacts, access: Access) -> Iterator[Change]:
    table, role = facts.relations[0].name, quote_identifier(access.role)
    if not access.sees_schema:
        schema = quote_identifier(facts.schema)
        yield Change(what=f"{schema}: {role} may look into it", sql=f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    if access.lacks:
        rights = ", ".join(access.lacks)
        yield Change(what=f"{table}: {role} may {rights}", sql=f"GRANT {rights} ON {table} TO {role}")
    if access.excess:  # no policy holds TRUNCATE back
        rights = ", ".join(access.excess)
        every = ", ".join(relation.name for relation in facts.relations)  # parts can be emptied by themselves
        yield Change(what=f"{table}: {role} may no longer {rights}", sql=f"REVOKE {rights} ON {every} FROM {role}")
    for sequence in access.sequences:
        yield Change(what=f"{sequence}: {role} may use it", sql=f"GRANT USAGE ON SEQUENCE {sequence} TO {role}")


def _problems(
    facts: TableFacts, unusable: Sequence[str], creating: Collection[str], *, names_tenant: bool
) -> Iterator[Problem]:
    root = facts.relations[0]
    key = f"--table {root.name}"
    if facts.parent is not None:
        problem = f"is a part of {facts.parent}, where its rows would still be read"
        yield Problem(key=key, problem=problem, fix=f"name {facts.parent}: its parts go with it")
    if names_tenant and (objection := facts.kind.objection()) is not None:
        fix = "name the column that says whose a row is: of type uuid, text, varchar, bigint or integer"
        yield Problem(key=f"{key} --column {facts.column}", problem=objection, fix=fix)
    if root.identity:
        problem, fix = "is numbered by PostgreSQL itself", "name the column that says whose a row is"
        yield Problem(key=f"{key} --column {facts.column}", problem=problem, fix=fix)
    if unusable:
        shown = ", ".join(unusable[:10]) + (f" and {len(unusable) - 10} more" if len(unusable) > 10 else "")
        problem = f"is {facts.kind.name}, and registered tenants cannot be told apart by it: {shown}"
        fix = "register those tenants under ids that the column can hold, or change its type"
        yield Problem(key=f"{key} --column {facts.column}", problem=problem, fix=fix)
    for access in facts.access:
        if not access.exists and access.role not in creating:
            fix = "create it: CREATE ROLE ... LOGIN NOINHERIT, or let `tenantproxy install --roles` do it"
            yield Problem(key=f"role {access.role}", problem="does not exist, and tenants' SQL runs as it", fix=fix)
        if access.mighty:
            problem = "is a superuser or has BYPASSRLS: no policy would hold it back"
            fix = "let tenants' SQL run as a role with NOSUPERUSER NOBYPASSRLS that owns nothing"
            yield Problem(key=f"role {access.role}", problem=problem, fix=fix)
            continue
        for relation in facts.relations:
            if relation.owner in access.owns:
                yield _owned(relation, access.role)


def _owned(relation: Relation, role: str) -> Problem:
    through = "" if relation.owner == role else f" (a member of its owner {relation.owner})"
    return Problem(
        key=f"--table {relation.name}",
        problem=f"belongs to {role}{through}, the role that tenants' SQL runs as: an owner can switch row-level"
        " security off, and connections of such a role are refused",
        fix=f"give it to a role that no tenant's SQL runs as: ALTER TABLE {relation.name} OWNER TO ...",
    )


def _missing(facts: TableFacts) -> Iterator[Problem]:
    key, user = f"user {facts.user}", quote_identifier(facts.user)
    for relation in facts.relations:
        if not relation.is_mine:
            owner = quote_identifier(relation.owner)
            problem = f"may not change {relation.name}, which belongs to {owner}"
            fix = f"GRANT {owner} TO {user}, or name {owner} or a superuser in [servers.NAME.admin]"
            yield Problem(key=key, problem=problem, fix=fix)
    schema = quote_identifier(facts.schema)
    if not facts.may_index and not all(relation.has_index for relation in facts.relations):
        fix = f"GRANT CREATE ON SCHEMA {schema} TO {user}"
        yield Problem(key=key, problem=f"may not create an index in the schema {schema}", fix=fix)
    if not facts.may_open_schema and not all(access.sees_schema for access in facts.access):
        fix = f"GRANT USAGE ON SCHEMA {schema} TO {user} WITH GRANT OPTION"
        yield Problem(key=key, problem=f"may not grant USAGE on the schema {schema}", fix=fix)


def _notes(facts: TableFacts, root: Relation, comparison: Comparison) -> Iterator[str]:
    for relation in facts.relations:
        if relation.kind == "f":
            yield f"{relation.name} is a foreign table: no policy can stand on it, so grant it to no role of tenants"
        yield from _policy_notes(relation, comparison)
    if root.nullable:
        yield f"{root.name}: {facts.column} may be NULL, and such rows are no tenant's: no tenant sees them"
    for access in facts.access:
        if access.excess_of_public:
            rights = ", ".join(access.excess_of_public)
            yield f"{root.name}: PUBLIC, so {access.role} too, may {rights}, which no policy holds back: revoke it"
    if facts.others:
        who = ", ".join(facts.others)
        yield f"{root.name}: also granted to {who}, who will see nothing without BYPASSRLS: they are bound to no tenant"


def _policy_notes(relation: Relation, comparison: Comparison) -> Iterator[str]:
    others = [policy for policy in relation.policies if policy.name not in POLICIES and policy.applies]
    permissive = [policy for policy in others if policy.permissive]
    for policy in permissive:
        if "true" in (policy.reads, policy.writes):
            yield (
                f"{relation.name}: the policy {policy.name} is open to everything; only the restrictive"
                " policy next to it keeps tenants apart"
            )
    for policy in others:
        for setting in _SETTING.findall(f"{policy.reads} {policy.writes}"):
            if setting != comparison.setting:
                yield (
                    f"{relation.name}: the policy {policy.name} reads the setting {setting}, which we do not set"
                    f" ([row] setting is {comparison.setting})"
                )
    if permissive and not any(policy.command == "*" for policy in permissive):
        covered = {policy.command for policy in permissive}
        closed = ", ".join(word for letter, word in _COMMANDS.items() if letter not in covered)
        if closed:
            yield f"{relation.name}: no policy of yours allows {closed}, so tenants cannot do that"
