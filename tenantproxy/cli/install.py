"""What does `tenantproxy install` do, in which order, and how is it shown, printed as SQL, or run?

First whatever is wrong anywhere is told, all at once, and nothing is done; then roles, our own things, tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import asyncpg

from tenantproxy.cli import deploy
from tenantproxy.cli.exposure import exposure_notes
from tenantproxy.cli.roles import RoleWork, password_check, reader_steps, role_work
from tenantproxy.config import Settings, fleet_key
from tenantproxy.errors import ConfigurationError, Problem, RegistryUnavailable, TenantProxyError
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.change import ChangePlan, script
from tenantproxy.lifecycle.column_type import Comparison
from tenantproxy.lifecycle.fleet import fleet_script
from tenantproxy.lifecycle.install import missing_rights
from tenantproxy.lifecycle.install_sql import auth_sql, context_sql, registry_sql
from tenantproxy.lifecycle.login_roles import plan_login
from tenantproxy.lifecycle.lookup import lookup_statements
from tenantproxy.lifecycle.provisioner import functions_closing
from tenantproxy.lifecycle.tables import TableRequest, install_tables, plan_tables
from tenantproxy.model import Isolation, Tenant

__all__ = ["Mode", "Report", "Request", "run_install"]


class Mode(StrEnum):
    """Do it, say what would be done, or print it as SQL."""

    RUN = "run"
    DRY = "dry_run"
    SQL = "print_sql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was typed. `tables` with their columns; `all_with`: columns, for every table that has one."""

    databases: tuple[str, ...] = ()
    closing: bool = True
    tables: tuple[tuple[str, str], ...] = ()
    all_with: tuple[str, ...] = ()
    roles: bool = False
    mode: Mode = Mode.RUN
    with_keys: bool = False


@dataclass(slots=True)
class Report:
    """What was done, or would be; each row with server, database and role. `sql` is for psql. Filled step by step."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    sql: list[str] = field(default_factory=list)

    def add(self, plan: ChangePlan, *, server: str, database: str, role: str, mode: Mode) -> None:
        """What a plan of a database says; in the mode RUN it has been carried out."""
        where = {"server": server, "database": database}
        word = "installed" if mode is Mode.RUN else "would_install"
        self.rows += [{word: change.what, **where, "role": role} for change in plan.changes]
        self.notes += [{"note": note, **where} for note in plan.notes]
        if mode is not Mode.RUN:
            self.notes += [{"note": str(problem), **where} for problem in plan.missing]
        self.say_sql(server, database, script(plan.changes))

    def say_sql(self, server: str, database: str, text: str) -> None:
        """SQL for one database; psql's own command chooses it."""
        if text:
            name = database.replace('"', '""')
            self.sql.append(f'-- server {server}\n\\connect "{name}"\n{text}')


async def run_install(settings: Settings, request: Request) -> Report:
    """Do, show or print what `request` asks for. Raises ConfigurationError with everything that forbids it, at once."""
    work = _Work(settings, request)
    if request.mode is Mode.RUN:
        try:
            await work.run()
        except asyncpg.LockNotAvailableError as exc:
            raise TenantProxyError(
                "a lock was not to be had in time, so not everything is installed",
                detail=exc.args[0] if exc.args else None,
                hint="end the transaction that holds it (pg_stat_activity, the oldest xact_start), and install again",
            ) from exc
    else:
        await work.show()
    return work.report


