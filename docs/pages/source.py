"""How do the pages of docs/ become the source of the site? Functions of their texts: tables of contents and links.

A section page (`SECTIONS`) lists its pages as links, which GitHub shows as they are; here they also become its table of
contents. A page in docs/ itself that no section lists is listed last among the how-to guides. The README.md of a folder
lists the folder. A page that is in no table of contents fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Final

__all__ = ["FURTHER", "HOME", "MADE", "SECTIONS", "source", "title"]

HOME: Final = "https://github.com/tenantproxy/tenantproxy/blob/main/"
SECTIONS: Final = ("index.md", "tutorials.md", "how-to.md", "reference.md", "explanation.md")
FURTHER: Final = "<!-- pages that no section lists -->"
MADE: Final = "<!-- pages made from the code -->"
_LINK: Final = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")

Pages = Mapping[str, str]
"""Texts by their path below docs/."""


def title(text: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", text, re.M)
    assert found is not None, f"a page without a heading: {text[:60]!r}"
    return found[1].replace("`", "")


def source(written: Pages, made: Pages) -> dict[str, str]:
    """All pages of the site: the `written` ones and those `made` from the code."""
    pages = {path: _with_links(path, text) for path, text in {**written, **made}.items()}
    pages["reference.md"] = pages["reference.md"].replace(MADE, _list(pages, "", made))
    contents = {section: _linked(section, pages) for section in SECTIONS}
    contents["index.md"] = list(SECTIONS[1:])  # it leads to single pages too; each is in the contents of its section
    for path in [each for each in pages if each.endswith("/README.md")]:
        folder = path.removesuffix("README.md")
        contents[path] = sorted(each for each in pages if each.startswith(folder) and each != path)
        pages[path] = pages[path].replace(FURTHER, _list(pages, folder, contents[path]))
    listed = {"index.md"}.union(*contents.values())
    further = sorted(path for path in pages if "/" not in path and path not in listed)
    pages["how-to.md"] = pages["how-to.md"].replace(FURTHER, _list(pages, "", further))
    contents["how-to.md"] += further
    listed = {"index.md"}
    for path, found in contents.items():  # a page that two lead to is in the contents of the first
        contents[path] = [each for each in found if each not in listed]
        listed.update(found)
    return {path: text + _toctree(path, contents.get(path, ())) for path, text in pages.items()}


def _linked(section: str, pages: Pages) -> list[str]:
    """The pages that a section links to, in order."""
    targets = [normpath(target) for target, _ in _LINK.findall(pages[section]) if target]
    return [path for path in dict.fromkeys(targets) if path in pages and path not in SECTIONS]


def _list(pages: Pages, folder: str, paths: Iterable[str]) -> str:
    return "\n".join(f"- [{title(pages[path])}]({path.removeprefix(folder)})" for path in paths)


def _toctree(page: str, paths: Iterable[str]) -> str:
    entries = [_relative(page, path.removesuffix(".md")) for path in paths]
    return "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""]) if entries else ""


def _with_links(page: str, text: str) -> str:
    """`text` with links to pages relative, and those to other files of the project by their whole address."""

    def rewritten(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = target.removeprefix(HOME) if target.startswith(HOME) else f"docs/{PurePosixPath(page).parent}/{target}"
        if not target or ("://" in target and not target.startswith(HOME)):
            return found[0]
        path = normpath(path)
        if path.startswith("docs/") and path.endswith(".md"):
            return f"]({_relative(page, path.removeprefix('docs/'))}{anchor})"
        return f"]({target}{anchor})" if _is_picture(path) else f"]({HOME}{path}{anchor})"

    return _LINK.sub(rewritten, text)


def _is_picture(path: str) -> bool:
    return path.startswith("docs/pictures/")


def _relative(page: str, path: str) -> str:
    return "../" * page.count("/") + path
