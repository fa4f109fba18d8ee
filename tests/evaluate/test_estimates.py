import numpy as np
import pytest

from codescaler.evaluate.estimates import estimate_mean_of_parts, estimate_means
from codescaler.metrics import bootstrap_interval

FIGURES = np.array([0.0, 1.0, 0.5, 1.0, 0.0, 1.0])


def test_rows_of_their_own_give_the_plain_interval():
    both = estimate_means({"a": FIGURES, "b": 1 - FIGURES}, list("abcdef"))
    assert both["a"] == {"mean": pytest.approx(7 / 12), "interval": pytest.approx(bootstrap_interval(FIGURES))}
    assert both["b"]["mean"] == pytest.approx(5 / 12)
    # One set of draws: what the one gains the other loses.
    assert both["b"]["interval"] == pytest.approx([1 - bound for bound in reversed(both["a"]["interval"])])


def test_rows_of_one_cluster_are_no_independent_evidence():
    once, twice = list("abcdef"), [name for name in "abcdef" for _ in range(2)]
    doubled = np.repeat(FIGURES, 2)
    assert estimate_means({"a": doubled}, twice)["a"]["interval"] == pytest.approx(
        estimate_means({"a": FIGURES}, once)["a"]["interval"]
    )
    low, high = estimate_means({"a": doubled}, [str(i) for i in range(12)])["a"]["interval"]
    wide_low, wide_high = estimate_means({"a": doubled}, twice)["a"]["interval"]
    assert high - low < 0.8 * (wide_high - wide_low)


def test_clusters_weigh_as_many_rows_as_they_have():
    """Of ten clusters one has nine rows of 1, nine have a row of 0; the 97.5th percentile has the one three times."""
    rows = np.array([1.0] * 9 + [0.0] * 9)
    (estimate,) = estimate_means({"a": rows}, ["x"] * 9 + [str(i) for i in range(9)]).values()
    assert estimate == {"mean": 0.5, "interval": pytest.approx((0.0, 27 / (27 + 7)))}


def test_no_row_is_no_estimate():
    assert estimate_means({"a": np.zeros(0)}, []) == {}


def test_parts_are_drawn_from_on_their_own():
    parts = [{"a": np.array([1.0] * 50)}, {"a": np.array([0.0, 1.0] * 2)}]
    clusters = [[str(i) for i in range(50)], list("wxyz")]
    (estimate,) = estimate_mean_of_parts(parts, clusters, [0.5, 0.5]).values()
    assert estimate["mean"] == 0.75
    low, high = estimate_means(parts[1], clusters[1])["a"]["interval"]
    assert estimate["interval"] == pytest.approx((0.5 + low / 2, 0.5 + high / 2))
    # Two parts alike do not move together: their mean is surer than each.
    low, high = estimate_mean_of_parts([{"a": FIGURES}] * 2, [list("abcdef")] * 2, [0.5, 0.5])["a"]["interval"]
    alone_low, alone_high = estimate_means({"a": FIGURES}, list("abcdef"))["a"]["interval"]
    assert high - low < 0.85 * (alone_high - alone_low)
