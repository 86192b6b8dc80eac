"""Does the look for words find them, and only them?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

SCRIPT = Path(__file__).parents[2] / "scripts" / "words"


def look(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *paths], capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_readme_and_docs_have_no_listed_word() -> None:
    done = look()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "said", ["Who|ever asks", "it is no|body's", "a lib of o|urs", "two new|comers", "made an|ew."]
)
def test_a_listed_word_is_found_with_its_line_and_its_replacement(tmp_path: Path, said: str) -> None:
    said = said.replace("|", "")  # so that this file itself has none
    (tmp_path / "page.md").write_text(f"A line.\n{said}\n")
    done = look(tmp_path)
    assert done.returncode == 1
    assert f"page.md:2:{said}" in done.stderr
    assert "Say instead" in done.stderr


def test_a_word_that_only_contains_a_listed_one_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Renewal amidst besides; an amendment of hours, and nobody_knows.\n")
    assert look(tmp_path).returncode == 0
