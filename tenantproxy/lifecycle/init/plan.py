"""What is to be written, and what must be said? What was found, as files, notes and what to ask for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tenantproxy.errors import ConfigurationError, Problem, TenantNotFound
from tenantproxy.lifecycle.init.dsn import GivenServer
from tenantproxy.lifecycle.init.found import ServerFound
from tenantproxy.lifecycle.init.registry import RegistryQueries
from tenantproxy.lifecycle.init.role_files import InitSecrets, grants_file, ownership_file, roles_file, server_file
from tenantproxy.lifecycle.init.shape import Shape
from tenantproxy.lifecycle.init.sql_file import SqlFile
from tenantproxy.lifecycle.init.table_files import (
    context_file,
    indexes_file,
    keys_file,
    old_role_file,
    policies_file,
    yours_file,
)
from tenantproxy.lifecycle.init.toml_file import toml_text
from tenantproxy.lifecycle.install import DEFAULT_SETTING
from tenantproxy.model import Isolation, quote_identifier, tenant_id

__all__ = ["Ask", "InitPlan", "InitRequest", "check_server", "plan_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What was typed. `shared`: tables that all tenants may read; `prefix`: of the names of roles."""

    isolation: Isolation | None = None
    column: str | None = None
    shared: tuple[str, ...] = ()
    prefix: str = "tenantproxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user of the DSN may not do, and what a superuser, or the provider, is to run. `needed`: before all."""

    what: str
    sql: str
    needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class InitPlan:
    """The files, in their order, and what is said of them."""

    shape: Shape
    registry: RegistryQueries | None
    toml: str
    files: tuple[SqlFile, ...]
    notes: tuple[str, ...]
    asks: tuple[Ask, ...]


def check_server(server: ServerFound) -> None:
    """Raises ConfigurationError where nothing can be planned: a pooler in between, our own things there already."""
    if server.is_pooled:
        problem = "leads to a connection pooler, which gives each transaction another session"
        fix = 'name PostgreSQL itself; then write pooler = "pgbouncer" in the file that is made (docs/pooler.md)'
    elif server.is_installed:
        problem = f"leads to {server.database}, where tenantproxy is installed already"
        fix = "go on with `tenantproxy doctor` and `tenantproxy install`; an interrupted --apply, with --apply again"
    elif server.version < 150_000:
        problem = f"leads to PostgreSQL {server.version // 10_000}, and isolation needs 15 or newer"
        fix = "upgrade the server first"
    else:
        return
    raise ConfigurationError([Problem(key="DSN", problem=problem, fix=fix)], source="init")


def plan_of(
    shape: Shape,
    given: GivenServer,
    registry: RegistryQueries | None,
    secrets: InitSecrets,
    *,
    closing: Sequence[str] = (),
    missing: Sequence[Problem] = (),
    ids: Sequence[str] = (),
) -> InitPlan:
    """The plan. `closing`: as `provisioner.functions_closing`; `missing`: as `install.missing_rights`.

    Raises ConfigurationError where a name cannot be written in SQL.
    """
    try:
        files, more = _files(shape, registry, secrets, closing)
    except ValueError as exc:
        problem = Problem(key="DSN", problem=f"leads to a name that no SQL can hold: {exc}", fix="rename it first")
        raise ConfigurationError([problem], source="init") from None
    listed = tuple(each for each in ids if is_tenant_id(each)) if registry is None else ()
    toml = toml_text(shape, given, registry, has_admin_password=secrets.admin_password is not None, ids=listed)
    asks = tuple(_asks(shape, files, missing))
    notes = tuple(dict.fromkeys([*_notes(shape, registry, listed), *_unnamed(ids), *more]))
    return InitPlan(shape=shape, registry=registry, toml=toml, files=files, notes=notes, asks=asks)


def _files(
    shape: Shape, registry: RegistryQueries | None, secrets: InitSecrets, closing: Sequence[str]
) -> tuple[tuple[SqlFile, ...], list[str]]:
    made = [roles_file(shape, secrets)]
    notes: list[str] = []
    if shape.layout.isolation is Isolation.ROW:
        keys, notes = keys_file(shape)
        made += [ownership_file(shape), context_file(shape, DEFAULT_SETTING), policies_file(shape)]
        made += [grants_file(shape, registry), indexes_file(shape), server_file(shape, closing)]
        made += [keys, yours_file(shape), old_role_file(shape)]
    else:
        made += [grants_file(shape, registry), server_file(shape, closing)]
    return tuple(file for file in made if file.statements or file.body), notes


def is_tenant_id(text: str) -> bool:
    """Whether a tenant can have this identifier."""
    try:
        tenant_id(text)
    except TenantNotFound:
        return False
    return True


