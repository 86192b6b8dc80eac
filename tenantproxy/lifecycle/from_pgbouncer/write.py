"""What is written of it? A commented configuration, and the passwords in files of their own, for their owner alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.from_pgbouncer.translate import Translated
from tenantproxy.lifecycle.from_pgbouncer.values import UserPart

__all__ = ["toml_text", "write_folder"]

_CONFIG: Final = "tenantproxy.toml"
_SECRETS: Final = "secrets"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def toml_text(found: Translated) -> str:
    """The whole file; `tenantproxy config check` accepts it once the files of passwords hold one."""
    return "".join(f"{line}\n" for line in _lines(found))


def write_folder(found: Translated, folder: Path) -> list[Path]:
    """Write the configuration and the secrets that are known; what is there is never written over.

    Files of secrets that are not known are left to be made. Raises ConfigurationError where something is in the way.
    """
    wanted = {folder / _SECRETS / name: (f"{text}\n", 0o600) for name, text in _secrets(found).items()}
    wanted[folder / _CONFIG] = (toml_text(found), 0o640)
    there = [path for path in wanted if path.exists() or path.is_symlink()]
    if there:
        fix = "choose another folder (--into), or move it away"
        raise ConfigurationError(
            [Problem(key=str(path), problem="is there already", fix=fix) for path in there[:5]], source="pgbouncer.ini"
        )
    (folder / _SECRETS).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, (text, mode) in wanted.items():
        path.touch(mode=mode, exist_ok=False)  # before it holds anything
        path.write_text(text, encoding="utf-8")
    return list(wanted)


def _secrets(found: Translated) -> dict[str, str]:
    known = {_file("user", user.name): user.password for user in found.users}
    known |= {_file("server", server.name): server.password for server in found.servers}
    return {name: text for name, text in known.items() if text is not None}


def _file(kind: str, name: str) -> str:
    """A file's name for it; of names with other characters their bytes in hex."""
    return f"{kind}_{name if _PLAIN.fullmatch(name) else name.encode().hex()[:128]}"


def _path(kind: str, name: str) -> str:
    return f"{_SECRETS}/{_file(kind, name)}"


def _lines(found: Translated) -> Iterator[str]:
    yield f"# Written by `tenantproxy config from-pgbouncer` from {found.source}: read it, and what it said, first."
    yield "# A relative path starts at the folder of this file. All keys: tenantproxy config example"
    for remark in found.remarks:
        if remark.kind == "decide":
            yield f"# TO DECIDE  {_one_line(remark.setting)}: {_one_line(remark.text)}"
    yield from ("", "[main]  # a database of tenantproxy's own: CREATE DATABASE tenantproxy")
    yield from (f"server = {_string(found.main)}", 'database = "tenantproxy"')
    for server in found.servers:
        yield from ("", f"[servers.{_key(server.name)}]", f"host = {_string(server.host)}", f"port = {server.port}")
        yield f"user = {_string(server.user)}  # owns nothing, no superuser, no BYPASSRLS"
        yield f"password_file = {_string(_path('server', server.name))}"
        yield f"max_connections = {server.connections}  # what PgBouncer could open; the server's own limit is above it"
        yield from _pairs(found.keys["servers"])
    yield from ("", "[pools]", *_pairs(found.keys["pools"]))
    yield from ("", "[registry]", 'source = "file"  # or your own table: docs/configuration.md')
    for tenant in found.tenants:
        yield from ("", f"[tenants.{_key(tenant.id)}]", 'isolation = "database"', f"server = {_string(tenant.server)}")
        yield f"database = {_string(tenant.database)}"
        if tenant.max_size is not None:
            yield f"max_size = {tenant.max_size}"
    yield from ("", "[pg]", *_pairs(found.keys["pg"]))
    for user in found.users:
        yield from ("", *_user(user))


def _user(user: UserPart) -> Iterator[str]:
    yield f"[pg.users.{_key(user.name)}]"
    if user.verifier is not None:
        yield f"verifier = {_string(user.verifier)}"
    elif not user.cert:
        yield f"password_file = {_string(_path('user', user.name))}"
    if user.cert:
        yield "cert = true"
    if user.tenants is None:
        yield 'tenants = "*"  # as it was: name those that it needs'
    else:
        yield f"tenants = {json.dumps(user.tenants)}  # PostgreSQL decided who reaches the others: name them"
    yield f"pool_mode = {_string(user.pool_mode)}"
    if user.max_clients is not None:
        yield f"max_clients = {user.max_clients}"
    if user.console:
        yield f"console = {json.dumps(user.console)}"


def _pairs(keys: Mapping[str, object]) -> Iterator[str]:
    for name, value in keys.items():
        yield f"{name} = {_string(value) if isinstance(value, str) else json.dumps(value)}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
