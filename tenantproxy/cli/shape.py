"""What all commands have alike: their help, and what an operator is told of an error's cause."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

import asyncpg
import typer.core

from tenantproxy.cli.next_steps import step_of, tell_next
from tenantproxy.errors import TenantProxyError

__all__ = ["HELP", "CliCommand", "Group", "Listing", "told_whole"]

HELP: Final = {"help_option_names": ["-h", "--help"]}


def _plain_flags(params: list[Any]) -> list[Any]:
    """Flags take no value, so their help names no type."""
    for param in params:
        if getattr(param, "is_flag", False) and hasattr(param, "display_type_rich"):
            param.display_type_rich = lambda ctx=None: None
    return params


class CliCommand(typer.core.TyperCommand):
    """One command. When it is done, it says what comes next."""

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        value = super().invoke(ctx)
        tell_next(" ".join(ctx.command_path.split()[1:]), ctx.params)
        return value

    def get_params(self, ctx: Any) -> list[Any]:
        """See click."""
        return _plain_flags(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """Commands under one name."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See click."""
        return _plain_flags(super().get_params(ctx))


class Listing(Group):
    """`pools` alone, or with options, is `pools list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        asks_for_help = any(each in HELP["help_option_names"] for each in args)
        is_plain = not args or args[0].startswith("-")
        if is_plain and not asks_for_help and not ctx.resilient_parsing:  # which completes what may come next
            args = ["list", *args]
        return super().parse_args(ctx, args)


def told_whole(error: TenantProxyError) -> str:
    """The error with its cause, and in a line of its own the page that says what it means, or what to do next."""
    text, step = _with_cause(error), step_of(error)
    return f"{text}\n  {step}" if step else text


def _with_cause(error: TenantProxyError) -> str:
    """The error, and what the server, TLS or DNS said, which may name hosts and tables: for operators alone."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, asyncpg.PostgresError):
            return f"{error} (PostgreSQL says: {cause.args[0] if cause.args else cause.sqlstate})"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{error} ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError | socket.gaierror):
            return f"{error} ({cause.strerror or cause})"
        cause = cause.__cause__
    return str(error)
