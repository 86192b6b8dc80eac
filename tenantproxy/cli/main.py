"""Which commands are there, and how do they end? 0: done; 1: failed, with one clear message; 2: wrong usage."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import wraps
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import asyncpg
import typer
from rich.console import Console

from tenantproxy._native import data_path
from tenantproxy.cli import fleet as fleets
from tenantproxy.cli import health as healths
from tenantproxy.cli import install as installing
from tenantproxy.cli import login as logins
from tenantproxy.cli import read, tokens
from tenantproxy.cli.certificates import check_certificates
from tenantproxy.cli.output import Output
from tenantproxy.cli.shape import HELP, CliCommand, Group, with_cause
from tenantproxy.cli.shipped import DASHBOARD, EXAMPLE, RULES, shipped
from tenantproxy.config import Secret, check_classes, describe, gather, json_schema, load
from tenantproxy.config.version import VERSION
from tenantproxy.errors import TenantProxyError
from tenantproxy.model import TenantStatus

__all__ = ["main"]

P = ParamSpec("P")

app = typer.Typer(
    name="tenantproxy",
    help="Give it a tenant identifier; it lends you a PostgreSQL connection that is proven to be that tenant's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    cls=Group,
    context_settings=HELP,
)


def group(help: str, cls: type[Group] = Group) -> typer.Typer:  # noqa: A002 - as typer calls it
    """A name with commands of its own."""
    return typer.Typer(cls=cls, help=help, no_args_is_help=True, context_settings=HELP)


tenants_app = group("Look at the registered tenants.")
config_app = group("Look at the configuration.")
metrics_app = group("Alerts and a dashboard for the metrics of the sidecar.")
token_app = group("Make an access token, or see why one is refused.")


class Logins(Group):
    """`login EMAIL` next to `login reconcile`: what has an @ is no command but an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, ["as", *args] if args and "@" in args[0] else args)


login_app = group("Try a login: `login EMAIL`. Or correct the directory of accounts.", Logins)
app.add_typer(tenants_app, name="tenants")
app.add_typer(login_app, name="login")
app.add_typer(token_app, name="token")
app.add_typer(config_app, name="config")
app.add_typer(metrics_app, name="metrics")

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="TENANTPROXY_CONFIG", help="The TOML file.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
DEFAULT_CONFIG = Path("tenantproxy.toml")
_PIPED = "-"
_MOST_WORKERS = 64
# Where what a command imports comes from, beyond what [cli] has; all of it is in [sidecar].
_EXTRAS = {
    "jwt": {"jwt", "cryptography"},
    "login": {"argon2", "bcrypt"},
    "mongo": {"pymongo"},
    "sidecar": {"aiohttp", "msgspec", "prometheus_client", "structlog", "uvloop"},
}


def main() -> None:
    """The entry point of the command `tenantproxy`."""
    app()


