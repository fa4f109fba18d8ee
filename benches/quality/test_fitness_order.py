"""Cards and gains are put in order by reward model, and gains are paired by problem."""

import json

import pytest

from benches.quality import fitness_order

TASKS = "abcdefgh"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder, name, num_passed, kept):
    """The policy of a run passes `num_passed` of 4 samples on each problem, or one more on every second."""
    run = folder / name / ("rejection-validity" if name == "validity" else "rejection")
    evaluated = [
        {"task_id": task, "candidates": [{"passed": place < num_passed + number % 2} for place in range(4)]}
        for number, task in enumerate(TASKS)
    ]
    write_lines(run / "eval_labelled.jsonl", evaluated)
    write_lines(
        run / "kept.jsonl", [{"prompt": [{"content": "p"}], "completion": [{"content": text}]} for text in kept]
    )


@pytest.fixture
def files(tmp_path):
    """Runs, cards and samples of three models; the card is right of all but the order of the last two."""
    runs = tmp_path / "runs"
    for name, num_passed, kept in (
        ("validity", 1, ["good"]),
        ("best", 3, ["good", "good"]),
        ("poor", 0, ["good", "bad"]),
        ("fair", 2, ["bad", "bad"]),
    ):
        write_run(runs, name, num_passed, kept)
    scorers = {
        name: {
            "pair_accuracy": {"mean": 0.5, "interval": [0.4, 0.6]},
            "gain_over_validity": {"mean": gain, "interval": [gain - 0.1, gain + 0.1]},
            "verdict": {"word": "doubtful", "sentence": "m is doubtful: a."},
        }
        for name, gain in (("best", 0.2), ("poor", 0.1), ("fair", -0.1))
    }
    cards = tmp_path / "cards.json"
    cards.write_text(json.dumps({"figures": {"num_mixed": 8, "scorers": scorers}}))
    samples = tmp_path / "samples.jsonl"
    candidates = [{"completion": "good", "passed": True}, {"completion": "bad", "passed": False}]
    write_lines(samples, [{"task_id": "a", "prompt": "p", "candidates": candidates}])
    return runs, cards, samples


def test_the_order_of_cards_and_of_gains(files, capsys):
    assert fitness_order.main([str(file) for file in files]) == 0
    best, poor, fair, correlation = capsys.readouterr().out.splitlines()[-4:]
    # Every problem gains the same, so no draw of problems gives another mean, or another order.
    assert best.split()[0] == "best" and "100.0" in best and best.endswith("50.0 [50.0, 50.0]")
    assert poor.split()[0] == "poor" and "50.0" in poor and poor.endswith("-25.0 [-25.0, -25.0]")
    assert fair.split()[0] == "fair" and " 0.0" in fair and fair.endswith("25.0 [25.0, 25.0]")
    assert correlation.endswith("0.50 [0.50, 0.50]")


def test_runs_without_a_peer_are_refused(files):
    (files[0] / "validity/rejection-validity/eval_labelled.jsonl").unlink()
    with pytest.raises(SystemExit, match="make one for validity"):
        fitness_order.main([str(file) for file in files])
