"""Which files and commands does a page give? Read out of it by their markers, so that they cannot drift apart."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.waiting import PATIENCE

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
_MARK: Final = "=== block "


def blocks(title: str, page: Path = README) -> dict[str, str]:
    """The fenced blocks after `<!-- title: NAME -->`, by name and in order."""
    found = re.findall(rf"<!-- {re.escape(title)}: (\S+) -->\n```\w+\n(.*?)^```$", page.read_text(), re.M | re.S)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), f"blocks of the same name: {names}"
    return dict(found)


def shown(text: str, real: Mapping[str, str]) -> str:
    """A text of a page with what is `real` in the place of its addresses and names."""
    for told, is_there in real.items():
        text = text.replace(told, is_there)
    return text


def follow(
    title: str, page: Path, *, folder: Path, environment: Mapping[str, str], real: Mapping[str, str]
) -> dict[str, str]:
    """Do what a page says, in one shell and in its order: files are written, `NAME.sh` is run and says `NAME.out`.

    Each command succeeds, but the last one of `NAME.refused.sh`, which does not. `real`: what stands for the addresses
    and names of the page. Returns what each block said. What runs in the background is ended.
    """
    found = blocks(title, page)
    script = ["exec 2>&1", "trap 'kill $(jobs -p) 2>/dev/null || :; wait || :' EXIT"]
    for name, text in found.items():
        if name.endswith(".refused.sh"):
            script += [f"echo '{_MARK}{name}'", "set +e", shown(text, real), "test $? -ne 0 || exit 97", "set -e"]
        elif name.endswith(".sh"):
            script += [f"echo '{_MARK}{name}'", shown(text, real)]
        elif not name.endswith(".out"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(shown(text, real))
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)], cwd=folder, env=dict(environment), capture_output=True,
        stdin=subprocess.DEVNULL, text=True, timeout=8 * PATIENCE, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    said = {part.partition("\n")[0]: part.partition("\n")[2] for part in ended.stdout.split(_MARK)[1:]}
    for name, text in found.items():
        if name.endswith(".out"):
            _compare(name, shown(text, real), said[name.replace(".out", ".sh")])
    return said


def _compare(name: str, told: str, said: str) -> None:
    """Every line of a page's output is one of what was said, in that order; `...` stands for what is left out."""
    left = iter([line.rstrip() for line in said.splitlines()])
    for line in map(str.rstrip, told.splitlines()):
        wanted = re.compile(re.escape(line).replace(re.escape("..."), ".*"))
        assert line == "..." or any(map(wanted.fullmatch, left)), f"{name}: {line!r} is not, in this order, in\n{said}"
