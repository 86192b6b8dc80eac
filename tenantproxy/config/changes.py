"""What differs between two configurations, and may a running process take it over? Only `marks` reads anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from tenantproxy.config.secret import Secret
from tenantproxy.config.sections import LISTENER_TLS, RELOADED
from tenantproxy.config.settings import Settings
from tenantproxy.config.sql_section import SQL_RELOADED
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Change", "changed_keys", "changed_secrets", "is_taken_over", "marks", "refuse", "told"]

Change: TypeAlias = tuple[str, ...]
"""The way to a key: ("pools", "max_size"), or ("servers", "second") for one that came or went."""

_SERVER: Final = (
    "user", "password", "password_file", "password_env", "ssl", "ssl_root_cert_file", "ssl_crl_file",
    "ssl_cert_file", "ssl_key_file", "require_auth", "channel_binding", "max_connections", "connect_timeout",
    "statement_timeout", "idle_in_transaction_timeout", "lock_timeout", "search_path", "role_settings", "admin",
    "login",
)  # fmt: skip
_POOLS: Final = (
    "max_pools", "max_size", "shared_size", "max_waiting", "acquire_timeout", "idle_timeout", "max_lifetime",
    "max_hold",
)  # fmt: skip
_HTTP: Final = (*LISTENER_TLS, "max_clients", "max_clients_per_address", "trusted_proxies", "drain_delay")
_ADMIN: Final = (
    *LISTENER_TLS, "token", "token_file", "token_env", "tokens", "hosts", "metrics_public", "token_in_clear",
)  # fmt: skip
_ROW: Final = ("key", "key_file", "key_env", "key_files")

# With all that is below them; `*` is any name, and what comes or goes has no more than that.
_TAKEN_OVER: Final[tuple[Change, ...]] = (
    *(("pg", name) for name in RELOADED),
    *(("servers", "*", name) for name in _SERVER),
    *(("pools", name) for name in _POOLS),
    *(("http", name) for name in _HTTP),
    *(("admin", name) for name in _ADMIN),
    *(("sql", name) for name in SQL_RELOADED),
    *(("row", name) for name in _ROW),
    ("tenants",),
    ("tenant_roles",),
    ("auth",),
    ("resolve",),
    ("provision",),  # no running process reads these three
    ("migrations",),
    ("backup",),
    ("gdpr",),
    ("login", "response_names"),
)
_COME_AND_GO: Final = ("servers",)


def changed_keys(old: Settings, new: Settings) -> list[Change]:
    """The keys whose values differ, sorted."""
    return sorted(_changed((), old, new))


def told(changes: Iterable[Change]) -> list[str]:
    """The keys as they are written: `pools.max_size`."""
    return [".".join(change) for change in changes]


def _changed(path: Change, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, BaseModel) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            yield from _changed((*path, field.alias or name), getattr(old, name), getattr(new, name))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old.keys() | new.keys():
            if name in old and name in new:
                yield from _changed((*path, name), old[name], new[name])
            else:
                yield (*path, name)
    else:
        yield path


def is_taken_over(change: Change) -> bool:
    """Whether a running process takes a change of this key over."""
    if len(change) == 2 and change[0] in _COME_AND_GO:
        return True
    return any(
        len(pattern) <= len(change) and all(want in ("*", have) for want, have in zip(pattern, change, strict=False))
        for pattern in _TAKEN_OVER
    )


def refuse(changed: Iterable[Change]) -> None:
    """Raises ConfigurationError for those that a running process cannot take over, all at once."""
    fix = "change it back, or let a new process take it over: tenantproxy upgrade"
    problems = [
        Problem(key=".".join(change), problem="has changed, and cannot while it runs", fix=fix)
        for change in changed
        if not is_taken_over(change)
    ]
    if problems:
        raise ConfigurationError(problems)


def marks(settings: Settings) -> dict[Change, bytes]:
    """A digest of each secret that is read at a reload and kept: other content of the same file is a change."""
    found: dict[Change, bytes] = {}
    for kid, key in settings.row.keys().items():
        found["row", "key_files" if settings.row.key_files else "key_file", str(kid)] = _mark(key)
    for name, key in settings.auth.keys().items():
        found["auth", "key_files" if settings.auth.key_files else "key_file", name] = _mark(key)
    for number, issuer in enumerate(settings.auth.issuers):
        if issuer.key is not None:
            found["auth", "issuers", str(number), "key_file"] = _mark(issuer.key)
    for user, entry in settings.pg.users.items():
        if entry.password is not None:
            found["pg", "users", user, "password_file"] = _mark(entry.password)
    if settings.auth.public_key_file:
        found["auth", "public_key_file"] = hashlib.sha256(Path(settings.auth.public_key_file).read_bytes()).digest()
    return found


def _mark(secret: Secret) -> bytes:
    return hashlib.sha256(secret.read_bytes()).digest()


def changed_secrets(old: Mapping[Change, bytes], new: Mapping[Change, bytes]) -> list[Change]:
    """The keys of secrets that have other content now, under the same key."""
    return sorted(change for change in old.keys() & new.keys() if old[change] != new[change])