def command(parent: typer.Typer, name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a command whose expected failures become one message on stderr and the exit code 1."""

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except ModuleNotFoundError as exc:
                _fail(_missing(exc, name))
            except TenantProxyError as exc:
                _fail(with_cause(exc))
            except asyncpg.PostgresError as exc:
                _fail(f"PostgreSQL says {exc.sqlstate}: {exc.args[0] if exc.args else type(exc).__name__}")
            except (asyncpg.InterfaceError, OSError, TimeoutError) as exc:
                _fail(f"{exc}" if str(exc) else type(exc).__name__)

        parent.command(name, cls=CliCommand, context_settings=HELP)(told)
        return told

    return register


def _missing(error: ModuleNotFoundError, name: str) -> str:
    """Which extra has what `tenantproxy NAME` lacks; reraised when none has."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _EXTRAS.items() if module in modules), None)
    if extra is None:
        raise error
    return f'`tenantproxy {name}` needs {module}: pip install "tenantproxy[{extra}]"'


def _fail(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"error: {message}", markup=False, highlight=False, style="red")
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Options before any command."""
    if show_version:
        sys.stdout.write(f"{VERSION}\ndata path: {data_path()}\n")
        raise typer.Exit


@command(app, "serve")
def serve(
    config: ConfigFile = DEFAULT_CONFIG,
    listen: Annotated[str | None, typer.Option(help="host:port of the public listener.")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="host:port of the admin listener.")] = None,
    workers: Annotated[
        str, typer.Option(help="Processes that share the listeners: a number, or auto for one for each core.")
    ] = "1",
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests may take to finish.")
    ] = 30.0,  # as DRAIN_TIMEOUT of the sidecar, which is not imported here
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Run the sidecar until SIGTERM or SIGINT, then drain.

    SIGHUP reloads the configuration, SIGUSR2 lets a new process take over, SIGUSR1 starts the workers again.
    """

    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter("must be DEBUG, INFO, WARNING or ERROR", param_hint="--log-level")
    count = (os.cpu_count() or 1) if workers == "auto" else int(workers) if workers.isdecimal() else 0
    if not 1 <= count <= _MOST_WORKERS:
        raise typer.BadParameter(f"must be auto, or a number from 1 to {_MOST_WORKERS}", param_hint="--workers")
    from tenantproxy.cli import process

    process.run_sidecar(
        lambda: gather(config, overrides={"http.listen": listen, "admin.listen": admin_listen}),
        source=str(config),
        drain_timeout=drain_timeout,
        log_level=log_level.upper(),
        workers=count,
    )


AdminUrl = Annotated[str | None, typer.Option("--url", help="The admin listener; default: the configured one.")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="The admin token for any --url; default: the configured one.")
]


