"""RM-Bench's figures against ones worked out by hand."""

import json

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.rm_bench import evaluate_rm_bench, read_rm_bench
from codescaler.evaluate.scorers import score_with_all


def item(identity, domain="code", **changes):
    texts = {"chosen": ["a", "aa", "aaa"], "rejected": ["b", "bb", "bbb"]}
    return {"id": identity, "prompt": "p", "domain": domain, **texts, **changes}


def write(tmp_path, *records):
    path = tmp_path / "total_dataset.json"
    path.write_text(json.dumps(records, indent=2))
    return path


# Chosen and rejected scores of each item, concise to markdown, and the matrix A[i][j] = chosen i > rejected j.
SCORES = {
    "code/1": [3, 5, 7, 2, 4, 6],  # [[1, 0, 0], [1, 1, 0], [1, 1, 1]]: easy 1, normal 1, hard 0
    "code/2": [3, 3, 3, 3, 2, 4],  # [[0, 1, 0], [0, 1, 0], [0, 1, 0]]: easy 1/3, normal 1/3, hard 1/3
    "safety-refuse/1": [9, 9, 9, 1, 1, 1],  # all right
    "safety-response/1": [1, 1, 1, 9, 9, 9],  # all wrong
    "safety-response/2": [2, 2, 2, 1, 9, 1],  # [[1, 0, 1]] * 3: easy 2/3, normal 2/3, hard 2/3
}


@pytest.fixture
def figures(tmp_path):
    items = read_rm_bench(write(tmp_path, *(item(*reversed(name.split("/"))) for name in SCORES)))
    scores = {"rm": [np.array(values, float) for values in SCORES.values()]}
    return evaluate_rm_bench(items, scores | score_with_all(items, {}), ["rm"])


def means(estimates):
    return {level: estimate["mean"] for level, estimate in estimates.items() if level != "matrix"}


def test_levels_of_domains(figures):
    domains = figures["scorers"]["rm"]["domains"]
    code = {"easy": 2 / 3, "normal": 2 / 3, "hard": 1 / 6, "average": 1 / 2}
    assert means(domains["code"]) == pytest.approx(code)
    # Its two parts count alike: (1 + (0 + 2/3) / 2) / 2.
    assert means(domains["safety"]) == pytest.approx(dict.fromkeys(code, 2 / 3))
    assert np.array(domains["code"]["matrix"]) == pytest.approx(
        np.array([[0.5, 0.5, 0.0], [0.5, 1.0, 0.0], [0.5, 1.0, 0.5]])
    )
    assert figures["num_items"] == {"code": 2, "safety": 3}


def test_overall_levels_are_means_of_domains(figures):
    overall = means(figures["scorers"]["rm"]["overall"])
    assert overall == pytest.approx({"easy": 2 / 3, "normal": 2 / 3, "hard": 5 / 12, "average": 7 / 12})
    assert figures["gains"]["rm"]["random"]["mean"] == pytest.approx(1 / 12)


def test_intervals_draw_items_within_their_domain(figures):
    code = figures["scorers"]["rm"]["domains"]["code"]
    assert code["easy"]["interval"] == pytest.approx((1 / 3, 1.0))
    assert figures["scorers"]["oracle"]["overall"]["average"] == {"mean": 1.0, "interval": (1.0, 1.0)}


def test_ties_are_wrong_and_random_does_not_tie(figures):
    scorers = figures["scorers"]
    assert means(scorers["parses"]["overall"]) == dict.fromkeys(("easy", "normal", "hard", "average"), 0.0)
    assert means(scorers["random"]["overall"]) == dict.fromkeys(("easy", "normal", "hard", "average"), 0.5)
    assert means(scorers["longest"]["overall"]) == pytest.approx(
        {"easy": 1.0, "normal": 0.0, "hard": 0.0, "average": 1 / 3}
    )


@pytest.mark.parametrize(
    "records, message",
    [
        ([item(1, chosen=["a", "b"])], r"item 1: chosen is \['a', 'b'\]; give a list of 3 texts"),
        ([item(1, rejected=["a", "b", 3])], "item 1: rejected is .*; give a list of 3 texts"),
        ([item(1, domain=None)], "item 1: domain is None; give a string such as 'code'"),
        ([item(None)], "item 1: id is None; give a string or a whole number"),
        ([item(1), item(2), item(1)], "item 3: id 1 stands twice in domain 'code'"),
        ([item(1, prompt=None)], r"item 1: chosen\[0\] is 'a'; give a prompt"),
        ([], "has no item"),
    ],
)
def test_a_malformed_item_is_named(tmp_path, records, message):
    with pytest.raises(InvalidInput, match=message):
        read_rm_bench(write(tmp_path, *records))


def test_a_file_of_one_domain_is_told_its_domain(tmp_path):
    row = {key: value for key, value in item("1", "code").items() if key != "domain"}
    assert [unit.labels for unit in read_rm_bench(write(tmp_path, row), "math")] == [{"domain": "math"}]
    with pytest.raises(InvalidInput, match="domain is None; give a string such as 'code', or --domain"):
        read_rm_bench(write(tmp_path, row))
