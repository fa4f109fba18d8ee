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


@cache
def read_asset(name: str) -> bytes:
    """Returns a file of the page; `name` is one of ours, never a client's."""
    return (Path(__file__).parent / "assets" / name).read_bytes()
