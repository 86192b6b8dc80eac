"""Builds the compiled data path, `tenantproxy/_native/core`, where it can be built; a wheel without it is pure Python.

Called by hatchling for each wheel. `python hatch_build.py` builds it in place, for a checkout, where its sources are
newer; with `--sanitize` as `scripts/check-native` needs it. Why it could not be built is said once, and written beside
it for `tenantproxy --version`. TENANTPROXY_NATIVE: `0` builds none, `require` fails where it cannot be built.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # in place it needs nothing of it
    BuildHookInterface = object  # type: ignore[misc, assignment]

ROOT = Path(__file__).resolve().parent
FOLDER = ROOT / "tenantproxy" / "_native"
TARGET = FOLDER / f"core{sysconfig.get_config_var('EXT_SUFFIX')}"
NOT_BUILT = FOLDER / "not_built"  # why
FAST = ["-O2", "-g0", "-DCYTHON_WITHOUT_ASSERTIONS=1"]
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


class CannotBuild(Exception):
    """Why there is no compiled data path."""


class CustomBuildHook(BuildHookInterface):
    """See hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say what goes into the wheel that git does not have."""
        if (TARGET.exists() and _is_current()) or build():
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"].append(f"/tenantproxy/_native/{TARGET.name}")
        else:
            build_data["artifacts"].append(f"/tenantproxy/_native/{NOT_BUILT.name}")


def build(flags: list[str] = FAST) -> bool:
    """Whether it is built; else it says why it is not. Raises CannotBuild where it is required."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            _build(flags, Path(folder))
    except CannotBuild as exc:
        TARGET.unlink(missing_ok=True)
        if os.environ.get("TENANTPROXY_NATIVE") == "require":
            raise
        NOT_BUILT.write_text(f"{exc}\n")
        sys.stderr.write(f"tenantproxy: the data path will be pure Python: {exc}\n")
        return False
    NOT_BUILT.unlink(missing_ok=True)
    return True


def _build(flags: list[str], folder: Path) -> None:
    if os.environ.get("TENANTPROXY_NATIVE") == "0":
        raise CannotBuild("it was built with TENANTPROXY_NATIVE=0")
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        raise CannotBuild("the compiled one needs Linux and CPython")
    try:
        from Cython.Compiler.Main import CompilationOptions, compile_single
    except ImportError:
        raise CannotBuild("Cython was not there to build the compiled one") from None
    source = folder / "core.c"
    options = CompilationOptions(output_file=str(source), language_level=3, show_version=False)
    if compile_single(str(FOLDER / "core.pyx"), options, "tenantproxy._native.core").num_errors:
        raise CannotBuild("Cython could not read the compiled one")
    variables = sysconfig.get_config_vars()
    compiler = shlex.split(os.environ.get("CC") or variables["CC"])
    new = FOLDER / f"{os.getpid()}.new"
    command = [*compiler, "-shared", "-fPIC", "-fwrapv", "-DNDEBUG", "-w", *shlex.split(os.environ.get("CFLAGS", ""))]
    command += [f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}", *flags]
    command += [str(source), "-o", str(new)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        raise CannotBuild(f"there is no C compiler ({compiler[0]})") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), "without a word")
        new.unlink(missing_ok=True)
        raise CannotBuild(f"the C compiler failed: {said[:200]}")
    new.replace(TARGET)  # not in place: a process may run with the former one


def _is_current() -> bool:
    """Whether it was tried since its sources changed."""
    tried = next((path.stat().st_mtime for path in (TARGET, NOT_BUILT) if path.exists()), 0.0)
    return all(path.stat().st_mtime < tried for path in [*FOLDER.glob("*.p[yx][xi]"), Path(__file__)])


if __name__ == "__main__":
    switch = os.environ.get("TENANTPROXY_NATIVE")
    if "--sanitize" in sys.argv:
        os.environ["TENANTPROXY_NATIVE"] = "require"
        build(SANITIZED)
    elif switch == "require" or (switch != "0" and not _is_current()):
        build()
