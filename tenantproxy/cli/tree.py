"""What do all commands have alike? How they are registered, their common options, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec

import asyncpg
import typer
from rich.console import Console

from tenantproxy.cli.next_steps import step_of_other
from tenantproxy.cli.shape import HELP, CliCommand, Group, told_whole
from tenantproxy.errors import TenantProxyError
from tenantproxy.printable import printable

__all__ = ["DEFAULT_CONFIG", "AsJson", "ConfigFile", "DryRun", "app", "command", "group"]

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


ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="TENANTPROXY_CONFIG", help="The TOML file.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
DEFAULT_CONFIG: Final = Path("tenantproxy.toml")
# Where what a command imports comes from, beyond what [cli] has; all of it is in [sidecar].
_EXTRAS = {
    "jwt": {"jwt", "cryptography"},
    "login": {"argon2", "bcrypt"},
    "mongo": {"pymongo"},
    "sidecar": {"aiohttp", "msgspec", "prometheus_client", "structlog", "uvloop"},
}


def command(parent: typer.Typer, name: str, *, failed: int = 1) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a command whose expected failures become one message on stderr and the exit code `failed`."""

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except ModuleNotFoundError as exc:
                _fail(_missing(exc, name), failed)
            except TenantProxyError as exc:
                _fail(told_whole(exc), failed)
            except asyncpg.PostgresError as exc:
                said = f"PostgreSQL says {exc.sqlstate}: {exc.args[0] if exc.args else type(exc).__name__}"
                _fail(f"{said}\n  {step_of_other(exc)}", failed)
            except (asyncpg.InterfaceError, OSError, TimeoutError) as exc:
                _fail(f"{exc if str(exc) else type(exc).__name__}\n  {step_of_other(exc)}", failed)

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


def _fail(message: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(
        f"error: {printable(message)}", markup=False, highlight=False, style="red"
    )
    raise typer.Exit(code)
