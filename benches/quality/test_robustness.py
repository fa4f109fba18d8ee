"""Runs the bench of rewrites on a tiny model, and holds its figures against a count by hand."""

import ast
import json

import numpy as np
import pytest

from benches.quality import robustness
from benches.quality.forms import FORMS, INSIDE, OUTSIDE
from codescaler.engine import Engine
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.text.additions import CLAIMS, COMMENTS, EXAMPLES, SUMMARIES, add_praise
from codescaler.text.rewriting import strip_texts

LONG = "\n".join(["def f(a):", *(f"    x{n} = a + {n}" for n in range(9)), "    return x1"])
RIGHT, WRONG = "def f(a, b):  # add\n    return a + b", "def f(a, b):\n    return a - b"


def test_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "RESULTS", tmp_path)
    save_random_checkpoint(tmp_path / "rm", "llama", vocab_size=300, pad_token_id=1)
    save_chat(tmp_path / "rm")
    candidates = [{"code": RIGHT, "passed": True}, {"code": WRONG, "passed": False}, {"code": WRONG, "passed": False}]
    rows = [{"task_id": i, "prompt": f"Add ({i}).", "candidates": candidates, "split": "test"} for i in range(3)]
    rows.append({"task_id": "right only", "prompt": "p", "candidates": candidates[:1], "split": "test"})
    (tmp_path / "groups.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--split", "test", "--limit", "2", "--rm", f"tiny={tmp_path / 'rm'}", "--save", "tiny")
    assert robustness.main([str(tmp_path / "groups.jsonl"), *options]) == 0
    result = json.loads((tmp_path / "robustness_tiny.json").read_text())
    assert (result["num_problems"], result["num_programs"]) == (2, 4)
    figures = result["models"]["tiny"]
    texts = (RIGHT, WRONG, strip_texts(RIGHT), add_praise(WRONG, claims=robustness.CLAIMS))
    scores = Engine.from_pretrained(tmp_path / "rm").score([(f"Add ({i}).", text) for i in range(2) for text in texts])
    right, wrong, bare, boast = scores.reshape(2, 4).T.astype(float)
    assert figures["gap"] == pytest.approx(np.mean(right - wrong))
    assert figures["spread"] == pytest.approx(np.sqrt(np.mean((right - wrong) ** 2 / 4)))
    found = figures["rewrites"]["stripped"]
    assert (found["num_rewritten"], found["num_left"]) == (2, 2)  # incorrect ones have nothing to strip
    shift = found["shift"]["spread"]
    assert shift["mean"]["mean"] == pytest.approx(np.mean(bare - right) / figures["spread"])
    assert shift["mean_size"]["mean"] == pytest.approx(np.mean(np.abs(bare - right)) / figures["spread"])
    assert (found["shift"]["gap"]["mean"] is None) == (figures["gap"] <= 0)
    pairs = {side: value["accuracy"]["mean"] for side, value in found["pairs_right"].items()}
    assert pairs["neither"] == pairs["wrong"] == np.mean(right > wrong)
    assert pairs["right"] == pairs["both"] == np.mean(bare > wrong)
    assert found["pairs_right"]["right"]["gain"]["mean"] == pytest.approx(pairs["right"] - pairs["neither"])
    praise = figures["rewrites"]["praised"]
    assert praise["num_rewritten"] == 2
    assert praise["pairs_right"]["wrong"]["accuracy"]["mean"] == np.mean(right > boast)
    assert "correct pairs, neither rewritten" in capsys.readouterr().out


def test_forms_outside_a_program_move_no_bit_of_what_is_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "RESULTS", tmp_path)
    save_random_checkpoint(tmp_path / "rm", "llama", vocab_size=300, pad_token_id=1)
    save_chat(tmp_path / "rm")
    candidates = [{"code": RIGHT, "passed": True}, {"code": WRONG, "passed": False}]
    (tmp_path / "groups.jsonl").write_text(json.dumps({"task_id": 1, "prompt": "Add.", "candidates": candidates}))
    options = ("--rm", f"tiny={tmp_path / 'rm'}", "--forms", "--save", "forms")
    assert robustness.main([str(tmp_path / "groups.jsonl"), *options]) == 0
    given, compared = (
        json.loads((tmp_path / "robustness_forms.json").read_text())["models"][f"tiny, {reading}"]["rewrites"]
        for reading in robustness.READINGS
    )
    size = {name: [r[name]["shift"]["spread"]["mean_size"]["mean"] for r in (given, compared)] for name in given}
    assert all(size[name][0] > 0 and size[name][1] == 0 for name in OUTSIDE)
    assert all(size[name][0] > 0 and size[name][1] > 0 for name in INSIDE)
    assert size["control_token"][0] != size["control_token"][1]
    assert all(given[name]["num_rewritten"] == 2 for name in FORMS)
    assert "the incorrect one" in capsys.readouterr().out


def test_a_form_is_the_same_program():
    texts = 'def f():\n    return """a\n        b"""'
    assert FORMS["tabs"](texts) is None and FORMS["tabs"]("x") is None
    for form in FORMS.values():
        made = form(RIGHT)
        statements = ast.parse(made.removeprefix("\ufeff")).body
        assert ast.dump(statements[0]) == ast.dump(ast.parse(RIGHT).body[0])


def test_its_phrases_are_not_those_trained_with():
    added = robustness._rewrite("commented", "p", (LONG, True)).split("\n")
    own = {text for texts in robustness.COMMENTS.values() for text in texts}
    comments = {line.strip().removeprefix("# ") for line in added} - {line.strip() for line in LONG.split("\n")}
    assert comments and comments <= own
    assert not {*robustness.CLAIMS} & {*CLAIMS}
    words = [{text for texts in of.values() for text in texts} for of in (robustness.COMMENTS, COMMENTS)]
    assert not words[0] & words[1]
    assert robustness.COMMENTS.keys() == COMMENTS.keys()
    assert not {*robustness.SUMMARIES} & {*SUMMARIES} and not {*robustness.EXAMPLES} & {*EXAMPLES}
    for kind, texts in (("documented", robustness.SUMMARIES), ("demonstrated", robustness.EXAMPLES)):
        made = [robustness._rewrite(kind, "p", (f"{LONG}\n# {n}", True)) for n in range(20)]
        found = {text for text in texts for code in made if text.partition("{")[0].strip() in code}
        assert found == {*texts}, kind
