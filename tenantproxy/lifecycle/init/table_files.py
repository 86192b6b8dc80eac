"""What is done to tables: the files 30, 40, 55, 70, 80 and 90. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from tenantproxy.lifecycle.init.found import InitFound, KeyFound, RelationFound
from tenantproxy.lifecycle.init.registry import literal
from tenantproxy.lifecycle.init.role_files import joined, taken_back
from tenantproxy.lifecycle.init.shape import PlannedTable, Shape, TableState
from tenantproxy.lifecycle.init.sql_file import Do, SqlFile, when
from tenantproxy.lifecycle.install_sql import auth_sql, context_sql
from tenantproxy.lifecycle.table_facts import Relation
from tenantproxy.model import quote_identifier

__all__ = ["FORMER", "context_file", "indexes_file", "keys_file", "old_role_file", "policies_file", "yours_file"]

FORMER: Final = "tenantproxy_former"
_OTHERS: Final = "tenantproxy_others"
_INDEX: Final = re.compile(r"CREATE INDEX (CONCURRENTLY )?ON (.+) \((.+)\)", re.S)
_POLICY: Final = re.compile(r"CREATE POLICY (\w+) ON (.+?) AS (?:PERMISSIVE|RESTRICTIVE) ", re.S)
_ACTIONS: Final = {"a": "", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}

_FORGET_CONTEXT: Final = """BEGIN;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tenantproxy_keeper') THEN
  GRANT tenantproxy_keeper TO CURRENT_USER;
END IF; END $$;
DROP SCHEMA IF EXISTS tenantproxy CASCADE;
DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tenantproxy_keeper') THEN
  REVOKE tenantproxy_keeper FROM CURRENT_USER;
END IF; END $$;
DO $$ BEGIN DROP ROLE IF EXISTS tenantproxy_keeper;
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;  -- another database of this server has it
END $$;
COMMIT;
"""


def context_file(shape: Shape, setting: str) -> SqlFile:
    """The signed context, without its keys (`--apply` stores them, and so does `tenantproxy install`), and sessions."""
    return SqlFile(
        number=30,
        name="install",
        about=(
            "What `tenantproxy install` puts into the database: functions that prove whose a session is, and tables",
            "in which the router keeps sessions and revoked tokens.",
            "The key is secret, and not in here: --apply stores it, or tenantproxy install --config FILE.",
        ),
        body=context_sql(app_role=shape.names.tenants, setting=setting, keys=None)
        + auth_sql(app_role=shape.names.router),
        undo_body=_FORGET_CONTEXT,
    )


# --- policies --------------------------------------------------------------------------------------------------------
def policies_file(shape: Shape) -> SqlFile:
    """Row-level security of every table with the tenant's column; who had access to all rows keeps it by name."""
    statements = [do for table in shape.guarded for do in _guarding(shape, table)]
    for view in shape.found.relations:
        if view.kind == "v" and not view.is_invoker:
            on = f"ALTER VIEW {view.sql}"
            statements.append(Do(f"{on} SET (security_invoker = true)", f"{on} RESET (security_invoker)"))
    about = (
        "Policies: each tenant sees and writes the rows that name it, and no others.",
        f"The policy {FORMER} lets those through who owned the tables, until file 90 is run.",
        "Views read with the rights of who asks them, so that policies hold there too.",
    )
    return SqlFile(number=40, name="policies", about=about, statements=tuple(statements))


def _guarding(shape: Shape, table: PlannedTable) -> Iterator[Do]:
    assert table.facts is not None
    for relation in table.facts.relations:
        if relation.kind != "f":
            yield from _let_through(shape, table, relation)
    for change in table.changes:
        if change.sql.startswith(("CREATE POLICY", "DROP POLICY", "ALTER TABLE")) and not change.concurrently:
            yield from _repeatable(change.sql, table.facts.relations)


def _let_through(shape: Shape, table: PlannedTable, relation: Relation) -> Iterator[Do]:
    """Where row security was on before, it let the owner through alone, and only without FORCE."""
    owners: Iterable[str] = shape.former
    if relation.enabled:
        owners = () if relation.forced else (relation.owner,)
    yield from _policy(FORMER, relation.name, owners)
    if not relation.enabled:
        yield from _policy(_OTHERS, relation.name, shape.others.get(table.label, ()))


def _policy(name: str, table: str, roles: Iterable[str]) -> Iterator[Do]:
    if who := ", ".join(map(quote_identifier, roles)):
        drop = f"DROP POLICY IF EXISTS {name} ON {table}"
        yield Do(drop)
        yield Do(f"CREATE POLICY {name} ON {table} TO {who} USING (true) WITH CHECK (true)", drop)


