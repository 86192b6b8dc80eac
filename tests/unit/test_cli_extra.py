"""Does the command say what to install, where only the library is?"""

from __future__ import annotations

import subprocess
import sys

from tests.support.waiting import PATIENCE


def test_without_its_extra_the_command_names_it() -> None:
    code = "import sys; sys.modules['typer'] = None; from tenantproxy.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == 'error: the command line needs typer: pip install "tenantproxy[cli]"\n'
