"""Does the service say which data path it runs on, and why?"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from tenantproxy import _native
from tenantproxy._native import SWITCH, data_path, why_not
from tenantproxy.sidecar.app import run
from tests.support.distributions import ROOT
from tests.support.waiting import PATIENCE


async def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_the_switch_turns_the_compiled_path_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert data_path() == "pure Python: TENANTPROXY_NATIVE=0"
    assert isinstance(run(_loop()), uvloop.Loop)


@pytest.mark.skipif(why_not() is not None, reason=f"it is not there: {why_not()}")
def test_without_the_switch_the_sidecar_runs_on_it() -> None:
    from tenantproxy._native.loop import NativeLoop

    assert data_path() == "compiled"
    assert isinstance(run(_loop()), NativeLoop)


def test_why_it_was_not_built_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "not_built").write_text("there is no C compiler (cc)\n")
    monkeypatch.setattr(_native, "_NOT_BUILT", tmp_path / "not_built")
    monkeypatch.setitem(sys.modules, "tenantproxy._native.loop", None)
    assert data_path() == "pure Python: there is no C compiler (cc)"
    monkeypatch.setattr(_native, "_NOT_BUILT", tmp_path / "nothing")
    assert data_path() == "pure Python: the compiled one was not built"


def test_a_wheel_is_pure_and_says_why_where_nothing_can_be_compiled(tmp_path: Path) -> None:
    """Of a copy of the checkout, as an sdist is."""
    for name in ("tenantproxy", "config", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    for built in (tmp_path / "tenantproxy" / "_native").glob("*.so"):
        built.unlink()
    build = "import hatchling.build as build; print(build.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, env={**os.environ, "CC": "no-such-compiler"},
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert "the data path will be pure Python: there is no C compiler (no-such-compiler)" in done.stderr
    assert "-py3-none-any.whl" in done.stdout
    assert (
        tmp_path / "tenantproxy" / "_native" / "not_built"
    ).read_text() == "there is no C compiler (no-such-compiler)\n"
