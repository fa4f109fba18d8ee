"""Builds the site of these pages: `make docs`. The pages themselves are plain Markdown, for any repository browser."""

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "codescaler"
extensions = ["myst_parser"]
exclude_patterns = ["example"]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_heading_anchors = 3  # the anchors that repository browsers give to headings

DOCS = Path(__file__).parent


def setup(app: Sphinx) -> None:
    """Lets each page be changed after it is read."""
    app.connect("source-read", adapt_page)


def adapt_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Leaves out links that a site cannot have, and gives the start page a tree of all pages.

    The site has no page for a folder of the repository, or for Markdown outside of docs/: the text of such a link
    stays. A link to what is not there stays a link, so that the build fails.
    """
    folder = (DOCS / f"{name}.md").parent

    def keep_text(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        is_outside = target.is_dir() or (target.is_file() and target.suffix == ".md" and DOCS not in target.parents)
        return link[1] if is_outside else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:]+)[^)]*\)", keep_text, source[0])
    if name == "index":
        pages = re.findall(r"\]\(([\w/-]+)\.md\)", source[0])
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", "", *pages, "```", ""])
