"""Is the section of the admin listener right by itself? Pure: reads no file and no variable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tenantproxy.config.sections import ADMIN_NAME, Admin
from tenantproxy.config.values import is_loopback
from tenantproxy.errors import Problem

__all__ = ["admin_problems"]

_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def admin_problems(admin: Admin) -> Iterator[Problem]:
    """What is wrong with it."""
    if admin.listen and not admin.each_token and not is_loopback(admin.listen):
        yield Problem(
            key="admin.token_file",
            problem=f"is missing: {admin.listen} can be reached from other machines",
            fix="write a token with: openssl rand -hex 32, and name its file; or listen on 127.0.0.1",
        )
    yield from _tokens(admin)
    for number, host in enumerate(admin.hosts):
        if not _HOST.fullmatch(host):
            fix = "write a name or an address without a port, as clients address it"
            yield Problem(key=f"admin.hosts.{number}", problem="is not a host", fix=fix)


def _tokens(admin: Admin) -> Iterator[Problem]:
    for name, each in admin.tokens.items():
        key = f"admin.tokens.{name}"
        if each.token is None:
            fix = "write a token with: openssl rand -hex 32, and name its file"
            yield Problem(key=f"{key}.token_file", problem="is missing", fix=fix)
        if not _TOKEN_NAME.fullmatch(name):
            fix = "take up to 63 letters, digits, dots, hyphens and underscores: the audit log has that name"
            yield Problem(key=key, problem="has a name that cannot be told", fix=fix)
        if name == ADMIN_NAME and admin.token is not None:
            fix = "give it another name, or leave out the token of [admin]"
            yield Problem(key=key, problem="is what the token of [admin] itself is called", fix=fix)
