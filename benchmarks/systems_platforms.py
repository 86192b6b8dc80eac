"""What do the tenants of each reference platform do, in its own tables and by its own doors? And what lets them out?

Values of every row that an operation returns name their owner: a mark, or the owner that the database itself knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.systems_doors import READS, Door, Library, OverHttp, Port, Service
from tenantproxy.demo import bitnexus, buildflow, nexus, productions
from tenantproxy.demo.productions_stage import bearer
from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.demo.tour import SystemStep

__all__ = ["PLATFORMS", "Kind", "Platform", "Sql"]

Found = Sequence[tuple[str, str, int]]
"""Of each marked row: whose it is, its mark, and how many rows belong to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """`write`, `child` and `read` take a mark. `found`: all of it, as a superuser sees it."""

    write: str
    child: str
    read: str
    list: str
    join: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One that serves. `places`: databases whose rows are counted at the end, and whose all of them are, or ``."""

    tenants: Sequence[str]
    doors: Callable[[str], Sequence[Door]]
    sql: Sql
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`steps` of its tour make it ready. `plant` takes away what keeps its tenants apart; `planted` says what that is.

    `is_open`: all read one another's rows. `has_pooler`: PgBouncer says in its own way that the server is away.
    """

    size: int
    steps: Sequence[SystemStep[SystemStage]]
    ready: Callable[[SystemStage], Awaitable[Platform]]
    plant: Callable[[SystemStage], Awaitable[None]]
    planted: str
    is_open: bool = False
    has_pooler: bool = False


async def _at(stage: SystemStage, database: str, *statements: str) -> None:
    conn = await stage.world.connect(database)
    try:
        for each in statements:
            await conn.execute(each)
    finally:
        await conn.close()


# --- BuildFlow: a database for each agency ---------------------------------------------------------------------------
_BUILDFLOW: Final = Sql(
    write="INSERT INTO projects (name) VALUES ($1)",
    child="INSERT INTO tasks (project_id, title) SELECT id, name FROM projects WHERE name = $1",
    read="SELECT current_database()::text, name FROM projects WHERE name = $1",
    list="SELECT current_database()::text, name FROM projects LIMIT 20",
    join="SELECT current_database()::text, p.name, t.title FROM tasks t JOIN projects p ON p.id = t.project_id"
    " LIMIT 20",
    found="SELECT current_database()::text, p.name, (SELECT count(*) FROM tasks t WHERE t.project_id = p.id)"
    " FROM projects p WHERE p.name LIKE '%/%'",
)  # fmt: skip


async def _buildflow(stage: SystemStage) -> Platform:
    names: list[str] = stage.kept["agencies"]
    for name in names:
        await _at(stage, name, "CREATE INDEX bench ON projects (name)", f"UPDATE tasks SET title = '{name}'")

    def doors(name: str) -> Sequence[Door]:
        headers = {**bearer(stage.kept["tokens"][name]), "X-Agency-Database": name}
        service = Service(stage, "/api/projects", lambda mark: {"name": mark}, **headers)
        return Library("library", stage.router.tenant(name)), service

    return Platform(tenants=names, doors=doors, sql=_BUILDFLOW, places={name: name for name in names})


async def _plant_buildflow(stage: SystemStage) -> None:
    """As if an operator had dropped a rule of the registry, and then mistaken one agency's database for another's."""
    one, other, *_ = stage.kept["agencies"]
    await _at(
        stage, stage.router.settings.main.database, "DROP INDEX tenantproxy.tenants_database_any_case",
        f"UPDATE tenantproxy.tenants SET database = '{other}', role = '{other}' WHERE id = '{one}'",
    )  # fmt: skip


