"""Fails the build when a page or style of the site would load something from elsewhere: fonts, scripts, pictures."""

import re
from pathlib import Path

from sphinx.errors import ExtensionError

# What a browser loads by itself; a link that a reader follows is no such thing.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|embed)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|dns-prefetch|prefetch))[^>]*\bhref=["']?"""
    r"""((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:@import\s+|url\(\s*)["']?((?:https?:)?//[^"')\s]+)""",
    re.IGNORECASE,
)


def loads(text):
    """The addresses that `text`, a page or a style sheet, has a browser load."""
    return [next(filter(None, found)) for found in LOADED.findall(text)]


def check(app, error):
    """At the end of a build."""
    if error is not None:
        return
    site = Path(app.outdir)
    found = [
        f"{path.relative_to(site)}: {address}"
        for path in sorted(site.rglob("*"))
        if path.suffix in {".html", ".css", ".svg"}
        for address in loads(path.read_text())
    ]
    if found:
        raise ExtensionError("the site loads from elsewhere:\n" + "\n".join(found))


def setup(app):
    """See Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