def _unnamed(ids: Sequence[str]) -> Iterator[str]:
    """Values that no tenant can have as its identifier."""
    bad = [each for each in ids if not is_tenant_id(each)]
    if bad:
        shown = ", ".join(f"{each!a}" for each in bad[:5])
        yield f"{len(bad)} of the tenants have an identifier that cannot be one, and are not served: {shown}"


# --- what is said ----------------------------------------------------------------------------------------------------
def _notes(shape: Shape, registry: RegistryQueries | None, ids: tuple[str, ...]) -> Iterator[str]:
    layout, found = shape.layout, shape.found
    for name, count in layout.others[:5]:
        yield f"the column {name} is in {count} tables, and could have been meant: --column {name}"
    if registry is not None:
        yield from registry.notes
    elif ids:
        yield f"no table lists the tenants: the {len(ids)} that {layout.column} names are listed in the file"
    else:
        yield "no table lists the tenants, and no row names one: register them in [tenants.ID], or in a table"
    if layout.isolation is not Isolation.ROW:
        yield "each tenant gets a login role: tenantproxy install --roles --dry-run --config FILE shows which"
        return
    owners = [each for each in shape.former if (role := found.role(each)) is None or not role.is_super]
    if len(owners) > 1:
        yield f"{', '.join(owners)} own what is here: all of them become members of {shape.names.owner}"
    for table in shape.tables:
        yield from table.notes
    for label, who in shape.others.items():
        if who:
            yield f"{label}: {', '.join(who)} may use it now, and go on to see all rows"
    yield from _of_relations(shape)
    for routine in found.routines:
        if routine.is_definer:
            yield (f"{routine.name} runs with the rights of its owner, who sees all rows: it is closed to tenants"
                   + ("; as a trigger it runs for them too" if routine.is_trigger else ""))  # fmt: skip
    open_ones = [each.name for each in found.databases if each.public_rights and each.name not in
                 (found.server.database, "postgres", "template1")]  # fmt: skip
    if open_ones:
        yield f"PUBLIC may connect to other databases of this server: {', '.join(open_ones[:10])}"
    yield "pg_dump as a role without BYPASSRLS needs --enable-row-security from then on"


def _of_relations(shape: Shape) -> Iterator[str]:
    for each in shape.found.relations:
        if each.kind == "m":
            yield f"{each.label} is a materialized view, which holds the rows of all tenants: closed to them"
        elif each.kind == "f":
            yield f"{each.label} is a foreign table, on which no policy can stand: closed to tenants"
        elif each.kind == "v" and each.label not in shape.readable:
            yield f"{each.label} is a view of something that is closed to tenants, and closed too"
        if (
            each.kind == "v"
            and not each.is_invoker
            and (who := [one for one in each.grantees if one not in shape.former])
        ):
            needing = ", ".join(who)
            yield f"{each.label} reads with the rights of who asks from then on: {needing} needs those on its tables"


# --- what to ask for -------------------------------------------------------------------------------------------------
def _asks(shape: Shape, files: Sequence[SqlFile], missing: Sequence[Problem]) -> Iterator[Ask]:
    server, found = shape.found.server, shape.found
    if server.is_super:
        return
    user = quote_identifier(server.user)
    if not server.creates_roles:
        yield Ask(what=f"{server.user} may not create roles", sql=f"ALTER ROLE {user} CREATEROLE")
    if shape.layout.isolation is Isolation.ROW:
        for problem in missing:
            if "CREATEROLE" not in problem.fix:
                yield Ask(what=f"{server.user} {problem.problem}", sql=problem.fix)
        registry = shape.layout.registry
        if registry is not None and not registry.is_readable:
            what = f"{server.user} may not read {registry.label}, which lists the tenants"
            yield Ask(what=what, sql=f"GRANT {quote_identifier(registry.owner)} TO {user}")
        for name in shape.former:
            role = found.role(name)
            if role is not None and not role.is_mine and not role.may_join:
                yield Ask(
                    what=f"{server.user} may not give away what {name} owns",
                    sql=f"GRANT {quote_identifier(name)} TO {user}",
                )
    database = next((each for each in found.databases if each.name == server.database), None)
    owner = found.role(database.owner) if database is not None else None
    if database is not None and not database.is_mine and not (owner is not None and owner.may_join):
        name = quote_identifier(database.name)
        sql = f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"
        yield Ask(what=f"{server.user} may not close the database {database.name} to PUBLIC", sql=sql, needed=False)
    if any(file.number == 60 for file in files):
        what = "functions that reach other sessions are a superuser's to close, and databases those of their owners"
        yield Ask(what=what, sql="what is in sql/60_server.sql", needed=False)