# --- NEXUS: one database for all -------------------------------------------------------------------------------------
_PEOPLE: Final = ("ann", "max", "uma")
_NEXUS: Final = Sql(
    write="INSERT INTO accounts (user_id, account_name, account_number, account_type)"
    " SELECT id, $1::text, $1::text, 'savings' FROM users WHERE username = split_part($1::text, '/', 1)",
    child="INSERT INTO transactions (account_id, amount, transaction_type, description)"
    " SELECT id, 1, 'deposit', account_name FROM accounts WHERE account_number = $1",
    read="SELECT u.username, a.account_name FROM accounts a JOIN users u ON u.id = a.user_id"
    " WHERE a.account_number = $1",
    list="SELECT u.username, l.new_values ->> 'account_name' FROM audit_logs l JOIN users u ON u.id = l.changed_by"
    " WHERE l.table_name = 'accounts' AND l.action = 'INSERT' ORDER BY l.changed_at DESC LIMIT 20",
    join="SELECT u.username, a.account_name, t.description FROM transactions t JOIN accounts a ON a.id = t.account_id"
    " JOIN users u ON u.id = a.user_id ORDER BY t.transaction_date DESC LIMIT 20",
    found="SELECT coalesce(u.username, 'an unknown person'), a.account_name,"
    " (SELECT count(*) FROM transactions t WHERE t.account_id = a.id) FROM accounts a"
    " LEFT JOIN audit_logs l ON l.table_name = 'accounts' AND l.record_id = a.id AND l.action = 'INSERT'"
    " LEFT JOIN users u ON u.id = l.changed_by WHERE a.account_name LIKE '%/%'",
)  # fmt: skip


async def _nexus(stage: SystemStage) -> Platform:
    """Its people take the place of tenants: of each row, the audit trail must say who wrote it."""
    rows = await stage.watch.fetch("SELECT datname FROM pg_database WHERE datname = 'nexus_db'")
    assert rows
    await _at(
        stage, "nexus_db",
        "UPDATE accounts SET account_name = u.username FROM users u WHERE u.id = user_id",
        "UPDATE transactions SET description = a.account_name FROM accounts a WHERE a.id = account_id",
    )  # fmt: skip
    ids = {
        row["username"]: row["id"]
        for row in await stage.router.tenant("main").fetch("SELECT username, id::text FROM users")
    }

    def doors(name: str) -> Sequence[Door]:
        context = {"app.user_id": ids[name], "app.ip_address": "192.0.2.7", "app.user_agent": "a bench"}
        service = Service(
            stage, "/accounts", lambda mark: {"account_name": mark, "account_number": mark},
            **bearer(stage.kept["tokens"][name]),
        )  # fmt: skip
        reader = stage.router.tenant("main", read_only=True)
        scope = stage.router.tenant("main", context=context)
        return Library("library", scope), Library("library, a viewer's", reader, READS), service

    return Platform(tenants=_PEOPLE, doors=doors, sql=_NEXUS, places={"nexus_db": ""})


async def _plant_nexus(stage: SystemStage) -> None:
    """The trail believes something other than what was signed."""
    await _at(
        stage, "nexus_db",
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.changed_by := (SELECT id FROM public.users WHERE username = 'ann'); RETURN NEW; END $$",
        "CREATE TRIGGER planted BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION planted()",
    )  # fmt: skip


# --- Productions: organizations in shared tables, behind PgBouncer, with a standby ------------------------------------
_PRODUCTIONS: Final = Sql(
    write="INSERT INTO productions (workspace_id, name, description)"
    " SELECT id, $1::text, $1::text FROM workspaces WHERE slug = 'main'",
    child="INSERT INTO project_tasks (workspace_id, production_id, title)"
    " SELECT workspace_id, id, name FROM productions WHERE name = $1",
    read="SELECT w.organization_id::text, p.description FROM productions p JOIN workspaces w ON w.id = p.workspace_id"
    " WHERE p.name = $1",
    list="SELECT description FROM productions LIMIT 20",
    join="SELECT p.description, t.title FROM project_tasks t JOIN productions p ON p.id = t.production_id LIMIT 20",
    found="SELECT w.organization_id::text, p.name,"
    " (SELECT count(*) FROM project_tasks t WHERE t.production_id = p.id)"
    " FROM productions p JOIN workspaces w ON w.id = p.workspace_id WHERE p.name LIKE '%/%'",
)  # fmt: skip


