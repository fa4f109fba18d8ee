"""One table of likelihood scorers, from two passes: the scores of `--scorer`, alone and with a reward model."""

import json

import pytest

from benches.quality import likelihoods
from benches.quality.test_ranking import write_groups
from codescaler.engine import Engine
from codescaler.evaluate.best_of_n import evaluate_best_of_n
from codescaler.evaluate.problems import read_evaluation_problems
from codescaler.evaluate.scorers import score_with_engine
from codescaler.testing import save_chat, save_random_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save_random_checkpoint(tmp_path / "lm", "qwen3", "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "lm")
    write_groups(tmp_path / "groups.jsonl")
    monkeypatch.setattr(likelihoods, "RESULTS", tmp_path)
    return tmp_path


def test_scorers_are_those_of_the_command(folder):
    arguments = [str(folder / "lm"), str(folder / "groups.jsonl"), "--split", "validation", "--save", "tiny"]
    assert likelihoods.main(arguments) == 0
    record = json.loads((folder / "likelihoods_tiny.json").read_text())
    problems = [p for p in read_evaluation_problems(folder / "groups.jsonl", split="validation") if p.is_mixed]
    scorers = ("likelihood", "likelihood_mean", "likelihood_min", "reviewer", "coder_reviewer")
    for scorer in scorers:
        engine = Engine.from_pretrained(folder / "lm", dtype="float32", scorer=scorer)
        figures = evaluate_best_of_n(problems, {"x": score_with_engine(engine, problems, "x")}, [])["scorers"]["x"]
        assert record["figures"]["scorers"][scorer]["pair_accuracy"]["mean"] == figures["pair_accuracy"]["mean"]
    assert set(record["figures"]["gains"]) == {*scorers, "nano", *(f"z(nano + {name})" for name in scorers)}
    assert set(record["seconds"]) == {"program after its problem", "problem after its program", "reward"}
