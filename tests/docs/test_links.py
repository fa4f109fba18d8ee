"""Every relative link and every anchor of the pages leads somewhere."""

import itertools
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "codescaler").glob("*/README.md")],
    key=lambda path: str(path),
)
STEPS = ROOT / "docs/design/life-of-a-request.md"


def parse(path):
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def links_of(tokens):
    for token in tokens:
        for part in token.children or []:
            yield from (part.attrs[name] for name in ("href", "src") if name in part.attrs)


def anchors_of(path):
    """The anchors that repository browsers give to headings."""
    tokens = parse(path)
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            title = "".join(part.content for part in token.children)
            yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def fault_of(path, link):
    """Why a link leads nowhere, None if it leads somewhere. Links to other sites are not followed."""
    if re.match(r"[a-z]+:", link):
        return None
    place, _, anchor = link.partition("#")
    target = (path.parent / unquote(place)).resolve() if place else path
    if not target.exists():
        return f"{link}: there is no {target.relative_to(ROOT)}"
    if anchor and target.suffix == ".md" and anchor not in anchors_of(target):
        return f"{link}: {target.relative_to(ROOT)} has no such heading"
    return None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    faults = [fault for link in links_of(parse(path)) if (fault := fault_of(path, link))]
    assert not faults, "\n".join(faults)


def test_a_stale_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A `b` title, here\n\n[a](#a-b-title-here) [b](absent.py) ![c](page.md#no) <https://a.b>\n")
    faults = [fault_of(page, link) for link in links_of(parse(page))]
    assert faults == [None, "absent.py: there is no absent.py", "page.md#no: page.md has no such heading", None]


def test_the_life_of_a_request_has_nine_steps_with_files():
    steps = re.split(r"^\d+\. ", STEPS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(steps) == 9
    for step in steps:
        assert any((STEPS.parent / link).is_file() for link in re.findall(r"\]\(([^)#]+)\)", step)), (
            f"no file is linked: {step:.60}"
        )


def test_every_page_is_in_the_table_of_contents():
    pages = {path.resolve() for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "example"}
    listed = {(ROOT / "docs" / link).resolve() for link in links_of(parse(ROOT / "docs/index.md")) if "#" not in link}
    assert pages - listed == {ROOT / "docs/index.md"}
