"""docs/benchmarks.md and its picture say what benches/results/ holds."""

import json
from pathlib import Path

import pytest

from benches import benchmarks_page, page_tables


def test_page_and_picture_are_up_to_date(capsys):
    assert benchmarks_page.main(["--check"]) == 0, capsys.readouterr().out + "run: python benches benchmarks_page"


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
