"""Which roles are made, who owns what, and who may do what? The files 10, 20, 50 and 60. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from tenantproxy.lifecycle.init.found import InitFound, RelationFound
from tenantproxy.lifecycle.init.registry import RegistryQueries, literal
from tenantproxy.lifecycle.init.shape import Shape, TableState
from tenantproxy.lifecycle.init.sql_file import Do, SqlFile, granted, when
from tenantproxy.model import Isolation, quote_identifier
from tenantproxy.wire.scram import Verifier

__all__ = ["InitSecrets", "grants_file", "joined", "ownership_file", "roles_file", "server_file"]

_MAINTENANCE = ("postgres", "template1")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitSecrets:
    """What is written into files of their own: passwords of the router and, derived from a key, of the tenants' role.

    `admin_password`: None where the DSN has none.
    """

    router_password: str = field(repr=False)
    tenants_password: str = field(repr=False)
    admin_password: str | None = field(repr=False)


def roles_file(shape: Shape, secrets: InitSecrets) -> SqlFile:
    """The three roles; of passwords only their verifiers, from which none can be read."""
    names, is_rows = shape.names, shape.layout.isolation is Isolation.ROW
    plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    made = [(names.router, f"LOGIN NOINHERIT {plain}", secrets.router_password)]
    if is_rows:
        made += [(names.tenants, f"LOGIN NOINHERIT {plain}", secrets.tenants_password)]
        made += [(names.owner, f"NOLOGIN {plain}", "")]
    statements = []
    for name, options, password in made:
        role = quote_identifier(name)
        secret = f" PASSWORD '{_verifier(password)}'" if password else ""
        missing = f"NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(name)})"
        statements.append(Do(when(missing, f"CREATE ROLE {role} {options}{secret}"), f"DROP ROLE IF EXISTS {role}"))
    if is_rows and not shape.found.server.is_super:
        owner = quote_identifier(names.owner)
        exists = f"EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(names.owner)})"
        undo = when(exists, f"REVOKE {owner} FROM CURRENT_USER")
        statements.append(Do(f"GRANT {owner} TO CURRENT_USER", undo))
    about = ["Roles: none of them is a superuser or passes row-level security.", f"{names.router} reads the registry."]
    if is_rows:
        about += [
            f"{names.tenants} runs tenants' SQL, and owns nothing.",
            f"{names.owner} owns the tables; nothing logs in as it.",
        ]
    return SqlFile(number=10, name="roles", about=tuple(about), statements=tuple(statements))


def _verifier(password: str) -> str:
    """The same each time, so that a file that is written again is the same; the password is 32 random bytes."""
    salt = hashlib.sha256(b"tenantproxy init\0" + password.encode()).digest()[:16]
    return Verifier.of_password(password, salt=salt).text()


def joined(found: InitFound, owners: Collection[str], statements: Sequence[Do]) -> list[Do]:
    """The statements, while the user that runs them is a member of the owners of what they change."""
    join = [
        quote_identifier(role.name)
        for role in found.roles
        if role.name in owners and not role.is_mine and role.may_join and not found.server.is_super
    ]
    first = [Do(f"GRANT {role} TO CURRENT_USER", f"REVOKE {role} FROM CURRENT_USER") for role in join]
    last = [Do(f"REVOKE {role} FROM CURRENT_USER", f"GRANT {role} TO CURRENT_USER") for role in join]
    return [*first, *statements, *last] if statements else []


# --- ownership -------------------------------------------------------------------------------------------------------
def ownership_file(shape: Shape) -> SqlFile:
    """Everything belongs to a role that nothing logs in as; who owned it is a member, and works on."""
    found, owner = shape.found, quote_identifier(shape.names.owner)
    schemas = sorted({each.schema for each in found.things})
    statements = [granted("USAGE, CREATE", f"SCHEMA {quote_identifier(schema)}", owner) for schema in schemas]
    statements += [Do(f"GRANT {owner} TO {role}", f"REVOKE {owner} FROM {role}") for role in _members(shape)]
    statements += list(_owned(shape, owner))
    statements += list(_definers(shape))
    about = (
        f"Ownership: tables, views, sequences, functions and types go to {shape.names.owner}.",
        "Who owned them becomes its member, and works on as before, until file 90 is run.",
        "Materialized views and SECURITY DEFINER functions stay: they run with the rights of their owner.",
    )
    databases = [each.owner for each in found.databases if each.name == found.server.database]
    owners = [*shape.former, *(each.owner for each in found.schemas), *databases]
    return SqlFile(number=20, name="ownership", about=about, statements=tuple(joined(found, owners, statements)))


def _members(shape: Shape) -> list[str]:
    superusers = {role.name for role in shape.found.roles if role.is_super}
    user = shape.found.server.user  # file 10 made it a member already
    return [quote_identifier(name) for name in shape.former if name not in superusers and name != user]


def _owned(shape: Shape, owner: str) -> Iterator[Do]:
    kinds = {"r": "TABLE", "p": "TABLE", "f": "FOREIGN TABLE", "v": "VIEW", "S": "SEQUENCE"}
    found = shape.found
    for each in sorted(found.relations, key=lambda one: (one.kind == "v", one.label)):
        if each.kind in kinds and not each.is_owned and each.owner != shape.names.owner:
            word, former = kinds[each.kind], quote_identifier(each.owner)
            yield Do(f"ALTER {word} {each.sql} OWNER TO {owner}", f"ALTER {word} {each.sql} OWNER TO {former}")
            yield from _kept_rights(shape, each)
    for routine in found.routines:
        if not routine.is_definer:
            former = quote_identifier(routine.owner)
            yield Do(
                f"ALTER ROUTINE {routine.name} OWNER TO {owner}", f"ALTER ROUTINE {routine.name} OWNER TO {former}"
            )
    for kind in found.types:
        former = quote_identifier(kind.owner)
        yield Do(f"ALTER TYPE {kind.name} OWNER TO {owner}", f"ALTER TYPE {kind.name} OWNER TO {former}")


def _kept_rights(shape: Shape, relation: RelationFound) -> Iterator[Do]:
    """A role that inherits nothing has nothing of a membership, until it says SET ROLE."""
    role = shape.found.role(relation.owner)
    if role is not None and not role.inherits and not role.is_super:
        word = "SEQUENCE" if relation.kind == "S" else "TABLE"
        yield granted("ALL", f"{word} {relation.sql}", quote_identifier(role.name))


def _definers(shape: Shape) -> Iterator[Do]:
    """Functions with the rights of their owner, who is let through by the policies: for those who had them alone."""
    schemas = sorted({each.schema for each in shape.found.things})
    path = ", ".join(["pg_catalog", *map(quote_identifier, schemas), "pg_temp"])
    for routine in shape.found.routines:
        if not routine.is_definer:
            continue
        if not routine.is_fixed:
            on = f"ALTER ROUTINE {routine.name}"
            yield Do(f"{on} SET search_path = {path}", f"{on} RESET search_path")
        if routine.is_public:
            on = f"ROUTINE {routine.name}"
            if who := _others(shape, routine.owner):
                yield granted("EXECUTE", on, who)
            yield Do(f"REVOKE EXECUTE ON {on} FROM PUBLIC", f"GRANT EXECUTE ON {on} TO PUBLIC")


# --- grants ----------------------------------------------------------------------------------------------------------
def grants_file(shape: Shape, registry: RegistryQueries | None) -> SqlFile:
    """What the router and the tenants may do, and no more."""
    statements = [*_database(shape, shape.found.server.database), *_registry(shape, registry), *_tenants(shape)]
    about = ["Grants: the router reads the registry, tenants read and write their tables."]
    if shape.logins:
        about.append("PUBLIC loses the database; who may log in now is granted by name what it has through PUBLIC.")
    owners = [each.owner for each in shape.found.databases if each.name == shape.found.server.database]
    owners += [each.owner for each in shape.found.schemas]
    return SqlFile(
        number=50, name="grants", about=tuple(about), statements=tuple(joined(shape.found, owners, statements))
    )


def _others(shape: Shape, owner: str) -> str:
    """All that may log in now, as a list for GRANT; an owner has what it has by itself."""
    return ", ".join(quote_identifier(name) for name in shape.logins if name != owner)


def _database(shape: Shape, name: str, *, mighty: bool = False) -> Iterator[Do]:
    """CONNECT by name, and nothing for PUBLIC. `mighty`: a superuser runs it."""
    found, database = shape.found, f"DATABASE {quote_identifier(name)}"
    here = name == found.server.database
    ours = [shape.names.router] if here else []
    if here and shape.layout.isolation is Isolation.ROW:
        ours.append(shape.names.tenants)
    if ours:
        yield granted("CONNECT", database, ", ".join(map(quote_identifier, ours)))
    at = next((each for each in found.databases if each.name == name), None)
    owner = found.role(at.owner) if at is not None else None
    may = mighty or (at is not None and at.is_mine) or (owner is not None and owner.may_join)
    if at is None or not at.public_rights or not may:
        return
    rights = ", ".join(at.public_rights)
    if who := _others(shape, at.owner):
        yield granted(rights, database, who)
    yield Do(f"REVOKE ALL ON {database} FROM PUBLIC", f"GRANT {rights} ON {database} TO PUBLIC")


def _registry(shape: Shape, registry: RegistryQueries | None) -> Iterator[Do]:
    table, router = shape.layout.registry, quote_identifier(shape.names.router)
    if table is None or registry is None:
        return
    yield granted("USAGE", f"SCHEMA {quote_identifier(table.schema)}", router)
    columns = ", ".join(map(quote_identifier, registry.columns))
    yield granted(f"SELECT ({columns})", f"TABLE {table.sql}", router)
    if table.label in {each.label for each in shape.guarded}:
        name = "tenantproxy_router"
        drop = f"DROP POLICY IF EXISTS {name} ON {table.sql}"
        yield Do(drop)
        yield Do(f"CREATE POLICY {name} ON {table.sql} FOR SELECT TO {router} USING (true)", drop)


def _tenants(shape: Shape) -> Iterator[Do]:
    tenants, found = quote_identifier(shape.names.tenants), shape.found
    for schema in found.schemas:
        if schema.public_creates:
            on = f"SCHEMA {quote_identifier(schema.name)}"
            if who := _others(shape, schema.owner):
                yield granted("CREATE", on, who)
            yield Do(f"REVOKE CREATE ON {on} FROM PUBLIC", f"GRANT CREATE ON {on} TO PUBLIC")
    if shape.layout.isolation is not Isolation.ROW:
        return
    for each in found.relations:
        yield from _without_public(shape, each)
    for table in shape.of(TableState.TENANTS):
        yield from (taken_back(change.sql) for change in table.changes if change.sql.startswith(("GRANT", "REVOKE")))
        parts = [] if table.facts is None else [found.relation(each.name) for each in table.facts.relations]
        if parts and parts[0] is not None and parts[0].public_rights:  # what PUBLIC had, the installer does not grant
            yield granted("SELECT, INSERT, UPDATE, DELETE", f"TABLE {parts[0].sql}", tenants)
    for label in [*(table.label for table in shape.of(TableState.SHARED)), *shape.readable]:
        relation = found.relation(label)
        if relation is not None:
            yield granted("USAGE", f"SCHEMA {quote_identifier(relation.schema)}", tenants)
            yield granted("SELECT", f"TABLE {relation.sql}", tenants)


def _without_public(shape: Shape, relation: RelationFound) -> Iterator[Do]:
    """What PUBLIC may do, tenants may: those who log in now keep it by name."""
    if relation.public_rights:
        on = f"{'SEQUENCE' if relation.kind == 'S' else 'TABLE'} {relation.sql}"
        rights = ", ".join(relation.public_rights)
        if who := _others(shape, relation.owner):
            yield granted(rights, on, who)
        yield Do(f"REVOKE ALL ON {on} FROM PUBLIC", f"GRANT {rights} ON {on} TO PUBLIC")


def taken_back(statement: str) -> Do:
    """A GRANT or REVOKE of the installer's, with the other one of them."""
    word, _, rest = statement.partition(" ")
    if word == "GRANT":
        rights, _, role = rest.rpartition(" TO ")
        return Do(statement, f"REVOKE {rights} FROM {role}")
    rights, _, role = rest.rpartition(" FROM ")
    return Do(statement, f"GRANT {rights} TO {role}")


# --- the server ------------------------------------------------------------------------------------------------------
def server_file(shape: Shape, closing: Sequence[str]) -> SqlFile:
    """What a superuser alone can do. `closing`: REVOKE of functions from PUBLIC in this database."""
    logins = _others(shape, "")
    statements: list[Do] = []
    for statement in closing:
        if statement.startswith("REVOKE"):
            functions = statement.removeprefix("REVOKE ").removesuffix(" FROM PUBLIC")
            if logins:
                statements.append(Do(f"GRANT {functions} TO {logins}", f"REVOKE {functions} FROM {logins}"))
            statements.append(Do(statement, f"GRANT {functions} TO PUBLIC"))
        elif shape.layout.isolation is Isolation.ROW:  # file 30 made the keeper
            statements.append(taken_back(statement))
    for name in _MAINTENANCE:
        if name != shape.found.server.database:
            statements += _database(shape, name, mighty=True)
    about = (
        "For a superuser, in this database: functions that reach other sessions or run text as SQL, and the databases",
        "that every server has, are closed to PUBLIC. Who may log in now keeps them, by name.",
    )
    return SqlFile(number=60, name="server", about=about, statements=tuple(statements))