def _repeatable(statement: str, relations: Iterable[Relation]) -> Iterator[Do]:
    """A statement of the installer's, made so that it can be run twice, with what takes it back."""
    if found := _POLICY.match(statement):
        drop = f"DROP POLICY IF EXISTS {found[1]} ON {found[2]}"
        yield Do(drop)
        yield Do(statement, drop)
    elif statement.startswith("DROP POLICY "):
        yield Do(statement.replace("DROP POLICY ", "DROP POLICY IF EXISTS ", 1))
    elif statement.endswith("FORCE ROW LEVEL SECURITY"):
        relation = next(each for each in relations if statement.startswith(f"ALTER TABLE {each.name} "))
        off = [] if relation.forced else ["NO FORCE ROW LEVEL SECURITY"]
        off += [] if relation.enabled else ["DISABLE ROW LEVEL SECURITY"]
        yield Do(statement, f"ALTER TABLE {relation.name} {', '.join(off)}")
    else:  # the default of the column: only where none was, so that who names no tenant meets an error as before
        relation = next(each for each in relations if statement.startswith(f"ALTER TABLE ONLY {each.name} "))
        if relation.default is None and not relation.nullable:
            head, _, _ = statement.partition(" SET DEFAULT ")
            yield Do(statement, f"{head} DROP DEFAULT")


# --- indexes ---------------------------------------------------------------------------------------------------------
def indexes_file(shape: Shape) -> SqlFile:
    """An index that leads with the tenant, each built without blocking writers."""
    made = [
        do
        for table in [*shape.guarded, *shape.of(TableState.LATER)]
        for change in table.changes
        if change.concurrently and (found := _INDEX.fullmatch(change.sql))
        for do in _index(shape.found, found[1] or "", found[2], found[3])
    ]
    about = (
        "Indexes that lead with the tenant. CONCURRENTLY: writers go on, and there is no transaction around them.",
    )
    return SqlFile(number=55, name="indexes", about=about, statements=tuple(made), whole=False)


def _index(found: InitFound, manner: str, table: str, column: str) -> Iterator[Do]:
    relation = found.relation(table)
    if relation is None:
        return
    name = _hashed(relation.name, f"index {table} {column}")
    full = f"{quote_identifier(relation.schema)}.{quote_identifier(name)}"
    broken = (
        "EXISTS (SELECT FROM pg_catalog.pg_index WHERE NOT indisvalid AND indexrelid ="
        f" pg_catalog.to_regclass({literal(full)}))"
    )
    yield Do(when(broken, f"DROP INDEX {full}"))  # what an interrupted build left
    create = f"CREATE INDEX {manner}IF NOT EXISTS {quote_identifier(name)} ON {table} ({column})"
    yield Do(create, f"DROP INDEX {manner}IF EXISTS {full}")


def _hashed(name: str, what: str) -> str:
    """A name of at most 63 bytes that says where it belongs, and is no other one's."""
    kept = name.encode()[:40].decode(errors="ignore")
    return f"{kept}_tenant_{hashlib.sha256(what.encode()).hexdigest()[:8]}"


# --- for later -------------------------------------------------------------------------------------------------------
def keys_file(shape: Shape) -> tuple[SqlFile, list[str]]:
    """Foreign keys that hold the tenant too, and what cannot be one."""
    column = shape.layout.column
    guarded = {table.label: table for table in shape.of(TableState.TENANTS)}
    statements: list[Do] = []
    notes = []
    for key in shape.found.keys:
        table, target = shape.found.relation(key.table), shape.found.relation(key.target)
        if column is None or key.table not in guarded or key.target not in guarded or column in key.columns:
            continue
        if table is None or target is None or (why := _cannot(key, table, target, column)):
            notes.append(f"{key.table}: the foreign key {key.name} stays without the tenant: {why}")
            continue
        statements += _with_tenant(key, table, target, column)
    about = (
        "For later: foreign keys hold the tenant too, so that no row leads to another tenant's (doctor: TPD100).",
        "It fails, and changes nothing, where a row does so now. Each table is locked, and checked in whole.",
    )
    once = {do.sql: do for do in statements}
    return SqlFile(number=70, name="keys", about=about, statements=tuple(once.values())), notes


def _cannot(key: KeyFound, table: RelationFound, target: RelationFound, column: str) -> str:
    ours, theirs = table.column(column), target.column(column)
    if ours is None or theirs is None or ours.type != theirs.type:
        return f"{column} is of different types in the two tables"
    if key.match != "s":
        return "it is MATCH FULL"
    if key.on_update in ("n", "d"):
        return "it is ON UPDATE SET NULL or SET DEFAULT"
    if not {*key.partition_key} <= {column, *key.target_columns}:
        return f"{key.target} is partitioned by something else"
    return ""


