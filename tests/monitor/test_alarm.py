"""The test of a window: its chance of a false alarm is what it says, whatever the signals look like."""

import numpy as np
import pytest

from codescaler.monitor.alarm import compare_window


def draw(random, num):
    """Signals that depend on each other: with heavy tails, nearly always 0, unknown now and then, and constant."""
    heavy = random.standard_cauchy(num)
    rare = (random.random(num) < 0.05) * 1.0
    unknown = np.where(random.random(num) < 0.3, np.nan, heavy + random.normal(size=num))
    return np.stack([heavy, rare, unknown, np.full(num, 7.0), random.normal(size=num)], axis=1)


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_stated(level):
    random = np.random.default_rng(0)
    rounds = 400
    smallest = [compare_window(draw(random, 40), draw(random, 8), seed=k, num_deals=199).min() for k in range(rounds)]
    share = np.mean(np.array(smallest) <= level)
    assert share <= level + 3 * np.sqrt(level * (1 - level) / rounds)
    assert share > level / 3  # it is no test that never fires


def test_the_signal_that_rose_is_named():
    random = np.random.default_rng(1)
    start, window = draw(random, 80), draw(random, 8)
    window[:, 4] += 3
    chances = compare_window(start, window, seed=0)
    assert chances[4] == 1 / 2000
    assert min(chances[:4]) > 0.05
    window[:, 4] -= 6
    assert compare_window(start, window, seed=0)[4] > 0.9  # a fall is no alarm


def test_constants_and_unknowns_say_nothing():
    start, window = np.full((20, 3), 0.1), np.full((4, 3), 0.1)
    window[:, 1] = start[:, 1] = np.nan
    window[0, 2] = 5.0
    chances = compare_window(start, window, seed=0)
    assert chances.tolist()[:2] == [1.0, 1.0]
    assert chances[2] < 0.25  # one of 24 groups: in a sixth of the deals it is in the window