@command(app, "reload")
def reload(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Let the running sidecar take over its configuration as it is now, all or nothing; says what has changed."""
    changed = read.change(*_admin(config, url, token_file), "reload")["changed"]
    Output(as_json).rows([{"changed": key} for key in changed], empty="nothing has changed")


@command(app, "upgrade")
def upgrade(
    config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Let a new process take over from the running sidecar, with the code and the configuration of now."""
    Output(as_json).table(read.change(*_admin(config, url, token_file), "upgrade"))


@command(app, "restart")
def restart(config: ConfigFile = DEFAULT_CONFIG, url: AdminUrl = None, token_file: TokenFile = None) -> None:
    """Start each worker of the running sidecar again, one after the other."""
    read.change(*_admin(config, url, token_file), "restart")


@command(app, "demo")
def demo(
    once: Annotated[bool, typer.Option("--once", help="Take the tour, check every step, and leave.")] = False,
) -> None:
    """Start a PostgreSQL of its own with six tenants, and show what tenantproxy does."""
    from tenantproxy.cli import process

    if (code := process.show_demo(once=once)) != 0:
        raise typer.Exit(code)


@command(app, "install")
def install(
    config: ConfigFile = DEFAULT_CONFIG,
    database: Annotated[
        list[str] | None,
        typer.Option(
            help="SERVER/DATABASE or DATABASE of the main server; again for more. Default: those of all row tenants."
        ),
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="Isolate this table, written as in SQL; again for more.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="The column that says whose a row is; one for all tables, or one for each. [tenant_id]"),
    ] = None,
    all_with_column: Annotated[
        list[str] | None, typer.Option(help="Isolate every table that has this column; again for more.")
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Make a login role for each tenant, open to its schema or database alone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print the SQL for psql, without secrets, and do nothing.")
    ] = False,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="With --print-sql: print the signing keys too. They are secret.")
    ] = False,
    close_functions: Annotated[
        bool,
        typer.Option(help="Take from PUBLIC there the functions that reach other sessions or run text as SQL."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Put the signed context and our own tables into the servers' databases, isolate tables, make roles.

    Again: upgrade; what is there already is left alone.
    """
    mode = installing.Mode.SQL if print_sql else installing.Mode.DRY if dry_run else installing.Mode.RUN
    request = installing.Request(
        databases=tuple(database or ()),
        closing=close_functions,
        tables=tuple(_with_columns(table or [], column or [])),
        all_with=tuple(all_with_column or ()),
        roles=roles,
        mode=mode,
        with_keys=with_keys,
    )
    report = asyncio.run(installing.run_install(load(config), request))
    if print_sql:
        sys.stdout.write("\n".join(report.sql))
    else:
        nothing = "nothing to install: no row tenants are registered; name one with --database"
        Output(as_json).rows([*report.rows, *(report.notes if as_json else [])], empty=nothing)
    for note in [] if as_json else report.notes:
        Console(stderr=True, soft_wrap=True).print(f"note: {note['note']}", markup=False, highlight=False)


def _with_columns(tables: list[str], columns: list[str]) -> list[tuple[str, str]]:
    """Each table with its column. Wrong usage: another number of columns than one, or one for each table."""
    if columns and not tables:
        raise typer.BadParameter(
            "belongs to --table; for every table that has one: --all-with-column", param_hint="--column"
        )
    if len(columns) <= 1:
        return [(table, columns[0] if columns else "tenant_id") for table in tables]
    if len(columns) != len(tables):
        problem = f"is given {len(columns)} times for {len(tables)} tables: give one for all, or one for each"
        raise typer.BadParameter(problem, param_hint="--column")
    return list(zip(tables, columns, strict=True))


@command(tenants_app, "list")
def tenants_list(
    config: ConfigFile = DEFAULT_CONFIG,
    status: Annotated[TenantStatus | None, typer.Option(help="Only those in this status.")] = None,
    unusable: Annotated[bool, typer.Option("--unusable", help="Those whose entry cannot be used, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered tenants, in order of their identifiers."""
    if unusable:
        Output(as_json).rows(asyncio.run(read.unusable_tenants(load(config))), empty="every entry can be used")
        return
    rows, left_out = asyncio.run(read.tenants(load(config), status))
    Output(as_json).rows(rows, empty="no tenants")
    if left_out:
        text = f"not listed: {left_out} that cannot be used; tenantproxy tenants list --unusable says why"
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False, style="yellow")


@command(tenants_app, "show")
def tenants_show(tenant: str, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one tenant and where it lives."""
    Output(as_json).table(asyncio.run(read.tenant(load(config), tenant)))


@command(login_app, "as")
def login(email: str, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Log EMAIL in with a password that is asked for, or read from a pipe, and show the accounts that match."""
    password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    Output(as_json).rows(asyncio.run(logins.log_in(load(config), email, password)), empty="no account")


@command(login_app, "reconcile")
def login_reconcile(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Make the directory of accounts agree with every active tenant's own table, by list_query of the section login."""
    rows, good = asyncio.run(logins.reconcile(load(config)))
    Output(as_json).rows(rows, empty="no tenants")
    if not good:
        raise typer.Exit(1)


@command(token_app, "issue")
def token_issue(
    tenant: str,
    user: Annotated[str, typer.Option(help="Whose token it is: the claim sub.")],
    role: Annotated[str | None, typer.Option(help="The claim role.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Print an access token of USER in TENANT, for a script or a try; it is good for access_ttl seconds."""
    made = asyncio.run(tokens.issue(load(config), tenant, user=user, role=role))
    if as_json:
        Output(True).table(made)
    else:
        sys.stdout.write(f"{made['access_token']}\n")  # alone, so that $(...) takes it


@command(token_app, "inspect")
def token_inspect(
    token: Annotated[str, typer.Argument(help="The token; - reads it from a pipe, or asks for it.")] = _PIPED,
    selection: Annotated[bool, typer.Option(help="It is a selection token.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what a token says, whether it is good now, and if not, why; exits 1 then."""
    if token == _PIPED:
        token = getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
    found = asyncio.run(tokens.inspect(load(config), token, purpose="selection" if selection else "access"))
    Output(as_json).tree(found)
    if not found["good"]:
        raise typer.Exit(1)


@command(app, "pools")
def pools(
    config: ConfigFile = DEFAULT_CONFIG,
    url: AdminUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the open pools of a running sidecar.

    The configured admin token goes to this machine and to the hosts that [admin] names, and nowhere else.
    """
    rows = read.pools(*_admin(config, url, token_file))
    Output(as_json).rows(rows if as_json else read.for_readers(rows), empty="no pool is open")


def _admin(config: Path, url: str | None, token_file: Path | None) -> tuple[str, Secret | None]:
    """Where the admin listener is, and the token for it."""
    settings = load(config, secrets=False) if url is None or config.is_file() else None
    address = url if url is not None else read.admin_url(settings or load(config, secrets=False))
    token = Secret.file(token_file) if token_file is not None else None
    if token is None and settings is not None and read.may_have_token(address, settings.admin):
        token = settings.admin.token
    return address, token


@command(app, "health")
def health(
    config: ConfigFile = DEFAULT_CONFIG,
    url: Annotated[str | None, typer.Option(help="The admin listener; default: the configured one.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask whether it is alive, and not whether it is ready.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for an answer.")] = 2.0,
) -> None:
    """Ask a running sidecar whether it is ready, for health checks of containers. Exits 1 when it is not.

    It needs no token, and sends none.
    """
    address = url if url is not None else read.admin_url(load(config, secrets=False))
    sys.stdout.write(f"{healths.ask_health(address, live=live, timeout=timeout)}\n")


@command(app, "fleet")
def fleet(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show which process holds and wants how much of each server, and when it was heard of."""
    rows = asyncio.run(fleets.fleet(load(config)))
    Output(as_json).rows(rows, empty="no process has reported yet")


@command(app, "sql")
def sql(
    tenant: str,
    statement: str,
    config: ConfigFile = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show at most.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Run one SQL statement as TENANT, bound by the same isolation as every request, and show its rows."""
    rows, more = asyncio.run(read.sql(load(config), tenant, statement, limit))
    Output(as_json).rows(rows, empty="no rows")
    if more:
        Console(stderr=True).print(f"only the first {limit} rows are shown (--limit)")


@command(config_app, "check")
def config_check(
    config: ConfigFile = DEFAULT_CONFIG,
    live: Annotated[
        bool, typer.Option("--live", help="Also connect as for each tenant, and look whether isolation holds there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the configuration, its secrets and certificates too, every problem at once. Exits 1 where one is wrong."""
    settings = load(config)
    check_classes(settings)
    check_certificates(settings)
    if not live:
        Output(as_json).table({"ok": True, "config": str(config)})
        return
    checks = asyncio.run(read.live(settings))
    good = all(check["state"] != "wrong" for check in checks)
    if as_json:
        Output(True).tree({"ok": good, "config": str(config), "checks": checks})
    else:
        Output(False).rows(checks, empty="nothing was looked at")
    if not good:
        raise typer.Exit(1)


@command(config_app, "show")
def config_show(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the configuration in force, defaults and environment included, without secrets."""
    Output(as_json).tree(describe(load(config, secrets=False)))


@command(config_app, "schema")
def config_schema() -> None:
    """Print the JSON schema of the TOML file."""
    Output(True).tree(json_schema())


@command(config_app, "example")
def config_example() -> None:
    """Print a TOML file with every section that is usually touched, and comments."""
    sys.stdout.write(shipped(EXAMPLE))


@command(metrics_app, "rules")
def metrics_rules() -> None:
    """Print alerting rules for Prometheus."""
    sys.stdout.write(shipped(RULES))


@command(metrics_app, "dashboard")
def metrics_dashboard() -> None:
    """Print a dashboard for Grafana, as JSON."""
    sys.stdout.write(shipped(DASHBOARD))
