"""How does a client of another language take its seat? One program for all checks; one line of JSON for each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.pg.seats import KINDS

__all__ = ["NODE", "expect_all", "run_program"]

NODE: Final = Path(__file__).parent / "node"
_SECONDS: Final = 150.0


def run_program(command: Sequence[str], *, given: str) -> dict[tuple[str, str], str]:
    """What each check of each kind said: "" when it passed, else why not."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    return {(each["kind"], each["check"]): "" if each["ok"] else each["error"] for each in said}


def expect_all(said: dict[tuple[str, str], str], checks: Collection[str]) -> None:
    """Each of `checks` was run for each kind, and passed."""
    failed = [f"{kind} {check}: {why}" for (kind, check), why in said.items() if why]
    assert not failed, "\n".join(failed)
    assert said.keys() == {(kind, check) for kind in KINDS for check in checks}
