"""Does every link of the documentation lead somewhere? To a file of the project, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
HOME = "https://github.com/tenantproxy/tenantproxy/blob/main/"


def _anchors(page: Path) -> set[str]:
    headings: list[str] = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of one page to files or headings that do not exist."""
    links: list[str] = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    found = []
    for link in links:
        base = ROOT if link.startswith(HOME) else page.parent
        name, _, anchor = link.removeprefix(HOME).partition("#")
        target = base / name if name else page
        if "://" not in name and not (target.exists() and (not anchor or anchor in _anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_heading(page: Path) -> None:
    assert broken(page) == []


def test_a_link_to_no_file_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# The Map\n[a](page.md#the-map) [b](#the-map) [c](none.md) [d](page.md#none) [e](https://a.example/x)\n"
    )
    assert broken(page) == ["none.md", "page.md#none"]


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [page.name[:3] for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]
    assert len(set(numbers)) == len(numbers)
