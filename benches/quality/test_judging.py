"""The comparison with plain Python finds references and mutants that a sandbox sees otherwise."""

import json

from benches.quality import judging
from benches.quality.judging_sets import read_sets

PROGRAM = (
    "class Adder:\n    def add(self, a, b):\n        if a < 0: raise ValueError('negative')\n        return a + b\n"
)
TESTS = """import unittest
from adder import Adder
class AdderTest(unittest.TestCase):
    def test_sum(self): self.assertEqual(Adder().add(1, 2), 3)
    def test_zero(self): self.assertEqual(Adder().add(0, 0), 0)
    def test_error(self):
        with self.assertRaises(ValueError) as context: Adder().add(-1, 2)
        self.assertEqual(type(context.exception), ValueError)
"""


def test_a_folder_of_sets(tmp_path, capsys):
    folder = tmp_path / "exercises/practice/adder"
    (folder / ".meta").mkdir(parents=True)
    (folder / ".meta/example.py").write_text(PROGRAM)
    (folder / "adder.py").write_text("")
    (folder / "adder_test.py").write_text(TESTS)
    row = {"id": "1", "code": "def f(x):\n    return x * 2", "input": "4", "output": "8"}
    writes = {
        "id": "2",
        "code": "def f(x): open('a', 'w').write('y = ' + repr(x))",
        "input": "'1') or exec(open('a').read()) or (y",
        "output": "'1'",
    }
    (tmp_path / "cruxeval.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in (row, writes)))
    assert {name: len(problems) for name, problems in read_sets(tmp_path)} == {"exercism": 1, "cruxeval.jsonl": 2}
    assert judging.main([str(tmp_path), "--workers", "1", "--mutants", "4"]) == 0
    printed = capsys.readouterr()
    lines = {line.split()[0]: line.split()[1:] for line in printed.out.splitlines()}
    assert lines["exercism"][:5] == ["1", "1", "1", "0", "0"]
    assert lines["exercism"][5] == lines["exercism"][6] != "0"
    assert lines["cruxeval.jsonl"][:5] == ["2", "2", "1", "0", "1"]
    assert "cruxeval/2: reference unjudged: 'the test shares open() with the program" in printed.err


def test_saved_figures_hold_no_text_of_a_set(tmp_path, monkeypatch):
    folder = tmp_path / "APPS/train/0001"
    folder.mkdir(parents=True)
    (folder / "question.txt").write_text("Print twice the number.")
    (folder / "input_output.json").write_text(json.dumps({"inputs": ["21\n"], "outputs": ["42\n"]}))
    solutions = ["print(int(input()) * 2)", "print 'Python 2'", "print(int(input()) * 3)"]
    (folder / "solutions.json").write_text(json.dumps(solutions))
    monkeypatch.setattr(judging, "RESULTS", tmp_path)
    assert judging.main([str(tmp_path), "--workers", "1", "--mutants", "9", "--max-mutants", "1", "--save", "x"]) == 0
    saved = json.loads((tmp_path / "judging_x.json").read_text())
    assert saved["causes"] == {"APPS": {"plain fails: printed": 1}}
    counts = saved["figures"]["APPS"]
    assert (counts["references"], counts["passed"], counts["plain fails"], counts["caught"]) == (2, 1, 1, 1)
