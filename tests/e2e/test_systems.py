"""Does the day of each reference platform go as its tour expects, line by line?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantproxy.cli.commands.tries import SystemName
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_show import SYSTEMS, staged
from tenantproxy.demo.tour import walk
from tests.support.waiting import PATIENCE, wait_until

FEW = 3  # of the platform's 25 agencies: the same lines


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of an embedded server can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_each_platform_can_be_named_on_the_command_line() -> None:
    assert {each.value for each in SystemName} == set(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
async def test_the_day_of_a_platform_is_as_its_tour_expects(name: str) -> None:
    lines: list[Seen] = []
    async with staged(name, size=FEW) as stage:
        good = await walk(stage, lines.append, SYSTEMS[name].steps)
    assert good, [line for line in lines if not line.ok]
    assert len(lines) > 20


def test_a_platform_serves_until_it_is_interrupted_and_leaves_nothing(open_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as to_out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "demo", "--system", "buildflow"],
            env={**os.environ, "TMPDIR": str(open_folder)},
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "api/projects" in out.read_text() or process.poll() is not None, "it is up")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    assert list(open_folder.iterdir()) == []
