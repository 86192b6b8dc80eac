"""Draws the floors of the package from the import contract in pyproject.toml: `python -m docs.pages.floors`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

__all__ = ["PICTURE", "drawing", "floors"]

_ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = _ROOT / "docs" / "pictures" / "floors.svg"
_WIDTH, _HEIGHT, _GAP, _EDGE = 720, 30, 6, 10


def floors() -> list[list[str]]:
    """The folders and modules of each floor, from the top."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    (contract,) = (one for one in project["tool"]["importlinter"]["contracts"] if one["id"] == "floors")
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]


def drawing() -> str:
    """The picture as SVG, light and dark by the reader's own preference."""
    layers = floors()
    height = len(layers) * (_HEIGHT + _GAP) - _GAP + 2 * _EDGE
    boxes = "".join(_floor(index, names) for index, names in enumerate(layers))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="The floors of the package; imports point down">\n'
        "<style>rect{fill:#e8eef6;stroke:#5b7aa6}text{fill:#1c2a3d;font:13px monospace;text-anchor:middle;"
        "dominant-baseline:central}@media(prefers-color-scheme:dark){rect{fill:#24324a;stroke:#8fb0de}"
        "text{fill:#e6edf7}}</style>\n"
        f"{boxes}</svg>\n"
    )


def _floor(index: int, names: list[str]) -> str:
    top = _EDGE + index * (_HEIGHT + _GAP)
    width = (_WIDTH - 2 * _EDGE - (len(names) - 1) * _GAP) / len(names)
    parts = []
    for place, name in enumerate(names):
        left = _EDGE + place * (width + _GAP)
        parts.append(f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_HEIGHT}" rx="4"/>')
        parts.append(f'<text x="{left + width / 2:.0f}" y="{top + _HEIGHT / 2:.0f}">{name}</text>\n')
    return "".join(parts)


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawing())
