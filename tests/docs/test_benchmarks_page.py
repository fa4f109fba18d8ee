"""docs/benchmarks.md and its picture say what benches/results/ holds."""

import json
import re
from pathlib import Path

import pytest

from benches.tools import benchmarks_page, page_tables
from codescaler.checkpoint.download import PACKAGED_MODEL

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_page_and_picture_are_up_to_date(capsys):
    assert benchmarks_page.main(["--check"]) == 0, capsys.readouterr().out + "run: python benches benchmarks_page"


def test_no_result_names_a_folder_of_the_machine():
    """Measure with paths that are relative to the repository, such as build/nano/nano."""
    for path in page_tables.RESULTS.rglob("*.json"):
        assert '"/' not in path.read_text(), path


def test_a_changed_figure_is_found(tmp_path, monkeypatch, capsys):
    for path in page_tables.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "threads_0.6b_bfloat16.json"
    result = json.loads(path.read_text())
    result["speedup"]["2"] = 1.5
    path.write_text(json.dumps(result))
    monkeypatch.setattr(page_tables, "RESULTS", tmp_path)
    assert benchmarks_page.main(["--check"]) == 1
    assert capsys.readouterr().out == f"{Path('docs/benchmarks.md')} is not up to date\n"


def test_a_result_without_a_section_is_refused(tmp_path, monkeypatch):
    for path in page_tables.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "new_bench.json").write_text("{}")
    monkeypatch.setattr(page_tables, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="no section shows new_bench"):
        benchmarks_page.build_page()


def test_the_readme_has_the_speed_of_the_page():
    result = page_tables.load_result("compare_bon8_0.6b_bfloat16")
    rows = re.findall(
        r"^\| (?:codescaler|vLLM|transformers).*\| ([\d.]+) \| \**([\d.]+)x\** \| (\d+)% \|$", README, re.MULTILINE
    )
    measured = sorted((s["median_s"], s["speedup"], s["mfu"]) for s in result["systems"])
    assert [tuple(map(float, row)) for row in rows] == [
        (round(seconds, 1), round(speedup, 1), round(100 * share)) for seconds, speedup, share in measured
    ]
    nano = page_tables.load_result("nano_test")["figures"]["scorers"]["nano"]["pair_accuracy"]["mean"]
    assert f"is **weak**: on its test problems it ranks {100 * nano:.0f}%" in README
    size = sum(path.stat().st_size for path in PACKAGED_MODEL.iterdir())
    assert f"`nano` ({size / 1e6:.0f} MB)" in README
    parity = page_tables.load_result("parity")["rows"]
    assert f"{len(parity)} models of all families and heads agree within 1e-5" in README
    assert max(row["fp32_max"] for row in parity) < 1e-5
