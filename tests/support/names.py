"""Which classes of tenantproxy/ share a name? None may: a reader must not have to look at the imports."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tenantproxy"


def shared(package: Path) -> Mapping[str, list[str]]:
    """The files of each name that several classes have."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(package).as_posix())
    return {name: found for name, found in places.items() if len(found) > 1}


def main() -> int:
    """Print them; 1 when there are any."""
    found = shared(PACKAGE)
    for name, places in found.items():
        print(f"class {name} is in {', '.join(places)}: give one a name that says which it is")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