def _with_tenant(key: KeyFound, table: RelationFound, target: RelationFound, column: str) -> Iterator[Do]:
    both = (column, *key.target_columns)
    if frozenset(both) not in key.unique_sets:
        plain = _hashed(target.name, f"unique {target.label} {both}")
        name = quote_identifier(plain)
        there = (
            f"NOT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = {literal(target.sql)}::regclass"
            f" AND conname = {literal(plain)})"
        )
        add = f"ALTER TABLE {target.sql} ADD CONSTRAINT {name} UNIQUE ({_columns(both)})"
        yield Do(when(there, add), f"ALTER TABLE {target.sql} DROP CONSTRAINT IF EXISTS {name}")
    name = quote_identifier(key.name)
    nulled = key.nulled or (key.columns if key.on_delete in ("n", "d") else ())
    drop = f"ALTER TABLE {table.sql} DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} FOREIGN KEY"
    to = f"REFERENCES {target.sql}"
    tail = _tail(key, nulled)
    yield Do(
        f"{drop} ({_columns((column, *key.columns))}) {to} ({_columns(both)}){tail}",
        f"{drop} ({_columns(key.columns)}) {to} ({_columns(key.target_columns)}){_tail(key, key.nulled)}",
    )


def _tail(key: KeyFound, nulled: tuple[str, ...]) -> str:
    text = f" ON UPDATE {_ACTIONS[key.on_update]}" if _ACTIONS[key.on_update] else ""
    if _ACTIONS[key.on_delete]:
        text += f" ON DELETE {_ACTIONS[key.on_delete]}" + (f" ({_columns(nulled)})" if nulled else "")
    text += " DEFERRABLE" if key.is_deferrable else ""
    text += " INITIALLY DEFERRED" if key.is_deferred else ""
    return text + ("" if key.is_valid else " NOT VALID")


def _columns(names: Iterable[str]) -> str:
    return ", ".join(map(quote_identifier, names))


def yours_file(shape: Shape) -> SqlFile:
    """Tables with policies of the application's: ours stand next to them, and stop its role, which is bound to none."""
    statements = []
    for table in shape.of(TableState.LATER):
        assert table.facts is not None
        for change in table.changes:
            if change.sql.startswith(("GRANT", "REVOKE")):
                statements.append(taken_back(change.sql))
            elif not change.concurrently:
                statements += _repeatable(change.sql, table.facts.relations)
    about = (
        "For later: tables that have policies of yours, which are kept. A restrictive one of tenantproxy's stands next",
        "to them, for all roles: from then on the application's former role is refused there.",
    )
    return SqlFile(number=80, name="next_to_your_policies", about=about, statements=tuple(statements))


def old_role_file(shape: Shape) -> SqlFile:
    """The end of the roles that owned everything. Not where one of them is who runs this."""
    found, owner = shape.found, quote_identifier(shape.names.owner)
    superusers = {role.name for role in found.roles if role.is_super}
    ending = [name for name in shape.former if name not in superusers and name != found.server.user]
    keeping = {each.owner for each in found.relations if each.kind == "m"}
    statements = [
        Do(
            f"ALTER ROUTINE {each.name} OWNER TO {owner}",
            f"ALTER ROUTINE {each.name} OWNER TO {quote_identifier(each.owner)}",
        )
        for each in found.routines
        if each.is_definer and each.owner in ending
    ]
    if not keeping:
        statements += [
            Do(f"DROP POLICY IF EXISTS {FORMER} ON {relation.name}")
            for table in shape.guarded
            for relation in (table.facts.relations if table.facts is not None else ())
            if relation.kind != "f"
        ]
    for name in ending:
        role = quote_identifier(name)
        if name not in keeping:
            statements.append(Do(f"REVOKE {owner} FROM {role}", f"GRANT {owner} TO {role}"))
        if (known := found.role(name)) is not None and known.logs_in:
            statements.append(Do(f"ALTER ROLE {role} NOLOGIN", f"ALTER ROLE {role} LOGIN"))
    about = [
        "For later, when nothing uses them any more: the roles that owned something no longer log in.",
        f"These are: {', '.join(map(quote_identifier, ending)) or 'none'}. Take out those that go on.",
    ]
    if keeping:
        about.append("One that owns a materialized view keeps its rights without a login: REFRESH runs as the owner.")
    else:
        about.append(f"To take it back, run 40_policies.sql again too: it makes the policies {FORMER}.")
    return SqlFile(number=90, name="old_role", about=tuple(about), statements=tuple(joined(found, ending, statements)))
