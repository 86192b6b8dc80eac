"""Which files and commands does a page give? Read out of it by their markers, so that they cannot drift apart."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"


def blocks(title: str, page: Path = README) -> dict[str, str]:
    """The fenced blocks after `<!-- title: NAME -->`, by name and in order."""
    found = re.findall(rf"<!-- {re.escape(title)}: (\S+) -->\n```\w+\n(.*?)^```$", page.read_text(), re.M | re.S)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), f"blocks of the same name: {names}"
    return dict(found)
