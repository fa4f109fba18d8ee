"""Cards and gains are put in order by reward model, and gains are paired by problem."""

import itertools
import json

import numpy as np
import pytest

from benches.quality import fitness_order
from codescaler.errors import InvalidInput
from codescaler.evaluate.fitness import judge_fitness

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
        ("poor", 0, ["good", "bad", "unjudged"]),
        ("fair", 2, ["bad", "bad"]),
    ):
        write_run(runs, name, num_passed, kept)
    scorers = {}
    for name, gain in (("best", 0.2), ("poor", 0.1), ("fair", -0.1)):
        figures = {"gain_over_validity": {"mean": gain, "interval": (gain - 0.3, gain + 0.3)}, "auc": None}
        figures |= {"pair_accuracy": None, "excess": dict.fromkeys(("commented", "praised"))}
        scorers[name] = figures | {"verdict": judge_fitness(name, figures, num_mixed=20)}
    cards = tmp_path / "cards.json"
    figures = {"num_mixed": 20, "num_groups": 30, "scorers": scorers}
    cards.write_text(json.dumps({"file": "samples.jsonl", "figures": figures}))
    samples = tmp_path / "samples.jsonl"
    candidates = [{"completion": "good", "passed": True}, {"completion": "bad", "passed": False}]
    candidates.append({"completion": "unjudged", "passed": None})
    write_lines(samples, [{"task_id": "a", "prompt": "p", "candidates": candidates}])
    return runs, cards, samples


def test_cards_of_several_files_are_joined(files):
    _, cards, _ = files
    record = json.loads(cards.read_text())
    more = cards.with_name("more.json")
    record["figures"]["scorers"] = {"new": 1, "best": 2}
    more.write_text(json.dumps(record))
    joined = fitness_order.join_cards([cards, more])["scorers"]
    assert [*joined] == ["new", "best", "poor", "fair"] and joined["new"] == 1 and joined["best"] != 2
    record["figures"]["num_groups"] += 1
    more.write_text(json.dumps(record))
    with pytest.raises(InvalidInput, match="give cards of the same samples"):
        fitness_order.join_cards([cards, more])


def test_the_order_of_cards_and_of_gains(files, capsys):
    assert fitness_order.main([str(file) for file in files]) == 0
    best, poor, fair, correlation = capsys.readouterr().out.splitlines()[-4:]
    # Every problem gains the same, so no draw of problems gives another mean, or another order.
    assert best.split()[0] == "best" and "100.0" in best and best.endswith("50.0 [50.0, 50.0]")
    assert poor.split()[0] == "poor" and "50.0" in poor and poor.endswith("-25.0 [-25.0, -25.0]")
    assert fair.split()[0] == "fair" and " 0.0" in fair and fair.endswith("25.0 [25.0, 25.0]")
    assert correlation.endswith("0.50 [0.50, 0.50], p 0.500")
    assert all(line.split()[4] == "doubtful" for line in (best, poor, fair))


@pytest.mark.parametrize("seed", range(3))
def test_the_correlation_is_that_of_ranks(seed):
    """Beside a double loop over pairs, which gives Spearman's correlation where no two are equal."""
    random = np.random.default_rng(seed)
    wanted, shares = random.normal(size=5).tolist(), random.normal(size=(40, 5))
    found, p = fitness_order.correlate(wanted, shares)
    means = shares.mean(axis=0)

    def spearman(first, second):
        places = [[sum(b <= a for b in values) for a in values] for values in (first, second)]
        return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*places, strict=True)) / (5 * 24)

    assert found["mean"] == pytest.approx(spearman(wanted, means))
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    orders = [spearman(wanted, order) for order in itertools.permutations(means)]
    assert p == pytest.approx(np.mean(np.array(orders) >= found["mean"] - 1e-9))


def test_equal_means_share_their_rank():
    shares = np.array([[0.1, 0.3], [0.2, 0.0], [0.0, 0.0]])  # 0.1 + 0.2 is rounded, and 0.3 is not
    found, p = fitness_order.correlate([1.0, 0.0], shares)
    assert found["mean"] == 0.0 and p == 1.0


def test_what_cannot_be_compared_is_refused(files):
    folder = files[0]
    words = [str(file) for file in files]
    kept = folder / "best/rejection/kept.jsonl"
    whole = kept.read_text()
    write_lines(kept, [{"prompt": [{"content": "p"}], "completion": [{"content": "another"}]}])
    with pytest.raises(InvalidInput, match="1 of 1 are not among the samples"):
        fitness_order.main(words)
    kept.write_text(whole)
    (folder / "fair").rename(folder / "other")
    with pytest.raises(InvalidInput, match="no card of other, only of best, poor, fair"):
        fitness_order.main(words)
    (folder / "other/rejection/eval_labelled.jsonl").unlink()
    with pytest.raises(InvalidInput, match="runs of 2 models; give 3 to 9"):
        fitness_order.main(words)
    (folder / "validity/rejection-validity/eval_labelled.jsonl").unlink()
    with pytest.raises(InvalidInput, match="has not been evaluated"):
        fitness_order.main(words)
