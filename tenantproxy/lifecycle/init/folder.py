"""Where are the files? Written once, never over another one; secrets for their owner alone."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tenantproxy.config import role_password
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.init.dsn import GivenServer
from tenantproxy.lifecycle.init.plan import InitPlan
from tenantproxy.lifecycle.init.role_files import InitSecrets
from tenantproxy.lifecycle.init.toml_file import SERVER

__all__ = ["CONFIG", "SecretFiles", "secret_files", "sql_files", "write_plan"]

CONFIG: Final = "tenantproxy.toml"
_SECRETS: Final = "secrets"
_MADE: Final = ("router_password", "row_key", "role_key", "jwt")
_LONGEST: Final = 1024  # of a secret's file that is read again


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """The contents of the secrets' files, by name."""

    texts: dict[str, str] = field(repr=False)

    def for_roles(self, tenants: str) -> InitSecrets:
        """What the SQL needs to know of them."""
        return InitSecrets(
            router_password=self.texts["router_password"],
            tenants_password=role_password(self.texts["role_key"].encode(), SERVER, tenants),
            admin_password=self.texts.get("admin_password"),
        )


def secret_files(folder: Path, given: GivenServer) -> SecretFiles:
    """Those that a former run left in the folder, and new ones for the rest. Writes nothing."""
    texts = {name: _kept(folder, name) or secrets.token_hex(32) for name in _MADE}
    if given.password is not None:
        texts["admin_password"] = given.password
    return SecretFiles(texts)


def _kept(folder: Path, name: str) -> str | None:
    path = folder / _SECRETS / name
    if not path.is_file():
        return None
    text = path.read_text()[:_LONGEST].strip()
    if len(text) < 32 or not text.isascii() or not text.isalnum():
        problem = "is there already, and is none of tenantproxy's"
        raise ConfigurationError(
            [Problem(key=str(path), problem=problem, fix="choose another folder: --into")], source="init"
        )
    return text


def write_plan(folder: Path, plan: InitPlan, known: SecretFiles) -> list[Path]:
    """Write what is not there, and return it. Raises ConfigurationError where a file says something else.

    What a run that was interrupted left is completed by the next one.
    """
    wanted: dict[Path, tuple[str, int]] = {
        folder / _SECRETS / name: (f"{text}\n", 0o600) for name, text in known.texts.items()
    }
    wanted[folder / CONFIG] = (plan.toml, 0o640)
    for file in plan.files:
        mode = 0o600 if file.number == 10 else 0o640  # verifiers of passwords are in it
        wanted[folder / file.path] = (file.text(), mode)
        wanted[folder / file.undo_path] = (file.undo_text(), 0o640)
    there = sorted(path for path, (text, _) in wanted.items() if _says_else(path, text))
    if there:
        fix = "choose another folder (--into), or move it away; --apply runs the files of a folder as they are"
        problems = [
            Problem(key=str(path), problem="is there already, and says something else", fix=fix) for path in there
        ]
        raise ConfigurationError(problems[:5], source="init")
    for name, mode in ((".", 0o750), (_SECRETS, 0o700), ("sql", 0o750)):
        (folder / name).mkdir(mode=mode, parents=True, exist_ok=True)
    return [path for path, (text, mode) in wanted.items() if _write(path, text, mode)]


def _says_else(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except FileNotFoundError:
        return path.is_symlink()
    except (NotADirectoryError, IsADirectoryError):
        return True


def _write(path: Path, text: str, mode: int) -> bool:
    """True when it was written now. Never through a link, and never over what came in between."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def sql_files(folder: Path) -> list[tuple[int, Path]]:
    """The numbered files of a folder, without those that take back, in their order."""
    found = [path for path in (folder / "sql").glob("*_*.sql") if not path.name.endswith(".undo.sql")]
    return sorted((int(number), path) for path in found if (number := path.name.partition("_")[0]).isdecimal())
