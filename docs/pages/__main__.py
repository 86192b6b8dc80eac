"""`python -m docs.pages FOLDER` writes the source of the site there: those of docs/, and those of the code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from docs.pages.made import made
from docs.pages.source import source

DOCS: Final = Path(__file__).parents[1]
_TOOLS: Final = {"pages", "site"}  # folders of docs/ that hold no pages


def written() -> dict[str, str]:
    """The pages of docs/, by their path below it."""
    found = {path.relative_to(DOCS): path for path in sorted(DOCS.rglob("*.md"))}
    return {path.as_posix(): file.read_text() for path, file in found.items() if path.parts[0] not in _TOOLS}


def main(target: Path) -> None:
    """Write the source of the site into `target`."""
    for path, text in source(written(), made()).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text)
    shutil.copytree(DOCS / "pictures", target / "pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
