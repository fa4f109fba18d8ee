"""The site of docs/ builds without a warning, and a broken link fails the build."""

import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def build(source, target):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", source, target]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_site_builds(tmp_path):
    built = build(DOCS, tmp_path)
    assert built.returncode == 0, built.stderr
    for page in DOCS.rglob("*.md"):
        if page.parent.name != "example":
            assert (tmp_path / page.relative_to(DOCS)).with_suffix(".html").is_file()


def test_a_broken_link_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copy(DOCS / "conf.py", tmp_path / "docs")
    (tmp_path / "docs/index.md").write_text("# A\n\n[b](absent.py) [c](#none)\n")
    built = build(tmp_path / "docs", tmp_path / "site")
    assert built.returncode != 0
    assert "absent.py" in built.stderr and "none" in built.stderr
