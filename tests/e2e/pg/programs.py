"""How does a client of another language take its seat? One program for all checks; one line of JSON for each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.pg.seats import KINDS, MODES, seats

__all__ = ["NODE", "all_seats", "expect_all", "expect_everywhere", "run_program"]

NODE: Final = Path(__file__).parent / "node"
_SECONDS: Final = 150.0


def run_program(
    command: Sequence[str], *, given: str, env: Mapping[str, str] | None = None
) -> dict[tuple[str, str], str]:
    """What each check of each kind said: "" when it passed, else why not. The kind of a mode is `mode-kind`."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False, env=env)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    return {
        (f"{each['mode']}-{each['kind']}" if "mode" in each else each["kind"], each["check"]): (
            "" if each["ok"] else each["error"]
        )
        for each in said
    }


def all_seats(host: str, port: int) -> str:
    """What a program reads that serves both modes in one process."""
    return json.dumps({"seats": [seat.as_dict() for mode in MODES for seat in seats(mode, host, port)]})


def expect_all(said: dict[tuple[str, str], str], checks: Collection[str]) -> None:
    """Each of `checks` was run for each kind, and passed."""
    _expect(said, checks, KINDS)


def expect_everywhere(said: dict[tuple[str, str], str], checks: Collection[str]) -> None:
    """Each of `checks` was run for each kind in both modes, and passed."""
    _expect(said, checks, [f"{mode}-{kind}" for mode in MODES for kind in KINDS])


def _expect(said: dict[tuple[str, str], str], checks: Collection[str], kinds: Sequence[str]) -> None:
    failed = [f"{kind} {check}: {why}" for (kind, check), why in said.items() if why]
    assert not failed, "\n".join(failed)
    assert said.keys() == {(kind, check) for kind in kinds for check in checks}
