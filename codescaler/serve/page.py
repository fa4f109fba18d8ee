"""The start page: static files, and the headers that keep a browser from running anything else."""

from functools import cache
from pathlib import Path

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_SCRIPTS = ("page.js", "page-text.js", "page-files.js", "page-ranking.js", "page-heat.js", "page-export.js")
# What each path answers: a file of the folder `assets`, and its type.
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in _SCRIPTS},
}


@cache
def read_asset(name: str) -> bytes:
    """Returns a file of the page; `name` is one of ours, never a client's."""
    return (Path(__file__).parent / "assets" / name).read_bytes()
