"""Makes the pictures of the page in docs/ again: `make screenshots`.

It drives headless Chromium by playwright, which the environment of tests/clients/browser has, and a server of `nano`
with docs/example/intervals.jsonl. The pictures are those of one Chromium and its fonts.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
GROUP = ROOT / "docs/example/intervals.jsonl"
WIDTH, MARGIN = 1100, 16
MAX_BYTES = 200_000  # of a picture in the repository


def main(options: Sequence[str] | None = None) -> int:
    """Writes the pictures, light and dark."""
    parser = argparse.ArgumentParser(prog="page_screenshots", description="Makes the pictures of the page again.")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="Python that has codescaler")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures (docs)")
    chosen = parser.parse_args(options)
    from playwright.sync_api import sync_playwright

    with (
        _run_server(chosen.python) as address,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        for scheme in ("light", "dark"):
            context = playwright.chromium.launch_persistent_context(
                str(Path(profile) / scheme),
                executable_path=CHROMIUM,
                args=[*FLAGS],
                viewport={"width": WIDTH, "height": 700},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.goto(address)
            for path in _draw(page, chosen.out, scheme):
                size = path.stat().st_size
                print(f"{path}: {size} bytes")
                if size > MAX_BYTES:
                    sys.exit(f"{path} has {size} bytes; a picture has at most {MAX_BYTES}")
            context.close()
    return 0


def _draw(page: Any, folder: Path, scheme: str) -> Iterator[Path]:
    """Ranks the candidates of the example, opens the third program, and sets it beside the second."""
    page.set_input_files("#files", GROUP)
    page.locator("#candidates li").nth(4).wait_for()
    yield _save(page, page.locator("form"), folder / f"page-form-{scheme}.png")
    page.keyboard.press("Control+Enter")
    page.locator("#ranking > tbody").nth(4).wait_for()
    third = page.locator("#ranking > tbody").nth(2)
    third.locator(".open").click()
    third.locator(".heat").wait_for()
    yield _save(page, page.locator("#results"), folder / f"page-lines-{scheme}.png")
    third.locator("select").select_option(index=2)
    third.locator(".both").wait_for()
    yield _save(page, third, folder / f"page-compare-{scheme}.png", margin_y=-1)  # its neighbours end there


def _save(page: Any, element: Any, path: Path, margin_y: int = MARGIN) -> Path:
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    box = element.bounding_box()
    left, top = box["x"] - MARGIN, box["y"] - margin_y
    clip = {"x": left, "y": top, "width": box["width"] + 2 * MARGIN, "height": box["height"] + 2 * margin_y}
    page.screenshot(path=path, full_page=True, clip=clip)
    return path


@contextmanager
def _run_server(python: str) -> Iterator[str]:
    """Runs `codescaler play` on a free port while the block lasts, and gives its address."""
    command = [python, "-P", "-m", "codescaler.cli", "play", "--no-browser", "--dtype", "float32", "--num-threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            for line in process.stderr or ():
                if found := re.search(r" on (http://\S+)$", line):
                    yield found[1]
                    break
            else:
                sys.exit("the server ended before it served")
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
