"""How the site is built: `scripts/docs`. Its source is what `python -m docs.pages` wrote."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "tenantproxy"
author = "the tenantproxy developers"
copyright = author  # noqa: A001 - Sphinx's name for it
(release,) = re.findall(r'VERSION: Final = "([^"]+)"', (HERE.parents[1] / "tenantproxy/config/version.py").read_text())
version = release

extensions = ["myst_parser", "diagrams", "offline"]
source_suffix = {".md": "markdown"}
root_doc = "index"
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # examples leave things out: `...` is no JSON

myst_heading_anchors = 6  # as GitHub makes them, so that a link leads to the same place in both
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = f"tenantproxy {release}"
html_copy_source = html_show_sourcelink = False