class _Work:
    """One run. State: the report."""

    def __init__(self, settings: Settings, request: Request) -> None:
        self.report = Report()
        self._settings = settings
        self._request = request

    async def run(self) -> None:
        settings, request = self._settings, self._request
        deploy.targets(settings, request.databases, ())  # refuses names of none, before anything is changed
        if request.roles:  # the role that reads what is put into the main database
            await self._done(await role_work(settings, ()))
        places = [(settings.main.server, settings.main.database)] if deploy.needs_main(settings) else []
        _refuse(await _missing_rights(settings, places))
        self.report.rows += await deploy.install_main(settings)
        tenants = await deploy.registered(settings)
        roles = await role_work(settings, tenants) if request.roles else RoleWork()
        tables = list(_table_requests(settings, request, tenants, roles.creating))
        found = deploy.targets(settings, request.databases, tenants)
        if not settings.row.signed and (request.roles or tables):
            found = []  # there is no signed context to install
        deploy.check_signed(settings, found)
        rights = await _missing_rights(settings, [(target.server, target.database) for target in found])
        _refuse([*roles.plans(), *await _table_plans(settings, tables), *rights])
        await self._done(roles)
        self.report.rows += await deploy.install_contexts(settings, found, closing=request.closing)
        for (server, database), wanted in tables:
            async with deploy.admin_connection(settings, server, database) as conn:
                plan = await install_tables(conn, wanted)
            _refuse([plan])
            self._add(plan, server, database, wanted.roles)
        if request.roles:  # they are given what the others have by now
            await self._done(RoleWork(tuple(await reader_steps(settings, tenants))))
        self.report.notes += await exposure_notes(settings, deploy.targets(settings, request.databases, tenants))

    async def show(self) -> None:
        settings, request = self._settings, self._request
        try:
            tenants = await deploy.registered(settings)
        except RegistryUnavailable:
            if not deploy.needs_registry(settings):
                raise
            tenants = []  # our table is not there yet
        roles = await role_work(settings, tenants) if request.roles else RoleWork()
        tables = list(_table_requests(settings, request, tenants, roles.creating))
        plans = await _table_plans(settings, tables)
        _refuse([ChangePlan(problems=plan.problems) for plan in [*roles.plans(), *plans]])
        self._add_roles(roles)
        self._show_main()
        if settings.row.signed:
            for target in deploy.targets(settings, request.databases, tenants):
                await self._show_context(target)
        for ((server, database), wanted), plan in zip(tables, plans, strict=True):
            self._add(plan, server, database, wanted.roles)
        if request.roles:
            self._add_roles(RoleWork(tuple(await reader_steps(settings, tenants))))
        if request.mode is Mode.DRY:
            found = deploy.targets(settings, request.databases, tenants)
            self.report.notes += await exposure_notes(settings, found)

    async def _done(self, roles: RoleWork) -> None:
        _refuse(roles.plans())
        await roles.run(self._settings)
        self._add_roles(roles)

    def _add_roles(self, roles: RoleWork) -> None:
        for step in roles.steps:
            self.report.add(
                step.plan, server=step.server, database=step.database, role=step.role, mode=self._request.mode
            )
        self.report.notes += roles.notes

    def _add(self, plan: ChangePlan, server: str, database: str, roles: Sequence[str]) -> None:
        mode = self._request.mode
        self.report.add(plan, server=server, database=database, role=", ".join(roles), mode=mode)

    def _show_main(self) -> None:
        settings, main = self._settings, self._settings.main
        role = settings.servers[main.server].user
        wanted = []
        if deploy.needs_registry(settings):
            wanted.append(("registry", registry_sql(app_role=role)))
        if deploy.needs_auth(settings):
            wanted.append(("sessions and login directory", auth_sql(app_role=role)))
        if deploy.needs_fleet(settings):
            key = fleet_key(settings.fleet, settings.row, settings.tenant_roles) if self._request.with_keys else None
            text = fleet_script(
                app_role=settings.fleet.user or role, key=key, fleet=settings.fleet.id, ttl=settings.fleet.ttl
            )
            wanted.append((f"budget of the fleet {settings.fleet.id}", text))
        for what, text in wanted:
            self._would(what, main.server, main.database, role, text)

    async def _show_context(self, target: deploy.DeployTarget) -> None:
        settings, where = self._settings, (target.server, target.database, target.role)
        secrets = deploy.context_secrets(settings)
        keys = {
            kid: derive_key(secret, server=target.server, database=target.database, kid=kid)
            for kid, secret in secrets.items()
        }
        shown = keys if self._request.with_keys else None
        trusted = settings.row.form == "trusted"
        text = context_sql(app_role=target.role, setting=settings.row.setting, keys=shown, trusted=trusted)
        async with deploy.admin_connection(settings, target.server, target.database, reading=True) as conn:
            self._would("signed context", *where, text)
            closing = await functions_closing(conn) if self._request.closing else []
        if closing:
            statements = "".join(f"{statement};\n" for statement in closing)
            self._would("closed functions", *where, f"-- as a superuser:\n{statements}")
        await self._show_lookup(target)

    async def _show_lookup(self, target: deploy.DeployTarget) -> None:
        server, query = self._settings.servers[target.server], self._settings.login.lookup_query
        if server.login is None or query is None:
            return
        user, secret = server.login.user, server.login.password
        password = secret.read() if secret is not None else None
        check = password_check(self._settings, target.server, target.database)
        async with deploy.admin_connection(self._settings, target.server, target.database, reading=True) as conn:
            self._add(await plan_login(conn, user, password or None, check), target.server, target.database, [user])
        statements = lookup_statements(
            database=target.database, login_role=user, query=query, search_path=server.search_path
        )
        text = f"-- as a superuser, when the tables of lookup_query exist:\nBEGIN;\n{''.join(statements)}COMMIT;\n"
        self._would("account lookup", target.server, target.database, user, text)

    def _would(self, what: str, server: str, database: str, role: str, text: str) -> None:
        self.report.rows.append({"would_install": what, "server": server, "database": database, "role": role})
        self.report.say_sql(server, database, text)


