"""What has grown too large to be read at once? Fails where tests/support/sizes.toml gives no reason.

Files, functions, classes and constructors of tenantproxy/. Complexity is ruff's to look at (C901).
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 50
METHODS = 20
PARAMETERS = 7  # of a constructor, `self` not counted

PACKAGE = Path(__file__).parents[2] / "tenantproxy"
REASONS = Path(__file__).with_name("sizes.toml")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_large(path: str, text: str) -> Iterator[tuple[str, str]]:
    """What of one file exceeds a limit: its name in the list of reasons, and by how much."""
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield path, f"{lines} lines, limit {FILE_LINES}"
    yield from _inside(ast.parse(text), f"{path}:")


def _inside(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            methods = [each for each in child.body if isinstance(each, Function)]
            if len(methods) > METHODS:
                yield f"{name}{child.name}", f"{len(methods)} methods, limit {METHODS}"
            yield from _inside(child, f"{name}{child.name}.")
        elif isinstance(child, Function):
            lines = (child.end_lineno or child.lineno) - child.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{name}{child.name}", f"{lines} lines, limit {FUNCTION_LINES}"
            taken = len([*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]) - 1
            if child.name == "__init__" and taken > PARAMETERS:
                yield f"{name}{child.name}", f"{taken} parameters, limit {PARAMETERS}"
            yield from _inside(child, f"{name}{child.name}.")
        else:
            yield from _inside(child, name)


def main() -> int:
    """Print what is too large; 1 when there is no reason for one of them."""
    reasons: dict[str, str] = tomllib.loads(REASONS.read_text())
    found = [
        each
        for path in sorted(PACKAGE.rglob("*.py"))
        for each in too_large(path.relative_to(PACKAGE).as_posix(), path.read_text())
    ]
    stale = sorted(reasons.keys() - {name for name, _ in found})
    unexplained = [name for name, _ in found if not reasons.get(name)]
    for name, how in found:
        print(f"{name}: {how}; {reasons.get(name) or 'NO REASON in tests/support/sizes.toml: split it, or write one'}")
    for name in stale:
        print(f"{name}: is small enough now, take it out of tests/support/sizes.toml")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
