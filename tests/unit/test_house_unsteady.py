"""Which failures does a build server try again, and does any other one fail the run?"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import unsteady


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        (["tests/a.py::test_one", "tests/a.py::test_two[x y-'z']"], True),
        ([f"tests/a.py::test_{each}" for each in range(unsteady.MOST)], True),
        ([f"tests/a.py::test_{each}" for each in range(unsteady.MOST + 1)], False),
        (["tests/a.py"], False),
        (["tests/a.py::test_one[\n]"], False),
        ([], False),
        (None, False),
    ],
)
def test_only_a_few_single_tests_are_run_again(failed: list[str] | None, again: bool, tmp_path: Path) -> None:
    cache = tmp_path / "v/cache"
    cache.mkdir(parents=True)
    if failed is not None:
        (cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    assert unsteady.main(tmp_path) == (0 if again else 1)
    written = tmp_path / "unsteady"
    assert (written.read_text().splitlines() if written.exists() else None) == (failed if again else None)


# What the script calls, in its place: each call takes the next exit code of `codes`, and says what it was asked for.
CALLED = """
python() { echo "python $*"; read -r code rest <codes; echo "$rest" >codes; return "$code"; }
coverage() { echo "coverage $*"; }
npm() { :; }
command() { return 1; }
"""


@pytest.mark.parametrize("options", [[], ["--coverage"]])
@pytest.mark.parametrize(
    ("ci", "codes", "passes", "runs"),
    [
        ("", "0", True, 1),
        ("", "1", False, 1),
        ("true", "0", True, 1),
        ("true", "1 1", False, 2),  # too many to run again
        ("true", "1 0 0 0 0", True, 5),
        ("true", "1 0 0 1", False, 4),
        ("true", "1 0 0 0 1", False, 5),
    ],
)
def test_scripts_test_passes_only_where_every_test_does(
    ci: str, codes: str, passes: bool, runs: int, options: list[str], tmp_path: Path
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "test").write_text(Path("scripts/test").read_text())
    (scripts / "env.sh").write_text('set -eu\ncd "$(dirname "$0")/.."\n' + CALLED)
    (scripts / "check").write_text("#!/bin/sh\n")
    (scripts / "check").chmod(0o755)
    (tmp_path / "codes").write_text(codes + "\n")
    done = subprocess.run(
        ["sh", "scripts/test", *options],
        cwd=tmp_path, env=os.environ | {"CI": ci}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is passes, done
    assert done.stdout.count("python -m") == runs
    assert ("coverage report --format=total" in done.stdout) is (passes and bool(options))
    assert ("--cov " in done.stdout) is bool(options)