async def _productions(stage: SystemStage) -> Platform:
    ids: list[str] = stage.kept["organizations"]
    await _at(
        stage, "productions",
        "UPDATE productions SET description = w.organization_id::text FROM workspaces w WHERE w.id = workspace_id",
        "UPDATE project_tasks SET title = w.organization_id::text FROM workspaces w WHERE w.id = workspace_id",
        "CREATE INDEX bench_name ON productions (name)",
        "CREATE INDEX bench_parent ON project_tasks (production_id)",
    )  # fmt: skip
    owner = "SELECT user_id::text FROM organization_members WHERE organization_id = $1::text::uuid AND role = 'owner'"
    owners = {each: await stage.watch.fetchval(owner, each) for each in ids}

    def doors(each: str) -> Sequence[Door]:
        context = {
            "app.current_workspace_id": stage.kept["workspaces"][each], "app.member_role": "owner",
            "app.user_id": owners[each],
        }  # fmt: skip
        reports: Any = stage.kept["reports"]
        service = Service(
            stage, "/api/productions", lambda mark: {"name": mark, "description": mark},
            **bearer(stage.kept["tokens"][each]),
        )  # fmt: skip
        work = Library("library", stage.router.tenant(each, context=context))
        return work, Library("library, replica", reports.tenant(each, replica=True, context=context), READS), service

    return Platform(tenants=ids, doors=doors, sql=_PRODUCTIONS, places={"productions": ""})


async def _plant_productions(stage: SystemStage) -> None:
    await _at(stage, "productions", *_without_policies("productions"))


# --- BitNexus: shared tables, /sql and the port ----------------------------------------------------------------------
_BITNEXUS: Final = Sql(
    write="INSERT INTO products (sku, name) VALUES ($1::text, $1::text)",
    child="INSERT INTO transactions (product_id, amount) SELECT id, 1 FROM products WHERE sku = $1",
    read="SELECT tenant_id::text, name FROM products WHERE sku = $1",
    list="SELECT tenant_id::text, name FROM products LIMIT 20",
    join="SELECT t.tenant_id::text, p.name FROM transactions t JOIN products p ON p.id = t.product_id LIMIT 20",
    found="SELECT p.tenant_id::text, p.name, (SELECT count(*) FROM transactions t WHERE t.product_id = p.id)"
    " FROM products p WHERE p.name LIKE '%/%'",
)


async def _bitnexus(stage: SystemStage) -> Platform:
    tenants: list[str] = stage.kept["tenants"]
    await _at(
        stage, "bitnexus", "UPDATE products SET name = tenant_id::text",
        "CREATE INDEX bench_parent ON transactions (product_id)",
    )  # fmt: skip
    password = stage.world.secret("service_password")

    def doors(each: str) -> Sequence[Door]:
        return (
            Library("library", stage.router.tenant(each)), Port(stage, each, "bitnexus", password),
            OverHttp(stage, stage.kept["tokens"][each], each),
        )  # fmt: skip

    return Platform(tenants=tenants, doors=doors, sql=_BITNEXUS, places={"bitnexus": ""})


async def _plant_bitnexus(stage: SystemStage) -> None:
    await _at(stage, "bitnexus", *_without_policies("products"))


def _without_policies(table: str) -> tuple[str, ...]:
    return f"CREATE POLICY planted ON {table} USING (true)", f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"


PLATFORMS: Final[Mapping[str, Kind]] = {
    "buildflow": Kind(
        size=25, steps=buildflow.STEPS[:2], ready=_buildflow, plant=_plant_buildflow,
        planted="the registry sends one agency to another's database",
    ),
    "nexus": Kind(
        size=1, steps=nexus.STEPS[:2], ready=_nexus, plant=_plant_nexus, is_open=True,
        planted="the audit trail takes one person for all",
    ),
    "productions": Kind(
        size=12, steps=productions.STEPS[:4], ready=_productions, plant=_plant_productions, has_pooler=True,
        planted="the policy of one table is gone",
    ),
    "bitnexus": Kind(
        size=12, steps=bitnexus.STEPS[:2], ready=_bitnexus, plant=_plant_bitnexus,
        planted="the policy of one table is gone",
    ),
}  # fmt: skip