def _refuse(plans: Sequence[ChangePlan]) -> None:
    problems = dict.fromkeys(problem for plan in plans for problem in (*plan.problems, *plan.missing))
    if problems:
        raise ConfigurationError(problems, source="install")


async def _missing_rights(settings: Settings, places: Sequence[tuple[str, str]]) -> list[ChangePlan]:
    plans = []
    for server, database in dict.fromkeys(places):
        async with deploy.admin_connection(settings, server, database) as conn:
            plans.append(ChangePlan(missing=tuple(await missing_rights(conn))))
    return plans


async def _table_plans(settings: Settings, tables: Sequence[tuple[tuple[str, str], TableRequest]]) -> list[ChangePlan]:
    plans = []
    for (server, database), wanted in tables:
        async with deploy.admin_connection(settings, server, database, reading=True) as conn:
            plans.append(await plan_tables(conn, wanted))
    return plans


def _table_requests(
    settings: Settings, request: Request, tenants: Sequence[Tenant], creating: frozenset[str]
) -> Iterator[tuple[tuple[str, str], TableRequest]]:
    """One for each database where tables are to be isolated."""
    if not (request.tables or request.all_with):
        return
    found = deploy.targets(settings, request.databases, tenants)
    if not found:
        fix = "register one, or name the database: --database SERVER/DATABASE"
        raise ConfigurationError([Problem(key="--table", problem="there is no row tenant, so no database", fix=fix)])
    comparison = Comparison(signed=settings.row.signed, setting=settings.row.setting)
    rules = settings.migrations
    through = tuple(rules.through.items()) if rules.column in request.all_with else ()
    for place in dict.fromkeys((target.server, target.database) for target in found):
        here = [t for t in tenants if (t.placement.server, t.placement.database) == place]
        rows = [t for t in here if t.placement.isolation is Isolation.ROW]
        user = settings.servers[place[0]].user
        schemas = [s for t in here for s in (t.placement.schema, *t.systems.values()) if t not in rows]
        yield (
            place,
            TableRequest(
                tables=request.tables,
                all_with=request.all_with,
                through=through,
                parent_column=settings.migrations.column,
                roles=tuple(dict.fromkeys(t.placement.role or user for t in rows)) or (user,),
                comparison=comparison,
                tenants=tuple(t.id for t in rows),
                path=settings.servers[place[0]].search_path,
                own_schemas=tuple(s for s in schemas if s is not None),
                creating=creating,
            ),
        )
