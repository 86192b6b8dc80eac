"""Does the site hold every page, once, and nothing from elsewhere? Its build, `scripts/docs`, checks the rest."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from typing import Any

import pytest

import tenantproxy
from docs.pages.__main__ import written
from docs.pages.floors import PICTURE, drawing
from docs.pages.source import FURTHER, HOME, MADE, SECTIONS, source
from tenantproxy.errors import TenantProxyError
from tests.support.readme import DOCS, README, blocks

GUIDES = [page for page in DOCS.glob("*.md") if "<!-- not run: " in page.read_text() or blocks(page.stem, page)]
EMPTY = {section: f"# {section}\n" for section in SECTIONS}


def contents(page: str) -> list[str]:
    found = re.search(r"```\{toctree\}\n:hidden:\n\n(.*?)\n```\n$", page, re.S)
    return found[1].splitlines() if found else []


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_every_page_of_the_documentation_is_in_the_contents_of_one() -> None:
    pages = source(written(), {})
    listed = [normpath(f"{path}/../{name}.md") for path, text in pages.items() for name in contents(text)]
    assert sorted(listed) == sorted(set(pages) - {"index.md"})


def test_a_page_that_no_section_lists_is_found_among_the_guides() -> None:
    pages = source({**EMPTY, "how-to.md": f"# How\n{FURTHER}\n", "new.md": "# New `thing`\n"}, {})
    assert contents(pages["how-to.md"]) == ["new"]
    assert "- [New thing](new.md)" in pages["how-to.md"]


def test_a_page_in_a_folder_without_an_index_is_in_no_contents() -> None:
    pages = source({**EMPTY, "how-to.md": f"# How\n{FURTHER}\n", "folder/lost.md": "# Lost\n"}, {})
    assert not any("lost" in name for text in pages.values() for name in contents(text))


def test_a_folder_with_an_index_lists_its_pages() -> None:
    written = {
        **EMPTY,
        "explanation.md": "# E\n[d](d/README.md)\n",
        "d/README.md": f"# D\n{FURTHER}\n",
        "d/1.md": "# One\n",
    }
    pages = source(written, {})
    assert (contents(pages["explanation.md"]), contents(pages["d/README.md"])) == (["d/README"], ["../d/1"])
    assert "- [One](1.md)" in pages["d/README.md"]


def test_pages_made_from_the_code_are_listed_in_the_reference() -> None:
    pages = source({**EMPTY, "reference.md": f"# R\n{MADE}\n"}, {"reference/metrics.md": "# Metrics\n"})
    assert contents(pages["reference.md"]) == ["reference/metrics"]


def test_a_link_leads_to_the_page_or_to_the_project() -> None:
    links = ("../examples/worker.py", f"{HOME}docs/pg.md#users", "#here", "https://a.example/x.md", "isolation.md")
    text = " ".join(f"[text]({link})" for link in links)
    told = source({**EMPTY, "d/p.md": f"# P\n{text}\n", "pg.md": "# pg\n"}, {})["d/p.md"]
    assert re.findall(r"\]\((\S+)\)", told) == [
        f"{HOME}docs/examples/worker.py", "../pg.md#users", "#here", "https://a.example/x.md", "../d/isolation.md"
    ]  # fmt: skip


def test_the_picture_of_the_floors_is_drawn_from_the_import_contract() -> None:
    """`python -m docs.pages.floors` draws it again."""
    assert PICTURE.read_text() == drawing()


@pytest.fixture(scope="module")
def loads() -> Any:
    """What of a page a browser loads by itself; the file needs Sphinx, but for this function."""
    text = (DOCS / "site" / "offline.py").read_text().replace("from sphinx.errors import ExtensionError\n", "")
    names: dict[str, Any] = {}
    exec(compile(text, "offline.py", "exec"), names)  # noqa: S102 - a file of the project
    return names["loads"]


def test_what_a_page_would_load_from_elsewhere_is_seen(loads: Any) -> None:
    page = '<link rel="stylesheet" href="https://fonts.example/css"><script src="//cdn.example/x.js"></script>'
    assert loads(page) == ["https://fonts.example/css", "//cdn.example/x.js"]
    assert loads("@import url('https://a.example/b.css'); a { background: url(http://a.example/c.png) }")
    assert (
        loads('<a href="https://a.example">x</a><link rel="canonical" href="https://a.example"><img src="a.png">') == []
    )


def kinds(root: type[TenantProxyError] = TenantProxyError) -> Iterator[type[TenantProxyError]]:
    """Every kind of error in the package."""
    yield root
    for kind in root.__subclasses__():
        if kind.__module__.startswith("tenantproxy."):
            yield from kinds(kind)


def test_each_error_code_has_its_section_with_its_outward_form() -> None:
    for found in pkgutil.walk_packages(tenantproxy.__path__, "tenantproxy."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    told = dict(re.findall(r"^### (\w+)\n(.+)$", (DOCS / "errors.md").read_text(), re.M))
    known = {
        kind.code: f"{kind.http_status}, {kind.sqlstate}" + (", retry" if kind.retryable else "")
        for kind in reversed(list(kinds()))  # a kind without a code of its own has that of its base, which is told
    }
    assert told == known


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_each_block_of_a_guide_is_run_or_says_why_not(page: Path) -> None:
    lines = page.read_text().splitlines()
    begun = [at for at, line in enumerate(lines) if re.fullmatch(r"```(sh|python|js|sql|elixir)", line)]
    assert begun
    assert [lines[at] + lines[at + 1] for at in begun if not re.match(r"<!-- .+: .+ -->$", lines[at - 1])] == []


@pytest.mark.parametrize("name", ["aiohttp", "django", "litestar"])
def test_a_guide_shows_the_example_as_it_is(name: str) -> None:
    example = f"{name}_app.py"
    assert blocks(name, DOCS / f"{name}.md")[example] == (README.parent / "examples" / example).read_text()
