"""Do the commands of docs/sql.md do what it says, word for word?"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tenantproxy.demo.world import PG_USER, World
from tenantproxy.model import Isolation
from tests.support.readme import README, blocks
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE

PAGE = README.parent / "docs" / "sql.md"
LINES = blocks("sql", PAGE)
pytestmark = pytest.mark.skipif(os.system("command -v curl >/dev/null") != 0, reason="needs curl")


def test_the_pages_curl_lines_are_answered_as_the_page_says(
    demo_world: World, serve: Callable[..., Served], command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    served = serve(demo_world.config)
    acme = demo_world.one(Isolation.ROW)
    issued = command("token", "issue", acme.id, "--user", "ann", "--config", str(demo_world.config))
    told = {
        "URL": served.public, "USER": PG_USER, "PASSWORD": demo_world.pg_password, "TENANT": acme.id,
        "TOKEN": issued.stdout.strip(),
    }  # fmt: skip
    answers = {name: _run(line, told) for name, line in LINES.items()}
    shown = json.loads(re.findall(r"^```json\n(\{\"rowAsArray.*)\n```$", PAGE.read_text(), re.M)[0])
    one = answers["one"]
    assert one["rows"] == shown["rows"] == [{"name": acme.projects[0]}]
    for key in ("tableID", "columnID"):
        shown["fields"][0][key] = one["fields"][0][key]
    assert one == shown
    assert answers["token"]["rowAsArray"] is True
    assert answers["token"]["rowCount"] == 1
    first, second = answers["batch"]["results"]
    assert first["rows"] == [{"count": "2"}]
    assert second["rows"] == [{"current_setting": "repeatable read"}]


def _run(line: str, told: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        ["sh", "-c", line], env={**os.environ, **told}, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
